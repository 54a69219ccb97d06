"""Contract: every layout of PyTorch checkpoints becomes a model folder that computes the same; anything else is refused, and
leaves nothing behind."""

import dataclasses
import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.hub.icefall_models import icefall_state_dict
from tests.hub.published_layouts import (
    MODEL_YAML,
    authors_folder,
    authors_vocabulary,
    icefall_folder,
    model_of,
    same_numbers,
    sentencepiece_model,
    soundsgoodai_folder,
    soundsgoodai_model,
    write,
)
from tests.tokenizer.byte_level_models import icefall_model
from zipasr.encoder.zipformer import ZipformerConfig
from zipasr.errors import CheckpointError, ConfigError
from zipasr.features import FbankConfig
from zipasr.hub import ModelSettings, Origin, convert, find_local
from zipasr.hub.origin import CONVERTER_VERSION
from zipasr.model import AsrModel
from zipasr.search.default_search import read_default_search
from zipasr.search.strategy import SearchConfig
from zipasr.tokenizer import Tokenizer


def converted(folder: Path, settings: ModelSettings | None = None) -> tuple[AsrModel, Tokenizer]:
    root, files = find_local(folder)
    return AsrModel.load(convert(root, files, folder.with_name("converted"), settings=settings or ModelSettings()))


def search_of(folder: Path) -> SearchConfig:
    default = read_default_search(folder)
    assert default is not None
    return default.search


def encoder_of(model: AsrModel) -> ZipformerConfig:
    assert isinstance(model.config.encoder, ZipformerConfig)
    return model.config.encoder


# Layouts


@pytest.mark.parametrize("heads", [("transducer",), ("ctc",), ("transducer", "ctc"), ("ctc", "attention")], ids="+".join)
def test_icefall(tmp_path: Path, heads: tuple[str, ...]) -> None:
    original, vocabulary = model_of(40, heads=heads), sentencepiece_model()
    model, tokenizer = converted(icefall_folder(tmp_path / "repository", original, vocabulary))
    assert model.config == original.config
    same_numbers(model, original)
    assert tokenizer.to_bytes() == vocabulary
    assert read_default_search(tmp_path / "converted") is None


def test_where_a_folder_comes_from(tmp_path: Path) -> None:
    root = icefall_folder(tmp_path / "repository", model_of(40), sentencepiece_model())
    origin = Origin("owner/name", "0" * 40, "exp")
    out = convert(*find_local(root), tmp_path / "a" / "b", origin=origin)
    document = json.loads((out / "source.json").read_text())
    names = ("exp/pretrained.pt", "data/lang_bpe_40/bpe.model", "exp/train.sh")
    sums = {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in names}
    assert document == {**origin._asdict(), "family": "icefall", "converter": CONVERTER_VERSION, "files": sums}


def test_streaming_model_with_settings_of_its_scripts(tmp_path: Path) -> None:
    original = model_of(40, is_causal=True, num_heads=(2, 4), head_dims=((8, 16), 6, 4))
    root = icefall_folder(tmp_path / "repository", original, sentencepiece_model())
    flags = "--num-heads 2,4 --causal 1 --chunk-size 16,32 --left-context-frames 64 --encoder-unmasked-dim 32,24"
    decode = "./zipformer/streaming_decode.py --chunk-size 64 --decoding-method modified_beam_search --blank-penalty 1.5"
    write(root, {"exp/train.sh": f"./zipformer/train.py {flags}\n", "exp/decode.sh": f"{decode} --beam-size 8\n"})
    model, _ = converted(root)
    encoder = encoder_of(model)
    assert encoder.is_causal and encoder.chunk_frames_50hz == (16, 32) and encoder.left_context_frames_50hz == (64,)
    assert encoder.num_heads == (2, 4) and encoder.unmasked_channels == (32, 24)
    same_numbers(model, original)
    assert search_of(tmp_path / "converted") == SearchConfig(method="beam", blank_penalty=1.5, beam=8)
    model, _ = converted(root, ModelSettings(blank_penalty=0.0, beam_size=4, chunk_frames_50hz=(64, -1)))
    assert encoder_of(model).chunk_frames_50hz == (64, -1)
    assert search_of(tmp_path / "converted") == SearchConfig(method="beam")


