"""`TrainConfig`. Contract: JSON round trip; meaningless settings are refused by name before any work is done."""

import json

import pytest

from tests.train.tones import minute_config, with_attention, without_heads
from zipasr.config import field_names, from_json, set_fields, to_json
from zipasr.errors import ConfigError
from zipasr.train.config import ConsistencyConfig, TrainConfig
from zipasr.train.step import loss_weights


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(),
        minute_config("somewhere", seed=3, precision="bfloat16"),
        with_attention(minute_config(consistency=ConsistencyConfig(scale=0.1))),
    ],
)
def test_json_and_back(config: TrainConfig) -> None:
    assert from_json(TrainConfig, json.loads(json.dumps(to_json(config)))) == config


@pytest.mark.parametrize(
    "name",
    "num_epochs average_period valid_interval save_interval keep_checkpoints log_interval "
    "lr lr_batches lr_epochs lr_hours clipping_scale ref_duration_s average_share accumulate_batches "
    "max_skipped_batches rollback_lr_factor rank_timeout_s".split(),
)
@pytest.mark.parametrize("value", ["0", "-1"])
def test_must_be_positive(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be .* but is {value}"):
        set_fields(TrainConfig(), [f"{name}={value}"])


@pytest.mark.parametrize(
    "wrong",
    "lr=nan num_workers=-1 lr_warmup_start=2 average_share=1.5 min_duration_s=30 precision=float8 "
    "tokenizer.kind=words batch.concat_prob=2 batch.spec_augment.prob=2 ctc_loss_scale=-1 attention_loss_scale=-1 "
    "rollback_lr_factor=1.1 keep_best=-1 max_rollbacks=-1".split(),
)
def test_wrong_values_are_named(wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong.partition("=")[0].split(".")[-1]):
        set_fields(TrainConfig(), [wrong])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        *(
            (f"{name}=1e-308", f"{name} must be at least 1e-9, but is 1e-308")
            for name in ("lr_batches", "lr_epochs", "lr_hours")
        ),
        ("model.encoder.num_layers=1000000000,2,3,4,3,2", "num_layers must be at most 1000, but stack 0 has 1000000000"),
        (
            "batch.spec_augment.num_frequency_masks=1000000000",
            "num_frequency_masks must be from 0 to 1000, but is 1000000000",
        ),
        ("batch.spec_augment.num_time_masks=1000000000", "num_time_masks must be from 0 to 1000, but is 1000000000"),
    ],
)
def test_what_would_overflow_or_run_without_end_is_refused(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        set_fields(TrainConfig(), [setting])


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


def test_loss_weights_of_all_heads() -> None:
    """Published: 0.2 for the consistency of CTC alone, 0.02 beside others; CTC alone weighs 1."""
    both = with_attention(minute_config(loss_warmup_batches=100.0, consistency=ConsistencyConfig()))
    expected = {"simple": 0.75, "pruned": 0.55, "ctc": 0.2, "attention": 0.8, "consistency": 0.01}
    assert loss_weights(both, 50) == pytest.approx(expected)
    assert loss_weights(both, 200)["consistency"] == 0.02
    decoder = without_heads(both, has_transducer=False, has_ctc=True)
    assert loss_weights(decoder, 100) == {"ctc": 0.2, "attention": 0.8, "consistency": 0.02}
    alone = without_heads(
        minute_config(loss_warmup_batches=100.0, consistency=ConsistencyConfig()), has_transducer=False, has_ctc=True
    )
    assert loss_weights(alone, 100) == {"ctc": 1.0, "consistency": 0.2}
    assert loss_weights(alone, 25) == pytest.approx({"ctc": 1.0, "consistency": 0.05})
    published = set_fields(alone, ["consistency.has_warmup=false"])
    for b in (1, 25, 100, 1000):
        assert loss_weights(published, b) == {"ctc": 1.0, "consistency": 0.2}
    chosen = set_fields(alone, ["consistency.scale=0.3"])
    assert loss_weights(chosen, 100)["consistency"] == 0.3


def test_scales_of_ctc_and_attention_must_sum_to_one_without_a_transducer() -> None:
    both = with_attention(minute_config())
    decoder = without_heads(both, has_transducer=False, has_ctc=True)
    decoder.check_loss_scales()
    wrong = set_fields(decoder, ["ctc_loss_scale=0.1"])
    with pytest.raises(
        ConfigError, match=r"ctc_loss_scale and attention_loss_scale must sum to 1, but they are 0\.1 and 0\.8"
    ):
        wrong.check_loss_scales()
    set_fields(wrong, ["attention_loss_scale=0.9"]).check_loss_scales()
    set_fields(both, ["ctc_loss_scale=0.1"]).check_loss_scales()
    set_fields(TrainConfig(), ["model.ctc={}", "model.transducer=none", "ctc_loss_scale=0.1"]).check_loss_scales()


def test_hours_in_place_of_epochs() -> None:
    """A setting replaces the recipe's unit, whatever the order; two values contradict each other."""
    with pytest.raises(ConfigError, match=r"one of lr_epochs and lr_hours must be None, but they are 3\.5 and 10"):
        TrainConfig(lr_hours=10.0)
    by_hours = TrainConfig(lr_epochs=None, lr_hours=10.0)
    by_hours.check_complete()
    for settings in (["lr_hours=10"], ["lr_hours=10", "lr_epochs=none"], ["lr_epochs=none", "lr_hours=10"]):
        assert set_fields(TrainConfig(), settings) == by_hours
    assert set_fields(by_hours, ["lr_epochs=3.5"]) == TrainConfig()
    assert set_fields(by_hours, ["lr_epochs=none"]) == by_hours
    for wrong in (["lr_hours=10", "lr_epochs=2"], ["lr_epochs=2", "lr_hours=10"]):
        with pytest.raises(ConfigError, match=r"one of lr_epochs and lr_hours must be None, but they are 2\.0 and 10"):
            set_fields(TrainConfig(), wrong)
    with pytest.raises(ConfigError, match="must be a number, but both are None"):
        set_fields(TrainConfig(), ["lr_epochs=none"]).check_complete()
    set_fields(TrainConfig(), ["lr_epochs=none", "adam={}"]).check_complete()


def test_a_search_with_an_ngram_needs_one() -> None:
    settings = ["model.ctc={}", 'search={"method": "joint", "ngram_scale": 0.5}']
    with pytest.raises(ConfigError, match="ngram_order is None, so there is none; set ngram_order=6"):
        set_fields(TrainConfig(), settings).check_complete()
    set_fields(TrainConfig(), [*settings, "ngram_order=6"]).check_complete()


def test_consistency_without_ctc_or_masks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.ctc is None; set model\.ctc=\{\} first"):
        set_fields(TrainConfig(), ["consistency={}"])
    config = set_fields(TrainConfig(), ["model.ctc={}", "consistency={}"])
    assert config.consistency == ConsistencyConfig(scale=None, time_mask_ratio=2.5)
    with pytest.raises(ConfigError, match=r"batch\.spec_augment is None"):
        set_fields(config, ["batch.spec_augment=none"])
    for name in ("scale", "time_mask_ratio"):
        with pytest.raises(ConfigError, match=f"^{name} must be positive, but is 0"):
            set_fields(config, [f"consistency.{name}=0"])
