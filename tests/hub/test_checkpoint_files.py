"""Contract: the checkpoint of a model and what belongs to it are found by names of files alone, in every published "
"layout."""

import pytest

from zipasr.errors import CheckpointError
from zipasr.hub import CheckpointFiles, find_checkpoint

RECIPE = (
    "README.md",
    "data/lang_bpe_500/HLG.pt",
    "data/lang_bpe_500/L.pt",
    "data/lang_bpe_500/LG.pt",
    "data/lang_bpe_500/Linv.pt",
    "data/lang_bpe_500/bpe.model",
    "data/lang_bpe_500/lexicon.txt",
    "data/lang_bpe_500/tokens.txt",
    "data/lang_bpe_500/unigram_500.vocab",
    "data/lm/G_4_gram.pt",
    "decoding_results/greedy_search/log-decode",
    "exp/epoch-9.pt",
    "exp/epoch-40.pt",
    "exp/decode.sh",
    "exp/export.sh",
    "exp/jit_script.pt",
    "exp/pretrained.pt",
    "exp/tensorboard/events.out",
    "exp/train.sh",
    "test_wavs/trans.txt",
)
"""As published for LibriSpeech."""
AUTHORS = ("README.md", "ctc.fp16.onnx", "data/tokens.txt", "data/zh-en-8776.vocab", "jit_model.pt", "model.pt")
SOUNDSGOODAI = ("README.md", "bpe.model", "config.yaml", "model.pt", "tokens.txt")


def found(names: tuple[str, ...], subfolder: str = "") -> CheckpointFiles:
    files = find_checkpoint(names, subfolder)
    assert files is not None
    return files


def test_recipe() -> None:
    files = found(RECIPE)
    assert files == CheckpointFiles(
        family="icefall",
        checkpoint="exp/pretrained.pt",
        vocabulary="data/lang_bpe_500/bpe.model",
        scripts=("exp/decode.sh", "exp/export.sh", "exp/train.sh"),
    )
    assert files.names == ("exp/pretrained.pt", "data/lang_bpe_500/bpe.model", *files.scripts)


def test_package_of_the_authors() -> None:
    assert found(AUTHORS) == CheckpointFiles("authors", "model.pt", "data/zh-en-8776.vocab")
    without_graphs = tuple(name for name in AUTHORS if not name.endswith(".onnx"))
    assert found(without_graphs) == found(AUTHORS)


def test_soundsgoodai() -> None:
    assert found(SOUNDSGOODAI) == CheckpointFiles("soundsgoodai", "model.pt", "bpe.model", config="config.yaml")


@pytest.mark.parametrize(
    ("checkpoints", "expected"),
    [
        (("exp/epoch-9.pt", "exp/epoch-30.pt", "exp/epoch-10.pt"), "exp/epoch-30.pt"),
        (("exp/checkpoint-8000.pt", "exp/checkpoint-12000.pt", "exp/jit_script.pt"), "exp/checkpoint-12000.pt"),
        (("exp/epoch-30.pt", "exp/iter-8000-avg-2.pt"), "exp/epoch-30.pt"),
        (("exp/best-valid-loss.pt", "exp/epoch-3.pt"), "exp/epoch-3.pt"),
        (("exp/epoch-9-avg-2.pt", "exp/pretrained-iter-8000.pt"), "exp/pretrained-iter-8000.pt"),
        (("exp/cpu_jit.pt", "exp/encoder_jit_trace-pnnx.pt", "exp/Pretrained.pt"), "exp/Pretrained.pt"),
        (("exp/jit_script_chunk_16_left_128.pt", "exp/my-model.pt"), "exp/my-model.pt"),
        (("exp/optimizer.pt", "exp/pretrained.pt"), "exp/pretrained.pt"),
        (("zipformer/model.safetensors",), "zipformer/model.safetensors"),
    ],
)
def test_the_best_of_several_files_of_one_model(checkpoints: tuple[str, ...], expected: str) -> None:
    assert found((*checkpoints, "data/lang_char/tokens.txt")).checkpoint == expected


@pytest.mark.parametrize(
    ("vocabularies", "expected"),
    [
        (("data/lang_bbpe_500/bbpe.model", "data/lang_bbpe_500/tokens.txt"), "data/lang_bbpe_500/bbpe.model"),
        (("data/lang_char/tokens.txt", "data/lang_char/words.txt"), "data/lang_char/tokens.txt"),
        (("data/Vietnam_bpe_2000/bpe.model",), "data/Vietnam_bpe_2000/bpe.model"),
        (("bpe.model", "data/lang_bpe_500/bpe.model"), "data/lang_bpe_500/bpe.model"),
        (("exp/tokens.txt", "data/lang_bpe_500/bpe.model"), "exp/tokens.txt"),
        (("tokens.txt",), "tokens.txt"),
        (("lang_bpe_500/unigram_500.model", "lang_bpe_500/unigram_500.vocab"), "lang_bpe_500/unigram_500.model"),
    ],
)
def test_the_nearest_vocabulary(vocabularies: tuple[str, ...], expected: str) -> None:
    files = found(("exp/pretrained.pt", *vocabularies))
    assert (files.vocabulary, files.other_vocabularies) == (expected, ())