def test_default_search_of_models_without_a_transducer(tmp_path: Path) -> None:
    for heads, settings, expected in (
        (("ctc",), ModelSettings(blank_penalty=2.0), SearchConfig(method="ctc_greedy", blank_penalty=2.0)),
        (("ctc",), ModelSettings(beam_size=8), SearchConfig(method="ctc_beam", beam=8)),
        (("ctc", "attention"), ModelSettings(beam_size=8), SearchConfig(method="attention_rescoring", beam=8)),
    ):
        converted(icefall_folder(tmp_path / "repository", model_of(40, heads=heads), sentencepiece_model()), settings)
        assert search_of(tmp_path / "converted") == expected


def test_recipe_folder_around_a_checkpoint_file(tmp_path: Path) -> None:
    """`zipformer/exp/pretrained.pt`, with `data/` beside `zipformer/`."""
    original = model_of(40)
    root = icefall_folder(tmp_path / "recipe" / "zipformer", original, sentencepiece_model())
    (root / "data").rename(root.parent / "data")
    for path in (root / "exp" / "pretrained.pt", root / "exp", root):
        same_numbers(converted(path)[0], original)


def test_characters_with_special_ids_last(tmp_path: Path) -> None:
    """As ReazonSpeech's: `<blk>` first, `<unk>` and `<sos/eos>` last, separated by tabs."""
    symbols = ["<blk>", *(chr(0x3042 + i) for i in range(37)), "<unk>", "<sos/eos>"]
    table = "".join(f"{symbol}\t{i}\n" for i, symbol in enumerate(symbols))
    original = model_of(40, heads=("transducer", "ctc", "attention"))
    original = AsrModel(dataclasses.replace(original.config, sos_eos_id=39)).eval()
    model, tokenizer = converted(icefall_folder(tmp_path / "r", original, table.encode(), "lang_char/tokens.txt"))
    assert (model.config.blank_id, model.config.sos_eos_id, tokenizer.unk_id) == (0, 39, 38)
    same_numbers(model, original)
    assert tokenizer.decode([1, 2]) == symbols[1] + symbols[2]


def test_pieces_with_bytes(tmp_path: Path) -> None:
    """As the recipes of several Mandarin corpora: `<0xE4>` and so on for characters that have no piece."""
    vocabulary = sentencepiece_model(has_bytes=True)
    original = model_of(296)
    model, tokenizer = converted(icefall_folder(tmp_path / "r", original, vocabulary))
    same_numbers(model, original)
    assert tokenizer.decode(tokenizer.encode("FOX 你好")) == "FOX 你好"


def test_byte_level_pieces(tmp_path: Path) -> None:
    vocabulary = icefall_model(["今天天气很好 HELLO"] * 3)
    size = len(Tokenizer.from_bytes(vocabulary).pieces)
    original = model_of(size)
    model, tokenizer = converted(icefall_folder(tmp_path / "r", original, vocabulary, "lang_bbpe_500/bbpe.model"))
    same_numbers(model, original)
    assert tokenizer.is_byte_level and tokenizer.decode(tokenizer.encode("今天 HELLO")) == "今天 HELLO"


@pytest.mark.parametrize("name", ["lang_phone/tokens.txt", "lang_partial_tone/tokens.txt"])
def test_phones_and_partial_tones_are_only_decoded(tmp_path: Path, name: str) -> None:
    tokens = [
        "<blk>",
        "<sos/eos>",
        "<unk>",
        *(f"{sound}{tone}" for sound in ("iang", "uo", "AH", "zh") for tone in range(10)),
    ]
    table = "".join(f"{token} {i}\n" for i, token in enumerate([*tokens[:40], "#0", "#1"]))
    original = model_of(40)
    model, tokenizer = converted(icefall_folder(tmp_path / "r", original, table.encode(), name))
    same_numbers(model, original)
    assert not tokenizer.can_encode
    assert tokenizer.pieces == tokens[:40]


def test_whisper_features(tmp_path: Path) -> None:
    """The weights do not say them: a script beside them does, or the caller."""
    original = model_of(40, is_causal=True)
    root = icefall_folder(tmp_path / "repository", original, sentencepiece_model())
    assert converted(root)[0].config.features == FbankConfig()
    assert converted(root, ModelSettings(features="whisper"))[0].config.features == FbankConfig(kind="whisper")
    write(root, {"exp/train.sh": "./zipformer/train.py --whisper-fbank 1 --num-mel-bins 80\n"})
    model, _ = converted(root)
    assert model.config.features == FbankConfig(kind="whisper")
    same_numbers(model, original)
    assert converted(root, ModelSettings(features="kaldi"))[0].config.features == FbankConfig()


