"""Law: in training every block is skipped at the rate of `layer_drop`, and never in eval mode."""

import torch

from tests.baselines.tiny_encoders import CONFIGS, build
from tests.golden_files import seeded
from zipasr.baselines import EBranchformerConfig

CONFIG = next(config for config in CONFIGS if isinstance(config, EBranchformerConfig))


@torch.no_grad()
def test_layer_drop() -> None:
    encoder, calls = build(CONFIG, layer_drop=0.25).train(), []
    for i, block in enumerate(encoder.blocks):
        block.register_forward_hook(lambda *_, i=i: calls.append(i))
    features, lens = seeded(2, 40, 20), torch.tensor([40, 30])
    for _ in range(100):
        encoder(features, lens)
    for i in range(2):
        assert 57 < calls.count(i) < 93  # 75 are expected, with a standard deviation of 4.3
    calls.clear()
    encoder.eval()
    for _ in range(20):
        encoder(features, lens)
    assert calls == [0, 1] * 20
