"""Build the documentation site strictly into site/, or serve it while you write: `scripts/docs [--serve]`."""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

import yaml

from scripts.site.check import page_problems, reference_problems
from scripts.site.pages import PageError, collect, write
from scripts.site.reference import REPOSITORY, package

PAGES, SITE = REPOSITORY / "build" / "pages", REPOSITORY / "site"
ZENSICAL = [sys.executable, "-m", "zensical"]
WATCHED = ("README.md", "CHANGELOG.md", "docs", "zipasr", "benchmarks", "examples", "scripts/site")
COLOR = re.compile(r"\x1b\[[0-9;]*m")


def nav_pages(nav: object) -> list[str]:
    """The pages of the navigation in mkdocs.yml, in order."""
    if isinstance(nav, str):
        return [nav]
    entries = nav if isinstance(nav, list) else list(nav.values()) if isinstance(nav, dict) else []
    return [page for entry in entries for page in nav_pages(entry)]


def nav_problems(pages: set[str], config: Path = REPOSITORY / "mkdocs.yml") -> list[str]:
    """Pages that the navigation lacks, repeats, or has without a file."""
    listed = nav_pages(yaml.safe_load(config.read_text(encoding="utf-8"))["nav"])
    expected = {page for page in pages if page.endswith(".md") and not page.startswith("files/")}
    return [
        *(f"mkdocs.yml: the navigation lacks {page}" for page in sorted(expected - set(listed))),
        *(f"mkdocs.yml: the navigation has {page}, which does not exist" for page in listed if page not in pages),
        *(f"mkdocs.yml: the navigation repeats {page}" for page in sorted(set(listed)) if listed.count(page) > 1),
    ]


def build() -> list[str]:
    """Build the site; everything that is wrong with it, a line each. Raises `PageError` if pages cannot be collected."""
    site = collect()
    if wrong := nav_problems(set(site.pages)):
        return wrong
    write(site, PAGES)
    run = subprocess.run([*ZENSICAL, "build", "--clean", "--strict"], cwd=REPOSITORY, capture_output=True, text=True)
    output = COLOR.sub("", run.stdout + run.stderr)
    unread = [line for line in output.splitlines() if line.startswith(("griffe", "mkdocstrings", "mkdocs_autorefs"))]
    if run.returncode or unread:
        return [*unread, *([output] if run.returncode else [])]
    return [*page_problems(SITE), *reference_problems(SITE)]


def newest_change() -> float:
    """When a file that pages are made of was last written."""
    files = (path for name in WATCHED for path in [REPOSITORY / name, *(REPOSITORY / name).rglob("*")])
    return max(path.stat().st_mtime for path in files if path.is_file() and "__pycache__" not in path.parts)


def serve(address: str) -> None:
    """Show the site until Ctrl-C, built anew whenever a page or a docstring changes. Pages that are wrong then are named."""
    write(collect(), PAGES)
    seen = newest_change()
    with subprocess.Popen([*ZENSICAL, "serve", "--dev-addr", address], cwd=REPOSITORY) as server:
        while server.poll() is None:
            time.sleep(1)
            if newest_change() > seen:
                seen = newest_change()
                package.cache_clear()
                try:
                    write(collect(), PAGES)
                except PageError as error:
                    print(error, file=sys.stderr)


def main() -> int:
    """The exit code of `scripts/docs`."""
    parser = argparse.ArgumentParser(prog="scripts/docs", description="Build the documentation into site/, or serve it.")
    parser.add_argument(
        "--serve", metavar="ADDRESS", nargs="?", const="localhost:8000", help="serve it here (%(const)s) while you write"
    )
    address = parser.parse_args().serve
    start = time.monotonic()
    try:
        if address:
            serve(address)
            return 0
        wrong = build()
    except PageError as error:
        wrong = str(error).splitlines()
    except KeyboardInterrupt:
        return 0
    for line in wrong:
        print(line, file=sys.stderr)
    if wrong:
        print(f"scripts/docs: {len(wrong)} problems", file=sys.stderr)
        return 1
    print(f"scripts/docs: built site/index.html in {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
