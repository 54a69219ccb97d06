"""Contract: what a repository holds is recognized from names and sizes, and only what is needed is fetched."""

import os
from pathlib import Path

import pytest

from zipasr.errors import CheckpointError, ConfigError
from zipasr.hub.layout import Layout, listing_of, recognize

MODEL = (
    "config.json",
    "model.safetensors",
    "checksums.json",
    "tokenizer.model",
    "tokens.txt",
    "search.json",
    "ngram.safetensors",
)
EXPORT = ("export.json", "checksums.json", "encoder.onnx", "decoder.onnx", "joiner.onnx", "tokenizer.model")
LM = ("language_model.json", "language_model.safetensors", "checksums.json", "tokenizer.model")
ICEFALL = ("exp/pretrained.pt", "exp/epoch-30.pt", "exp/jit_script.pt", "exp/decode.sh", "data/lang_bpe_500/bpe.model")
GRAPHS = ("encoder.onnx", "decoder.onnx", "joiner.onnx", "encoder.int8.onnx", "joiner.int8.onnx", "tokens.txt")
CLUTTER = (
    "README.md",
    ".gitattributes",
    "test_wavs/0.wav",
    "logs/log-train",
    "exp/tensorboard/events",
    "data/lang_bpe_500/LG.pt",
)


def recognized(*names: str, folder: str = "", **options: str) -> Layout:
    """What is recognized in files of 1 kB, or fewer bytes, with clutter beside them."""
    listing = {f"{folder}{name}": 1000 for name in names} | dict.fromkeys(CLUTTER, 1000)
    return recognize(listing, **options)


@pytest.mark.parametrize(
    ("names", "family", "fetched"),
    [
        (MODEL, "zipasr", MODEL),
        (EXPORT, "zipasr export", EXPORT),
        (LM, "zipasr language model", LM),
        ((*MODEL, "optimizer.safetensors", "state.pt", "model.onnx", "curve.png"), "zipasr", MODEL),
        (ICEFALL, "icefall", ("exp/pretrained.pt", "exp/decode.sh", "data/lang_bpe_500/bpe.model")),
        (("model.pt", "data/zh-en-8776.vocab", "ctc.onnx"), "authors", ("model.pt", "data/zh-en-8776.vocab")),
        (("model.pt", "bpe.model", "tokens.txt", "config.yaml"), "soundsgoodai", ("model.pt", "bpe.model", "config.yaml")),
        ((*EXPORT, "ngram.safetensors"), "zipasr export", None),
        (GRAPHS, "onnx", ("encoder.onnx", "decoder.onnx", "joiner.onnx", "tokens.txt")),
        (("am-onnx/encoder.onnx", "am-onnx/decoder.onnx", "am-onnx/joiner.onnx", "lang/tokens.txt"), "onnx", None),
        (("ctc.onnx", "tokens.txt", "ctc.onnx.data"), "onnx", ("ctc.onnx", "tokens.txt", "ctc.onnx.data")),
    ],
)
def test_layouts(names: tuple[str, ...], family: str, fetched: tuple[str, ...] | None) -> None:
    layout = recognized(*names)
    assert layout.family == family
    assert sorted(layout.fetch) == sorted(fetched if fetched is not None else names)
    assert layout.is_own == family.startswith("zipasr")


def test_the_model_of_a_run_is_taken_and_its_checkpoints_are_not() -> None:
    run = [f"{folder}/{name}" for folder in ("model", "checkpoints/batch-9", "best/batch-9") for name in MODEL]
    layout = recognized(*run, "config.json", "metrics.jsonl")
    assert layout.folder == "model"
    assert set(layout.fetch) == {f"model/{name}" for name in MODEL}


def test_a_single_model_further_down_is_found() -> None:
    layout = recognized(*MODEL, folder="models/small/")
    assert (layout.family, layout.folder) == ("zipasr", "models/small")


