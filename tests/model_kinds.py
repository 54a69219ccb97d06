"""Small models of every kind that zipasr opens, as folders with the names and contents of published ones."""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from tests.export.models import causal_model, perturbed, random_model
from tests.export.traces import traced_once
from tests.hub.icefall_models import icefall_state_dict
from tests.hub.published_layouts import (
    MODEL_YAML,
    authors_folder,
    authors_vocabulary,
    icefall_folder,
    model_of,
    soundsgoodai_folder,
    soundsgoodai_model,
    write,
)
from tests.onnx_runtime import icefall, small_graphs
from tests.tiny_model import tiny_tokenizer
from zipasr.export import export_model
from zipasr.hub import convert, find_local
from zipasr.hub.inspection import Inspection, inspect_model
from zipasr.model import AsrModel

CHUNK, LEFT = 16, 64
"""Of streaming graphs, at 50 Hz."""
LETTERS = ["\u2581", *(f"\u2581{letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"), *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
PHONES = "<blk> 0\n<sos/eos> 1\n<unk> 2\n" + "".join(f"{name} {i}\n" for i, name in enumerate(("zh", "ang", "ni"), 3))


class Case(NamedTuple):
    """A model of a kind."""

    kind: str
    """One of `zipasr.hub.capabilities.KINDS`."""
    name: str
    make: Callable[[Path], Path]
    """Writes the published folder and returns it."""
    is_slow: bool = False
    """Whether that takes seconds."""

    def __str__(self) -> str:
        return f"{self.kind}, {self.name}"


class Made(NamedTuple):
    """The folders of a case."""

    published: Path
    """As it was published."""
    usable: Path
    """As zipasr opens it: a checkpoint of others is converted first."""
    found: Inspection
    """What zipasr says of it."""


def make(case: Case, root: Path) -> Made:
    """Write the folders of a case."""
    published = usable = case.make(root / "published")
    if case.kind in ("icefall", "authors", "soundsgoodai"):
        place, files = find_local(published)
        usable = convert(place, files, root / "converted")
    return Made(published, usable, inspect_model(published))


def talkative(model: AsrModel, *, favors_last: bool) -> AsrModel:
    """A model that emits many tokens, and for which those at one end of the vocabulary are more probable."""
    assert model.transducer is not None
    with torch.no_grad():
        model.transducer.joiner.output.weight.mul_(4)
        bias = torch.linspace(0.0, -2.0, model.config.vocab_size)
        model.transducer.joiner.output.bias.copy_(bias.flip(0) if favors_last else bias)
    return perturbed(model)


def _own(model: Callable[[], AsrModel]) -> Callable[[Path], Path]:
    return lambda root: model().save(root, tiny_tokenizer())


def _export(model: Callable[[], AsrModel], **sizes: int) -> Callable[[Path], Path]:
    def write_folder(root: Path) -> Path:
        model().save(root.with_name("source"), tiny_tokenizer())
        with traced_once():
            export_model(root.with_name("source"), root, **sizes)
        return root

    return write_folder


def _of_icefall(root: Path, *, is_causal: bool = False) -> Path:
    model = talkative(model_of(tiny_tokenizer().vocab_size, is_causal=is_causal), favors_last=False)
    return icefall_folder(root, model, tiny_tokenizer().to_bytes(), "lang_bpe_48/bpe.model")


def _of_phones(root: Path) -> Path:
    return icefall_folder(root, model_of(6), PHONES.encode(), "lang_partial_tone/tokens.txt")


def _of_authors(root: Path, *, is_causal: bool = False) -> Path:
    vocabulary = authors_vocabulary(LETTERS)
    model = talkative(model_of(vocabulary.count("\n"), is_causal=is_causal), favors_last=True)
    return authors_folder(root, model, vocabulary)


def _of_soundsgoodai(root: Path, *, is_causal: bool = False) -> Path:
    chunks = '  chunk_size: "16,32,64,-1"\n  left_context_frames: "64,128,256,-1"\n'
    text = MODEL_YAML.replace("causal: false\n", f"causal: true\n{chunks}") if is_causal else MODEL_YAML
    return soundsgoodai_folder(root, talkative(soundsgoodai_model(is_causal=is_causal), favors_last=True), text)


def _whole(root: Path) -> Path:
    return small_graphs.write(root, **small_graphs.transducer())


def _ctc(root: Path) -> Path:
    return small_graphs.write(root, model=small_graphs.offline_graph(is_ctc=True))


def _only_tokens(root: Path) -> Path:
    _whole(root)
    (root / "bpe.model").unlink()
    return root


def _chunks(head: str) -> Callable[[Path], Path]:
    def write_folder(root: Path) -> Path:
        folders = icefall.export_online(causal_model(), tiny_tokenizer(), root.with_name("both"), chunk=CHUNK, left=LEFT)
        return Path(shutil.copytree(folders[head], root))

    return write_folder


def _zipformer1(root: Path) -> Path:
    graphs = {"decoder": small_graphs.decoder_graph(), "joiner": small_graphs.joiner_graph()}
    return small_graphs.write(root, encoder=small_graphs.zipformer1_graph(), **graphs)


def _vosk(root: Path) -> Path:
    small_graphs.write(root / "am-onnx", **small_graphs.transducer())
    (root / "lang").mkdir()
    for name in ("tokens.txt", "bpe.model"):
        (root / "am-onnx" / name).rename(root / "lang" / name)
    (root / "lm").mkdir()
    return root


def _keywords(root: Path) -> Path:
    _zipformer1(root)
    (root / "keywords.txt").write_text("\u2581TH E :2.0 #0.3 @THE\n", encoding="utf-8")
    return root


CASES = (
    Case("zipasr", "whole recordings", _own(random_model)),
    Case("zipasr", "causal", _own(causal_model)),
    Case("zipasr export", "whole recordings", _export(random_model), is_slow=True),
    Case("zipasr export", "chunks", _export(causal_model, chunk_ms=320, left_context_ms=1280), is_slow=True),
    Case("icefall", "whole recordings", _of_icefall),
    Case("icefall", "causal", functools.partial(_of_icefall, is_causal=True)),
    Case("icefall", "only a table of phones", _of_phones),
    Case("authors", "whole recordings", _of_authors),
    Case("authors", "causal", functools.partial(_of_authors, is_causal=True)),
    Case("soundsgoodai", "whole recordings", _of_soundsgoodai),
    Case("soundsgoodai", "causal", functools.partial(_of_soundsgoodai, is_causal=True)),
    Case("onnx transducer", "whole recordings", _whole),
    Case("onnx transducer", "chunks", _chunks("transducer"), is_slow=True),
    Case("onnx transducer", "only a table of tokens", _only_tokens),
    Case("onnx ctc", "whole recordings", _ctc),
    Case("onnx ctc", "chunks", _chunks("ctc"), is_slow=True),
    Case("onnx zipformer 1", "chunks", _zipformer1),
    Case("vosk", "whole recordings", _vosk),
    Case("keywords", "chunks of Zipformer 1", _keywords),
)
"""A case for each kind, and where it matters one that is causal or in chunks, and one whose vocabulary can only decode."""


def zipformer1_checkpoint(root: Path) -> Path:
    """A checkpoint of Zipformer 1."""
    names = ("encoder.encoders.0.layers.0.self_attn.in_proj.weight", "encoder.encoders.0.layers.0.norm_final.eps")
    return _refused(root, dict.fromkeys(names, torch.zeros(2, 2)))


def conformer_checkpoint(root: Path) -> Path:
    """A checkpoint of a Conformer."""
    return _refused(root, {"encoder.encoder.layers.0.self_attn.pos_bias_u": torch.zeros(2, 2)})


def torchscript(root: Path) -> Path:
    """A repository with only TorchScript."""
    return write(root, {"exp/jit_script.pt": b"PK", "data/lang_bpe_48/bpe.model": tiny_tokenizer().to_bytes()})


def _refused(root: Path, tensors: dict[str, torch.Tensor]) -> Path:
    heads = {key: value for key, value in icefall_state_dict(model_of(48)).items() if key.startswith("decoder.")}
    files = {"exp/pretrained.pt": {"model": {**tensors, **heads}}, "data/lang_bpe_48/bpe.model": tiny_tokenizer().to_bytes()}
    return write(root, files)


REFUSED = {"zipformer 1": zipformer1_checkpoint, "other": conformer_checkpoint, "torchscript": torchscript}
"""Kinds that are refused, and how to write one."""
