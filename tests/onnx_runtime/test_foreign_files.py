"""Contract: the graphs of a model of another project are found among the names of published folders, and of several versions
the right one; what is ambiguous or incomplete is refused."""

from collections.abc import Iterable

import pytest

from zipasr.errors import CheckpointError, ConfigError
from zipasr.onnx_runtime import GraphFiles, find_graphs

PARTS = ("encoder", "decoder", "joiner")


def graphs(stem: str, *, prefix: str = "", endings: Iterable[str] = ("",)) -> list[str]:
    """Names of the three graphs of a transducer."""
    return [f"{prefix}{part}{stem}{ending}.onnx" for part in PARTS for ending in endings]


def found(*names: str, **options: object) -> GraphFiles:
    files = find_graphs(names, **options)  # type: ignore[arg-type]
    assert files is not None
    return files


@pytest.mark.parametrize(
    ("names", "encoder", "tokens", "vocabulary"),
    [
        pytest.param(
            [*graphs("-epoch-99-avg-1", endings=("", ".int8")), "tokens.txt", "bpe.model", "test_wavs/0.wav"],
            "encoder-epoch-99-avg-1.onnx",
            "tokens.txt",
            "bpe.model",
            id="sherpa-onnx",
        ),
        pytest.param(
            [*graphs("", prefix="am-onnx/"), "am/encoder.pt", "lang/tokens.txt", "lang/unigram_500.vocab", "lm/model.onnx"],
            "am-onnx/encoder.onnx",
            "lang/tokens.txt",
            "lang/unigram_500.vocab",
            id="vosk",
        ),
        pytest.param(
            [*graphs("", prefix="am/"), "lang/tokens.txt", "lang/bpe.model", "lang/unigram_500.vocab", "README.md"],
            "am/encoder.onnx",
            "lang/tokens.txt",
            "lang/bpe.model",
            id="small vosk",
        ),
        pytest.param(
            [
                *(name for epoch in (30, 99) for name in graphs(f"-epoch-{epoch}-avg-1", prefix="exp/")),
                *(f"data/lang_bpe_500/{name}" for name in ("tokens.txt", "bpe.model", "HLG.pt")),
                "exp/pretrained.pt",
            ],
            "exp/encoder-epoch-99-avg-1.onnx",
            "data/lang_bpe_500/tokens.txt",
            "data/lang_bpe_500/bpe.model",
            id="icefall",
        ),
        pytest.param(
            [*graphs("-chunk-16-left-128"), *graphs("-chunk-32-left-128"), "data/tokens.txt", "data/zh-en-8776.vocab"],
            "encoder-chunk-16-left-128.onnx",
            "data/tokens.txt",
            "data/zh-en-8776.vocab",
            id="authors",
        ),
        pytest.param(
            [
                *(name for prefix in ("", "64/", "96/") for name in graphs("-epoch-9-avg-1", prefix=prefix)),
                "tokens.txt",
                "bpe.vocab",
            ],
            "encoder-epoch-9-avg-1.onnx",
            "tokens.txt",
            "bpe.vocab",
            id="the root before chunk variants",
        ),
        pytest.param([*graphs(""), "config.json"], "encoder.onnx", "config.json", None, id="hynt"),
        pytest.param(
            [*graphs("", prefix="en_"), "en_tokens.txt", "README.md"], "en_encoder.onnx", "en_tokens.txt", None, id="kroko"
        ),
        pytest.param(
            ["encoder-chunk-16-left-64.onnx", "decoder.onnx", "joiner.onnx", "tokens.txt", "bbpe.model", "bpe.model"],
            "encoder-chunk-16-left-64.onnx",
            "tokens.txt",
            "bbpe.model",
            id="one decoder for all chunks",
        ),
        pytest.param(
            [*graphs("-epoch-12-avg-2-chunk-16-left-64", endings=("", ".int8")), "tokens.txt", "keywords.txt"],
            "encoder-epoch-12-avg-2-chunk-16-left-64.onnx",
            "tokens.txt",
            None,
            id="keywords",
        ),
        pytest.param([*graphs(""), "ctc.onnx", "model.onnx"], "encoder.onnx", None, None, id="no symbols, CTC beside it"),
    ],
)
def test_transducers_are_found(names: list[str], encoder: str, tokens: str | None, vocabulary: str | None) -> None:
    files = found(*names)
    stem = encoder.rsplit("encoder", 1)
    assert files.encoder == encoder
    for part, name in (("decoder", files.decoder), ("joiner", files.joiner)):
        assert name in (part.join(stem), f"{part}.onnx")
    assert (files.tokens, files.vocabulary, files.ctc) == (tokens, vocabulary, None)
    assert files.keywords == ("keywords.txt" if "keywords.txt" in names else None)
    assert found(*reversed(names)) == files


