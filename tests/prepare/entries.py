"""Files of sources without audio, and the entries that a reader yields."""

from pathlib import Path

from zipasr.prepare.utterance import Reason, Rejected, Utterance


def put(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def sorted_out(entries: object) -> tuple[dict[str, Utterance], dict[str, Reason]]:
    entries = list(entries)
    good = {entry.id: entry for entry in entries if isinstance(entry, Utterance)}
    bad = {entry.id: entry.reason for entry in entries if isinstance(entry, Rejected)}
    assert len(good) + len(bad) == len(entries)
    return good, bad
