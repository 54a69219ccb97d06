"""Law: a run that does not end leaves no text beside the audio of another source. Contract: recordings stay."""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.prepare.prepared import RATE_HZ, contents, cuts_of, put, tone
from zipasr.audio import load_audio
from zipasr.errors import AudioError, DataError
from zipasr.prepare import PrepareConfig, conversion, prepare


def put_source(folder: Path, freq_hz: float) -> Path:
    for i in range(6):
        put(folder, f"deep/{i}.wav", tone(1.0, freq_hz=freq_hz, rate_hz=8_000), f"{freq_hz:g} hertz {i}", rate_hz=8_000)
    return folder


def hertz_of(samples: np.ndarray) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples))) * RATE_HZ / len(samples))


def failing_at(number: int, function: Callable[..., Any], error: BaseException) -> Callable[..., Any]:
    """The function, whose call of that number raises the error instead."""
    lock, calls = threading.Lock(), iter(range(1, 1000))

    def call(*arguments: Any, **named: Any) -> Any:
        with lock:
            is_last = next(calls) == number
        if is_last:
            raise error
        return function(*arguments, **named)

    return call


@pytest.mark.parametrize("split", [None, "train"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), AudioError("a.flac cannot be written: disk full")])
def test_an_interrupted_run_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, split: str | None
) -> None:
    first, second, out = put_source(tmp_path / "1", 300), put_source(tmp_path / "2", 900), tmp_path / "out"
    prepare(first, out, PrepareConfig(split=split))
    before = contents(out)
    with monkeypatch.context() as patch:
        patch.setattr(conversion, "save_flac", failing_at(4, conversion.save_flac, error))
        with pytest.raises(type(error)):
            prepare(second, out, PrepareConfig(split=split))
    assert contents(out) == before
    prepare(second, out, PrepareConfig(split=split))
    after = cuts_of(out)
    assert len(after) == 6 and contents(out).keys() == before.keys()
    for cut in after.values():
        assert cut.supervisions[0].text.startswith("900 hertz")
        assert hertz_of(cut.load_audio()[0]) == pytest.approx(900, abs=2)


@pytest.mark.parametrize("number", [1, 4, 6])
def test_a_run_interrupted_while_audio_is_replaced_leaves_no_old_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    first, second, out = put_source(tmp_path / "1", 300), put_source(tmp_path / "2", 900), tmp_path / "out"
    prepare(first, out)
    prepare(first, out, PrepareConfig(split="noise"))
    noise = (out / "noise_cuts.jsonl.gz").read_bytes()
    replace = os.replace
    failing = failing_at(number, replace, KeyboardInterrupt())

    def replacing(source: Path | str, target: Path | str) -> None:
        is_put_in_place = ".new-" in str(source) and ".new-" not in str(target)
        (failing if is_put_in_place else replace)(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replacing)
        with pytest.raises(KeyboardInterrupt):
            prepare(second, out)
    assert {path.name for path in out.glob("*_cuts.jsonl.gz")} == {"noise_cuts.jsonl.gz"}
    assert (out / "noise_cuts.jsonl.gz").read_bytes() == noise
    assert not list(out.rglob(".*"))
    prepare(second, out)
    for cut in cuts_of(out).values():
        heard = hertz_of(cut.load_audio()[0])
        assert heard == pytest.approx(900 if cut.supervisions[0].text else 300, abs=2)


def test_recordings_of_the_source_in_the_output_stay(tmp_path: Path) -> None:
    """A table beside a folder `audio`, prepared into its own folder, again with fewer rows, and again from its cuts."""
    rows = []
    for i in range(6):
        put(tmp_path, f"audio/{i}.wav", tone(1.0 + i, rate_hz=8_000), None, rate_hz=8_000)
        rows.append(json.dumps({"id": str(i), "audio": f"audio/{i}.wav", "text": f"number {i}"}))
    recordings = contents(tmp_path)
    for number in (6, 3):
        (tmp_path / "rows.jsonl").write_text("\n".join(rows[:number]))
        prepare(tmp_path / "rows.jsonl", tmp_path)
        durations = {id: round(cut.load_audio().shape[1] / RATE_HZ) for id, cut in cuts_of(tmp_path).items()}
        assert durations == {str(i): 1 + i for i in range(number)}
    (tmp_path / "train_cuts.jsonl.gz").rename(tmp_path / "all.jsonl.gz")
    prepare(tmp_path / "all.jsonl.gz", tmp_path, PrepareConfig(dev_share=0.0, test_share=0.0))
    durations = [round(cut.load_audio().shape[1] / RATE_HZ) for cut in cuts_of(tmp_path).values()]
    assert len(durations) == 1
    after = contents(tmp_path)
    assert {name: after.get(name) for name in recordings} == recordings


def test_audio_does_not_replace_a_recording_of_the_source(tmp_path: Path) -> None:
    put(tmp_path, "audio/0.flac", tone(1.0, rate_hz=8_000), None, rate_hz=8_000)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"id": "0", "audio": "audio/0.flac", "text": "zero"}))
    before = contents(tmp_path)
    with pytest.raises(
        DataError, match=r"the output must not replace a recording of the source, but would do so with .*0\.flac"
    ):
        prepare(tmp_path / "rows.jsonl", tmp_path)
    assert contents(tmp_path) == before
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(DataError, match="the output must not replace"):
        prepare(tmp_path / "link" / "rows.jsonl", tmp_path)
    prepare(tmp_path / "rows.jsonl", tmp_path, PrepareConfig(split="train"))
    assert load_audio(tmp_path / "audio-train" / "0.flac").shape == (RATE_HZ,)
    assert {name: content for name, content in contents(tmp_path).items() if name in before} == before
