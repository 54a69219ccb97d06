"""The pages of the API reference: which modules each has, and what is written around the docstrings.

A package gives the names in its `__all__`, a module without one its names that start without an underscore.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import griffe

REPOSITORY = Path(__file__).resolve().parents[2]


class Group(NamedTuple):
    """A page of the reference."""

    title: str
    modules: tuple[str, ...]


GROUPS = {
    "recognizer": Group("Recognizers and streams", ("zipasr.recognizer",)),
    "transcript": Group("Transcripts", ("zipasr.transcript",)),
    "alignment": Group("Alignment", ("zipasr.alignment",)),
    "audio": Group("Audio", ("zipasr.audio", "zipasr.vad")),
    "features": Group("Features", ("zipasr.features",)),
    "tokenizer": Group("Tokenizers and texts", ("zipasr.tokenizer", "zipasr.text")),
    "search": Group("Searches", ("zipasr.search", "zipasr.search.graph", "zipasr.search.keywords")),
    "lm": Group("Language models", ("zipasr.lm",)),
    "grammar": Group("Grammars", ("zipasr.grammar",)),
    "model": Group("Models", ("zipasr.model", "zipasr.presets")),
    "encoder": Group("The Zipformer encoder", ("zipasr.encoder",)),
    "nn": Group("Building blocks", ("zipasr.nn",)),
    "heads": Group("Heads", ("zipasr.heads",)),
    "losses": Group("Losses", ("zipasr.losses",)),
    "optim": Group("Optimizers and schedules", ("zipasr.optim",)),
    "baselines": Group("Other encoders", ("zipasr.baselines",)),
    "profile": Group("Cost of a model", ("zipasr.profile",)),
    "plots": Group("Plots", ("zipasr.plots",)),
    "prepare": Group("Preparing data", ("zipasr.prepare",)),
    "data": Group(
        "Reading data",
        (
            "zipasr.data.batching",
            "zipasr.data.manifest_index",
            "zipasr.data.plan",
            "zipasr.data.reading",
            "zipasr.data.augment",
            "zipasr.data.noise",
        ),
    ),
    "train": Group(
        "Training",
        (
            "zipasr.train.config",
            "zipasr.train.resolve",
            "zipasr.train.loop",
            "zipasr.train.step",
            "zipasr.train.averaging",
            "zipasr.train.checkpoint_average",
            "zipasr.train.diagnose",
        ),
    ),
    "recipes": Group(
        "Recipes",
        (
            "zipasr.recipes.configure",
            "zipasr.recipes.find",
            "zipasr.recipes.own_data",
            "zipasr.recipes.prompts",
            "zipasr.recipes.librispeech",
            "zipasr.recipes.gigaspeech",
            "zipasr.recipes.aishell",
            "zipasr.recipes.wenetspeech",
        ),
    ),
    "evaluate": Group("Evaluation", ("zipasr.evaluate",)),
    "export": Group("Export", ("zipasr.export",)),
    "onnx_runtime": Group("Exported models", ("zipasr.onnx_runtime",)),
    "serve": Group("The server", ("zipasr.serve",)),
    "hub": Group("Models from elsewhere", ("zipasr.hub",)),
    "checkpoint": Group("Model folders and settings", ("zipasr.checkpoint", "zipasr.config", "zipasr.device")),
    "errors": Group("Errors", ("zipasr.errors",)),
}

ALL_MODULES = [module for group in GROUPS.values() for module in group.modules]

NOT_PUBLIC = {
    "zipasr.cli": "the command line: `zipasr VERB --help`",
    "zipasr.folder_swap": "replaces a folder as a whole",
    "zipasr.lfs": "refuses Git LFS pointers",
    "zipasr.eight_bit": "weights in eight bits on disk",
    "zipasr.lines": "lines of files",
    "zipasr.progress": "progress bars",
    "zipasr.randomness": "seeds",
    "zipasr.torch_file": "other people's checkpoints",
}
"""Files and folders of the package that are not in the reference, and what they do."""


def page_of(module: str) -> str | None:
    """The page that documents a module, `api/NAME.md`, or None."""
    if module == "zipasr":
        return "api/index.md"
    return next((f"api/{name}.md" for name, group in GROUPS.items() if module in group.modules), None)


@cache
def package() -> "griffe.Module":
    """The package, read from its source."""
    import griffe

    loaded = griffe.load("zipasr", search_paths=[REPOSITORY])
    assert isinstance(loaded, griffe.Module)
    return loaded


def find(path: str) -> "griffe.Object | griffe.Alias":
    """The module, or the name of one, at a dotted path."""
    return package() if path == "zipasr" else package()[path.removeprefix("zipasr.")]


def definition(module: str, name: str) -> "griffe.Object":
    """What a name of a module stands for, where it is defined."""
    found = find(f"{module}.{name}")
    return found.final_target if found.is_alias else found


def public_names(module: str) -> list[str]:
    """Names that the reference must have of a module, in the order of the source."""
    node = find(module)
    if node.exports is not None:
        return [str(name) for name in node.exports]
    return [name for name, member in node.members.items() if _is_public(name, member)]


def _is_public(name: str, member: "griffe.Object | griffe.Alias") -> bool:
    """Whether a module without `__all__` offers this name: it is defined there and, if it is a constant, described."""
    if name.startswith("_") or member.is_alias or member.is_module:
        return False
    return member.has_docstring or not member.is_attribute
