"""The encoders that the Zipformer paper compares with, in the interface of `zipasr.nn.encoded.Encoder`.

Published sizes are functions beside each configuration: `from zipasr.baselines import conformer; conformer.small()`.
"""

from zipasr.baselines.branchformer import Branchformer, BranchformerConfig
from zipasr.baselines.conformer import Conformer, ConformerConfig
from zipasr.baselines.e_branchformer import EBranchformer, EBranchformerConfig
from zipasr.baselines.squeezeformer import Squeezeformer, SqueezeformerConfig

__all__ = [
    "Branchformer",
    "BranchformerConfig",
    "Conformer",
    "ConformerConfig",
    "EBranchformer",
    "EBranchformerConfig",
    "Squeezeformer",
    "SqueezeformerConfig",
]
