"""Contract: the metadata and inputs of graphs decide what they are and how they run; others are refused with the reason, and
a vocabulary must be the model's."""

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import zipasr
from tests.onnx_runtime.small_graphs import (
    CTC_METADATA,
    ENCODER_METADATA,
    INT32,
    ONLINE1_METADATA,
    VOCAB_SIZE,
    decoder_graph,
    joiner_graph,
    offline_graph,
    transducer,
    write,
    zipformer1_graph,
)
from tests.tiny_model import noise, save_tiny, tiny_tokenizer
from zipasr.checkpoint import CHECKSUMS
from zipasr.errors import CheckpointError, ConfigError
from zipasr.features import Fbank, FbankConfig
from zipasr.onnx_runtime import OnnxStreamingModel, find_foreign
from zipasr.recognizer import SearchConfig
from zipasr.tokenizer import Tokenizer

SAMPLES = noise(1.2)


def with_metadata(graph: onnx.ModelProto, **entries: str) -> onnx.ModelProto:
    """The same graph, its metadata changed; an empty entry is left out."""
    merged = {entry.key: entry.value for entry in graph.metadata_props} | entries
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, {key: value for key, value in merged.items() if value})
    return graph


def without(graph: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The same graph, an input made a constant, so that it no longer takes it."""
    (given,) = [value for value in graph.graph.input if value.name == name]
    shape = [dim.dim_value or 1 for dim in given.type.tensor_type.shape.dim]
    kind = onnx.helper.tensor_dtype_to_np_dtype(given.type.tensor_type.elem_type)
    graph.graph.input.remove(given)
    graph.graph.node.insert(
        0, onnx.helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(np.zeros(shape, kind)))
    )
    return graph


def streaming(encoder: onnx.ModelProto | None = None) -> dict[str, onnx.ModelProto]:
    return {"encoder": encoder or zipformer1_graph(), "decoder": decoder_graph(), "joiner": joiner_graph()}


def fixed(graph: onnx.ModelProto, name: str, axis: int) -> onnx.ModelProto:
    (given,) = [value for value in graph.graph.input if value.name == name]
    given.type.tensor_type.shape.dim[axis].dim_value = 1
    return graph


CTC, ENCODER = offline_graph(is_ctc=True), offline_graph(is_ctc=False)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another architecture": ({"model": offline_graph(is_ctc=True, metadata={"model_type": "sense_voice"})}, "'sense_voice'"),
    "conformer": (transducer(metadata={"model_type": "conformer"}), "says 'conformer'; zipasr runs no other"),
    "no metadata": ({"model": offline_graph(is_ctc=True, metadata={"comment": "mine"})}, "say in its metadata what it is"),
    "an encoder as a CTC model": ({"model": offline_graph(is_ctc=False)}, "must be a CTC model, as its name says"),
    "a CTC model as an encoder": (
        {"encoder": CTC, "decoder": decoder_graph(), "joiner": joiner_graph()},
        "must be the encoder of a transducer",
    ),
    "one utterance": ({"model": offline_graph(is_ctc=True, x=(1, "T", 80))}, r"takes only x \(1, any, 80\); such graphs"),
    "one length": ({"model": offline_graph(is_ctc=True, x=("N", 300, 80))}, r"takes only x \(any, 300, 80\); such graphs"),
    "no features": ({"model": offline_graph(is_ctc=True, x=("N", "T"))}, r"must take features \(N, T, F\) first"),
    "one label context": (
        {"encoder": ENCODER, "decoder": decoder_graph(batch=1), "joiner": joiner_graph()},
        r"must take any number, but takes only y \(1, 2\)",
    ),
    "a joiner of another model": (
        {"encoder": ENCODER, "decoder": decoder_graph(), "joiner": joiner_graph(width=20)},
        "have different widths: the encoder's frames 16, .* the joiner's frames 20",
    ),
    "a decoder as joiner": (
        {"encoder": ENCODER, "decoder": decoder_graph(), "joiner": decoder_graph()},
        r"must take frames \(N, J\) and contexts",
    ),
    "one stream": (streaming(fixed(zipformer1_graph(), "x", 0)), "any number of streams, but takes only x"),
    "a state of one stream": (streaming(fixed(zipformer1_graph(), "cached_key_1", 2)), "states of any number of streams"),
    "a missing state": (streaming(without(zipformer1_graph(), "cached_val2_0")), "must take 14 states .* but takes 13"),
    "no chunk": (streaming(with_metadata(zipformer1_graph(), decode_chunk_len="")), "must have decode_chunk_len"),
    "an odd chunk": (streaming(with_metadata(zipformer1_graph(), decode_chunk_len="30")), "a multiple of 4 features"),
    "a long chunk": (streaming(with_metadata(zipformer1_graph(), decode_chunk_len="64")), "for 64 features a chunk"),
    "no layers": (streaming(with_metadata(zipformer1_graph(), num_encoder_layers="many")), "must have num_encoder_layers"),
    "other features": ({"model": offline_graph(is_ctc=True, metadata=CTC_METADATA | {"feature": "mfcc"})}, "says 'mfcc'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_run_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    graphs, message = REFUSED[name]
    with pytest.raises(CheckpointError, match=message):
        zipasr.load(write(tmp_path, **graphs))


def test_whole_utterances_of_zipformer_1_work(tmp_path: Path) -> None:
    folders = [write(tmp_path / kind, **transducer(metadata={"model_type": kind})) for kind in ("zipformer", "zipformer2")]
    one, other = (zipasr.load(folder).transcribe(SAMPLES) for folder in folders)
    assert one == other
    assert one.text


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path, model=CTC)
    monkeypatch.setitem(sys.modules, "onnx", None)  # not needed to run graphs of others
    assert zipasr.load(folder).transcribe(SAMPLES).text
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r'pip install "zipasr\[onnx\]"'):
        zipasr.load(folder)


def test_contexts_of_one_label_work(tmp_path: Path) -> None:
    folder = write(tmp_path, encoder=ENCODER, decoder=decoder_graph(context=1), joiner=joiner_graph())
    recognizer = zipasr.load(folder)
    assert recognizer.engine.scorer.context_size == 1
    assert recognizer.transcribe(SAMPLES).text


@pytest.mark.parametrize("is_ctc", [True, False])
def test_the_number_of_outputs_is_found_where_the_graph_does_not_say(is_ctc: bool, tmp_path: Path) -> None:
    if is_ctc:
        silent, plain = {"model": offline_graph(is_ctc=True, output=("N", "U", "V"))}, {"model": CTC}
    else:
        silent = transducer(lens=INT32) | {"joiner": joiner_graph(output=("N", "V"))}
        plain = transducer()
    assert zipasr.load(write(tmp_path / "a", **silent)).transcribe(SAMPLES) == zipasr.load(
        write(tmp_path / "b", **plain)
    ).transcribe(SAMPLES)


def test_windows_are_those_of_the_graph(tmp_path: Path) -> None:
    scorer = zipasr.load(write(tmp_path, **streaming())).engine.scorer
    assert isinstance(scorer, OnnxStreamingModel)
    assert (scorer.window_frames, scorer.chunk_frames_50hz, scorer.left_context_frames_50hz) == (39, 16, 16)
    assert str(scorer.window_frames) == ONLINE1_METADATA["T"]


def test_features_are_those_of_the_metadata(tmp_path: Path) -> None:
    """Whisper's are normalized by the maximum of the recording, or of the window."""
    whole = write(tmp_path / "whole", **transducer(metadata=ENCODER_METADATA | {"feature": "whisper"}))
    recognizer = zipasr.load(whole)
    fbank = Fbank(FbankConfig(kind="whisper"))
    assert recognizer.engine.fbank.config == fbank.config
    features = fbank(SAMPLES)
    ours = recognizer.engine.encode([features]).frames
    session = recognizer.engine.scorer._encoder  # type: ignore[attr-defined]
    (theirs, _) = session.run(fbank.normalized(features).unsqueeze(0).numpy(), np.array([len(features)]))
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-6)
    online = write(tmp_path / "online", **streaming(with_metadata(zipformer1_graph(), feature="whisper")))
    recognizer = zipasr.load(online)
    stream = recognizer.stream()
    for start in range(0, len(SAMPLES), 5000):
        stream.accept_waveform(SAMPLES[start : start + 5000])
    assert stream.finish().text == recognizer.transcribe(SAMPLES).text != ""
    assert zipasr.load(write(tmp_path / "kaldi", **streaming())).transcribe(SAMPLES).text != stream.text


