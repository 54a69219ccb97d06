"""Contract: `config.yaml` of a published model gives settings and facts, and nothing in it is executed or multiplies."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.hub.icefall_models import small_model
from zipasr.errors import CheckpointError, ConfigError
from zipasr.hub import ModelSettings, model_yaml
from zipasr.hub.model_yaml import read_model_yaml
from zipasr.model import AsrConfig

PUBLISHED = """
model_type: zipformer-transducer
library_name: k2
file: model.pt
tokenizer: bpe.model
min_encoder_input_frames: 9
decoding:
  beam_size: 6
feature_opts:
  frame_opts: {samp_freq: 16000, frame_shift_ms: 10.0, frame_length_ms: 25.0, dither: 0.0, preemph_coeff: 0.97,
    window_type: povey, blackman_coeff: 0.42, snip_edges: false}
  mel_opts: {num_bins: 80, low_freq: 20.0, high_freq: 7600.0}
model_params:
  num_encoder_layers: "1,2"
  downsampling_factor: "1,2"
  feedforward_dim: [32, 48]
  encoder_dim: "32,48"
  encoder_unmasked_dim: "32,24"
  cnn_module_kernel: "15,7"
  num_heads: "1,2"
  query_head_dim: "32"
  value_head_dim: 12
  pos_head_dim: "4"
  pos_dim: 8
  causal: false
  chunk_size: "16,32,64,-1"
  left_context_frames: "64,128,256,-1"
  decoder_dim: 16
  joiner_dim: 24
  context_size: 2
  use_transducer: true
  use_ctc: "True"
  use_attention_decoder: 0
  feature_dim: 80
  subsampling_factor: 4
"""


def test_published_file() -> None:
    said = read_model_yaml(PUBLISHED)
    assert (said.checkpoint, said.vocabulary) == ("model.pt", "bpe.model")
    assert said.settings == ModelSettings(
        num_heads=(1, 2),
        query_head_dim=32,
        value_head_dim=12,
        pos_head_dim=4,
        unmasked_channels=(32, 24),
        chunk_frames_50hz=(16, 32, 64, -1),
        left_context_frames_50hz=(64, 128, 256, -1),
        num_mel_bins=80,
        low_freq_hz=20.0,
        high_freq_hz=-400.0,
        beam_size=6,
    )
    said.check(small_model().config)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'encoder_dim: "32,48"',
            'encoder_dim: "32,64"',
            r"must have encoder_dim \(32, 64\), as config.yaml says, but have \(32, 48",
        ),
        ("decoder_dim: 16", "decoder_dim: 512", "decoder_dim 512"),
        ("context_size: 2", "context_size: 1", "context_size 1"),
        ("causal: false", "causal: true", "causal True"),
        ('use_ctc: "True"', "use_ctc: false", "use_ctc False"),
        ("pos_dim: 8", "pos_dim: [48]", "pos_dim 48"),
        ("subsampling_factor: 4", "subsampling_factor: 8", "subsampling_factor 8"),
    ],
)
def test_facts_of_another_model(old: str, new: str, message: str) -> None:
    assert old in PUBLISHED
    said = read_model_yaml(PUBLISHED.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        said.check(small_model().config)


def test_heads_that_are_not_there_are_not_compared() -> None:
    config: AsrConfig = dataclasses.replace(small_model().config, transducer=None)
    said = read_model_yaml(PUBLISHED.replace("use_transducer: true", "use_transducer: false"))
    said.check(config)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (PUBLISHED.replace("16000", "8000"), ConfigError, "samp_freq in config.yaml must be 16000, .* but is '8000'"),
        (PUBLISHED.replace("povey", "hamming"), ConfigError, "window_type in config.yaml must be povey"),
        (PUBLISHED.replace("snip_edges: false", "snip_edges: true"), ConfigError, "snip_edges in config.yaml must be False"),
        (PUBLISHED.replace("file: model.pt", "file: [a, b]"), ConfigError, "file in config.yaml must be the name of a file"),
        (PUBLISHED.replace("beam_size: 6", "beam_size: many"), ConfigError, "beam_size in config.yaml must be a number"),
        (PUBLISHED.replace("beam_size: 6", "beam_size: true"), ConfigError, "beam_size in config.yaml must be a number"),
        (
            PUBLISHED.replace('num_heads: "1,2"', "num_heads: {a: 1}"),
            ConfigError,
            "num_heads in config.yaml must be a number",
        ),
        (PUBLISHED.replace("zipformer-transducer", "whisper"), CheckpointError, "must describe a Zipformer, .* 'whisper'"),
        ("model_type: zipformer\nmodel_params: 3", ConfigError, "model_params in config.yaml must hold names and values"),
        ("- a\n- b", CheckpointError, "must hold names and values, but holds list"),
        ("", CheckpointError, "must hold names and values, but holds NoneType"),
        (
            "encoder: conformer\nctc_weight: 0.3",
            CheckpointError,
            r"must describe a Zipformer .* but has encoder, ctc_weight",
        ),
        ("a: [1, 2", CheckpointError, "must hold plain values, but cannot be read"),
        ("a: \x00", CheckpointError, "must hold plain values, but cannot be read"),
    ],
)
def test_files_that_are_refused(text: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        read_model_yaml(text)


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
TAG, REPEATS, SIZE = "could not determine a constructor", "repeats parts of itself, nests", "at most 100000 bytes"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("model_type: !!python/object/apply:os.mkdir [MADE]", TAG),
        ("!!python/object/new:os.mkdir [MADE]", TAG),
        ("model_params: !!python/name:os.system ''", TAG),
        ("model_params: !private {a: 1}", TAG),
        (BOMB, REPEATS),
        ("a: &a [*a]", REPEATS),
        ("model_params: &p {num_heads: 4}\ndecoding: {<<: *p}", REPEATS),
        ("a: " + "[" * 3_000, REPEATS),
        ("a: " + "{b: " * 3_000, REPEATS),
        ("x" * 200_000, SIZE),
        ("a: [" + "1," * 40_000 + "1]", REPEATS),
    ],
    ids=lambda text: text[:20],
)
def test_hostile_files_are_refused_at_once(text: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in them is executed, and few of their parts are looked at."""
    num_events, get_event = 0, yaml.SafeLoader.get_event

    def count(self: Any) -> Any:
        nonlocal num_events
        num_events += 1
        return get_event(self)

    monkeypatch.setattr(yaml.SafeLoader, "get_event", count)
    with pytest.raises(CheckpointError, match=rf"config\.yaml must.*{reason}"):
        read_model_yaml(text.replace("MADE", str(tmp_path / "made")))
    assert num_events <= model_yaml._MAX_NODES + 2
    assert not (tmp_path / "made").exists()
