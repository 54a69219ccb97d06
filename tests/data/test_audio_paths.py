"""Contract: a manifest of a stranger runs no command and opens no URL, wherever it names audio."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from lhotse import CutSet, Recording
from lhotse.audio import AudioSource

from tests.data.tone_batches import tone_cuts
from zipasr.data.audio_paths import read_located
from zipasr.data.manifest_index import open_cuts
from zipasr.errors import DataError
from zipasr.evaluate import read_cuts


def without_file(recording: Recording, kind: str, source: str) -> Recording:
    """The recording, with its audio from a command or URL."""
    sources = [AudioSource(kind, [0], source)]
    return Recording(recording.id, sources, recording.sampling_rate, recording.num_samples, recording.duration)


def in_cut(cut: Any, bad: Recording) -> Any:
    cut.recording = bad
    return cut


def in_track(cut: Any, bad: Recording) -> Any:
    return cut.append(bad.to_cut())


def in_transform(cut: Any, bad: Recording) -> Any:
    return cut.reverb_rir(bad)


def load_all(cuts: Iterable[Any]) -> None:
    for cut in cuts:
        if hasattr(cut, "load_audio"):
            cut.load_audio()


PLACES: list[Callable[[Any, Recording], Any]] = [in_cut, in_track, in_transform]


@pytest.mark.parametrize("kind", ["command", "url"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts.jsonl.gz", "cuts.json"])
def test_no_command_runs(tmp_path: Path, place: Callable[[Any, Recording], Any], kind: str, name: str) -> None:
    cut = tone_cuts(tmp_path)[0]
    audio, trap = cut.recording.sources[0].source, tmp_path / "trap"
    source = f"touch {trap}; cat {audio}" if kind == "command" else f"file://{audio}"
    CutSet.from_cuts([place(cut, without_file(cut.recording, kind, source))]).to_file(tmp_path / name)
    readers = [read_located, read_cuts] + [open_cuts] * name.startswith("cuts.jsonl")
    for reader in readers:
        with pytest.raises(DataError, match=rf"must be in files, but has a source of the type '{kind}'"):
            load_all(reader(tmp_path / name))
    assert not trap.exists()
