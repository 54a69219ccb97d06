"""Contract: streaming graphs have the inputs, outputs and metadata that sherpa-onnx requires, agree with PyTorch, and give
the same tokens in the real sherpa-onnx."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from tests.export.models import causal_model
from tests.export.sherpa import sherpa_recognizer, sherpa_tokens
from tests.export.signatures import FLOAT, INT64, metadata, signature
from tests.tiny_model import noise, tiny_tokenizer
from zipasr.errors import ConfigError
from zipasr.export import ExportReport, export_model
from zipasr.export.integer import graphs_in
from zipasr.export.online import from_published, online_graphs, to_published
from zipasr.features import Fbank
from zipasr.model import AsrModel
from zipasr.nn.encoded import Encoded
from zipasr.onnx_runtime import open_session
from zipasr.search import ctc_greedy_search, greedy_search, modified_beam_search

CHUNK, LEFT, WINDOW = 16, 64, 45
CHANNELS, LAYERS = (32, 64, 64, 48), 4
HEADS, FACTORS = (2, 4, 4, 2), (1, 4, 4, 2)
RECORDINGS = [noise(duration_s, seed) for seed, duration_s in enumerate((2.0, 3.1, 1.2))]


def states(prefix: str = "") -> list[tuple[str, int, list[str | int]]]:
    """Name, type and shape of the states of `causal_model`, layer by layer, as sherpa-onnx expects them."""
    listed: list[tuple[str, int, list[str | int]]] = []
    for i, (channels, heads, factor) in enumerate(zip(CHANNELS, HEADS, FACTORS, strict=True)):
        left = LEFT // factor
        listed += [
            (f"{prefix}cached_key_{i}", FLOAT, [left, "N", heads * 16]),
            (f"{prefix}cached_nonlin_attn_{i}", FLOAT, [1, "N", left, 3 * channels // 4]),
            (f"{prefix}cached_val1_{i}", FLOAT, [left, "N", heads * 12]),
            (f"{prefix}cached_val2_{i}", FLOAT, [left, "N", heads * 12]),
            (f"{prefix}cached_conv1_{i}", FLOAT, ["N", channels, 7]),
            (f"{prefix}cached_conv2_{i}", FLOAT, ["N", channels, 7]),
        ]
    return [
        *listed,
        (f"{prefix}embed_states", FLOAT, ["N", 128, 3, 19]),
        (f"{prefix}processed_lens", INT64, ["N"]),
    ]


def test_files(streaming: ExportReport) -> None:
    names = {path.name for path in streaming.folder.glob("*.onnx")}
    chunk = "chunk-16-left-64"
    assert names == {f"encoder-{chunk}.onnx", "decoder.onnx", "joiner.onnx", f"model-{chunk}.onnx", "ctc_head.onnx"}
    assert max(streaming.differences.values()) < 1e-5


@pytest.mark.parametrize(("stem", "output"), [("encoder", ("encoder_out", 128)), ("model", ("log_probs", 48))])
def test_signature_and_metadata(stem: str, output: tuple[str, int], streaming: ExportReport) -> None:
    model = onnx.load(streaming.folder / f"{stem}-chunk-16-left-64.onnx")
    assert signature(model.graph.input) == [("x", FLOAT, ["N", WINDOW, 80]), *states(), ("x_lens", INT64, ["M"])]
    optional = {tensor.name: onnx.numpy_helper.to_array(tensor).tolist() for tensor in model.graph.initializer}["x_lens"]
    assert optional == [WINDOW]
    assert signature(model.graph.output) == [(output[0], FLOAT, ["N", CHUNK // 2, output[1]]), *states("new_")]
    assert metadata(model) == {
        "model_type": "zipformer2",
        "version": "1",
        "model_author": "k2-fsa",
        "comment": "streaming zipformer2",
        "decode_chunk_len": "32",
        "T": "45",
        "num_encoder_layers": "1,2,1",
        "encoder_dims": "32,64,48",
        "cnn_module_kernels": "15,15,15",
        "left_context_len": "64,16,32",
        "query_head_dims": "16,16,16",
        "value_head_dims": "12,12,12",
        "num_heads": "2,4,2",
    }


def test_sizes_are_constants(streaming: ExportReport) -> None:
    model = onnx.load(streaming.folder / "encoder-chunk-16-left-64.onnx")
    kinds = [node.op_type for graph in graphs_in(model.graph) for node in graph.node if "/layers." in node.name]
    assert not {"Shape", "Range", "Gather", "Expand"} & set(kinds)
    assert (kinds.count("Gemm"), kinds.count("MatMul")) == (23 * LAYERS, 5 * LAYERS)  # linear layers, products of frames


def test_lengths_may_be_left_out(streaming: ExportReport) -> None:
    session = open_session((streaming.folder / "encoder-chunk-16-left-64.onnx").read_bytes(), name="encoder")
    shapes = {given.name: [2 if size == "N" else size for size in given.shape] for given in session.get_inputs()}
    given = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    given["processed_lens"] = given["processed_lens"].astype(np.int64)
    given["x"] = np.random.default_rng(0).standard_normal(given["x"].shape, np.float32)
    left_out, all_of_it, less = (
        session.run(None, given | lens)
        for lens in ({}, {"x_lens": np.array([WINDOW] * 2)}, {"x_lens": np.array([WINDOW, 20])})
    )
    assert all(np.array_equal(one, other) for one, other in zip(left_out, all_of_it, strict=True))
    assert np.array_equal(less[0][0], left_out[0][0])
    assert not np.allclose(less[0][1], left_out[0][1], atol=1e-5)
    assert less[-1].tolist() == [CHUNK, 6]


def test_layouts_are_inverses() -> None:
    state = causal_model().initial_state(3, chunk_frames_50hz=CHUNK, left_context_frames_50hz=LEFT)
    flat = [torch.randn_like(tensor) if tensor.is_floating_point() else tensor for tensor in state.to_flat()]
    back = from_published(to_published(flat))
    assert all(torch.equal(one, other) for one, other in zip(flat, back, strict=True))


def encoded_in_chunks(model: AsrModel, samples: np.ndarray) -> Encoded:
    """Encoder frames of all windows that sherpa-onnx processes in a recording."""
    features = Fbank()(samples)
    state = model.initial_state(1, chunk_frames_50hz=CHUNK, left_context_frames_50hz=LEFT)
    frames = []
    with torch.inference_mode():
        for start in range(0, len(features) - WINDOW, 2 * CHUNK):  # sherpa-onnx waits for one more feature than a window
            window = features[start : start + WINDOW].unsqueeze(0)
            encoded, state = model.encode_chunk(window, torch.tensor([WINDOW]), state)
            frames.append(encoded.frames)
    whole = torch.cat(frames, dim=1)
    return Encoded(whole, torch.tensor([whole.shape[1]]))


@pytest.mark.parametrize("method", ["greedy", "beam", "ctc_greedy"])
def test_sherpa_finds_what_we_find(method: str, causal_dir: Path, streaming: ExportReport) -> None:
    recognizer = sherpa_recognizer(streaming.folder, method)
    found = sherpa_tokens(recognizer, RECORDINGS)
    model, tokenizer = AsrModel.load(causal_dir)
    num_tokens = 0
    for samples, tokens_found in zip(RECORDINGS, found, strict=True):
        encoded = encoded_in_chunks(model, samples)
        with torch.inference_mode():
            if method == "ctc_greedy":
                (hypothesis,) = ctc_greedy_search(model, encoded)
            elif method == "greedy":
                (hypothesis,) = greedy_search(model, encoded)
            else:
                ((hypothesis, *_),) = modified_beam_search(model, encoded, beam=4)
        # its transducer searches treat <unk> as blank
        ids = [i for i in hypothesis.ids if i != tokenizer.unk_id or method == "ctc_greedy"]
        expected = [tokenizer.pieces[i].replace("\u2581", " ") for i in ids]
        assert tokens_found == expected
        num_tokens += len(expected)
    assert num_tokens > 5


def test_models_that_cannot_stream_are_refused(causal_dir: Path, model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="is_causal=True"):
        export_model(model_dir, out, chunk_ms=320, left_context_ms=1280)
    with pytest.raises(ConfigError, match="positive multiple of the chunk"):
        export_model(causal_dir, out, chunk_ms=320, left_context_ms=1000)
    with pytest.raises(ConfigError, match="positive multiple of 20 ms"):
        export_model(causal_dir, out, chunk_ms=330)
    with pytest.raises(ConfigError, match="give --chunk-ms too"):
        export_model(causal_dir, out, left_context_ms=1280)
    with pytest.raises(ConfigError, match=r"encoder\.conv_channels=8,32,128"):
        online_graphs(causal_model((4, 16, 24)), chunk_frames_50hz=CHUNK, left_context_frames_50hz=LEFT)
    assert not out.exists()


def test_one_head(tmp_path: Path) -> None:
    config = dataclasses.replace(causal_model().config, ctc=None)
    folder = AsrModel(config).save(tmp_path / "model", tiny_tokenizer())
    report = export_model(folder, tmp_path / "out", precision="float16", chunk_ms=320, left_context_ms=1280)
    names = {path.name for path in report.folder.glob("*.onnx")}
    assert names == {"encoder-chunk-16-left-64.fp16.onnx", "decoder.fp16.onnx", "joiner.fp16.onnx"}
