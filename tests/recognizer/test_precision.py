"""Precision of inference. Law: half precision changes frames a little, streams included, and heads get float32; the flag of
a verb reaches the encoder. Contract: models that cannot compute in half precision are refused, and so are activations beyond
float16."""

from pathlib import Path
from typing import get_args

import pytest
import soundfile
import torch

from tests.recognizer.causal_models import causal_model
from tests.tiny_model import noise, save_tiny, tiny_asr_model, tiny_tokenizer
from zipasr.cli import main
from zipasr.cli.device_options import PRECISIONS
from zipasr.device import DTYPES, Precision
from zipasr.errors import ConfigError
from zipasr.export import export_model
from zipasr.model import AsrModel
from zipasr.recognizer import ChunkConfig, Recognizer

RELATIVE_ERROR: dict[Precision, tuple[float, float]] = {"bfloat16": (2e-4, 2e-2), "float16": (2e-5, 2e-3)}
"""Smallest and largest difference: below the first, nothing was rounded."""


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("precision", RELATIVE_ERROR)
@pytest.mark.parametrize("is_causal", [False, True])
def test_half_precision_changes_frames_a_little(precision: Precision, is_causal: bool) -> None:
    model = causal_model() if is_causal else tiny_asr_model()
    exact, half = (Recognizer(model, tiny_tokenizer(), precision=p) for p in ("float32", precision))
    features = [exact.engine.fbank(noise(2.0, seed)) for seed in range(2)]
    expected, found = exact.engine.encode(features), half.engine.encode(features)
    assert found.frames.dtype == torch.float32
    assert torch.equal(found.lens, expected.lens)
    lowest, highest = RELATIVE_ERROR[precision]
    assert lowest < relative_error(found.frames[:, : found.lens.min()], expected.frames[:, : found.lens.min()]) < highest
    assert next(model.parameters()).dtype == torch.float32
    assert half.transcribe_many([noise(2.0)])[0].text


@pytest.mark.parametrize("precision", RELATIVE_ERROR)
def test_streams_encode_in_half_precision(precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks are encoded one after the other, with a state that stays in float32."""
    model, frames = causal_model(), {}
    encode_chunk = AsrModel.encode_chunk

    def kept(self: AsrModel, *args: torch.Tensor) -> tuple:  # type: ignore[type-arg]
        encoded, state = encode_chunk(self, *args)
        assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in state.to_flat())
        frames.setdefault(name, []).append(encoded.frames)
        return encoded, state

    monkeypatch.setattr(AsrModel, "encode_chunk", kept)
    for name in ("float32", precision):
        chunks = ChunkConfig(chunk_frames_50hz=32, left_context_frames_50hz=64)
        stream = Recognizer(model, tiny_tokenizer(), precision=name, chunks=chunks).stream()
        stream.accept_waveform(noise(3.0))
        assert stream.finish().text
    lowest, highest = RELATIVE_ERROR[precision]
    assert len(frames["float32"]) == len(frames[precision]) >= 5
    assert lowest < relative_error(torch.cat(frames[precision], 1).float(), torch.cat(frames["float32"], 1)) < highest


def test_activations_beyond_float16_are_an_error() -> None:
    model = causal_model.__wrapped__()
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if "feed_forward1" in name and p.dim() == 2).mul_(1e8)
    features = [torch.zeros(200, 80)]
    assert Recognizer(model, tiny_tokenizer()).engine.encode(features).frames.isfinite().all()
    assert Recognizer(model, tiny_tokenizer(), precision="bfloat16").engine.encode(features).frames.isfinite().all()
    recognizer = Recognizer(model, tiny_tokenizer(), precision="float16")
    with pytest.raises(ConfigError, match=r"leave the range of float16 \(65504\); use precision bfloat16"):
        recognizer.engine.encode(features)
    stream = recognizer.stream()
    stream.accept_waveform(noise(2.0))
    with pytest.raises(ConfigError, match=r"leave the range of float16"):
        stream.decode()


def test_what_cannot_compute_so_is_refused(tmp_path: Path) -> None:
    model, tokenizer = tiny_asr_model(), tiny_tokenizer()
    with pytest.raises(ConfigError, match="tf32 needs an NVIDIA GPU, Ampere or newer, but the device is cpu; use float32"):
        Recognizer(model, tokenizer, precision="tf32")
    with pytest.raises(ConfigError, match="precision must be one of float32, tf32, bfloat16, float16, but is 'int8'"):
        Recognizer(model, tokenizer, precision="int8")  # type: ignore[arg-type]
    graphs = export_model(save_tiny(tmp_path / "model"), tmp_path / "graphs").folder
    with pytest.raises(
        ConfigError, match="exported graphs compute in the precision of their export, but bfloat16 was asked"
    ):
        Recognizer.load(graphs, precision="bfloat16")
    assert Recognizer.load(graphs).engine.precision == "float32"


def test_flag_offers_every_precision() -> None:
    assert get_args(Precision) == PRECISIONS == tuple(DTYPES)


@pytest.mark.parametrize("verb", ["transcribe", "align"])
def test_flag(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    model, audio = save_tiny(tmp_path / "model"), tmp_path / "a.wav"
    soundfile.write(audio, noise(2.0), 16_000)
    seen = []
    encode = AsrModel.encode

    def watched(self: AsrModel, *args: torch.Tensor, **kwargs: int | None) -> object:
        seen.append(torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu"))
        return encode(self, *args, **kwargs)

    monkeypatch.setattr(AsrModel, "encode", watched)
    command = [verb, str(model), str(audio), *(["--text", "THE FOX"] if verb == "align" else [])]
    assert main([*command, "--precision", "bfloat16"]) == 0
    assert main(command) == 0
    assert seen == [torch.bfloat16, False]
    assert main([*command, "--precision", "tf32"]) == 2
    assert "tf32 needs an NVIDIA GPU" in capsys.readouterr().err
