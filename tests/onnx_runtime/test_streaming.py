"""Law: streaming graphs give the transcripts of their model in the same chunks, for streams in any pieces and batches, for
whole recordings, and with every search. Contract: other chunks, windows and kinds of graphs are refused."""

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
import torch

import zipasr
from tests.export.models import causal_model
from tests.export.traces import traced_once
from tests.recognizer.pieces import in_pieces
from tests.tiny_model import noise, save_tiny, tiny_tokenizer
from zipasr.cli import main
from zipasr.errors import CheckpointError, ConfigError
from zipasr.export import export_model
from zipasr.model import AsrModel
from zipasr.nn.encoded import Encoded
from zipasr.onnx_runtime import VALID_FEATURES, OnnxModel, OnnxStreamingModel, load, open_graphs
from zipasr.recognizer import ChunkConfig, Recognizer, SearchConfig
from zipasr.transcript import Transcript

CHUNK, LEFT, WINDOW = 16, 64, 45
CHUNKS = ChunkConfig(chunk_frames_50hz=CHUNK, left_context_frames_50hz=LEFT, simulate_streaming=True)
RECORDINGS = [noise(duration_s, seed) for seed, duration_s in enumerate((1.8, 0.02, 2.4, 0.2, 0.8))]
SEARCHES = {
    "both": (
        SearchConfig(method="beam"),
        SearchConfig(method="greedy", max_symbols_per_frame=3),
        SearchConfig(method="ctc_greedy"),
        SearchConfig(method="ctc_beam"),
    ),
    "transducer": (SearchConfig(method="greedy"), SearchConfig(method="beam", max_symbols_per_frame=3)),
    "ctc": (SearchConfig(method="ctc_greedy"),),
}


