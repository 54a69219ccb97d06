"""Contract: what `pip install zipasr` gives: metadata, extras, and distributions that work with the base dependencies alone.

The slow tests build the sdist, and the wheel from it, and install each into a virtual environment of its own. To save the
minutes and the registry that torch would need, that environment holds links to the files of the base dependencies and of
what these require, and to nothing else. pip then resolves the requirements of zipasr against them without a registry, so
that a wrong requirement fails, and so does an import of a package that only an extra requires.
"""

import ast
import functools
import gzip
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import soundfile
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import zipasr
from tests.conftest import REPOSITORY
from tests.recognizer.causal_models import KEYWORDS, pausing_model
from tests.tiny_model import noise, save_tiny, tiny_recognizer, tiny_tokenizer
from zipasr.cli import main

PACKAGE = REPOSITORY / "zipasr"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
MAX_MB = 6.0
"""Upper bound on the size of wheel and sdist, of which the model that comes with the package takes 3 MB at most."""


def names_of(requirements: list[str]) -> set[str]:
    """The distributions that requirements name."""
    return {canonicalize_name(Requirement(requirement).name) for requirement in requirements}


BASE = names_of(PROJECT["dependencies"])
OPTIONAL = {name for extra, lines in EXTRAS.items() if extra not in ("dev", "docs") for name in names_of(lines)}


# Metadata


def test_version_has_one_source() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", zipasr.__version__)
    assert "version" not in PROJECT
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (.+)$", changelog, flags=re.MULTILINE)
    assert sections[0] == "Unreleased"
    assert sections[1].split()[0] == zipasr.__version__
    assert yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))["version"] == zipasr.__version__


def test_what_is_written_names_the_version(tmp_path: Path) -> None:
    index = json.loads((save_tiny(tmp_path / "model") / "checksums.json").read_text())
    assert index["written_by"] == zipasr.__version__


def test_classifiers_exist() -> None:
    known = pytest.importorskip("trove_classifiers", reason="scripts/install installs it").classifiers
    assert set(PROJECT["classifiers"]) <= known
    deprecated = sys.modules["trove_classifiers"].deprecated_classifiers
    assert not set(PROJECT["classifiers"]) & set(deprecated)


def test_entry_point_exists() -> None:
    for target in PROJECT["scripts"].values():
        module, _, name = target.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_constraints_pin_every_requirement() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in (line.partition("#")[0].strip() for line in lines) if line]
    pinned = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}
    assert len(pinned) == len(pins)
    for requirement in map(Requirement, [*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]):
        name = canonicalize_name(requirement.name)
        if name != "zipasr":
            assert requirement.specifier.contains(pinned[name]), f"{requirement} allows no {name} {pinned[name]}"


def test_page_of_the_package_index_explains_every_extra_and_has_no_relative_links() -> None:
    page = (REPOSITORY / PROJECT["readme"]).read_text(encoding="utf-8")
    explained = set(re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE))
    assert explained == set(EXTRAS)
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert [link for link in links if not link.startswith("https://")] == []


def test_citation_has_what_the_format_requires() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "license", "references"} <= citation.keys()
    assert PROJECT["license"] == f"{citation['license']} AND CC-BY-4.0", "the code, which is cited, and the weights"
    for work in (citation, *citation["references"]):
        for author in work["authors"]:
            assert author.keys() <= {"family-names", "given-names", "name", "name-particle"}
    assert all({"type", "title", "authors"} <= reference.keys() for reference in citation["references"])


# Extras


class Import(NamedTuple):
    """An import of a package that is not part of Python."""

    path: Path
    module: str
    is_lazy: bool
    """Whether it is inside a function."""


def imports_of(path: Path) -> Iterator[Import]:
    """Every import of a file outside `if TYPE_CHECKING`, without those of zipasr itself."""

    def visit(node: ast.AST, is_lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            names = [alias.name for alias in child.names] if isinstance(child, ast.Import) else []
            names += [str(child.module)] if isinstance(child, ast.ImportFrom) and not child.level else []
            for name in names:
                if name.split(".")[0] not in {*sys.stdlib_module_names, "zipasr"}:
                    yield Import(path, name, is_lazy)
            yield from visit(child, is_lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), is_lazy=False)


