"""Contract: the documentation site has every page, link and public name, and what its builder checks is noticed.

scripts/docs builds the site and checks the result. These tests need no site: they read the pages as they are in the
repository, and try the checks of `scripts/site` on small sites with one defect each.
"""

import ast
import importlib
import re
from pathlib import Path

import pytest

from scripts.site.build import nav_problems
from scripts.site.check import page_problems
from scripts.site.pages import PageError, Site, anchors, for_site, slug
from scripts.site.reference import ALL_MODULES, GROUPS, NOT_PUBLIC, public_names
from tests.conftest import REPOSITORY

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
PROGRAM = re.compile(r"^```python[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
REFERENCE_PAGES = {"api/index.md", *(f"api/{name}.md" for name in GROUPS)}


@pytest.fixture(scope="module")
def site() -> Site:
    """The pages of the repository."""
    site = Site()
    site.collect()  # raises if a link leads nowhere
    return site


def small(folder: Path, page: str) -> Site:
    """A small repository with a page `docs/a.md` and files that it may link to."""
    files = {
        "README.md": "# Name\n\n## Two\n\n## Two\n",
        "docs/a.md": page,
        "docs/b.md": "# Other page\n\n## A `code` heading, with [a link](a.md)\n\n```bash\n# no heading\n```\n",
        "docs/pictures/p.svg": "<svg/>",
        "benchmarks/results/r.json": '{"a": "[no link](gone.md)"}',
        "benchmarks/LOG.md": "[back](../docs/b.md)",
        "examples/one.py": 'print("```")\n',
        "zipasr/optim/__init__.py": "",
        "zipasr/optim/eden.py": "",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "data.bin").write_bytes(b"\xff\xfe\xfd")
    return Site(folder)


def test_navigation_has_every_page(site: Site) -> None:
    assert nav_problems(set(site.pages) | REFERENCE_PAGES) == []


def test_wrong_navigation_is_noticed(tmp_path: Path) -> None:
    config = tmp_path / "mkdocs.yml"
    config.write_text("nav:\n  - A: a.md\n  - Part:\n      - b.md\n      - Deeper: [c.md, a.md]\n", encoding="utf-8")
    assert nav_problems({"a.md", "b.md", "d.md", "files/x.md", "p.png"}, config) == [
        "mkdocs.yml: the navigation lacks d.md",
        "mkdocs.yml: the navigation has c.md, which does not exist",
        "mkdocs.yml: the navigation repeats a.md",
    ]


def test_every_part_of_the_package_is_documented_or_named_as_internal() -> None:
    folder = REPOSITORY / "zipasr"
    parts = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    documented = {module.split(".")[1] for module in ALL_MODULES}
    internal = {module.split(".")[1] for module in NOT_PUBLIC}
    assert not documented & internal
    assert {part for part in parts if not part.startswith("_")} == documented | internal


def test_what_the_documentation_imports_is_in_the_reference() -> None:
    programs = [(path.name, found) for path in PAGES for found in PROGRAM.findall(path.read_text(encoding="utf-8"))]
    programs += [(path.name, path.read_text(encoding="utf-8")) for path in (REPOSITORY / "examples").glob("*.py")]
    imported = [
        (place, node.module)
        for place, program in programs
        for node in ast.walk(ast.parse(program))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("zipasr.")
    ]
    assert imported
    assert [(place, module) for place, module in imported if module not in ALL_MODULES] == []


def test_reference_has_the_public_names_of_every_package() -> None:
    pytest.importorskip("griffe")
    packages = [module for module in ALL_MODULES if hasattr(importlib.import_module(module), "__all__")]
    assert len(packages) > 10
    for module in packages:
        assert public_names(module) == list(importlib.import_module(module).__all__)


def test_reference_has_the_functions_and_classes_of_every_module() -> None:
    pytest.importorskip("griffe")
    for module in ALL_MODULES:
        loaded = importlib.import_module(module)
        defined = {
            name
            for name, value in vars(loaded).items()
            if getattr(value, "__module__", None) == module and hasattr(value, "__qualname__") and name[0] != "_"
        }
        if not hasattr(loaded, "__all__"):
            assert defined <= set(public_names(module)), module


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("[b](b.md)", "[b](b.md)"),
        ("[b](./b.md#other-page)", "[b](b.md#other-page)"),
        ("[b](b.md#a-code-heading-with-a-link)", "[b](b.md#a-code-heading-with-a-link)"),
        ("[home](../README.md)", "[home](index.md)"),
        ("[log](../benchmarks/LOG.md)", "[log](files/benchmarks/LOG.md)"),
        ("[two\nlines](../benchmarks/results/r.json)", "[two\nlines](files/benchmarks/results/r.json.md)"),
        ("[all](../examples/)", "[all](files/examples.md)"),
        ("[package](../zipasr/optim/__init__.py)", "[package](api/optim.md)"),
        ("[package](../zipasr/optim)", "[package](api/optim.md)"),
        ("[file](../zipasr/optim/eden.py)", "[file](files/zipasr/optim/eden.py.md)"),
        ("![p](pictures/p.svg)", "![p](pictures/p.svg)"),
        ('[![p](pictures/p.svg)](../README.md "title")', '[![p](pictures/p.svg)](index.md "title")'),
        ('<a href="../README.md"><img src="pictures/p.svg"></a>', '<a href="index.html"><img src="pictures/p.svg"></a>'),
        ("<https://example.org> [x](https://example.org/a.md)", "<https://example.org> [x](https://example.org/a.md)"),
        ("`[b](gone.md)`", "`[b](gone.md)`"),
        ("```python run\n[b](gone.md)\n```", "```python\n[b](gone.md)\n```"),
    ],
)
def test_links_lead_to_pages_of_the_site(link: str, expected: str, tmp_path: Path) -> None:
    site = small(tmp_path, f"# A\n\n{link}\n")
    site.collect()
    assert site.pages["a.md"].decode() == f"# A\n\n{expected}\n"
    for target in re.findall(r"[(\"]((?!https)[\w./]+\.(?:md|svg))", expected):
        assert target in site.pages or target.startswith("api/") or "gone" in target


