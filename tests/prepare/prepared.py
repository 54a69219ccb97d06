"""Sources of made-up recordings, and what `prepare` wrote of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from zipasr.data.audio_paths import read_located

RATE_HZ = 16_000


def tone(duration_s: float, *, freq_hz: float = 440.0, rate_hz: int = RATE_HZ) -> np.ndarray:
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    return (0.3 * np.sin(2 * np.pi * freq_hz * time_s)).astype(np.float32)


def put(folder: Path, name: str, samples: np.ndarray | None = None, text: str | None = "HELLO WORLD", **how: Any) -> Path:
    """Write a recording and its text."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    rate_hz = how.pop("rate_hz", RATE_HZ)
    soundfile.write(path, tone(1.0) if samples is None else samples, rate_hz, **how)
    if text is not None:
        path.with_suffix(".txt").write_text(text)
    return path


def cuts_of(out: Path) -> dict[str, Any]:
    """All cuts that were written, by id."""
    return {cut.id: cut for path in sorted(out.glob("*_cuts.jsonl.gz")) for cut in read_located(path)}


def rejected_of(out: Path) -> dict[str, str]:
    return {row["id"]: row["reason"] for row in map(json.loads, (out / "rejected.jsonl").read_text().splitlines())}


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