TENSORBOARD = "torch.utils.tensorboard"  # part of torch, but it imports tensorboard


@functools.cache
def providers() -> dict[str, set[str]]:
    """The distributions that provide each top-level module."""
    found = importlib.metadata.packages_distributions()
    return {module: {canonicalize_name(name) for name in names} for module, names in found.items()}


def providers_of(module: str) -> set[str]:
    """The distributions that a requirement may name for a module."""
    name = "tensorboard" if module == TENSORBOARD else module.split(".")[0]
    return {"onnx"} if name == "google" else providers()[name]  # protobuf, which onnx requires


def test_every_import_belongs_to_the_base_dependencies_or_to_an_extra() -> None:
    for found in (found for path in sorted(PACKAGE.rglob("*.py")) for found in imports_of(path)):
        provided_by = providers_of(found.module)
        where = f"{found.path.relative_to(REPOSITORY)} imports {found.module}"
        assert provided_by & (BASE | OPTIONAL), f"{where}, which no requirement provides"
        is_serve = found.path.is_relative_to(PACKAGE / "serve")  # loaded after `check_packages`
        if not provided_by & BASE:
            assert found.is_lazy or is_serve, f"{where} at the top; import it where it is needed, and name the extra"


def write_cuts(folder: Path) -> None:
    """Write train_cuts.jsonl.gz and dev_cuts.jsonl.gz with a.wav, without Lhotse."""
    part = {"id": "a", "start": 0.0, "duration": 1.0, "channel": 0}
    source = {"type": "file", "channels": [0], "source": str(folder / "a.wav")}
    recording = {"id": "a", "sources": [source], "sampling_rate": 16_000, "num_samples": 16_000, "duration": 1.0}
    supervision = {**part, "recording_id": "a", "text": "ONE TWO"}
    cut = {**part, "supervisions": [supervision], "recording": recording, "type": "MonoCut"}
    for name in ("train", "dev"):
        (folder / f"{name}_cuts.jsonl.gz").write_bytes(gzip.compress(json.dumps(cut).encode()))


def missing_extras(folder: Path) -> dict[str, tuple[str, list[str]]]:
    """What a user runs without an extra: name -> the extra that the error must name, and the arguments of `zipasr`."""
    model, audio = str(save_tiny(folder / "model")), str(folder / "a.wav")
    soundfile.write(audio, noise(1.0), 16_000)
    (folder / "a.txt").write_text("ONE TWO")
    soundfile.write(folder / "long.wav", noise(40.0), 16_000)
    (folder / "lm.arpa").write_text("\\data\\\nngram 1=1\n\n\\1-grams:\n-1\tA\n\n\\end\\\n")
    write_cuts(folder)
    pausing_model().save(folder / "causal", tiny_tokenizer())
    (folder / "keywords.txt").write_text(f"{KEYWORDS[0]}\n", encoding="utf-8")
    spot = ["spot", str(folder / "causal"), "--keywords", str(folder / "keywords.txt")]
    run = folder / "run"
    run.mkdir(exist_ok=True)
    lines = [{"kind": kind, "step": 1, "loss": 1.0, "wer": 1.0, "lr": 0.1, "epoch": 1} for kind in ("train", "valid")]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return {
        "prepare": ("train", ["prepare", str(folder), "--out", str(folder / "data")]),
        "train": ("train", ["train", "prompts:tiny", "--out", str(folder / "new"), "--set", f"data={folder}"]),
        "evaluate": ("train", ["evaluate", model, str(folder)]),
        "diagnose": ("train", ["diagnose", model, str(folder / "dev_cuts.jsonl.gz")]),
        "plot": ("train", ["plot", str(run)]),
        "vad": ("vad", ["transcribe", model, str(folder / "long.wav"), "--vad"]),
        "lm": ("lm", ["transcribe", model, audio, "--lm", str(folder / "lm.arpa")]),
        "graph": ("graph", ["compile-graph", model, str(folder / "a.txt"), "--out", str(folder / "graph")]),
        "microphone": ("microphone", [*spot, "--microphone"]),
        "export": ("onnx", ["export", model, "--out", str(folder / "exported")]),
        "serve": ("serve", ["serve", model]),
        "hub": ("hub", ["transcribe", "hf:someone/model", audio]),
    }