def test_files_become_pages(tmp_path: Path) -> None:
    site = small(tmp_path, "[all](../examples) [log](../benchmarks/LOG.md) [r](../benchmarks/results/r.json)\n")
    site.collect()
    assert '\n````python\nprint("```")\n````\n' in site.pages["files/examples/one.py.md"].decode()
    assert "- [one.py](examples/one.py.md)" in site.pages["files/examples.md"].decode()
    assert "[back](../../b.md)" in site.pages["files/benchmarks/LOG.md"].decode()
    assert '{"a": "[no link](gone.md)"}' in site.pages["files/benchmarks/results/r.json.md"].decode()


@pytest.mark.parametrize(
    "page",
    [
        "[x](gone.md)",
        "![x](pictures/gone.svg)",
        "[x](../gone/)",
        "[x](../../elsewhere.md)",
        '<img src="gone.svg">',
        "[x](b.md#gone)",
        "[x](#gone)",
        "[x](b.md#no-heading)",
        "[x](../README.md#two)",
        "[x](../data.bin)",
        "- item\n  - nested item\n",
    ],
)
def test_pages_that_would_be_wrong_are_refused(page: str, tmp_path: Path) -> None:
    site = small(tmp_path, f"# A\n\n{page}\n")
    with pytest.raises(PageError, match=r"^(docs/a\.md: |data\.bin is no text)") as error:
        site.collect()
    assert len(str(error.value).splitlines()) == 1


def test_all_broken_links_are_named_at_once(tmp_path: Path) -> None:
    site = small(tmp_path, "[x](gone.md)")
    (tmp_path / "docs" / "b.md").write_text("[y](b.md#gone)", encoding="utf-8")
    with pytest.raises(PageError, match=r"docs/a\.md.*gone\.md.*\ndocs/b\.md.*b\.md#gone"):
        site.collect()


def test_anchors_are_the_same_on_the_site() -> None:
    slugs = pytest.importorskip("pymdownx.slugs")
    on_site = slugs.slugify(case="lower")
    headings = [
        line.lstrip("# ") for path in PAGES for line in path.read_text(encoding="utf-8").splitlines() if line[:2] == "##"
    ]
    assert len(headings) > 50
    for heading in ["What `a_b` costs: 1.5 × more", *headings]:
        assert slug(heading) == on_site(heading.replace("`", ""), "-"), heading


def test_explicit_anchors_count() -> None:
    assert anchors('# One\n\n<a id="here"></a>\n') == ["one", "here"]


