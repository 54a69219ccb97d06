"""Collect the pages of the documentation site: README, CHANGELOG, docs/, the API reference, and whatever these link to.

The pages are written for the repository, where links may lead to any file. On the site a link to a module leads to its page
of the reference, and other files outside docs/ become pages of their own below files/, so that a site is complete and shows
the version it was built from. A link to a file or heading that does not exist raises `PageError`.
"""

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from urllib.parse import unquote

from scripts.site.reference import ALL_MODULES, GROUPS, REPOSITORY, definition, page_of, public_names

ROOT_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""Pages of the site from Markdown files beside docs/."""

ASSETS = (".png", ".svg", ".jpg", ".gif", ".webp")
LANGUAGES = {".py": "python", ".json": "json", ".jsonl": "json", ".toml": "toml", ".yml": "yaml"}
"""How files are highlighted."""
LISTED = (".md", *LANGUAGES)
"""Files that the page of a folder lists."""

TOKEN = re.compile(
    r"(?P<code>^ *(?P<fence>`{3,}|~{3,}).*?^ *(?P=fence) *$)"
    r"|(?P<link>!?\[(?:[^\[\]]|\[[^\[\]]*\])*\]\()(?P<target>[^)\s]+)(?P<end>(?:\s+\"[^\"]*\")?\))"
    r"|(?P<html>\b(?:src|href|srcset)=\")(?P<url>[^\"]+)(?P<quote>\")"
    r"|(?P<inline>`+).*?(?P=inline)",
    re.MULTILINE | re.DOTALL,
)
NESTED_ITEM = re.compile(r"^ {1,3}(?:[-*+]|\d+\.) .*", re.MULTILINE)
"""An item that forges nest, and Python-Markdown does not."""
OTHER_SITE = re.compile(r"[a-z][a-z0-9+.-]*:|//")


class PageError(Exception):
    """A page cannot be part of the site; the message names it."""


def site_path(path: str) -> str:
    """Where a file or folder of the repository is on the site."""
    if path in ROOT_PAGES:
        return ROOT_PAGES[path]
    if page := page_of(_module(path)):
        return page
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    suffix = PurePosixPath(path).suffix
    return f"files/{path}" if suffix in (".md", *ASSETS) else f"files/{path}.md"


def _module(path: str) -> str:
    """The dotted name of a path of the repository."""
    return path.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")


def slug(heading: str) -> str:
    """The anchor of a heading, the same on forges and on the site."""
    words = re.sub(r"!?\[([^\]]*)\]\([^)]*\)|<[^>]+>", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", words.strip().lower()).replace(" ", "-")


def without_blocks(text: str) -> str:
    """Markdown without its blocks of code."""
    return TOKEN.sub(lambda token: "" if token["code"] else token[0], text)


def anchors(text: str) -> list[str]:
    """The anchors of a Markdown file: its headings, and explicit ids."""
    text = without_blocks(text)
    headings = re.findall(r"^#{1,6} +(.+?) *#*$", text, re.MULTILINE)
    return [*map(slug, headings), *re.findall(r'\b(?:id|name)="([^"]+)"', text)]


def for_site(text: str, rewrite: Callable[[str], str]) -> str:
    """Markdown in which every link, image and HTML reference outside code is replaced by `rewrite(target)`.

    Only Markdown's own links become links to HTML when the site is built. Blocks of code keep only the first word of their
    info string, the language (tests/test_docs.py reads the others).
    """

    def replaced(token: re.Match[str]) -> str:
        if token["link"]:
            label = for_site(token["link"][1:], rewrite) if token["link"][0] == "[" else token["link"][1:]
            return token["link"][0] + label + rewrite(token["target"]) + token["end"]
        if token["html"]:
            return token["html"] + re.sub(r"\.md(?=#|$)", ".html", rewrite(token["url"])) + token["quote"]
        if token["code"]:
            return re.sub(r"^( *[`~]+\w+) .*", r"\1", token["code"], count=1)
        return token[0]

    return TOKEN.sub(replaced, text)


class Site:
    """The pages of the site, by their path on it."""

    def __init__(self, repository: Path = REPOSITORY) -> None:
        self.repository = repository
        self.pages: dict[str, bytes] = {}

    def collect(self) -> None:
        """Add all pages. Raises `PageError` with every broken link."""
        wrong: list[str] = []
        waiting = [name for name in ROOT_PAGES if (self.repository / name).exists()]
        waiting += sorted(f"docs/{path.name}" for path in (self.repository / "docs").glob("*.md"))
        known = set(waiting)
        for path in waiting:  # grows by what is linked
            try:
                linked = self._add(path)
            except PageError as error:
                wrong.append(str(error))
                continue
            waiting += sorted(linked - known)
            known |= linked
        if wrong:
            raise PageError("\n".join(wrong))

    def _add(self, path: str) -> set[str]:
        """Add a file or folder of the repository; the paths that it links to."""
        file, target = self.repository / path, site_path(path)
        if file.suffix in ASSETS:
            self.pages[target] = file.read_bytes()
            return set()
        linked: set[str] = set()
        folder = path if file.is_dir() else str(PurePosixPath(path).parent)

        def on_site(link: str) -> str:
            if OTHER_SITE.match(link):
                return link
            name, mark, anchor = unquote(link).partition("#")
            there = normpath(f"{folder}/{name}") if name else path
            self._check(path, link, there, anchor)
            if page_of(_module(there)) is None:
                linked.add(there)
            return relpath(site_path(there), PurePosixPath(target).parent) + mark + anchor

        text = self._text(path)
        if item := NESTED_ITEM.search(without_blocks(text)):
            raise PageError(f"{path}: indent an item of a nested list by four spaces: {item[0].strip()}")
        text = for_site(text, on_site)
        if target.startswith("files/"):
            text = "---\nsearch:\n  exclude: true\n---\n\n" + text
        self.pages[target] = text.encode()
        return linked

    def _text(self, path: str) -> str:
        """A file of the repository as Markdown: as it is, as a block of code, or a folder as the list of its files."""
        file = self.repository / path
        if file.is_dir():
            names = sorted(child.name for child in file.iterdir() if child.is_file() and child.suffix in LISTED)
            return f"# {path}\n\n" + "\n".join(f"- [{name}]({name})" for name in names) + "\n"
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise PageError(f"{path} is no text and no picture; link to its folder instead") from None
        if file.suffix == ".md":
            return text
        language = "bash" if text.startswith("#!") else LANGUAGES.get(file.suffix, "text")
        return f"# {path}\n\n````{language}\n{text.rstrip()}\n````\n"

    def _check(self, path: str, link: str, there: str, anchor: str) -> None:
        """Raise `PageError` unless a link of the file `path` leads to a file, and its anchor to one heading."""
        file = self.repository / there
        if there.startswith("..") or not file.exists():
            raise PageError(f"{path}: the link {link} leads to no file of the repository")
        if anchor and file.suffix == ".md" and anchors(file.read_text(encoding="utf-8")).count(anchor) != 1:
            raise PageError(f"{path}: the link {link} leads to no heading, or to several")


def reference_page(name: str) -> str:
    """A page of the API reference; the docstrings are filled in when the site is built."""
    group = GROUPS[name]
    parts = [f"# {group.title}"]
    for module in group.modules:
        members = ", ".join(public_names(module))
        parts += [f"## `{module}` {{ #{module} }}", f"::: {module}\n    options:\n      members: [{members}]"]
    return "\n\n".join(parts) + "\n"


def reference_index() -> str:
    """The first page of the API reference: what the root exports, and all pages with their names."""
    homes = {definition(module, name).path: module for module in ALL_MODULES for name in public_names(module)}
    rows = ["| name | what it is |", "|---|---|"]
    for name in public_names("zipasr"):
        found = definition("zipasr", name)
        about = found.docstring.value.split("\n\n")[0].replace("\n", " ") if found.docstring else ""
        label = f"[`{name}`]({_to(homes[found.path], name)})" if found.path in homes else f"`{name}`"
        rows.append(f"| {label} | {about} |")
    parts = ["# API reference", INTRODUCTION, "\n".join(rows)]
    for name, group in GROUPS.items():
        parts.append(f"## [{group.title}]({name}.md)")
        for module in group.modules:
            parts.append(
                f"`{module}`: " + ", ".join(f"[`{member}`]({_to(module, member)})" for member in public_names(module))
            )
    return "\n\n".join(parts) + "\n"


def _to(module: str, name: str) -> str:
    """The link from the first page of the reference to a name."""
    return f"{str(page_of(module)).removeprefix('api/')}#{module}.{name}"


INTRODUCTION = """\
Everything here comes from the docstrings of this version. `import zipasr` is lazy: it loads nothing until a name is used.
`nn`, `encoder`, `heads`, `losses` and `optim` need only PyTorch.

Letters of shapes: N batch, T frames, F mel bins, D channels, H heads, S labels, U = S + 1 positions, R labels of the pruned
range, V vocabulary, C frames of a chunk, L left context. Units are part of names: `_s`, `_ms`, `_samples`, `_frames`.

What the root exports:"""


def write(site: Site, folder: Path) -> None:
    """Write the pages to a folder; files that are the same stay untouched, others in it go."""
    for name, content in site.pages.items():
        path = folder / name
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in site.pages:
            path.unlink()


def collect(repository: Path = REPOSITORY) -> Site:
    """All pages of the site."""
    site = Site(repository)
    site.collect()
    site.pages["style.css"] = (Path(__file__).parent / "style.css").read_bytes()
    site.pages["api/index.md"] = reference_index().encode()
    for name in GROUPS:
        site.pages[f"api/{name}.md"] = reference_page(name).encode()
    return site
