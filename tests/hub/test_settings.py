"""Contract: settings are read from scripts as text, later sources count more, and nothing of a script is run."""

import pytest

from zipasr.errors import ConfigError
from zipasr.hub import ModelSettings, parse_sizes
from zipasr.hub.settings import settings_from_scripts

TRAIN = r"""#!/usr/bin/env bash
# ./zipformer/train.py --num-heads 9
export CUDA_VISIBLE_DEVICES="0,1"
./zipformer/train.py \
  --world-size 8 --use-fp16 1 \
  --num-encoder-layers 2,3,5,6,5,3 \
  --query-head-dim=48 \
  --value-head-dim "18" \
  --num-heads '4,4,4,8,4,4' \
  --encoder-unmasked-dim 192,192,256,320,256,192 \
  --causal 1 --chunk-size "16,32,64,-1" --left-context-frames 64,128,256,-1 \
  --whisper-fbank True --num-mel-bins 80 # of 100 Hz
"""
DECODE = """
for m in greedy_search modified_beam_search; do
  ./zipformer/decode.py --epoch 99 --avg 1 --decoding-method $m --chunk-size 16 --blank-penalty 1.5
done
./zipformer/decode.py --decoding-method modified_beam_search --beam-size 8 --num-heads 4,4,4,8,4,4
./zipformer/decode.py --decoding-method fast_beam_search --beam-size 20
"""


def test_flags_of_training_and_decoding() -> None:
    assert settings_from_scripts({"exp/train.sh": TRAIN, "exp/decode.sh": DECODE}) == ModelSettings(
        num_heads=(4, 4, 4, 8, 4, 4),
        query_head_dim=48,
        value_head_dim=18,
        unmasked_channels=(192, 192, 256, 320, 256, 192),
        chunk_frames_50hz=(16, 32, 64, -1),
        left_context_frames_50hz=(64, 128, 256, -1),
        features="whisper",
        num_mel_bins=80,
        blank_penalty=1.5,
        beam_size=8,
    )


@pytest.mark.parametrize(
    "text",
    [
        "decode.py --num-heads $heads --blank-penalty ${p} --query-head-dim $(cat x)",
        "decode.py --num-heads `rm -rf /` --blank-penalty x --beam-size 4",
        "decode.py --num-heads --use-ctc 1",
        "decode.py --num-heads 4,,4 --query-head-dim 99999999999999",
        "decode.py --blank-penalty nan\ndecode.py --chunk-size 16",
        "decode.py --num-heads '4; touch made'",
        "# decode.py --num-heads 4",
        "decode.py --num-heads 4\ndecode.py --num-heads 8",
        "decode.py --num-heads-of-another-model 4",
        "\x00\xff" * 50 + "--" * 1000,
    ],
)
def test_what_is_no_plain_value_or_is_contradictory_counts_nothing(text: str) -> None:
    assert settings_from_scripts({"exp/decode.sh": text}) == ModelSettings()


def test_long_lines_take_no_time() -> None:
    assert settings_from_scripts({"a.sh": "--a " * 25_000 + "--num-heads 4"}).num_heads == 4
    assert settings_from_scripts({"a.sh": "--" + "a-" * 50_000}) == ModelSettings()
    assert settings_from_scripts({"a.sh": "--num-heads '" * 8_000}) == ModelSettings()


def test_later_settings_count_more() -> None:
    table = ModelSettings(num_heads=4, blank_penalty=2.0, features="whisper")
    scripts = ModelSettings(query_head_dim=48, blank_penalty=0.0)
    merged = ModelSettings(beam_size=6).over(scripts.over(table))
    assert merged == ModelSettings(query_head_dim=48, blank_penalty=0.0, features="whisper", beam_size=6)
    assert ModelSettings().over(table) == table


def test_sizes() -> None:
    assert parse_sizes("4", name="--num-heads") == 4
    assert parse_sizes("4, 4,8", name="--num-heads") == (4, 4, 8)
    for text in ("", "4,", "x", "4.0", "1e3", "4 4", "9" * 30):
        with pytest.raises(ConfigError, match="--num-heads must be a number, or numbers with commas"):
            parse_sizes(text, name="--num-heads")