def test_authors_package(tmp_path: Path) -> None:
    vocabulary = authors_vocabulary(["▁", "▁HE", "LL", "O", "L", "你", "好"])
    for heads in (("transducer", "ctc"), ("ctc",)):
        original = model_of(268, heads=heads)
        model, tokenizer = converted(authors_folder(tmp_path / "r", original, vocabulary))
        assert json.loads((tmp_path / "converted" / "source.json").read_text())["family"] == "authors"
        same_numbers(model, original)
        assert tokenizer.pieces[260:] == ["<0xFF>", "▁", "▁HE", "LL", "O", "L", "你", "好"]
        assert (model.config.blank_id, tokenizer.vocab_size) == (0, 268)
        assert tokenizer.decode([262, 263, 264, 266, 267]) == "HELLO你好"


def test_soundsgoodai(tmp_path: Path) -> None:
    original = soundsgoodai_model()
    root = soundsgoodai_folder(tmp_path / "repository", original)
    model, tokenizer = converted(root)
    same_numbers(model, original)
    assert encoder_of(model).head_dims(1) == (16, 6, 4)
    assert tokenizer.vocab_size == model.config.vocab_size == 39
    assert tokenizer.decode(tokenizer.encode("FIVE FOX")) == "FIVE FOX"
    assert search_of(tmp_path / "converted") == SearchConfig(method="beam", beam=6)
    files = json.loads((tmp_path / "converted" / "source.json").read_text())["files"]
    assert list(files) == ["model.pt", "bpe.model", "config.yaml"]


def test_files_that_a_configuration_names(tmp_path: Path) -> None:
    original = soundsgoodai_model()
    text = MODEL_YAML.replace("file: model.pt", "file: weights/best.pt").replace("bpe.model", "./bpe.model")
    root = soundsgoodai_folder(tmp_path / "repository", original, text)
    (root / "weights").mkdir()
    (root / "model.pt").rename(root / "weights" / "best.pt")
    write(root, {"model.pt": {"model": icefall_state_dict(model_of(39, heads=("transducer",)))}})
    model, _ = converted(root)
    same_numbers(model, original)


def test_the_vocabulary_that_fits_is_taken(tmp_path: Path) -> None:
    original = model_of(40)
    root = icefall_folder(tmp_path / "repository", original, sentencepiece_model())
    write(root, {"data/lang_bpe_33/bpe.model": sentencepiece_model(33)})
    assert converted(root)[1].vocab_size == 40
    write(root, {"data/lang_bpe_41/bpe.model": sentencepiece_model()})  # the same again
    assert converted(root)[1].vocab_size == 40
    pieces = ["<blk>", "<sos/eos>", "<unk>", *map(chr, range(0x4E00, 0x4E00 + 37))]
    write(root, {"data/lang_char/tokens.txt": "".join(f"{piece} {i}\n" for i, piece in enumerate(pieces))})
    with pytest.raises(ConfigError, match=r"lang_bpe_40.*lang_char.* all have so many; add --tokenizer"):
        converted(root)
    chosen = root / "data" / "lang_char" / "tokens.txt"
    out = convert(*find_local(root), tmp_path / "chosen", tokenizer=chosen)
    assert AsrModel.load(out)[1].pieces == pieces


# Bad input


def refused(root: Path, kind: type[Exception], message: str) -> None:
    """Check that a folder is not converted, for this reason, and that nothing stays."""
    before = sorted(root.parent.rglob("*"))
    with pytest.raises(kind, match=message):
        convert(*find_local(root), root.parent / "new" / "out")
    assert sorted(root.parent.rglob("*")) == before


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return icefall_folder(tmp_path / "repository", model_of(40), sentencepiece_model())


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_code_is_not_run(root: Path) -> None:
    made = root.parent / "made"
    for content in ({"model": {}, "hook": Hostile(made)}, Hostile(made), {"model": {"a": Hostile(made)}}):
        torch.save(content, root / "exp" / "pretrained.pt")
        refused(root, CheckpointError, r"more than tensors and plain values \((posix|nt)\.mkdir\)")
        torch.save(content, root / "exp" / "pretrained.pt", _use_new_zipfile_serialization=False)
        refused(root, CheckpointError, r"more than tensors and plain values \(.*mkdir\)")
    (root / "exp" / "train.sh").write_text(f"mkdir {made}\n./zipformer/train.py --num-heads $(mkdir {made})\n")
    torch.save({"model": icefall_state_dict(model_of(40))}, root / "exp" / "pretrained.pt")
    convert(*find_local(root), root.parent / "out")
    assert not made.exists()


