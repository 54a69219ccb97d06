"""Check a built site: links and anchors lead somewhere, nothing is loaded from elsewhere, and the reference is complete.

Zensical checks the links that it finds in Markdown. This also sees those that docstrings, HTML and the theme make, what a
browser would load, and names that the reference lacks or has without a description.
"""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from posixpath import normpath
from urllib.parse import unquote

from scripts.site.pages import OTHER_SITE
from scripts.site.reference import ALL_MODULES, definition, page_of, public_names

LOADED = ("src", "srcset", "data", "poster", "action")
"""Attributes whose value a browser loads, whatever the element."""
ON_DEMAND = {
    "mermaid": "https://unpkg.com/mermaid",
    "glightbox": "https://unpkg.com/glightbox",
    "pyodide": "https://unpkg.com/pyodide",
}
"""Classes for which the theme's script loads another one."""
NOT_LOADED_RELATIONS = {"canonical", "next", "prev", "alternate"}
CSS_URL = re.compile(r"(?:url\(|@import)\s*[\"']?([^\"')\s;]+)")
RAW = re.compile(r"\][\[(]\S[^\])]*[\])]|\n *(?:[-*+]|1\.|#+) \S[^\n]*|\n *\|[^\n]*\||(?:`{3}|~{3})[^\n]*|\*\*")
"""Links, lists, headings, tables, blocks and bold text of Markdown that are shown as they were written."""


TEXT_BLOCKS = ("p", "li", "td", "th", "dd")
BLOCKS = (*TEXT_BLOCKS, "h1", "h2", "h3", "h4", "h5", "h6")


class Page(HTMLParser):
    """What is of interest in a page: its ids, links, what it loads, and Markdown that became text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.raw: list[str] = []
        self._verbatim: list[str] = []
        self._block = ""
        self._is_in_article = False
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note the ids, links and sources of an element."""
        values = {name: value for name, value in attributes if value}
        if "id" in values:
            self.ids.add(values["id"])
        if tag in BLOCKS:
            self._block = tag
        self._is_in_article |= tag == "article"
        if tag in ("code", "pre", "script", "style", "textarea"):
            self._verbatim.append(tag)
        self.loaded += [values[name] for name in LOADED if name in values]
        self.loaded += CSS_URL.findall(values.get("style", ""))
        self.loaded += [ON_DEMAND[name] for name in values.get("class", "").split() if name in ON_DEMAND]
        is_navigation = tag in ("a", "area") or values.get("rel") in NOT_LOADED_RELATIONS
        if "href" in values:
            (self.links if is_navigation else self.loaded).append(values["href"])

    def handle_endtag(self, tag: str) -> None:
        """Note the end of text that is shown as it is."""
        if self._verbatim and self._verbatim[-1] == tag:
            self._verbatim.pop()
        if tag in BLOCKS:
            self._block = ""
        self._is_in_article &= tag != "article"

    def handle_data(self, data: str) -> None:
        """Note Markdown in text, and what style sheets load."""
        if self._verbatim and self._verbatim[-1] == "style":
            self.loaded += CSS_URL.findall(data)
        elif self._is_in_article and not self._verbatim and self._block in TEXT_BLOCKS:
            self.raw += RAW.findall(data)


def read_pages(site: Path) -> dict[str, Page]:
    """The pages of the built site in a folder, by their path in it."""
    paths = sorted(site.rglob("*.html"))
    return {path.relative_to(site).as_posix(): Page(path.read_text(encoding="utf-8")) for path in paths}


def page_problems(site: Path) -> Iterator[str]:
    """What is wrong with the pages and style sheets of a built site, a line each."""
    pages = read_pages(site)
    for name, page in pages.items():
        yield from _wrong_links(site, pages, name)
        yield from (f"{name}: loads {url} from elsewhere" for url in page.loaded if _is_elsewhere(url))
        yield from (f"{name}: shows Markdown as text (lists need a blank line above): {text.strip()}" for text in page.raw)
    for path in sorted(site.rglob("*.css")):
        for url in CSS_URL.findall(path.read_text(encoding="utf-8")):
            if _is_elsewhere(url):
                yield f"{path.relative_to(site)}: loads {url} from elsewhere"


def reference_problems(site: Path) -> Iterator[str]:
    """Public names that the reference of a built site lacks, or that have no docstring."""
    pages = read_pages(site)
    for module in ALL_MODULES:
        html = str(page_of(module)).replace(".md", ".html")
        ids = pages[html].ids if html in pages else set()
        for name in public_names(module):
            if f"{module}.{name}" not in ids:
                yield f"{html}: {module}.{name} is missing"
            if not definition(module, name).has_docstring:
                yield f"{html}: {module}.{name} has no docstring"


def _is_elsewhere(url: str) -> bool:
    return OTHER_SITE.match(url) is not None and not url.startswith("data:")


def _wrong_links(site: Path, pages: dict[str, Page], name: str) -> Iterator[str]:
    """Links of a page, and sources, that lead to no file or no anchor of the site."""
    if name == "404.html":  # its links start at the root of the server
        return
    for url in dict.fromkeys([*pages[name].links, *pages[name].loaded]):
        path, _, anchor = unquote(url).partition("#")
        if OTHER_SITE.match(url):
            continue
        target = normpath(f"{name}/../{path.partition('?')[0]}") if path else name
        if (site / target).is_dir():
            target = normpath(f"{target}/index.html")
        if not (site / target).is_file():
            yield f"{name}: {url} leads to no page"
        elif anchor and target in pages and anchor not in pages[target].ids:
            yield f"{name}: {url} leads to no anchor"