def test_the_model_file_encodes_and_the_table_only_decodes(tmp_path: Path) -> None:
    folder = write(tmp_path, **transducer())
    both = zipasr.load(folder)
    assert both.engine.tokenizer.can_encode
    (folder / "bpe.model").unlink()
    table = zipasr.load(folder)
    assert not table.engine.tokenizer.can_encode
    assert table.transcribe(SAMPLES).text == both.transcribe(SAMPLES).text
    with pytest.raises(ConfigError, match=r"bpe\.model"):
        table.transcribe(SAMPLES, hotwords=["FOX"])
    (folder / "tokens.txt").unlink()
    with pytest.raises(CheckpointError, match=r"must hold the symbols of the model, tokens\.txt"):
        zipasr.load(folder)


def other_vocabulary() -> Tokenizer:
    """A vocabulary of another model with as many pieces."""
    return Tokenizer.train(
        ["SPHINX OF BLACK QUARTZ JUDGE MY VOW", "HOW VEXINGLY QUICK DAFT ZEBRAS JUMP"], kind="bpe", vocab_size=VOCAB_SIZE
    )


@pytest.mark.parametrize("kind", ["pieces", "size", "pointer"])
def test_the_model_file_of_another_model_is_not_used(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write(tmp_path, **transducer())
    expected = zipasr.load(folder).transcribe(SAMPLES).text
    if kind == "pointer":
        (folder / "bpe.model").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    else:
        other = other_vocabulary() if kind == "pieces" else Tokenizer.train(["A B"], kind="char", vocab_size=None)
        (folder / "bpe.model").write_bytes(other.to_files()["tokenizer.model"])
    with caplog.at_level(logging.WARNING):
        assert zipasr.load(folder).transcribe(SAMPLES).text == expected
    assert "bpe.model" in caplog.text and "only tokens.txt is used" in caplog.text
    (folder / "tokens.txt").unlink()
    if kind != "pieces":
        with pytest.raises(CheckpointError, match="Git LFS pointer" if kind == "pointer" else f"has {VOCAB_SIZE} outputs"):
            zipasr.load(folder)


def test_a_table_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, **transducer())
    (folder / "bpe.model").unlink()
    lines = (folder / "tokens.txt").read_text().splitlines()
    (folder / "tokens.txt").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(CheckpointError, match=f"has {VOCAB_SIZE} outputs, but it has {VOCAB_SIZE - 1}"):
        zipasr.load(folder)