def test_damaged_files(root: Path) -> None:
    path = root / "exp" / "pretrained.pt"
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content[:-1], b"", b"PK", b"<html>not found</html>", content[:9] * 9):
        path.write_bytes(damaged)
        refused(root, CheckpointError, r"pretrained\.pt cannot be read")
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    refused(root, CheckpointError, r"pretrained\.pt is only a Git LFS pointer; download .* git lfs pull")
    path.write_bytes(content)
    vocabulary = root / "data" / "lang_bpe_40" / "bpe.model"
    pieces = vocabulary.read_bytes()
    vocabulary.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    refused(root, CheckpointError, r"bpe\.model is only a Git LFS pointer")
    vocabulary.write_bytes(pieces[:-20])
    refused(root, CheckpointError, r"bpe\.model must be a vocabulary .* damaged")
    vocabulary.write_bytes(sentencepiece_model(33))
    refused(root, ConfigError, r"bpe\.model: the tokenizer must have as many entries as the model, 40, but has 33")


def test_a_checkpoint_of_24_gb(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = root / "exp" / "pretrained.pt"
    content = path.read_bytes()
    with path.open("wb") as file:
        file.truncate(24 * 10**9)
    monkeypatch.setattr("zipasr.hub.weights.read_torch_file", lambda *_, **__: pytest.fail("it was opened"))
    refused(root, CheckpointError, r"pretrained\.pt must have at most 12 GB, but has 24 GB; .*--max-gb")
    with pytest.raises(pytest.fail.Exception, match="it was opened"):
        convert(*find_local(root), root.parent / "out", max_gb=25)
    monkeypatch.undo()
    path.write_bytes(content)
    with (root / "data" / "lang_bpe_40" / "bpe.model").open("wb") as file:
        file.truncate(24 * 10**9)
    refused(root, CheckpointError, r"bpe\.model must be a vocabulary of less than .* MB, but has")


def test_few_numbers_that_claim_to_be_many(root: Path) -> None:
    tensors = icefall_state_dict(model_of(40))
    tensors["decoder.embedding.weight"] = torch.zeros(1).expand(10**9, 10**6)
    torch.save({"model": tensors}, root / "exp" / "pretrained.pt")
    refused(root, CheckpointError, r"decoder\.embedding\.weight must have its numbers in the file, but repeats a few")


CONV1, CONV2 = "encoder_embed.conv.0.weight", "encoder_embed.conv.4.weight"
POSITIONS = "encoder.encoders.0.layers.0.self_attn_weights.linear_pos.weight"
BIAS = "joiner.output_linear.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({CONV1: torch.zeros(10**5, 1, 1, 1), CONV2: torch.zeros(10**6, 1, 1, 1)}, "not a complete Zipformer"),
        ({POSITIONS: torch.zeros(4, 10**6)}, r"linear_pos\.weight must have at most 4096 columns, but has 1000000"),
        ({BIAS: torch.zeros(40).to_sparse()}, f"{BIAS} must be a plain tensor .* but is float32 sparse_coo"),
        ({BIAS: torch.zeros(40).to(torch.float8_e4m3fn)}, f"{BIAS} must be a plain tensor .* but is float8_e4m3fn strided"),
        ({BIAS: torch.zeros(40, dtype=torch.complex64)}, f"{BIAS} must be a tensor of floating-point numbers"),
        ({BIAS: torch.zeros(40, device="meta")}, f"{BIAS} has a shape, but no numbers"),
        ({BIAS: torch.full((40,), float("inf"))}, f"{BIAS} has numbers that are not finite"),
    ],
    ids=["sizes", "positions", "sparse", "float8", "complex", "meta", "infinite"],
)
def test_hostile_tensors(root: Path, change: dict[str, torch.Tensor], message: str) -> None:
    torch.save({"model": icefall_state_dict(model_of(40)) | change}, root / "exp" / "pretrained.pt")
    refused(root, CheckpointError, message)


