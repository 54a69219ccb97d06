"""Contract: every kind of icefall checkpoint file loads, others are refused, and the blocks of docs/icefall.md run."""

import dataclasses
import os
import re
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from torch import Tensor

from tests.conftest import REPOSITORY
from tests.golden_files import seeded
from tests.hub.icefall_models import assert_same_weights, icefall_state_dict, small_model
from tests.tiny_model import noise, tiny_tokenizer
from tests.tokenizer.byte_level_models import icefall_model
from zipasr.cli import main
from zipasr.errors import CheckpointError, ConfigError
from zipasr.hub import load_icefall, open_tokenizer
from zipasr.model import AsrModel
from zipasr.tokenizer import Tokenizer
from zipasr.train.config import FinetuneConfig
from zipasr.train.source import open_source

NORM = "encoder.encoders.1.encoder.layers.1.norm.log_scale"


def shifted(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor + 1.0 for key, tensor in tensors.items()}


def test_every_kind_of_file(tmp_path: Path, bpe: Path, model: AsrModel, state_dict: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    contents = {
        "pretrained.pt": {"model": state_dict},
        "bare.pt": state_dict,
        "module.pt": {"model": {f"module.{key}": tensor for key, tensor in state_dict.items()}},
        "float64.pt": {"model": {key: tensor.double() for key, tensor in state_dict.items()}},
    }
    for name, content in contents.items():
        torch.save(content, tmp_path / name)
    torch.save(contents["pretrained.pt"], tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file({key: tensor.contiguous() for key, tensor in state_dict.items()}, tmp_path / "model.safetensors")
    for name in (*contents, "old.pt", "model.safetensors"):
        loaded = load_icefall(tmp_path / name, bpe)
        assert loaded.config == model.config
        assert_same_weights(loaded, model.state_dict())
    torch.save({key: tensor.half() for key, tensor in state_dict.items()}, tmp_path / "half.pt")
    rounded = {name: tensor.half().float() for name, tensor in model.state_dict().items()}
    assert_same_weights(load_icefall(str(tmp_path / "half.pt"), str(bpe.parent)), rounded)


def training_checkpoint(state_dict: dict[str, Tensor], **more: Any) -> dict[str, Any]:
    """The content of a checkpoint that a training run writes: paths, torch version, numbers, optimizer state."""
    return {
        "model": state_dict,
        "model_avg": shifted(state_dict),
        "optimizer": {"state": {0: {"step": 5, "delta": torch.zeros(2)}}, "param_groups": [{"lr": 0.045}]},
        "exp_dir": Path("zipformer/exp"),
        "env_info": {"torch-version": torch.__version__},
        "batch_idx_train": 4000,
        "best_valid_loss": 0.25,
        "dtype": torch.float32,
        **more,
    }


def test_checkpoints_of_a_training(tmp_path: Path, bpe: Path, model: AsrModel, state_dict: dict[str, Tensor]) -> None:
    torch.save(training_checkpoint(state_dict), tmp_path / "epoch-3.pt")
    allowed = set(torch.serialization.get_safe_globals())
    assert_same_weights(load_icefall(tmp_path / "epoch-3.pt", bpe), model.state_dict())
    average = load_icefall(tmp_path / "epoch-3.pt", bpe, which="model_avg")
    assert_same_weights(average, shifted(model.state_dict()))
    assert set(torch.serialization.get_safe_globals()) == allowed


def test_an_average_that_is_not_there(tmp_path: Path, bpe: Path, state_dict: dict[str, Tensor]) -> None:
    torch.save({"model": state_dict}, tmp_path / "pretrained.pt")
    with pytest.raises(CheckpointError, match=r"under 'model_avg', but the file holds model; only epoch-N\.pt"):
        load_icefall(tmp_path / "pretrained.pt", bpe, which="model_avg")
    with pytest.raises(ValueError, match="which must be model or model_avg, but is 'average'"):
        load_icefall(tmp_path / "pretrained.pt", bpe, which="average")  # type: ignore[arg-type]


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_file_runs_only_if_trusted(
    tmp_path: Path, bpe: Path, model: AsrModel, state_dict: dict[str, Tensor]
) -> None:
    made, path = tmp_path / "made", tmp_path / "epoch-1.pt"
    torch.save({"model": state_dict, "hook": Hostile(made)}, path)
    with pytest.raises(CheckpointError, match=r"than tensors and plain values \((posix|nt)\.mkdir\)") as error:
        load_icefall(path, bpe)
    assert "pretrained.pt" in str(error.value) and "trust_pickle=True" in str(error.value)
    assert not made.exists()
    loaded = load_icefall(path, bpe, trust_pickle=True)
    assert made.exists()
    assert_same_weights(loaded, model.state_dict())


def test_files_without_a_state_dict(tmp_path: Path, bpe: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such file"):
        load_icefall(tmp_path / "missing.pt", bpe)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(
        CheckpointError, match=r"list\.pt: there must be a state dict under 'model', but the file holds list"
    ):
        load_icefall(tmp_path / "list.pt", bpe)
    torch.save({"weights": {}, "step": 3}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="the file holds weights, step; expected the Zipformer of icefall"):
        load_icefall(tmp_path / "other.pt", bpe)


def test_numbers_that_are_not_finite(tmp_path: Path, bpe: Path, state_dict: dict[str, Tensor]) -> None:
    torch.save(state_dict | {NORM: torch.tensor(float("nan"))}, tmp_path / "nan.pt")
    with pytest.raises(CheckpointError, match=rf"{NORM} has numbers that are not finite"):
        load_icefall(tmp_path / "nan.pt", bpe)


def test_byte_level_vocabulary_beside_a_checkpoint(tmp_path: Path) -> None:
    """Laid out as published: exp/pretrained.pt and data/lang_bbpe_500/bbpe.model."""
    folder = tmp_path / "data" / "lang_bbpe_500"
    folder.mkdir(parents=True)
    (folder / "bbpe.model").write_bytes(icefall_model(["今天天气很好 HELLO"] * 3))
    tokenizer = open_tokenizer(folder)
    assert tokenizer.is_byte_level
    model = AsrModel(dataclasses.replace(small_model().config, vocab_size=tokenizer.vocab_size)).eval()
    path = tmp_path / "exp" / "pretrained.pt"
    path.parent.mkdir()
    torch.save({"model": icefall_state_dict(model)}, path)
    assert_same_weights(load_icefall(path, folder), model.state_dict())
    source = open_source(FinetuneConfig(checkpoint=str(path)))
    source.model.save(tmp_path / "converted", source.tokenizer)
    opened = AsrModel.load(tmp_path / "converted")[1]
    assert opened.decode(opened.encode("今天 HELLO")) == "今天 HELLO"
    beside = path.with_name("bbpe.model")
    (folder / "bbpe.model").rename(beside)
    assert open_source(FinetuneConfig(checkpoint=str(path))).tokenizer.pieces == tokenizer.pieces


def test_special_ids_of_the_vocabulary_become_those_of_the_model(tmp_path: Path) -> None:
    symbols = ["a", "<unk>", *map(chr, range(0x4E00, 0x4E00 + 44)), "<sos/eos>", "<blk>"]
    (tmp_path / "tokens.txt").write_text("".join(f"{symbol} {i}\n" for i, symbol in enumerate(symbols)), encoding="utf-8")
    model = small_model()
    torch.save({"model": icefall_state_dict(model)}, tmp_path / "pretrained.pt")
    loaded = load_icefall(tmp_path / "pretrained.pt", tmp_path / "tokens.txt")
    assert_same_weights(loaded, model.state_dict())
    assert (loaded.blank_id, loaded.config.vocab_size) == (47, 48)
    assert loaded.ctc is not None and loaded.transducer is not None
    assert loaded.ctc.blank == loaded.transducer.blank == 47


def test_vocabularies_that_cannot_be_used(tmp_path: Path, bpe: Path, state_dict: dict[str, Tensor]) -> None:
    path = tmp_path / "pretrained.pt"
    torch.save({"model": state_dict}, path)
    other = type(tiny_tokenizer()).train(["AB BA"], kind="char", vocab_size=6)
    with pytest.raises(ConfigError, match=r"as many entries as the model, 48, but has 6; give the bpe\.model, bbpe\.model"):
        load_icefall(path, other)
    (tmp_path / "tokens.txt").write_text("<blk> 0\n<sos/eos> 1\n<unk> 2\n▁A 3\n")
    with pytest.raises(ConfigError, match=r"tokens\.txt: the tokenizer must have as many .* 48, but has 4"):
        load_icefall(path, tmp_path / "tokens.txt")
    Tokenizer.train(["今天 天气"], kind="char", vocab_size=None).save(tmp_path / "char")
    (tmp_path / "char" / "tokenizer.model").rename(tmp_path / "bbpe.model")
    for name, message in {
        "bbpe.model": "must have byte-level pieces, as its name says, but has '.', which stands for no byte",
        "absent.model": "there is no such file",
        "empty": "bpe.model must be the vocabulary that the recipe made",
        "pretrained.pt": r"^\S*pretrained\.pt must be a vocabulary",
    }.items():
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(CheckpointError, match=message):
            load_icefall(path, tmp_path / name)


def test_a_model_without_an_output_for_unk_is_saved_as_documented(tmp_path: Path, state_dict: dict[str, Tensor]) -> None:
    symbols = ["<blk>", *map(chr, range(0x4E00, 0x4E00 + 47)), "<unk>"]
    (tmp_path / "tokens.txt").write_text("".join(f"{symbol} {i}\n" for i, symbol in enumerate(symbols)), encoding="utf-8")
    torch.save({"model": state_dict}, tmp_path / "pretrained.pt")
    tokenizer = open_tokenizer(tmp_path / "tokens.txt")
    loaded = load_icefall(tmp_path / "pretrained.pt", tokenizer)
    with pytest.raises(ConfigError, match=r"48 entries, but has 49.*give tokenizer\.fitted\(model\.config\.vocab_size\)"):
        loaded.save(tmp_path / "converted", tokenizer)
    _, again = AsrModel.load(loaded.save(tmp_path / "converted", tokenizer.fitted(loaded.config.vocab_size)))
    assert again.pieces == symbols[:48]


def test_tables_of_characters(tmp_path: Path, state_dict: dict[str, Tensor]) -> None:
    folder = tmp_path / "lang_char"
    folder.mkdir()
    symbols = ["<blk>", "<sos/eos>", "<unk>", *(chr(0x4E00 + i) for i in range(45)), "#0", "#1"]
    (folder / "tokens.txt").write_text("".join(f"{symbol} {i}\n" for i, symbol in enumerate(symbols)), encoding="utf-8")
    torch.save({"model": state_dict}, tmp_path / "pretrained.pt")
    for path in (folder, folder / "tokens.txt"):
        loaded = load_icefall(tmp_path / "pretrained.pt", path)
        assert loaded.config.vocab_size == 48
    tokenizer = Tokenizer.from_tokens(folder / "tokens.txt")
    _, again = AsrModel.load(loaded.save(tmp_path / "converted", tokenizer))
    assert again.pieces == symbols[:48] and again.decode([3, 47]) == symbols[3] + symbols[47]


def test_loaded_saved_and_loaded_again_gives_the_same(tmp_path: Path, bpe: Path, state_dict: dict[str, Tensor]) -> None:
    torch.save({"model": state_dict}, tmp_path / "pretrained.pt")
    loaded = load_icefall(tmp_path / "pretrained.pt", bpe)
    again, tokenizer = AsrModel.load(loaded.save(tmp_path / "converted", tiny_tokenizer()))
    assert again.config == loaded.config
    assert tokenizer.pieces == tiny_tokenizer().pieces
    features, lens = seeded(2, 60, 80), torch.tensor([60, 45])
    with torch.no_grad():
        one, two = loaded.encode(features, lens), again.encode(features, lens)
        assert torch.equal(one.frames, two.frames)
        assert torch.equal(loaded.ctc_log_probs(one.frames), again.ctc_log_probs(two.frames))


def test_blocks_of_the_documentation_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, state_dict: dict[str, Tensor]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data/lang_bpe_500").mkdir(parents=True)
    Path("data/lang_bpe_500/bpe.model").write_bytes(tiny_tokenizer().to_bytes())
    Path("exp").mkdir()
    torch.save({"model": state_dict}, "exp/pretrained.pt")
    other = small_model(num_heads=(2, 4), head_dims=((8, 16), 6, 4))
    torch.save({"model": icefall_state_dict(other)}, "exp/other.pt")
    soundfile.write("call.wav", noise(1.0), 16_000)
    text = (REPOSITORY / "docs" / "icefall.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    assert [language for language, _ in blocks] == ["bash", "python", "bash", "python", "python"]
    for language, block in blocks:
        if language == "bash":
            _, *arguments = block.split()
            assert block.startswith("zipasr ") and main(arguments) == 0
        else:
            Path("block.py").write_text(block)
            runpy.run_path("block.py")
    *_, said, again, widths = capsys.readouterr().out.splitlines()
    assert said == again
    assert widths == "(8, 16) 6"