def test_text_that_only_looks_like_a_link_stays() -> None:
    text = "scores [labels, end] in [0, V) and a[i](x\n"
    assert for_site(text, lambda link: "changed") == text


GOOD_PAGE = """<html><head><link rel="stylesheet" href="style.css"><link rel="canonical" href="https://example.org/">
<style>p { background: url(data:image/png;base64,AA) }</style><script src="a.js"></script></head><body>
<nav><li>
- menu</li></nav><article><h1 id="top">1. Top</h1><p>Text in [0, 1) with <code>a[0](b)</code> - and
more; <a href="#top">up</a> <a href="https://example.org">elsewhere</a> <a href="sub/">folder</a>
<img src="p.png"></p></article>
</body></html>"""


def built(folder: Path, page: str) -> list[str]:
    """The problems of a site with this page."""
    (folder / "sub").mkdir()
    for name in ("sub/index.html", "a.js", "p.png", "style.css"):
        (folder / name).write_text("", encoding="utf-8")
    (folder / "index.html").write_text(page, encoding="utf-8")
    return list(page_problems(folder))


def test_good_site_has_no_problems(tmp_path: Path) -> None:
    assert built(tmp_path, GOOD_PAGE) == []


@pytest.mark.parametrize(
    ("good", "bad", "problem"),
    [
        ('src="a.js"', 'src="https://cdn.example/a.js"', "loads https://cdn.example/a.js from elsewhere"),
        ('src="a.js"', 'src="//cdn.example/a.js"', "loads //cdn.example/a.js from elsewhere"),
        ('href="style.css"', 'href="https://fonts.example/css"', "loads https://fonts.example/css from elsewhere"),
        ('rel="canonical"', 'rel="preconnect"', "loads https://example.org/ from elsewhere"),
        ("data:image/png;base64,AA", "https://example.org/p.png", "loads https://example.org/p.png from elsewhere"),
        ('src="p.png"', 'src="http://example.org/p.png"', "loads http://example.org/p.png from elsewhere"),
        ('src="p.png"', 'src="p.png" style="background: url(\'//x.example/\')"', "loads //x.example/ from elsewhere"),
        ('src="p.png"', 'src="p.png" class="wide mermaid"', "loads https://unpkg.com/mermaid from elsewhere"),
        ('src="p.png"', 'src="gone.png"', "gone.png leads to no page"),
        ('href="sub/"', 'href="gone/"', "gone/ leads to no page"),
        ('href="#top"', 'href="#gone"', "#gone leads to no anchor"),
        ('href="#top"', 'href="sub/index.html#gone"', "sub/index.html#gone leads to no anchor"),
        ("[0, 1)", "[results](results.md)", "](results.md)"),
        ("[0, 1)", "[results][1]", "][1]"),
        ("<code>", "``` <code>", "```"),
        ("- and\nmore", "- and\n- more", "- more"),
        ("- and\nmore", "and\n| a | b |", "| a | b |"),
    ],
)
def test_each_problem_of_a_built_page_is_noticed(good: str, bad: str, problem: str, tmp_path: Path) -> None:
    assert good in GOOD_PAGE
    found = built(tmp_path, GOOD_PAGE.replace(good, bad))
    assert len(found) == 1
    assert found[0].startswith("index.html: ")
    assert problem in found[0]


def test_style_sheets_load_nothing_from_elsewhere(tmp_path: Path) -> None:
    assert built(tmp_path, GOOD_PAGE) == []
    (tmp_path / "style.css").write_text('@import "https://fonts.example/a.css"; a { b: url(x.woff2) }', encoding="utf-8")
    assert list(page_problems(tmp_path)) == ["style.css: loads https://fonts.example/a.css from elsewhere"]


def test_docstrings_are_read_in_the_house_form() -> None:
    pytest.importorskip("griffe")
    loosened = importlib.import_module("scripts.site.docstrings").loosened
    house = """First.

Args:
    a: one.     b: two
        lines.
    c, d: as `a`.
Returns:
    (N,) </s>.
Source: A,
    eq. 1."""
    google = """First.

Args:
    a: one.
    b: two
        lines.
    c: as `a`.
    d: as `a`.

Returns:
    (N,) &lt;/s>.

**Source:** A,
eq. 1."""
    assert loosened(house) == google
    assert loosened("Args and errors are those of `<unk>`.") == "Args and errors are those of `<unk>`."