def test_an_interruption_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(root.parent.rglob("*"))
    monkeypatch.setattr("zipasr.checkpoint.sync_folder", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        convert(*find_local(root), root.parent / "out")
    assert sorted(root.parent.rglob("*")) == before


def test_weights_of_one_moment_are_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "exp" / "pretrained.pt").rename(root / "exp" / "epoch-30.pt")
    convert(*find_local(root), root.parent / "out")
    assert "exp/epoch-30.pt holds the weights of one moment of a training" in caplog.text


def test_compressed_archives(root: Path) -> None:
    """`torch.save` does not compress; a few bytes that grow without end when they are read are no checkpoint."""
    path, packed = root / "exp" / "pretrained.pt", root.parent / "packed"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    packed.rename(path)
    refused(root, CheckpointError, r"pretrained\.pt cannot be read \(.*compressed")


OUTSIDE = ("../secret.pt", "/etc/passwd", "a/../../secret.pt", "C:\\secret.pt", "..\\secret.pt", "\\\\host\\a")


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("key", ["file: model.pt", "tokenizer: bpe.model"])
def test_names_that_lead_out_of_the_folder(tmp_path: Path, name: str, key: str) -> None:
    root = soundsgoodai_folder(
        tmp_path / "repository", soundsgoodai_model(), MODEL_YAML.replace(key, f"{key.split(':')[0]}: '{name}'")
    )
    write(tmp_path, {"secret.pt": {"model": icefall_state_dict(soundsgoodai_model())}})
    refused(root, CheckpointError, r"the name of a file must lead to a place inside .*repository")


def test_a_named_file_that_is_missing(tmp_path: Path) -> None:
    text = MODEL_YAML.replace("file: model.pt", "file: other.pt")
    root = soundsgoodai_folder(tmp_path / "repository", soundsgoodai_model(), text)
    refused(root, CheckpointError, r"other\.pt must be a file of the model, but there is none")


@pytest.mark.parametrize("name", ["exp/pretrained.pt", "data/lang_bpe_40/bpe.model", "exp/train.sh"])
def test_links_out_of_the_folder(root: Path, name: str) -> None:
    outside = root.parent / "outside"
    (root / name).rename(outside)
    (root / name).symlink_to(outside)
    refused(root, CheckpointError, r"must be a file in .*repository, but is a link to .*outside")
    (root / name).unlink()
    outside.rename(root / "inside")
    (root / name).symlink_to(root / "inside")
    convert(*find_local(root), root.parent / "out")


def test_a_snapshot_of_the_hub_has_links_to_its_blobs(root: Path) -> None:
    snapshot = root.parent / "models--owner--name" / "snapshots" / ("0" * 40)
    blobs = snapshot.parent.parent / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(path for path in sorted(root.rglob("*")) if path.is_file()):
        link = snapshot / path.relative_to(root)
        link.parent.mkdir(parents=True, exist_ok=True)
        path.rename(blobs / str(number))
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
    assert AsrModel.load(convert(*find_local(snapshot), root.parent / "out"))[1].vocab_size == 40


def test_other_weights_than_the_configuration_says(tmp_path: Path) -> None:
    root = soundsgoodai_folder(tmp_path / "repository", soundsgoodai_model(), MODEL_YAML.replace('"32,48"', '"32,64"'))
    refused(root, ConfigError, r"must have encoder_dim \(32, 64\), as config\.yaml says, but have \(32, 48\)")
    soundsgoodai_folder(root, soundsgoodai_model(), MODEL_YAML.replace('num_heads: "2,4"', 'num_heads: "2,2"'))
    refused(root, ConfigError, r"num_heads=2, .* cannot be true of stack 1")


def test_hostile_yaml(tmp_path: Path) -> None:
    made = tmp_path / "made"
    for text in (f"model_type: !!python/object/apply:os.mkdir ['{made}']", "a: &a [*a]", "a: " + "[" * 9_000):
        root = soundsgoodai_folder(tmp_path / "repository", soundsgoodai_model(), text)
        refused(root, CheckpointError, "config.yaml must hold")
    assert not made.exists()
    write(tmp_path / "repository", {"config.yaml": "x" * 1_000_000})
    refused(
        tmp_path / "repository",
        CheckpointError,
        r"config\.yaml must have at most 0\.0001 GB, but has 0\.001 GB; it does not describe a model",
    )


