"""Contract: every module imports only from rows below its own and modules of one folder import each other without cycles;
`TYPE_CHECKING` and lazy imports count. `__init__` files only re-export, and the root is lazy. Every folder of the package
has its folder of tests, and test files share code only through modules of helpers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import zipasr
from tests.import_map import DROP_INS, FILES, HEIGHT, PACKAGE, imported, part_of

TESTS = Path(__file__).parent


def module_of(path: Path) -> str:
    """Dotted name of the module in a file; that of the folder for `__init__.py`."""
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def imported_modules(tree: ast.AST, path: Path, modules: frozenset[str]) -> set[str]:
    """The `modules` that a file imports, anywhere in it; names that a folder re-exports count as its `__init__`."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = next(imported(ast.Module([node], []), path)) if node.module != "zipasr" else "zipasr"
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= names if names <= modules else names | {base}
    return found & modules


def cycles(graph: dict[str, set[str]]) -> list[frozenset[str]]:
    """The largest sets of modules that all reach each other."""
    reached = {name: set(targets) for name, targets in graph.items()}
    for middle in graph:
        for targets in reached.values():
            if middle in targets:
                targets |= reached[middle]
    rings = {frozenset(other for other in reached[name] if name in reached[other]) for name in graph}
    return sorted((ring for ring in rings if ring), key=sorted)


def test_type_checking_and_lazy_imports_are_read() -> None:
    code = "if TYPE_CHECKING:\n from zipasr.cli import main\ndef f():\n from zipasr.train import loop"
    assert set(imported(ast.parse(code), PACKAGE / "lm/ngram.py")) == {"zipasr.cli", "zipasr.train"}


def test_cycles_are_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a", "d"}}) == [frozenset("bc"), frozenset("d")]
    assert cycles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_modules_import_each_other_without_cycles_type_checking_and_lazy_imports_included() -> None:
    modules = frozenset(map(module_of, FILES))
    graph = {module_of(path): imported_modules(ast.parse(path.read_text()), path, modules) for path in FILES}
    assert [sorted(ring) for ring in cycles(graph)] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    part = part_of(path)
    assert part in HEIGHT, f"{path} is in no row of the import map"
    for name in imported(ast.parse(path.read_text()), path):
        if name.split(".")[0] != "zipasr" or name == "zipasr":
            continue
        target = name.split(".")[1]
        if target.startswith("__"):
            continue
        assert target == part or HEIGHT[target] < HEIGHT[part], f"{path} imports {name}, which is not below {part}"


@pytest.mark.parametrize(
    "path", [path for path in FILES if part_of(path) in DROP_INS], ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_drop_ins_need_only_torch(path: Path) -> None:
    for name in imported(ast.parse(path.read_text()), path):
        first, *rest = name.split(".")
        if first == "zipasr":
            assert rest[0] in (*DROP_INS, "kernels", "errors"), f"{path} imports {name}"
        else:
            assert first == "torch" or first in sys.stdlib_module_names, f"{path} imports {name}"


def init_files() -> list[Path]:
    return [path for path in FILES if path.name == "__init__.py"]


@pytest.mark.parametrize("path", init_files(), ids=lambda path: path.parent.name)
def test_init_re_exports_only_its_own_folder(path: Path) -> None:
    tree = ast.parse(path.read_text())
    own = f"zipasr.{'.'.join(path.parent.relative_to(PACKAGE).parts)}"
    names, exported = [], None
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.ImportFrom):
            assert next(imported(ast.Module([node], []), path)).startswith(own), f"{path} imports from elsewhere"
            names += [alias.asname or alias.name for alias in node.names]
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            exported = ast.literal_eval(node.value)
        else:
            pytest.fail(f"{path} holds more than re-exports: {ast.unparse(node)[:80]}")
    assert sorted(names) == sorted(exported or []), f"__all__ of {path} must be its re-exports"


def test_root_offers_what_it_says() -> None:
    for name in zipasr.__all__:
        assert getattr(zipasr, name) is not None


DROP_IN_IMPORTS = (
    "from zipasr.nn import Balancer, BiasNorm, Encoded, Schedule, SwooshL, SwooshR, Whiten, set_step",
    "from zipasr.encoder import Bypass, StreamState, Zipformer, ZipformerConfig",
    "from zipasr.losses import prune_ranges, pruned_transducer_loss, simple_transducer_loss",
    "from zipasr.optim import Eden, ScaledAdam",
    "from zipasr.heads import AttentionHead, CtcHead, TransducerHead",
)


def test_drop_ins_load_no_audio_data_or_onnx() -> None:
    """Each import runs in a fork of one process that has only torch, since importing torch takes seconds."""
    code = f"""
import os
import sys
import torch
before = set(sys.modules)
for statement in {DROP_IN_IMPORTS}:
    if os.fork() == 0:
        exec(statement)
        print(*sorted(set(sys.modules) - before))
        sys.exit()
    assert os.wait()[1] == 0, statement
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    for statement, loaded in zip(DROP_IN_IMPORTS, done.stdout.splitlines(), strict=True):
        parts = set()
        for first, *rest in (name.split(".") for name in loaded.split()):
            if first == "zipasr":
                parts.update(rest[:1])
            else:
                assert first == "torch" or first in sys.stdlib_module_names, f"{statement} loads {first}"
        assert parts and parts <= {*DROP_INS, "errors", "kernels"}, f"{statement} loads {sorted(parts)}"


def test_root_loads_nothing_until_it_is_used() -> None:
    """Nothing but a few modules of the standard library, so that the import takes milliseconds."""
    code = "import sys; before = set(sys.modules); import zipasr; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = done.stdout.split()
    assert "zipasr" in loaded
    assert {name.split(".")[0] for name in loaded} <= {"zipasr", *sys.stdlib_module_names}
    assert not [name for name in loaded if name.startswith("zipasr.")]
    assert len(loaded) < 30


def test_root_shows_type_checkers_what_it_offers() -> None:
    """The imports under TYPE_CHECKING are those that `__getattr__` makes."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    shown = {node.module: tuple(alias.name for alias in node.names) for node in imports}
    assert shown == zipasr._HOMES
    assert set(zipasr.__all__) == {"__version__", *(name for names in shown.values() for name in names)}


def test_only_the_hub_knows_foreign_names() -> None:
    """Key names of the original occur in one folder only."""
    for path in FILES:
        if part_of(path) != "hub":
            assert "encoder_embed" not in path.read_text(), path


def test_nothing_imports_from_a_file_of_tests() -> None:
    for path in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            base = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            names = [base + alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            for name in names:
                is_test = name.startswith("tests.") and ".test_" in name
                assert not is_test, f"{path} imports {name}; move what both need into a module of helpers"


def test_every_folder_of_the_package_has_a_folder_of_tests() -> None:
    folders = {path.parent.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")}
    assert [folder for folder in sorted(folders) if not list((TESTS / folder).glob("test_*.py"))] == []
