"""Lhotse cuts as a source: `read_cuts` yields an `Utterance` for each supervision, or a `Rejected` for what cannot be used.
Times are in seconds.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zipasr.data.manifest_index import require_lhotse
from zipasr.lines import read_lines
from zipasr.prepare.utterance import Reason, Rejected, Utterance


def _cut_utterances(cut: Any, lang: str, split: str | None) -> Iterator[Utterance]:
    """Yield one utterance per supervision of a Lhotse cut.

    Raises:
        ValueError: the cut is not a part of one recording in a file.
    """
    if type(cut).__name__ not in ("MonoCut", "MultiCut") or not cut.has_recording:
        raise ValueError(f"a cut must be of one recording, but is a {type(cut).__name__} without one")
    if cut.recording.transforms:
        raise ValueError("a cut must be as recorded, but has transforms; save its audio first")
    sources = cut.recording.sources
    if len(sources) != 1 or sources[0].type != "file":
        kinds = ", ".join(source.type for source in sources)
        raise ValueError(f"a recording must be in one file, but has sources of type {kinds}")
    channel = cut.channel if isinstance(cut.channel, int) and cut.recording.num_channels > 1 else None
    is_whole = cut.start == 0 and abs(cut.duration - cut.recording.duration) < 1e-3
    for supervision in cut.supervisions:
        is_only = len(cut.supervisions) == 1
        yield Utterance(
            id=cut.id if is_only else supervision.id,
            audio=Path(sources[0].source),
            text=supervision.text or "",
            channel=channel,
            start_s=cut.start if is_only else cut.start + max(0.0, supervision.start),
            duration_s=(None if is_whole else cut.duration) if is_only else supervision.duration,
            speaker=supervision.speaker,
            language=supervision.language or lang,
            split=split,
            custom=supervision.custom or {},
        )


def read_cuts(path: Path, lang: str, split: str | None = None) -> Iterator[Utterance | Rejected]:
    """Yield the utterances of Lhotse cuts, one for each supervision; reads line by line.

    Raises:
        DataError: Lhotse is not installed.
    """
    require_lhotse("reading Lhotse cuts")
    from lhotse.serialization import deserialize_item

    for number, line in read_lines(path):
        where = f"{path.name}:{number}"
        if line is not None and not line.strip():
            continue
        try:
            if line is None:
                raise ValueError("a line must be UTF-8, but has other bytes")
            cut = deserialize_item(json.loads(line))
            where = str(cut.id)
            utterances = list(_cut_utterances(cut, lang, split))
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
            yield Rejected(id=where, audio=path.name, reason=Reason.BAD_ENTRY, detail=str(error) or repr(error))
            continue
        if not utterances:
            detail = "expected a supervision with a text, got none"
            yield Rejected(id=where, audio=path.name, reason=Reason.NO_TEXT, detail=detail)
        yield from utterances