@pytest.mark.parametrize(
    ("names", "graph"),
    [
        (["model.int8.onnx", "tokens.txt"], "model.int8.onnx"),
        (["model.int8.onnx", "model.fp16.onnx", "tokens.txt"], "model.fp16.onnx"),
        (["model.onnx", "model.int8.onnx", "tokens.txt", "encoder.onnx"], "model.onnx"),
        (
            [f"ctc-epoch-20-avg-1-chunk-{c}-left-{n}.onnx" for c, n in ((64, 256), (16, 64), (16, 256))],
            "ctc-epoch-20-avg-1-chunk-16-left-256.onnx",
        ),
        (
            [f"ctc-epoch-20-avg-1-chunk-{c}-left-{n}.onnx" for c, n in ((16, 256), (32, 128), (16, 128))],
            "ctc-epoch-20-avg-1-chunk-16-left-128.onnx",
        ),
        (["ctc-epoch-9-avg-1.onnx", "ctc-epoch-20-avg-1.onnx"], "ctc-epoch-20-avg-1.onnx"),
    ],
)
def test_ctc_models_are_found(names: list[str], graph: str) -> None:
    files = found(*names)
    assert files.graphs() == {"ctc": graph}


def test_the_decoder_stays_in_float32() -> None:
    names = [*graphs("", endings=("", ".int8")), "encoder.fp16.onnx"]
    assert found(*names, precision="int8").graphs() == {
        "encoder": "encoder.int8.onnx",
        "decoder": "decoder.onnx",
        "joiner": "joiner.int8.onnx",
    }
    assert found(*names, precision="float16").graphs() == {
        "encoder": "encoder.fp16.onnx",
        "decoder": "decoder.onnx",
        "joiner": "joiner.onnx",
    }
    only = graphs("", endings=(".int8",))
    assert set(found(*only).graphs().values()) == set(only)
    with pytest.raises(ConfigError, match="must be there in int8, but only in float32"):
        find_graphs(graphs(""), precision="int8")


def test_weights_beside_a_graph_are_named() -> None:
    data = ["encoder.onnx.data", "encoder.onnx_data", "encoder.weights"]
    assert found(*graphs(""), *data, "decoder.int8.onnx.data", "model.weights").data == tuple(data)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([*graphs("", prefix="de_"), *graphs("", prefix="en_"), "de_tokens.txt"], r"one model, but holds de\*.*, en\*"),
        ([*graphs("", prefix="a/"), *graphs("", prefix="b/"), "tokens.txt"], r"one model, but holds a/\*.*, b/\*"),
        (["encoder.onnx", "joiner.onnx", "tokens.txt"], "lacks the decoder"),
        (["am-onnx/joiner.int8.onnx"], "lacks the encoder and the decoder"),
        ([*graphs("", prefix="exp/"), "data/lang_bpe/tokens.txt", "data/lang_char/tokens.txt"], "one table of symbols"),
    ],
)
def test_what_is_not_one_model_is_refused(names: list[str], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        find_graphs(names)


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["README.md", "pretrained.pt", "tokens.txt"],
        ["encoder.onnx", "decoder.onnx"],
        ["encoder_model.onnx", "decoder_model.onnx", "decoder_model_merged.onnx"],
        ["joiner_encoder_proj.onnx", "joiner_decoder_proj.onnx"],
        ["silero_vad.onnx", "vad/silero.onnx"],
        ["test_wavs/model.onnx", "lm/model.onnx"],
        ["encoder.ncnn.param", "joiner.rknn"],
    ],
)
def test_other_folders_hold_no_model(names: list[str]) -> None:
    assert find_graphs(names) is None
