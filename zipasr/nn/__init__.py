"""Building blocks of Zipformer, for any PyTorch model. They need torch alone.

Tensors are (N, T, D) unless a docstring says otherwise. Modules that change while a model trains read a `Schedule`; call
`set_step(model, step)` once per training step. In eval mode the training-only modules (Balancer, Whiten, Dropout) return
their input.
"""

from zipasr.nn.attention import AttentionWeights, NonlinAttention, RelativePositionalEncoding, SelfAttention, whitening_limit
from zipasr.nn.constraint import Balancer, Whiten, limit_param_value, penalize_abs, scale_grad
from zipasr.nn.convolution import ChunkCausalDepthwiseConv, ConvolutionModule, DepthwiseConv
from zipasr.nn.dropout import DROPOUT, Dropout, sequence_mask
from zipasr.nn.encoded import Encoded, Encoder
from zipasr.nn.feedforward import FeedForward
from zipasr.nn.lora import LoraConfig, LoraLinear, add_lora, lora_layers, lora_state_dict, merged_copy, merged_state_dict
from zipasr.nn.norm import BiasNorm
from zipasr.nn.past import Past
from zipasr.nn.schedule import Schedule, ScheduledModule, set_step
from zipasr.nn.swoosh import (
    ActivationKind,
    SwooshL,
    SwooshLinear,
    SwooshR,
    activate,
    scaled_linear,
    swoosh_left,
    swoosh_linear,
    swoosh_right,
)

__all__ = [
    "DROPOUT",
    "ActivationKind",
    "AttentionWeights",
    "Balancer",
    "BiasNorm",
    "ChunkCausalDepthwiseConv",
    "ConvolutionModule",
    "DepthwiseConv",
    "Dropout",
    "Encoded",
    "Encoder",
    "FeedForward",
    "LoraConfig",
    "LoraLinear",
    "NonlinAttention",
    "Past",
    "RelativePositionalEncoding",
    "Schedule",
    "ScheduledModule",
    "SelfAttention",
    "SwooshL",
    "SwooshLinear",
    "SwooshR",
    "Whiten",
    "activate",
    "add_lora",
    "limit_param_value",
    "lora_layers",
    "lora_state_dict",
    "merged_copy",
    "merged_state_dict",
    "penalize_abs",
    "scale_grad",
    "scaled_linear",
    "sequence_mask",
    "set_step",
    "swoosh_left",
    "swoosh_linear",
    "swoosh_right",
    "whitening_limit",
]