@pytest.mark.parametrize("names", [MODEL, EXPORT, ("exp/pretrained.pt", "bpe.model"), ("ctc.onnx", "tokens.txt")])
def test_of_several_models_one_must_be_chosen(names: tuple[str, ...]) -> None:
    both = [f"{folder}/{name}" for folder in ("large", "small") for name in names]
    with pytest.raises(CheckpointError, match=r"small.*hf:OWNER/NAME#"):
        recognized(*both)
    chosen = recognized(*both, subfolder="small")
    assert set(chosen.fetch) == {f"small/{name}" for name in names}


def test_variants_of_one_recipe_share_the_vocabulary_outside() -> None:
    names = ("exp/pretrained.pt", "exp_small/pretrained.pt", "data/lang_bpe_500/bpe.model")
    with pytest.raises(CheckpointError, match="exp_small"):
        recognized(*names)
    assert set(recognized(*names, subfolder="exp_small").fetch) == {"exp_small/pretrained.pt", "data/lang_bpe_500/bpe.model"}


def test_a_checkpoint_can_be_chosen_by_its_name() -> None:
    assert recognized(*ICEFALL, subfolder="exp/epoch-30.pt").fetch[0] == "exp/epoch-30.pt"


def test_graphs_of_several_languages_are_chosen_by_how_their_names_start() -> None:
    parts = ("encoder.onnx", "decoder.onnx", "joiner.onnx", "tokens.txt")
    names = [f"{language}_{part}" for language in ("en", "de") for part in parts]
    with pytest.raises(CheckpointError, match="START"):
        recognized(*names)
    assert set(recognized(*names, subfolder="de").fetch) == {f"de_{part}" for part in parts}


def test_another_precision_prefers_graphs_to_a_checkpoint() -> None:
    graphs = [f"exp/{name}" for name in GRAPHS[:-1]]
    layout = recognized(*ICEFALL, *graphs, "data/lang_bpe_500/tokens.txt", precision="int8")
    assert {"exp/encoder.int8.onnx", "exp/decoder.onnx", "exp/joiner.int8.onnx"} <= set(layout.fetch)
    assert recognized(*ICEFALL, *graphs).family == "icefall"
    with pytest.raises(ConfigError, match="leave the precision out"):
        recognized(*ICEFALL, precision="int8")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ((), "README.md"),
        (("pytorch_model.bin", "config.json"), "pytorch_model.bin"),
        (("model.safetensors", "config.json", "vocab.json"), "transformers"),
        (("model.nemo",), "model.nemo"),
        (("exp/jit_script.pt", "data/lang_bpe_500/bpe.model"), "TorchScript"),
        (("exp/pretrained.pt",), "vocabulary"),
        (("encoder.onnx", "joiner.onnx", "tokens.txt"), "decoder"),
    ],
)
def test_what_is_no_model_is_refused_with_what_is_there(names: tuple[str, ...], told: str) -> None:
    with pytest.raises(CheckpointError, match="must") as caught:
        recognized(*names)
    assert told in str(caught.value)


def test_an_unknown_subfolder_is_refused_with_those_that_are_there() -> None:
    with pytest.raises(CheckpointError, match="it has exp"):
        recognized("exp/pretrained.pt", "exp_small/pretrained.pt", subfolder="exp_tiny")
    with pytest.raises(CheckpointError, match="at the top"):
        recognize(dict.fromkeys(MODEL, 1), subfolder="exp")


def test_a_local_folder_is_listed_without_hidden_folders(tmp_path: Path) -> None:
    for name in ("config.json", "lang/tokens.txt", ".git/index", ".cache/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    os.symlink(tmp_path / "lang", tmp_path / "link")
    os.symlink("nowhere", tmp_path / "broken")
    assert listing_of(tmp_path) == {"config.json": 5, "lang/tokens.txt": 5}
    with pytest.raises(CheckpointError, match="no such folder"):
        listing_of(tmp_path / "none")