def test_settings_that_are_wrong(root: Path) -> None:
    place = find_local(root)
    for settings, message in (
        (ModelSettings(num_heads=3), "num_heads=3 cannot be true of stack 0"),
        (ModelSettings(num_heads=(1, 2, 4)), "num_heads must be an integer of at least 1, or 2 such"),
        (ModelSettings(attention_decoder_heads=4), "there is no attention_decoder in the checkpoint"),
        (ModelSettings(num_mel_bins=128), "num_mel_bins must be from 79 to 82 for these weights, but is 128"),
        (ModelSettings(beam_size=0), "beam must be at least 1, but is 0"),
        (ModelSettings(blank_penalty=float("nan")), "blank_penalty must be a finite number"),
        (ModelSettings(chunk_frames_50hz=(3,)), "chunk_frames_50hz must have multiples of 2"),
        (ModelSettings(low_freq_hz=9000.0), "low_freq_hz and high_freq_hz must be"),
    ):
        with pytest.raises(ConfigError, match=message):
            convert(*place, root.parent / "out", settings=settings)
    assert not (root.parent / "out").exists()


def test_only_an_earlier_conversion_is_replaced(root: Path) -> None:
    place = find_local(root)
    for name in ("repository", "file", "model", "full"):
        out = root.parent / name
        if name == "file":
            out.write_text("text")
        elif name == "model":
            model_of(40).save(out, Tokenizer.from_bytes(sentencepiece_model()))
        elif name == "full":
            write(out, {"a.txt": "a"})
        before = {path: path.read_bytes() for path in root.parent.rglob("*") if path.is_file()}
        with pytest.raises(ConfigError, match="must be a new folder or one of an earlier conversion"):
            convert(*place, out)
        assert {path: path.read_bytes() for path in root.parent.rglob("*") if path.is_file()} == before
    (root.parent / "empty").mkdir()
    first = convert(*place, root.parent / "empty")
    assert convert(*place, first) == first


def test_a_full_disk_leaves_an_earlier_conversion(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = convert(*find_local(root), root.parent / "out")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr("zipasr.checkpoint.os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(CheckpointError, match="the disk is full"):
        convert(*find_local(root), out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in root.parent.iterdir()) == ["out", "repository"]


# What a path on this machine is


def test_paths_that_hold_no_checkpoint(root: Path) -> None:
    tmp_path = root.parent
    out = convert(*find_local(root), tmp_path / "out")
    write(tmp_path / "graphs", {"encoder.onnx": b"", "decoder.onnx": b"", "joiner.onnx": b"", "tokens.txt": ""})
    write(tmp_path / "programs", {"exp/cpu_jit.pt": b"PK", "data/lang_bpe_500/bpe.model": b""})
    write(tmp_path / "texts", {"a.txt": ""})
    for path, kind, message in (
        (tmp_path / "absent", CheckpointError, "there is no such file or folder"),
        (Path("hf:owner/name"), ConfigError, "is on the hub: zipasr pull hf:owner/name --out DIR"),
        (tmp_path / "texts", CheckpointError, r"must hold a checkpoint .* but holds a\.txt"),
        (tmp_path / "graphs", ConfigError, "holds ONNX graphs, which need no conversion: zipasr transcribe"),
        (tmp_path / "programs", CheckpointError, "hold TorchScript"),
        (out, ConfigError, "is a model folder of zipasr; use it as it is"),
    ):
        with pytest.raises(kind, match=message):
            find_local(path)


def test_torchscript_under_another_name(root: Path) -> None:
    with zipfile.ZipFile(root / "exp" / "pretrained.pt", "w") as archive:
        for name in ("data.pkl", "code/__torch__.py", "constants.pkl"):
            archive.writestr(f"pretrained/{name}", b"")
    refused(root, CheckpointError, r"pretrained\.pt is a TorchScript program")


def test_a_checkpoint_without_a_vocabulary(root: Path) -> None:
    (root / "data" / "lang_bpe_40" / "bpe.model").rename(root.parent / "mine.model")
    with pytest.raises(CheckpointError, match=r"must have its vocabulary .* --tokenizer FILE"):
        find_local(root)
    with pytest.raises(CheckpointError, match=r"must have its vocabulary .* --tokenizer FILE"):
        find_local(root / "exp" / "pretrained.pt")
    place = find_local(root, needs_vocabulary=False)
    with pytest.raises(CheckpointError, match=r"must have its vocabulary beside it, .* add --tokenizer FILE"):
        convert(*place, root.parent / "out")
    assert AsrModel.load(convert(*place, root.parent / "out", tokenizer=root.parent / "mine.model"))[1].vocab_size == 40
