"""Recordings with texts to evaluate on. Contract: what cannot be used is reported."""

from pathlib import Path

import numpy as np

from zipasr.audio import save_flac
from zipasr.prepare import open_references


def test_names_may_contain_line_separators(tmp_path: Path) -> None:
    name = "one\u2028two"
    for stem in ("good", name):
        (tmp_path / f"{stem}.txt").write_text("YES\n")
    save_flac(tmp_path / "good.flac", 0.1 * np.random.default_rng(0).standard_normal(16000).astype(np.float32))
    (tmp_path / f"{name}.flac").write_bytes(b"damaged")
    with open_references(tmp_path) as references:
        assert references.cuts.is_file()
        ((identity, reason),) = references.rejected
    assert name in identity
    assert reason.startswith("unreadable: ")
