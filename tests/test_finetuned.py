"""Run: the model of the quick start, finetuned to another language; output goes straight to the log."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.quickstart import DATA, RUN, ensure_quickstart

LEFT_OF_NEW = 0.6
"""Largest share of the word error rate on French prompts that may be left after finetuning to them."""
MAX_FORGOTTEN = 12.0
"""Points by which the word error rate on English prompts may rise in finetuning with half of the audio being English;
without English audio almost no English word is recognized any more (docs/finetuning.md)."""


@pytest.mark.slow(minutes=12)
@pytest.mark.network
def test_french_is_learned_and_english_not_forgotten(
    tmp_path: Path, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture
) -> None:
    """As in docs/finetuning.md: a new vocabulary, and the old prompts mixed in."""
    ensure_quickstart(request.config)
    french, run = tmp_path / "fr", tmp_path / "run"
    settings = ["finetune.vocabulary=new", "num_epochs=1", "batch.spec_augment=none", "lr=0.01"]
    settings.append(f"mix={json.dumps([{'data': str(DATA), 'share': 0.5}])}")
    with capfd.disabled():
        command("prepare", "prompts", "--lang", "fr", "--out", french)
        command("train", french, "--from", RUN, "--out", run, *(part for text in settings for part in ("--set", text)))
        before, after = (
            {name: wer_on(data, model) for name, data in (("French", french), ("English", DATA))} for model in (RUN, run)
        )
        print(f"test WER before finetuning: {before}, after: {after}")
    assert after["French"] <= LEFT_OF_NEW * before["French"]
    assert after["English"] <= before["English"] + MAX_FORGOTTEN


def command(*argv: Any) -> str:
    """Run one of our commands and return its stdout.

    It has one thread, which is hardly slower than two and does not suffer from other processes.
    """
    line, env = [sys.executable, "-m", "zipasr", *map(str, argv)], {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(line, cwd=REPOSITORY, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout


def wer_on(data: Path, run: Path) -> float:
    return round(float(json.loads(command("evaluate", run, data / "test_cuts.jsonl.gz", "--json"))["wer"]), 1)
