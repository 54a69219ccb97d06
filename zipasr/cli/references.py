"""Recordings with known texts: read with a progress bar, and a line for each one that cannot be read."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from zipasr.evaluate import ReferenceUtterance
    from zipasr.prepare import References


def read_utterances(references: "References", name: str = "evaluate") -> "Iterator[ReferenceUtterance]":
    """The recordings with their texts, under a progress bar of this name; then those that are not in the cuts."""
    from zipasr.evaluate import ReferenceUtterance, read_cuts
    from zipasr.progress import track

    yield from track(read_cuts(references.cuts), name, unit="utterances")
    yield from (ReferenceUtterance(id, None, "", problem) for id, problem in references.rejected)


def report_unreadable(unreadable: "Iterable[tuple[str, str]]") -> None:
    """Write the id of each skipped recording and what is wrong with it."""
    from zipasr.progress import write_line

    for id, problem in unreadable:
        write_line(f"zipasr: skipped {id}: {problem}", is_error=True)
