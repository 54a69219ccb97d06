"""Law: the length rules give the number of output frames, and agree with the filterbank. Golden: lengths of the original.
Contract: no other file defines a rate."""

import re
from pathlib import Path

import pytest
import torch

import zipasr
from tests.golden_files import load_golden
from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.encoder import rates
from zipasr.encoder.frontend import ConvEmbed
from zipasr.encoder.zipformer import Zipformer, ZipformerConfig
from zipasr.features import Fbank


@pytest.mark.parametrize("num_frames", range(9, 30))
def test_embed_length_is_what_comes_out(num_frames: int) -> None:
    torch.manual_seed(0)
    module = ConvEmbed(20, 8, conv_channels=(2, 4, 8)).eval()
    length = rates.embed_length(num_frames)
    assert module(torch.zeros(1, num_frames, 20)).shape == (1, length, 8)
    assert length == (num_frames - 7) // 2
    assert rates.embed_lengths(torch.tensor([num_frames])).tolist() == [length]


def test_fewer_features_than_the_minimum_make_no_frame() -> None:
    for length, lengths in ((rates.embed_length, rates.embed_lengths), (rates.output_length, rates.output_lengths)):
        assert [length(n) for n in range(rates.MIN_FEATURES + 1)] == [0] * rates.MIN_FEATURES + [1]
        assert lengths(torch.arange(rates.MIN_FEATURES + 1)).tolist() == [0] * rates.MIN_FEATURES + [1]


def test_lengths_equal_golden() -> None:
    _, golden = load_golden("a_conv2d_subsampling")
    assert torch.equal(rates.embed_lengths(golden["in.x_lens"]), golden["out.x_lens"])


def test_output_length_is_that_of_the_encoder() -> None:
    encoder = Zipformer(ZipformerConfig())
    lens = range(200)
    assert [rates.output_length(n) for n in lens] == [encoder.output_length(n) for n in lens]
    assert rates.output_lengths(torch.tensor(lens)).tolist() == [rates.output_length(n) for n in lens]


def test_rates_are_those_of_features_and_frames() -> None:
    assert Fbank().num_frames(SAMPLE_RATE_HZ) == rates.FEATURE_RATE_HZ
    minute = 60 * rates.FEATURE_RATE_HZ
    assert rates.embed_length(minute) == 60 * rates.EMBED_RATE_HZ - 4  # 7 features are consumed
    assert rates.output_length(minute) == 60 * rates.ENCODED_RATE_HZ - 2
    assert (rates.FRAME_MS_50HZ, rates.FRAME_S_50HZ, rates.FRAME_S_25HZ) == (20.0, 0.02, 0.04)
    assert (rates.FEATURES_PER_FRAME_50HZ, rates.FEATURES_PER_FRAME_25HZ) == (2, 4)


@pytest.mark.parametrize("chunk", [1, 16, 32])
def test_a_window_gives_its_chunk_and_the_frames_ahead(chunk: int) -> None:
    assert rates.embed_length(rates.window_length(chunk)) == chunk + rates.FRAMES_AHEAD
    assert rates.window_length(chunk) == 2 * chunk + 13


def test_rates_are_defined_once() -> None:
    per_frame = r"(FRAME|FEATURE|ENCODED|EMBED)S?_(RATE|S|MS|PER)|_?M?S_PER_FRAME|MIN_FEATURES"
    constant = re.compile(rf"^_?({per_frame})(_\w+)? = [\d./ ]+$", re.MULTILINE)
    rule = re.compile(r"- 7\) // 2")
    package = Path(zipasr.__file__).parent
    for path in sorted(package.rglob("*.py")):
        if path == package / "encoder/rates.py":
            continue
        code = re.sub(r'""".*?"""', "", path.read_text(), flags=re.DOTALL)
        found = constant.search(code) or rule.search(code)
        assert found is None, f"{path}: {found[0]!r} must come from zipasr.encoder.rates"
