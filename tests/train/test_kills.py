"""Run: a run that is killed at random moments (SIGKILL, no warning) ends with the same bits as an uninterrupted one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.train.kills import NUM_STEPS
from tests.train.ranks import REPOSITORY
from tests.train.tones import write_tones
from tests.watchdog import WATCHDOG_S
from zipasr.checkpoint import CheckpointFolder
from zipasr.train.metrics import read_metrics
from zipasr.train.state import AVERAGE_FILE, TENSORS_FILE, TRAINING_FILE, checkpoint_folders


@pytest.mark.slow(minutes=6)
def test_twenty_kills_change_nothing(tmp_path: Path) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    data = write_tones(tmp_path / "data", num_train=24, num_dev=2)
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.train.kills", str(tmp_path), str(data), "20"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=2 * WATCHDOG_S, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["killed"] * 20
    whole, parts = checkpoint_folders(tmp_path / "whole"), checkpoint_folders(tmp_path / "parts")
    assert list(whole) == list(parts)
    assert max(whole) == NUM_STEPS
    last = max(whole)
    best = [f"best/{path.name}" for path in (tmp_path / "whole" / "best").iterdir()]
    for name in (f"checkpoints/{whole[last].name}", "model", *best):
        a, b = CheckpointFolder(tmp_path / "whole" / name), CheckpointFolder(tmp_path / "parts" / name)
        assert a.names() == b.names()
        for file in a.names():
            if file in ("model.safetensors", TENSORS_FILE, AVERAGE_FILE):
                tensors = b.tensors(file)
                assert all(torch.equal(tensor, tensors[key]) for key, tensor in a.tensors(file).items()), (name, file)
            elif file == TRAINING_FILE:
                documents = [a.document(file), b.document(file)]
                for document in documents:
                    del document["position"]["train_s"]
                assert documents[0] == documents[1]
            else:
                assert a.blob(file) == b.blob(file), (name, file)
    lines = [[line for line in read_metrics(tmp_path / name) if line["kind"] == "dev"] for name in ("whole", "parts")]
    assert lines[0] == lines[1]
    left = [path.name for path in (tmp_path / "parts").glob("**/.*-*")]
    assert not left