@pytest.mark.parametrize("name", ["<blk>", "<blank>", "<eps>"])
def test_the_blank_is_the_symbol_of_that_name(name: str, tmp_path: Path) -> None:
    """Wherever it is in the table of a CTC model."""
    folder = write(tmp_path, model=CTC)
    (folder / "bpe.model").unlink()
    pieces = tiny_tokenizer().pieces
    symbols = [*pieces[1:], name]  # a blank at the end
    (folder / "tokens.txt").write_text("".join(f"{symbol} {i}\n" for i, symbol in enumerate(symbols)))
    assert zipasr.load(folder).engine.scorer.blank_id == VOCAB_SIZE - 1


def test_our_own_folders_are_no_ones_else(tmp_path: Path) -> None:
    """A model folder, an export, and a run with an export inside."""
    run = tmp_path / "run"
    saved = save_tiny(run / "model", has_transducer=False)
    (write(run / "graphs", model=CTC) / CHECKSUMS).write_text("{}")
    write(run, model=CTC)
    assert [find_foreign(folder) for folder in (saved, run, run / "graphs", tmp_path / "absent")] == [None] * 4
    assert zipasr.load(run).engine.scorer.has_ctc


def test_a_default_search_beside_the_graphs_is_used(tmp_path: Path) -> None:
    from zipasr.evaluate.compare import save_default_search

    folder = write(tmp_path, **transducer())
    save_default_search(folder, SearchConfig(method="greedy", blank_penalty=2.0), [], chosen_on="dev")
    assert zipasr.load(folder).search == SearchConfig(method="greedy", blank_penalty=2.0)