@pytest.fixture(scope="module", params=SEARCHES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """The heads of a causal model, its folder, and the folder that it was exported to."""
    folder, model = tmp_path_factory.mktemp(request.param), causal_model()
    if request.param == "transducer":
        model.ctc, model.config = None, dataclasses.replace(model.config, ctc=None)
    elif request.param == "ctc":
        model.transducer, model.config = None, dataclasses.replace(model.config, transducer=None)
    saved = model.save(folder / "model", tiny_tokenizer())
    with traced_once():
        report = export_model(saved, folder / "out", chunk_ms=20 * CHUNK, left_context_ms=20 * LEFT)
    return request.param, saved, report.folder


@pytest.fixture(scope="module")
def opened(pair: tuple[str, Path, Path]) -> tuple[Recognizer, Recognizer]:
    """Recognizers of the model and of its graphs."""
    return zipasr.load(pair[1], chunks=CHUNKS), zipasr.load(pair[2])


def searching(opened: tuple[Recognizer, Recognizer], search: SearchConfig) -> tuple[Recognizer, Recognizer]:
    """The recognizers with another search."""
    model, graphs = (recognizer.engine for recognizer in opened)
    return (
        Recognizer(model.scorer, model.tokenizer, search=search, chunks=CHUNKS),
        Recognizer(graphs.scorer, graphs.tokenizer, search=search),
    )


def assert_same(found: Transcript, expected: Transcript) -> None:
    assert found.text == expected.text
    assert [(token.text, token.start_s) for token in found.tokens] == [
        (token.text, pytest.approx(token.start_s, abs=0.011)) for token in expected.tokens
    ]


def test_streams_equal_those_of_the_model(pair: tuple[str, Path, Path], opened: tuple[Recognizer, Recognizer]) -> None:
    for search in SEARCHES[pair[0]]:
        said: list[list[Transcript]] = []
        for recognizer in searching(opened, search):
            generator = random.Random(search.method)
            streams = [recognizer.stream() for _ in RECORDINGS]
            assert {stream.sizes for stream in streams} == {(CHUNK, LEFT)}
            arriving = [in_pieces(samples, generator) for samples in RECORDINGS]
            while any(arriving):
                for stream, pieces in zip(streams, arriving, strict=True):
                    if pieces and generator.random() < 0.5:
                        stream.accept_waveform(pieces.pop(0))
                recognizer.decode_streams(generator.sample(streams, 3))
            said.append([stream.finish() for stream in streams])
        assert any(transcript.text for transcript in said[0])
        for expected, found in zip(*said, strict=True):
            assert_same(found, expected)


def test_recordings_are_processed_like_streams(pair: tuple[str, Path, Path], opened: tuple[Recognizer, Recognizer]) -> None:
    """The model itself gives the same transcripts when it simulates streaming, and the batch does not matter."""
    for search in SEARCHES[pair[0]]:
        model, graphs = searching(opened, search)
        assert model.engine.chunk_sizes == graphs.engine.chunk_sizes == (CHUNK, LEFT)
        for samples, expected, found in zip(
            RECORDINGS, model.transcribe_many(RECORDINGS), graphs.transcribe_many(RECORDINGS), strict=True
        ):
            assert_same(found, expected)
            assert_same(graphs.transcribe(samples), found)
            stream = graphs.stream()
            stream.accept_waveform(samples)
            assert stream.finish().text == found.text
    whole = zipasr.load(pair[1]).transcribe_many(RECORDINGS)
    in_chunks = opened[1].transcribe_many(RECORDINGS)
    assert [transcript.text for transcript in whole] != [transcript.text for transcript in in_chunks]


def test_scores_equal_those_of_the_model(pair: tuple[str, Path, Path]) -> None:
    model, graphs = AsrModel.load(pair[1])[0], load(pair[2]).scorer
    generator = torch.Generator().manual_seed(0)
    features, lens = 3 * torch.randn(3, 300, 80, generator=generator) - 8, torch.tensor([250, 120, 9])
    for row, length in zip(features, lens.tolist(), strict=True):
        row[length:] = zipasr.features.PADDING_VALUE
    with torch.inference_mode():
        expected = model.encode(features, lens, chunk_frames_50hz=CHUNK, left_context_frames_50hz=LEFT)
        found = graphs.encode(features, lens)
        assert torch.equal(found.lens, expected.lens)
        for head in ("project_frames", "ctc_log_probs"):
            if (head == "project_frames" and not model.has_transducer) or (head == "ctc_log_probs" and not model.has_ctc):
                continue
            ours, theirs = getattr(graphs, head)(found.frames), getattr(model, head)(expected.frames)
            for n, length in enumerate(expected.lens.tolist()):
                tolerance = 1e-4 * float(theirs.abs().max())
                torch.testing.assert_close(ours[n, :length], theirs[n, :length], rtol=0, atol=tolerance)
            for i, encoded in enumerate(in_batches(graphs, features[:2])):  # the states of streams are not mixed up
                chunk = slice(i * CHUNK // 2, (i + 1) * CHUNK // 2)
                torch.testing.assert_close(getattr(graphs, head)(encoded.frames), ours[:2, chunk], rtol=0, atol=tolerance)


def in_batches(graphs: OnnxModel, features: torch.Tensor) -> Iterator[Encoded]:
    """Frames of the first three chunks of streams that are encoded in one batch."""
    assert isinstance(graphs, OnnxStreamingModel)
    states = [graphs.initial_state(1, chunk_frames_50hz=CHUNK, left_context_frames_50hz=LEFT) for _ in features]
    for start in (0, 2 * CHUNK, 4 * CHUNK):
        windows = features[:, start : start + WINDOW]
        encoded, states = graphs.encode_chunks(windows, torch.tensor([WINDOW] * len(features)), states)
        yield encoded


def test_other_chunks_and_windows_are_refused(pair: tuple[str, Path, Path], opened: tuple[Recognizer, Recognizer]) -> None:
    graphs = opened[1].engine.scorer
    assert isinstance(graphs, OnnxStreamingModel)
    with pytest.raises(ConfigError, match="export the model with those"):
        zipasr.load(pair[2], chunks=ChunkConfig(chunk_frames_50hz=32))
    with pytest.raises(ConfigError, match="export the model with those"):
        opened[1].stream(left_context_frames_50hz=128)
    with pytest.raises(ValueError, match="export the model with those"):
        graphs.encode(torch.zeros(1, 50, 80), torch.tensor([50]), chunk_frames_50hz=-1)
    state = graphs.initial_state(1, chunk_frames_50hz=CHUNK, left_context_frames_50hz=LEFT)
    with pytest.raises(ValueError, match=r"a window must be \(N, 45, 80\)"):
        graphs.encode_chunks(torch.zeros(1, 44, 80), torch.tensor([44]), [state])
    with pytest.raises(ValueError, match="a state for each of 2 windows"):
        graphs.encode_chunks(torch.zeros(2, 45, 80), torch.tensor([45, 45]), [state])


def test_graphs_of_whole_utterances_cannot_stream(tmp_path: Path) -> None:
    report = export_model(save_tiny(tmp_path / "model", has_transducer=False), tmp_path / "whole")
    with pytest.raises(ConfigError, match="export a causal model with --chunk-ms"):
        zipasr.load(report.folder).stream()
    with pytest.raises(ConfigError, match="export a causal model with --chunk-ms"):
        zipasr.load(report.folder, chunks=CHUNKS)


def test_graphs_that_take_no_lengths_are_refused(
    pair: tuple[str, Path, Path], opened: tuple[Recognizer, Recognizer]
) -> None:
    config = opened[1].engine.scorer.config  # type: ignore[attr-defined]
    graphs = {path.name: path.read_bytes() for path in pair[2].glob("*.onnx")}
    name = str(config.files.encoder or config.files.ctc)
    model = onnx.load_from_string(graphs[name])
    inputs = [given for given in model.graph.input if given.name != VALID_FEATURES]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    with pytest.raises(CheckpointError, match="export again"):
        open_graphs(config, graphs | {name: model.SerializeToString()})


def test_on_the_command_line(pair: tuple[str, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    heads, saved, folder = pair
    soundfile.write(tmp_path / "a.wav", RECORDINGS[2], 16_000, subtype="FLOAT")
    chunks = ["--chunk-ms", str(20 * CHUNK), "--left-context-ms", str(20 * LEFT)]
    printed = []
    for argv in ([folder], [saved, *chunks], [saved]):
        assert main(["transcribe", *map(str, argv), str(tmp_path / "a.wav")]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert printed[1] != printed[2] or heads == "ctc"  # random CTC weights give the same text with and without chunks
    for argv, cure in (
        ([saved, "--left-context-ms", "640"], "no effect without --chunk-ms"),
        ([saved, "--chunk-ms", "330"], "positive multiple of 20 ms"),
        ([saved, "--chunk-ms", "40"], "must be a multiple of 4 frames"),
        ([folder, "--chunk-ms", "640"], "export the model with those"),
    ):
        assert main(["transcribe", *map(str, argv), str(tmp_path / "a.wav")]) == 2
        assert cure in capsys.readouterr().err


def test_a_noncausal_model_cannot_simulate_streaming(tmp_path: Path) -> None:
    config = causal_model().config
    encoder = dataclasses.replace(config.encoder, is_causal=False)  # type: ignore[type-var]
    model = AsrModel(dataclasses.replace(config, encoder=encoder)).eval()
    with pytest.raises(ConfigError, match="Zipformer that sees the future"):
        Recognizer(model, tiny_tokenizer(), chunks=CHUNKS)
    assert Recognizer(model, tiny_tokenizer()).transcribe(np.zeros(16_000, np.float32)).duration_s == 1.0