CASES = ("prepare", "train", "evaluate", "diagnose", "plot", "vad", "lm", "graph", "microphone", "export", "serve", "hub")


@pytest.fixture
def without_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python as it is without the extras: none of their packages can be imported."""
    hidden = {module for module, names in providers().items() if names & OPTIONAL}
    for module in [*sys.modules]:
        if module.split(".")[0] in hidden or module.startswith(TENSORBOARD):
            monkeypatch.setitem(sys.modules, module, None)
    for module in hidden:
        monkeypatch.setitem(sys.modules, module, None)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("without_extras")
def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    extra, arguments = missing_extras(tmp_path)[case]
    assert main(arguments) in (1, 2)
    error = capsys.readouterr().err
    assert f'pip install "zipasr[{extra}]"' in error
    assert "Traceback" not in error


def test_no_extra_is_without_a_case(tmp_path: Path) -> None:
    cases = missing_extras(tmp_path)
    assert tuple(cases) == CASES
    assert {extra for extra, _ in cases.values()} == set(EXTRAS) - {"dev", "docs"}


# Distributions


class Built(NamedTuple):
    """The files that `python -m build` wrote, and what it built from."""

    sdist: Path
    wheel: Path
    source: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Both distributions, built from the files that git knows, and from others that must stay out."""
    pytest.importorskip("build", reason="scripts/install installs it")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (REPOSITORY / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, source / name)
    for name in ("exp/run/model/model.safetensors", "data/mine/a.flac", "zipasr/__pycache__/a.pyc", ".cache/a"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b"x")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return Built(sdist, wheel, source)


@pytest.mark.slow
def test_wheel_holds_the_package_and_its_license_and_nothing_else(built: Built) -> None:
    assert built.wheel.name == f"zipasr-{zipasr.__version__}-py3-none-any.whl"
    assert built.wheel.stat().st_size <= MAX_MB * 1e6
    with zipfile.ZipFile(built.wheel) as file:
        names = set(file.namelist())
    info = f"zipasr-{zipasr.__version__}.dist-info/"
    package = {
        f"zipasr/{path.relative_to(built.source / 'zipasr').as_posix()}" for path in files_of(built.source / "zipasr")
    }
    assert {name for name in names if not name.startswith(info)} == package
    assert {"zipasr/py.typed", "zipasr/serve/page/index.html"} <= package
    assert {f"{info}licenses/LICENSE", f"{info}licenses/zipasr/pretrained/commands/ATTRIBUTION.md"} <= names
    model = files_of(built.source / "zipasr" / "pretrained" / "commands")
    assert "zipasr/pretrained/commands/model.safetensors" in names
    assert sum(path.stat().st_size for path in model) <= 3e6


