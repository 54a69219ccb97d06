"""`TrainConfig`. Contract: JSON and back; settings that mean nothing are refused by name before any work is done."""

import json

import pytest

from tests.train.tones import minute_config
from zipasr.config import field_names, from_json, set_fields, to_json
from zipasr.errors import ConfigError
from zipasr.train.config import TrainConfig
from zipasr.train.loop import loss_weights


@pytest.mark.parametrize("config", [TrainConfig(), minute_config("somewhere", seed=3, precision="bfloat16")])
def test_json_and_back(config: TrainConfig) -> None:
    assert from_json(TrainConfig, json.loads(json.dumps(to_json(config)))) == config


@pytest.mark.parametrize(
    "name",
    "num_epochs average_period valid_interval save_interval keep_checkpoints log_interval "
    "lr lr_batches lr_epochs clipping_scale ref_duration_s average_share".split(),
)
@pytest.mark.parametrize("value", ["0", "-1"])
def test_must_be_positive(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be .* but is {value}"):
        set_fields(TrainConfig(), [f"{name}={value}"])


@pytest.mark.parametrize(
    "wrong",
    "lr=nan num_workers=-1 lr_warmup_start=2 average_share=1.5 min_duration_s=30 precision=float16 "
    "tokenizer.kind=words batch.concat_prob=2 batch.spec_augment.prob=2 ctc_loss_scale=-1".split(),
)
def test_wrong_values_are_named(wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong.partition("=")[0].split(".")[-1]):
        set_fields(TrainConfig(), [wrong])


def test_every_nested_field_can_be_reached() -> None:
    names = field_names(TrainConfig())
    assert {"lr", "batch.spec_augment.prob", "model.encoder.channels", "model.transducer.joiner_dim"} <= set(names)
    config = set_fields(TrainConfig(), ["model.ctc={}", "model.transducer=none", "batch.speed_factors=1.0"])
    assert config.model.transducer is None
    assert config.model.ctc is not None
    assert config.batch.speed_factors == (1.0,)


def test_loss_weights() -> None:
    config = minute_config(simple_loss_scale=0.5, ctc_loss_scale=0.2, loss_warmup_batches=100.0)
    assert loss_weights(config, 0) == {"simple": 1.0, "pruned": 0.1, "ctc": 0.2}
    assert loss_weights(config, 50) == pytest.approx({"simple": 0.75, "pruned": 0.55, "ctc": 0.2})
    for b in (100, 1000):
        assert loss_weights(config, b) == {"simple": 0.5, "pruned": 1.0, "ctc": 0.2}
    assert loss_weights(minute_config(loss_warmup_batches=0.0), 1)["pruned"] == 1.0
