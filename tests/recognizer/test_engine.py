"""`Engine`. Law: models with Whisper's features get frames normalized by the recording, or by the window of a stream."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from tests.recognizer.causal_models import causal_model
from tests.tiny_model import noise, sharpened_model, tiny_tokenizer
from zipasr.errors import ConfigError
from zipasr.export.offline import offline_graphs
from zipasr.export.online import online_graphs
from zipasr.features import PADDING_VALUE, Fbank, FbankConfig
from zipasr.model import AsrModel
from zipasr.recognizer import ChunkConfig, Recognizer

WHISPER = FbankConfig(kind="whisper")
CHUNKS = ChunkConfig(chunk_frames_50hz=32, left_context_frames_50hz=64)


def whisper_model(**encoder: Any) -> AsrModel:
    return sharpened_model(dataclasses.replace(causal_model(**encoder).config, features=WHISPER), seed=0)


def loud_then_quiet(seed: int) -> np.ndarray:
    """Noise whose windows have different maxima."""
    samples = np.concatenate([noise(0.7, seed), 0.01 * noise(1.4, seed + 1)])
    return samples.astype(np.float32)


def test_recordings_are_normalized_as_a_whole() -> None:
    model, fbank = whisper_model(), Fbank(WHISPER)
    recognizer = Recognizer(model, tiny_tokenizer(), features=WHISPER)
    features = [fbank(loud_then_quiet(0)), fbank(loud_then_quiet(2))[:150]]
    found = recognizer.engine.encode(features)
    for i, own in enumerate(features):
        log10 = own / np.log(10.0)
        normalized = (torch.maximum(log10, log10.max() - 8.0) + 4.0) / 4.0
        padded = torch.nn.functional.pad(normalized, (0, 0, 0, 32), value=PADDING_VALUE)
        with torch.inference_mode():
            expected = model.encode(padded.unsqueeze(0), torch.tensor([len(own)]))
        assert found.lens[i] == expected.lens[0]
        length = int(expected.lens[0])
        torch.testing.assert_close(found.frames[i, :length], expected.frames[0, :length], atol=1e-4, rtol=1e-4)


def test_streams_are_normalized_window_by_window() -> None:
    recognizer = Recognizer(whisper_model(), tiny_tokenizer(), features=WHISPER, chunks=CHUNKS)
    simulated = Recognizer(
        whisper_model(), tiny_tokenizer(), features=WHISPER, chunks=dataclasses.replace(CHUNKS, simulate_streaming=True)
    )
    recordings = [loud_then_quiet(0), loud_then_quiet(2)[:20_000]]
    whole, expected = recognizer.transcribe_many(recordings), simulated.transcribe_many(recordings)
    for samples, once, chunked in zip(recordings, whole, expected, strict=True):
        stream = recognizer.stream()
        for piece in np.array_split(samples, 7):
            stream.accept_waveform(piece)
        assert stream.finish().text == chunked.text
        assert chunked.text
        assert once.text != chunked.text  # random weights: other features, other text


def test_graphs_of_chunks_say_so() -> None:
    sizes = {"chunk_frames_50hz": 32, "left_context_frames_50hz": 64}
    wide = {"conv_channels": (8, 32, 128)}  # what sherpa-onnx can stream
    assert online_graphs(whisper_model(**wide), **sizes)["encoder"].metadata["feature"] == "whisper"
    assert "feature" not in online_graphs(causal_model(**wide), **sizes)["encoder"].metadata
    with pytest.raises(ConfigError, match="--chunk-ms"):
        offline_graphs(whisper_model())
