"""Write the tables of the documentation from benchmarks/results, so that a page cannot differ from its records.

    python benchmarks/tables.py            # rewrites README.md, docs/*.md and model cards in place
    python benchmarks/tables.py --check    # changes nothing; exits with 1 if a page is not up to date

A page marks where a table goes. Everything between the marks is replaced, so write nothing there:

    <!-- table NAME -->
    <!-- end NAME -->

Names are those in tables_accuracy.py, tables_commands.py and tables_speed.py. Within a sentence, `<!-- figure NAME -->` and
`<!-- end NAME -->` do the same for a single figure.
"""

import argparse
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import tables_accuracy
import tables_commands
import tables_speed

REPOSITORY = Path(__file__).parents[1]
TABLES: Mapping[str, Callable[[], str]] = tables_accuracy.TABLES | tables_commands.TABLES | tables_speed.TABLES
FIGURES: Mapping[str, Callable[[], str]] = tables_accuracy.FIGURES
_OPENING = re.compile(r"<!-- (table|figure) ([\w-]+) -->")
_ANY_MARK = re.compile(r"<!-- (?:table|figure|end)\b")


def pages() -> Iterator[Path]:
    """The files that may hold tables."""
    yield REPOSITORY / "README.md"
    yield from sorted((REPOSITORY / "docs").rglob("*.md"))
    yield from sorted((REPOSITORY / "zipasr" / "pretrained").rglob("*.md"))


def filled(text: str) -> str:
    """A page with its tables and figures as the records have them.

    Raises:
        ValueError: a mark has no end, or there is no table or figure of its name.
    """
    parts, position = [], 0
    while opening := _OPENING.search(text, position):
        kind, name = opening[1], opening[2]
        contents = TABLES if kind == "table" else FIGURES
        if name not in contents:
            raise ValueError(f"{opening[0]}: the name must be one of {', '.join(sorted(contents))}")
        end = f"<!-- end {name} -->"
        stop = text.find(end, opening.end())
        if stop < 0 or _ANY_MARK.search(text, opening.end(), stop):
            raise ValueError(f"{opening[0]}: it must be followed by {end}")
        content = contents[name]()
        parts += [text[position : opening.end()], f"\n\n{content}\n\n" if kind == "table" else content, end]
        position = stop + len(end)
    if stray := _ANY_MARK.search(text, position):
        raise ValueError(f"{text[stray.start() :].splitlines()[0]}: this mark has no beginning")
    return "".join([*parts, text[position:]])


def main() -> int:
    """Rewrite or check the pages; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a page is not up to date")
    args = parser.parse_args()
    outdated = False
    for page in pages():
        text = page.read_text(encoding="utf-8")
        new = filled(text)
        if new != text and args.check:
            print(f"{page.relative_to(REPOSITORY)}: not up to date; run python benchmarks/tables.py")
            outdated = True
        elif new != text:
            page.write_text(new, encoding="utf-8")
    return int(outdated)


if __name__ == "__main__":
    raise SystemExit(main())
