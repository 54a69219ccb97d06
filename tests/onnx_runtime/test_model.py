"""Law: an exported model scores and transcribes like its PyTorch model. Contract: damage is detected."""

import sys
from pathlib import Path

import pytest
import soundfile
import torch

import zipasr
from tests.export.traces import traced_once
from tests.tiny_model import noise, tiny_asr_model, tiny_tokenizer
from zipasr.cli import main
from zipasr.errors import CheckpointError, ConfigError
from zipasr.export import export_model
from zipasr.model import AsrModel
from zipasr.onnx_runtime import OnnxModel, is_exported, load
from zipasr.onnx_runtime.folder import Exported
from zipasr.recognizer import Recognizer, SearchConfig


@pytest.fixture(scope="module", params=["both", "transducer", "ctc"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[AsrModel, Path]:
    """A model and the folder that it was exported to."""
    folder = tmp_path_factory.mktemp(request.param)
    model = tiny_asr_model(has_transducer=request.param != "ctc", has_ctc=request.param != "transducer")
    model.save(folder / "model", tiny_tokenizer())
    with traced_once():
        return model, export_model(folder / "model", folder / "out").folder


@pytest.fixture(scope="module")
def exported(pair: tuple[AsrModel, Path]) -> Exported:
    """The loaded folder."""
    return load(pair[1])


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_scores_equal_those_of_pytorch(pair: tuple[AsrModel, Path]) -> None:
    model, exported = pair[0], load(pair[1]).scorer
    assert (exported.has_transducer, exported.has_ctc) == (model.has_transducer, model.has_ctc)
    assert (exported.blank_id, exported.context_size) == (model.blank_id, model.context_size)
    assert not exported.has_attention
    assert all(exported.output_length(n) == model.output_length(n) for n in range(60))
    features, lens = 3 * torch.randn(3, 200, 80) - 8, torch.tensor([200, 120, 9])
    with torch.inference_mode():
        expected, found = model.encode(features, lens), exported.encode(features, lens)
        assert torch.equal(found.lens, expected.lens)
        for n, length in enumerate(expected.lens.tolist()):
            if model.has_ctc:
                close(exported.ctc_log_probs(found.frames)[n, :length], model.ctc_log_probs(expected.frames)[n, :length])
            if model.has_transducer:
                close(exported.project_frames(found.frames)[n, :length], model.project_frames(expected.frames)[n, :length])


def test_predictor_and_joiner_equal_those_of_pytorch(pair: tuple[AsrModel, Path], exported: Exported) -> None:
    model, graphs = pair[0], exported.scorer
    if not model.has_transducer:
        pytest.skip("a CTC model has neither")
    contexts = torch.tensor([[-1, 0], [-1, -1], [5, 47], [0, 3]])
    with torch.inference_mode():
        expected = model.predict(contexts)
        close(graphs.predict(contexts), expected)
        frames = torch.randn(2, 1, 128)
        for given in (expected, expected.view(2, 2, 128)):
            logits = graphs.join(frames[:, 0] if given.dim() == 2 else frames, given[:2])
            close(logits, model.join(frames[:, 0] if given.dim() == 2 else frames, given[:2]))
    assert graphs.predict(contexts[:0]).shape == (0, 128)


def test_label_contexts_are_remembered(
    pair: tuple[AsrModel, Path], exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known contexts take no run of the graph, and their number is bounded."""
    if not pair[0].has_transducer:
        pytest.skip("a CTC model has no label contexts")
    monkeypatch.setattr(zipasr.onnx_runtime.model, "_MAX_KNOWN_CONTEXTS", 6)
    graphs = load(pair[1]).scorer
    runs: list[int] = []
    run = graphs._graphs["decoder"].run
    monkeypatch.setattr(graphs._graphs["decoder"], "run", lambda ids: [runs.append(len(ids)), *run(ids)][1:])
    everything = torch.tensor([[i, j] for i in range(4) for j in range(4)])
    with torch.inference_mode():
        expected = pair[0].predict(everything)
        close(graphs.predict(everything[[0, 1, 1, 2]]), expected[[0, 1, 1, 2]])
        close(graphs.predict(everything[[2, 0]]), expected[[2, 0]])
        assert runs == [3]
        close(graphs.predict(everything[[1, 3, 4, 5, 6, 3]]), expected[[1, 3, 4, 5, 6, 3]])
        assert runs == [3, 4]
        close(graphs.predict(everything[[0, 1]]), expected[[0, 1]])  # 0 has made room
        assert runs == [3, 4, 1]
        assert len(graphs._known_contexts) == 6
        close(graphs.predict(everything), expected)


SEARCHES = [
    *(SearchConfig(method=method) for method in ("greedy", "beam", "ctc_greedy", "ctc_beam", "joint")),  # type: ignore[arg-type]
    *(SearchConfig(method=method, max_symbols_per_frame=3) for method in ("greedy", "beam")),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: f"{search.method}-{search.max_symbols_per_frame}")
@pytest.mark.parametrize("tail_padding_frames", [0, 32])
def test_transcripts_equal_those_of_pytorch(
    pair: tuple[AsrModel, Path], exported: Exported, search: SearchConfig, tail_padding_frames: int
) -> None:
    model, _ = pair
    needs_ctc, needs_transducer = "ctc" in search.method or search.method == "joint", "ctc" not in search.method
    if (needs_ctc and not model.has_ctc) or (needs_transducer and not model.has_transducer):
        pytest.skip("the model lacks the head of this search")
    recordings = [noise(duration_s, seed) for seed, duration_s in enumerate((1.1, 0.5, 1.6, 0.05))]
    expected, found = (
        Recognizer(
            scorer, tokenizer, features=features, search=search, tail_padding_frames=tail_padding_frames
        ).transcribe_many(recordings)
        for scorer, tokenizer, features in ((model, tiny_tokenizer(), model.config.features), exported)
    )
    for one, other in zip(expected, found, strict=True):
        assert other.text == one.text
        assert [(token.text, token.start_s) for token in other.tokens] == [
            (token.text, token.start_s) for token in one.tokens
        ]
    assert any(one.text for one in expected)


def test_what_a_head_cannot_do_is_refused(pair: tuple[AsrModel, Path], exported: Exported) -> None:
    model, graphs = pair[0], exported.scorer
    features, lens = torch.zeros(1, 50, 80), torch.tensor([50])
    if not model.has_transducer:
        with pytest.raises(ValueError, match="no transducer"):
            graphs.predict(torch.zeros(1, 2, dtype=torch.int64))
    if not model.has_ctc:
        with pytest.raises(ValueError, match="no CTC"):
            graphs.ctc_log_probs(torch.zeros(1, 5, 128))
    with pytest.raises(ValueError, match="must be -1"):
        graphs.encode(features, lens, chunk_frames_50hz=16)
    with pytest.raises(ValueError, match="T >= 9"):
        graphs.encode(features[:, :8], torch.tensor([8]))
    with pytest.raises(ValueError, match="without rescoring"):
        graphs.attention_log_probs(graphs.encode(features, lens), torch.zeros(1, 1, 1), torch.ones(1, 1))


def test_damage_is_found(pair: tuple[AsrModel, Path], tmp_path: Path) -> None:
    assert is_exported(pair[1])
    assert not is_exported(tmp_path)
    for path in pair[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    graph = max(
        tmp_path.glob("*.onnx"),
        key=lambda path: path.stat().st_size if path.stem != "model" or not pair[0].has_transducer else 0,
    )
    graph.write_bytes(graph.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        load(tmp_path)
    graph.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(tmp_path)


def test_files_that_are_not_graphs_are_refused(exported: Exported) -> None:
    config = exported.scorer.config
    names = [name for name in vars(config.files).values() if name is not None]
    with pytest.raises(CheckpointError, match="must be an ONNX graph"):
        OnnxModel(config, dict.fromkeys(names, b"no graph"))


@pytest.mark.parametrize("package", ["onnxruntime", "onnx"])
def test_missing_packages_are_named(package: str, pair: tuple[AsrModel, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    if package == "onnx" and not (pair[0].has_transducer and pair[0].has_ctc):
        pytest.skip("only a model with both heads needs onnx")
    monkeypatch.setitem(sys.modules, package, None)  # tests/cli/test_export.py does without them from the start
    with pytest.raises(ConfigError, match=r'pip install "zipasr\[onnx\]"'):
        load(pair[1])


def test_the_recognizer_loads_an_exported_folder_like_a_model_folder(
    pair: tuple[AsrModel, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    model, folder = pair
    recognizer = zipasr.load(folder)
    expected = Recognizer(model, tiny_tokenizer()).transcribe(noise(2.0))
    assert recognizer.transcribe(noise(2.0)).text == expected.text
    assert recognizer.search.method == ("beam" if model.has_transducer else "ctc_greedy")
    assert recognizer.engine.device.type == "cpu"
    soundfile.write(tmp_path / "a.wav", noise(2.0), 16_000, subtype="FLOAT")
    assert main(["transcribe", str(folder), str(tmp_path / "a.wav")]) == 0
    assert capsys.readouterr().out == f"{expected.text}\n"
    with pytest.raises(ConfigError, match="exported graphs run on the CPU"):
        zipasr.load(folder, device="cuda")