def test_several_vocabularies_are_all_kept_for_the_weights_to_decide() -> None:
    files = found(
        ("exp/pretrained.pt", "data/lang_bpe_500/bpe.model", "data/lang_char/tokens.txt", "data/lang_char/a.vocab")
    )
    assert files.vocabulary == "data/lang_bpe_500/bpe.model"
    assert files.other_vocabularies == ("data/lang_char/a.vocab",)
    assert set(files.names) == {"exp/pretrained.pt", "data/lang_bpe_500/bpe.model", "data/lang_char/a.vocab"}


SEVERAL = ("data/lang_bpe_500/bpe.model", "exp/pretrained.pt", "exp_small/epoch-3.pt", "exp_small/pretrained.pt")


def test_several_models_are_named() -> None:
    with pytest.raises(CheckpointError, match="several, in exp, exp_small; choose one: hf:OWNER/NAME#exp"):
        find_checkpoint(SEVERAL)
    assert found(SEVERAL, "exp_small").checkpoint == "exp_small/pretrained.pt"
    assert found(SEVERAL, "exp_small/epoch-3.pt").checkpoint == "exp_small/epoch-3.pt"
    assert found(SEVERAL, "/exp/").vocabulary == "data/lang_bpe_500/bpe.model"
    assert find_checkpoint(SEVERAL, "exp_large") is None
    with pytest.raises(CheckpointError, match=r"there are exp/pretrained-a\.pt, exp/pretrained-b\.pt; choose one"):
        find_checkpoint(("exp/pretrained-a.pt", "exp/pretrained-b.pt", "data/tokens.txt"))


def test_a_model_in_the_root_has_variants_in_folders() -> None:
    assert found((*SOUNDSGOODAI, "ctc/model.pt")).checkpoint == "model.pt"
    assert found((*SOUNDSGOODAI, "ctc/model.pt", "ctc/bpe.model"), "ctc") == CheckpointFiles(
        "icefall", "ctc/model.pt", "ctc/bpe.model"
    )


def test_no_checkpoint_to_take() -> None:
    for names in (
        (),
        ("README.md", "tokens.txt"),
        ("data/lang_bpe_500/HLG.pt", "data/lang_bpe_500/bpe.model"),
        ("decoder.onnx", "encoder.onnx", "joiner.onnx", "tokens.txt", "jit_script.pt"),
        ("decoder.onnx", "encoder.onnx", "joiner.onnx", "tokens.txt", "vad.pt"),
        ("encoder.onnx", "exp/pretrained.pt"),
    ):
        assert find_checkpoint(names) is None, names


def test_odd_names_are_no_files_of_a_model() -> None:
    """Every name that is returned is one of the list, and leads to no other place."""
    odd = ("../exp/pretrained.pt", "exp//pretrained.pt", "./exp/pretrained.pt", "/exp/pretrained.pt", "data/../bpe.model")
    assert found((*RECIPE, *odd)) == found(RECIPE)
    assert find_checkpoint(odd[:3]) is None
    huge = "exp/epoch-99999999999999999999.pt"
    assert found(("exp/epoch-9.pt", huge, "data/lang_char/tokens.txt")).checkpoint == huge


def test_torchscript_alone_is_refused() -> None:
    names = ("data/lang_bpe_500/bpe.model", "exp/cpu_jit.pt", "exp/jit_script.pt")
    with pytest.raises(
        CheckpointError, match=r"exp/cpu_jit\.pt, exp/jit_script\.pt hold TorchScript, .* ask .* pretrained\.pt"
    ):
        find_checkpoint(names)


def test_a_checkpoint_without_a_vocabulary() -> None:
    with pytest.raises(CheckpointError, match=r"exp/pretrained\.pt must have its vocabulary .* --tokenizer FILE"):
        find_checkpoint(("exp/pretrained.pt", "README.md"))
    files = find_checkpoint(("exp/pretrained.pt",), needs_vocabulary=False)
    assert files == CheckpointFiles("icefall", "exp/pretrained.pt", "")
    assert files.names == ("exp/pretrained.pt",)