def files_of(folder: Path) -> list[Path]:
    """Every file of a folder except byte code."""
    return [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


@pytest.mark.slow
def test_sdist_holds_what_one_needs_to_read_and_build_and_no_data(built: Built) -> None:
    assert built.sdist.stat().st_size <= MAX_MB * 1e6
    with tarfile.open(built.sdist) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    wanted = {"pyproject.toml", "constraints.txt", "LICENSE", "README.md", "PACKAGE.md", "CHANGELOG.md", "CONTRIBUTING.md"}
    wanted |= {"SECURITY.md", "CITATION.cff", "docs/architecture.md", "examples/transcribe.py", "zipasr/py.typed"}
    assert wanted - names == set()
    assert {name.split("/")[0] for name in names} & {"tests", "benchmarks", "exp", "data", ".cache"} == set()
    data = [name for name in names if name.endswith((".safetensors", ".pyc", ".flac", ".wav"))]
    assert data == ["zipasr/pretrained/commands/model.safetensors"]


def required(names: set[str]) -> set[str]:
    """Distributions, and all that they require here, without extras."""
    found: set[str] = set()
    todo = [(name, frozenset[str]()) for name in names]
    while todo:
        name, extras = todo.pop()
        found.add(name)
        for line in importlib.metadata.requires(name) or []:
            requirement = Requirement(line)
            applies = requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in extras or {""}
            )
            needed = canonicalize_name(requirement.name)
            if applies and needed not in found:
                todo.append((needed, frozenset(requirement.extras)))
    return found


def base_environment(folder: Path) -> Path:
    """A virtual environment with links to the base dependencies alone; returns its Python.

    A folder is linked as a whole if only base dependencies have files in it, others file by file.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(folder), "platbase": str(folder)}))
    base = required(BASE)
    for name in base:
        for file in importlib.metadata.files(name) or []:
            top = file.parts[0]
            is_whole = len(file.parts) > 1 and (top.endswith((".dist-info", ".libs")) or providers().get(top, {""}) <= base)
            link = packages / top if is_whole else packages / file
            if ".." not in file.parts and not os.path.lexists(link):
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(Path(str(file.locate())).parents[len(file.parts) - 2] if is_whole else file.locate())
    return folder / "bin" / "python"


def clean_environment() -> dict[str, str]:
    """The environment variables without those of Python; linked packages get no new byte code."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1"}


def output_of(*command: str | Path, cwd: Path) -> str:
    """What a command prints, in an environment without the paths of the tests."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=clean_environment(), check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module", params=["wheel", "sdist"])
def installed(built: Built, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the base dependencies, and zipasr installed from a distribution."""
    folder = tmp_path_factory.mktemp(request.param)
    python = base_environment(folder / "venv")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-index", "--no-build-isolation"]
    constraints = ["-c", str(REPOSITORY / "constraints.txt")]
    output_of(*pip, "--no-cache-dir", "--disable-pip-version-check", *constraints, getattr(built, request.param), cwd=folder)
    return python


@pytest.mark.slow
def test_it_transcribes_with_the_base_dependencies(installed: Path, tmp_path: Path) -> None:
    command = installed.with_name("zipasr")
    model, samples = save_tiny(tmp_path / "model"), noise(3.0)
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    code = "import zipasr; print(zipasr.__version__, zipasr.__file__)"
    version, where = output_of(installed, "-c", code, cwd=tmp_path).split()
    assert version == zipasr.__version__
    assert Path(where).is_relative_to(installed.parents[1])
    expected = tiny_recognizer().transcribe(samples).text
    assert expected
    assert output_of(command, "transcribe", model, "a.wav", cwd=tmp_path) == f"{expected}\n"


@pytest.mark.slow
@pytest.mark.parametrize("installed", ["wheel"], indirect=True)
def test_without_extras_it_names_them(installed: Path, tmp_path: Path) -> None:
    cases = missing_extras(tmp_path)
    code = (
        "import contextlib, io, json, sys; from zipasr.cli import main; found = {}\n"
        "for name, (_, arguments) in json.loads(sys.argv[1]).items():\n"
        "    with contextlib.redirect_stderr(io.StringIO()) as error:\n"
        "        found[name] = (main(arguments), error.getvalue())\n"
        "print(json.dumps(found))"
    )
    found = json.loads(output_of(installed, "-c", code, json.dumps(cases), cwd=tmp_path).splitlines()[-1])
    for name, (extra, _) in cases.items():
        code_and_error = found[name]
        assert code_and_error[0] in (1, 2), name
        assert f'pip install "zipasr[{extra}]"' in code_and_error[1], f"{name}: {code_and_error[1]}"
