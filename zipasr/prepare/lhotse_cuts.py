"""Lhotse cuts as a source: `read_cuts` yields an `Utterance` for each supervision, or a `Rejected` for what cannot be used.
Times are in seconds.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zipasr.data.manifest_index import require_lhotse
from zipasr.lines import parse_json, read_lines
from zipasr.prepare.recording_files import find_recording
from zipasr.prepare.utterance import Reason, Rejected, Utterance

_ROUNDING_S = 1e-3
"""Times in manifests are rounded by less than this."""


def _cut_utterances(cut: Any, folder: Path, lang: str, split: str | None, *, needs_texts: bool) -> Iterator[Utterance]:
    """Yield one utterance per supervision of a Lhotse cut: the part of the recording that the supervision describes.

    That part may begin before the cut or end after it, so that audio and text stay together.

    Raises:
        ValueError: the cut is not a part of one recording in a file, or of one of its channels or all.
    """
    if type(cut).__name__ not in ("MonoCut", "MultiCut") or not cut.has_recording:
        raise ValueError(f"a cut must be of one recording, but is a {type(cut).__name__} without one")
    if cut.recording.transforms:
        raise ValueError("a cut must be as recorded, but has transforms; save its audio first")
    supervisions = cut.supervisions
    if not supervisions and not needs_texts:
        from lhotse import SupervisionSegment

        supervisions = [SupervisionSegment(cut.id, cut.recording.id, 0.0, cut.duration, channel=cut.channel)]
    for supervision in supervisions:
        if not isinstance(supervision.text, str | None):
            shown = f"{supervision.text!r} ({type(supervision.text).__name__})"
            raise ValueError(f"the text of a supervision must be a string, but is {shown} instead")
        audio, channel = _file_and_channel(cut, supervision)
        start_s, duration_s = cut.start + supervision.start, supervision.duration
        if start_s < -_ROUNDING_S:
            raise ValueError(f"a supervision must start in its recording, but starts {-start_s:g} s before it")
        is_whole = start_s <= 0 and abs(duration_s - cut.recording.duration) < _ROUNDING_S
        yield Utterance(
            id=str(cut.id if len(supervisions) == 1 else supervision.id),
            audio=find_recording(str(audio), [folder, Path()]),
            text=supervision.text or "",
            channel=channel,
            start_s=max(0.0, start_s),
            duration_s=None if is_whole else duration_s,
            speaker=None if supervision.speaker is None else str(supervision.speaker),
            language=supervision.language or lang,
            split=split,
            custom=supervision.custom or {},
        )


def _file_and_channel(cut: Any, supervision: Any) -> tuple[str, int | None]:
    """The file of a supervision, and its channel in that file; None if the file has only that one, or all are meant."""
    # Differs: the channel of a supervision in a MonoCut is 0 unless it is set, so that of the cut counts.
    owner = supervision if type(cut).__name__ == "MultiCut" else cut
    channels = set(owner.channel if isinstance(owner.channel, list) else [owner.channel])
    sources = [source for source in cut.recording.sources if channels.intersection(source.channels)]
    if not sources or not channels <= set(sources[0].channels):
        raise ValueError(f"a supervision must have channels of one file, but has {sorted(channels)} of {cut.recording.id}")
    if sources[0].type != "file":
        raise ValueError(f"a recording must be in a file, but has a source of type {sources[0].type}")
    if len(channels) > 1 and len(channels) < len(sources[0].channels):
        raise ValueError(f"a supervision must have one channel, or all, but has {sorted(channels)} of {cut.recording.id}")
    is_one_of_several = len(channels) == 1 and len(sources[0].channels) > 1
    return sources[0].source, sources[0].channels.index(channels.pop()) if is_one_of_several else None


def read_cuts(
    path: Path, lang: str, split: str | None = None, *, needs_texts: bool = True
) -> Iterator[Utterance | Rejected]:
    """Yield the utterances of Lhotse cuts, one for each supervision; reads line by line.

    Args:
        lang: language of supervisions that name none.
        split: split of all utterances.
        needs_texts: whether a cut without supervisions is rejected; otherwise it is an utterance without text.
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
            cut = deserialize_item(parse_json(line))
            where = str(cut.id)
            utterances = list(_cut_utterances(cut, path.parent, lang, split, needs_texts=needs_texts))
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError, ArithmeticError) as error:
            yield Rejected(id=where, audio=path.name, reason=Reason.BAD_ENTRY, detail=str(error) or repr(error))
            continue
        if not utterances:
            detail = "expected a supervision with a text, got none"
            yield Rejected(id=where, audio=path.name, reason=Reason.NO_TEXT, detail=detail)
        yield from utterances
