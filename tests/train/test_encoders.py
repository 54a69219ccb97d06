"""Training with other encoders and with Adam. Run: every encoder family learns with the same trainer, every ablation takes
its steps. Law: a resumed run is bit-identical, with Adam and with statistics that are not weights."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.baselines.tiny_encoders import CONFIGS
from tests.train.tones import minute_config, write_tones
from zipasr.checkpoint import CheckpointFolder
from zipasr.encoder.ablation import AblationConfig
from zipasr.encoder.zipformer import ZipformerConfig
from zipasr.errors import ConfigError
from zipasr.model import AsrModel, EncoderConfig
from zipasr.optim import noam_factor
from zipasr.train.config import AdamConfig, TrainConfig
from zipasr.train.loop import train
from zipasr.train.metrics import read_metrics
from zipasr.train.state import TENSORS_FILE, checkpoint_folders

ADAM = AdamConfig(factor=2.0, warmup_batches=20.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("tones"), num_train=24, num_dev=3)


def config_with(encoder: EncoderConfig, data: Path, **changes: Any) -> TrainConfig:
    config = minute_config(data, **changes)
    batch = dataclasses.replace(config.batch, spec_augment=None)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, encoder=encoder), batch=batch)


def small(config: Any) -> EncoderConfig:
    """The tiny encoder of a family, for 80 mel bins and without dropout, for which it is too small."""
    fields = {field.name for field in dataclasses.fields(config)}
    calm = {name: 0.0 for name in ("dropout", "layer_drop") if name in fields}
    return dataclasses.replace(config, num_features=80, channels=32, subsampling_channels=8, **calm)


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(folder) if line["kind"] == "train"]


@pytest.mark.parametrize("encoder", CONFIGS, ids=lambda config: config.kind)
def test_every_family_learns_under_adam(encoder: Any, data: Path, tmp_path: Path) -> None:
    report = train(config_with(small(encoder), data, num_epochs=12, adam=ADAM), tmp_path, is_quiet=True)
    found = losses(tmp_path)
    assert found[-1] < 0.7 * found[0]
    model, _ = AsrModel.load(report.folder / "model")
    assert model.config.encoder == small(encoder)


@pytest.mark.parametrize("encoder", [CONFIGS[0], CONFIGS[1]], ids=lambda config: config.kind)
def test_families_take_scaled_adam_too(encoder: Any, data: Path, tmp_path: Path) -> None:
    train(config_with(small(encoder), data, num_epochs=10, lr=0.1), tmp_path, is_quiet=True)
    found = losses(tmp_path)
    assert found[-1] < 0.8 * found[0]


@pytest.mark.parametrize(
    "ablation",
    [
        AblationConfig(block="conformer_pair"),
        AblationConfig(has_nonlin_attention=False, has_shared_attention_weights=False),
        AblationConfig(norm="layer_norm", activation="swish", has_bypass=False),
        AblationConfig(has_module_norms=True, has_balancer=False, has_whitener=False),
    ],
    ids=["conformer pair", "own weights", "layer norm, swish, no bypass", "module norms, no constraints"],
)
def test_ablations_learn(ablation: AblationConfig, data: Path, tmp_path: Path) -> None:
    encoder = minute_config().model.encoder
    assert isinstance(encoder, ZipformerConfig)
    train(config_with(dataclasses.replace(encoder, ablation=ablation), data, num_epochs=8), tmp_path, is_quiet=True)
    found = losses(tmp_path)
    assert found[-1] < 0.8 * found[0]


@pytest.mark.parametrize("encoder", [minute_config().model.encoder, small(CONFIGS[1])], ids=lambda config: config.kind)
def test_run_resumed_under_adam_is_bit_identical(encoder: Any, data: Path, tmp_path: Path) -> None:
    config = config_with(encoder, data, num_epochs=4, save_interval=5, adam=ADAM)
    train(config, tmp_path / "whole", is_quiet=True)
    train(dataclasses.replace(config, num_epochs=2), tmp_path / "parts", is_quiet=True)
    train(config, tmp_path / "parts", is_quiet=True)
    last = [list(checkpoint_folders(tmp_path / name).values())[-1] for name in ("whole", "parts")]
    assert last[0].name == last[1].name
    for file in ("model.safetensors", TENSORS_FILE):
        whole, parts = (CheckpointFolder(folder).tensors(file) for folder in last)
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[name], parts[name]) for name in whole), file


def test_rate_under_adam_is_that_of_noam(data: Path, tmp_path: Path) -> None:
    encoder = minute_config().model.encoder
    train(config_with(encoder, data, num_epochs=4, adam=ADAM), tmp_path, is_quiet=True)
    for line in read_metrics(tmp_path):
        if line["kind"] == "train":
            expected = ADAM.factor * noam_factor(line["step"], warmup_batches=ADAM.warmup_batches)
            assert line["lr"] == pytest.approx(expected)
            assert "clip_factor" not in line  # the same as with ScaledAdam


@pytest.mark.parametrize("limit", [None, 1e-3])
def test_gradients_are_clipped_to_the_norm_that_is_set(
    limit: float | None, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []
    step = torch.optim.Adam.step

    def watch(self: torch.optim.Adam, closure: None = None) -> None:
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm().item())
        step(self)

    monkeypatch.setattr(torch.optim.Adam, "step", watch)
    adam = dataclasses.replace(ADAM, max_grad_norm=limit)
    train(config_with(minute_config().model.encoder, data, num_epochs=1, adam=adam), tmp_path, is_quiet=True)
    assert norms
    if limit is None:
        assert max(norms) > 1.0
    else:
        assert max(norms) <= limit * 1.001


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"factor": 0.0}, "factor must be positive, but is 0.0"),
        ({"warmup_batches": -1.0}, "warmup_batches must be at least 1e-9"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be positive"),
        ({"betas": (0.9, 1.0)}, "betas must be within 0 and 1"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AdamConfig(**settings)
