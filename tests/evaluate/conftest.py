"""A set of cuts on which tests evaluate."""

from pathlib import Path

import pytest
import soundfile

from tests.tiny_model import noise


@pytest.fixture
def cuts(tmp_path: Path) -> Path:
    """Six cuts: four good ones (one without text, one at 8 kHz), a missing file and one that is not audio."""
    from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

    made = []
    for i, (duration_s, rate_hz) in enumerate([(1.0, 16_000), (0.5, 16_000), (2.0, 8_000), (0.8, 16_000)] * 2):
        path = tmp_path / f"{i}.wav"
        soundfile.write(path, noise(duration_s, i)[: round(duration_s * rate_hz)], rate_hz)
        if i == 4 or i > 5:
            continue
        text = "" if i == 1 else "THE QUICK FOX"
        recording = Recording.from_file(path, recording_id=str(i))
        supervision = SupervisionSegment(str(i), str(i), 0.0, recording.duration, text=text)
        made.append(MonoCut(str(i), 0.0, recording.duration, 0, supervisions=[supervision], recording=recording))
    (tmp_path / "3.wav").unlink()
    (tmp_path / "5.wav").write_text("not audio")
    path = tmp_path / "some_cuts.jsonl.gz"
    CutSet.from_cuts(made).to_file(path)
    return path
