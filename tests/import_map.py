"""The import map: which part of the package may import which, and what its files import.

A part is a folder or a root module of `zipasr`. It may import the parts of the rows below its own.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import zipasr

PACKAGE = Path(zipasr.__file__).parent
ROWS = (
    ("cli",),
    ("recipes",),
    ("serve", "export", "train", "evaluate", "prepare"),
    ("recognizer", "data", "profile"),
    ("hub", "alignment", "grammar"),
    ("search", "presets"),
    ("model", "onnx_runtime", "lm", "vad"),
    ("heads",),
    ("encoder", "baselines", "losses", "optim"),
    ("nn", "features"),
    ("kernels", "audio", "tokenizer", "transcript", "checkpoint", "torch_file", "plots"),
    # Differs: a row of our own; types of settings, the compute device, seeds and progress matter to every row above alike.
    ("text", "lines", "config", "device", "progress", "randomness"),
    ("lfs", "eight_bit", "folder_swap"),
    ("errors",),
)
HEIGHT = {part: -i for i, row in enumerate(ROWS) for part in row}
DROP_INS = ("nn", "encoder", "losses", "optim", "heads")
ROOT_FILES = ("__init__.py", "__main__.py")
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.name not in ROOT_FILES)


def part_of(path: Path) -> str:
    """The row entry that a file belongs to: its folder in the package, or itself."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST, path: Path) -> Iterator[str]:
    """Dotted names of everything a file imports, anywhere in it; `from zipasr import x` counts as zipasr.x."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                folder = path.parents[node.level - 1].relative_to(PACKAGE.parent)
                base = ".".join([*folder.parts, *([base] if base else [])])
            if base == "zipasr":
                yield from (f"zipasr.{alias.name}" for alias in node.names)
            else:
                yield base
