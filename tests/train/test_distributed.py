"""Training in several processes. Law: two ranks equal one rank with the doubled batch. Run: they stop together, resume to
the same bits, and report what to do when one of them dies. All over gloo on the CPU."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.ports import free_port
from tests.train import ranks
from tests.train.ranks import (
    REPOSITORY,
    launch,
    law_config,
    make_exact,
    new_stepper,
    random_batch,
    take_steps,
)
from tests.train.tones import minute_config, write_tones
from tests.watchdog import WATCHDOG_S
from zipasr.checkpoint import CheckpointFolder
from zipasr.errors import ConfigError
from zipasr.model import AsrModel
from zipasr.train import setup
from zipasr.train.distributed import Ranks, _fresh_part, ranks_of_environment
from zipasr.train.loop import train
from zipasr.train.metrics import read_metrics
from zipasr.train.state import AVERAGE_FILE, TENSORS_FILE, checkpoint_folders


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("tones"), num_train=24, num_dev=2)


def finish(processes: list[Any], timeout_s: float = WATCHDOG_S) -> list[str]:
    """The stderr of the processes, once all have ended."""
    try:
        return [process.communicate(timeout=timeout_s)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()


def assert_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_two_ranks_are_one_with_the_doubled_batch(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps on halves of batches; then a run whose last step of each epoch has a batch for only one rank. Eden goes by
    hours."""
    processes = launch(ranks.law, tmp_path, data)
    monkeypatch.setattr(AsrModel, "train", AsrModel.train)  # restored with the other patches
    monkeypatch.setattr(setup, "new_optimizer", setup.new_optimizer)
    make_exact()
    generator = torch.Generator().manual_seed(0)
    one = take_steps(new_stepper(minute_config()), [[random_batch(generator)] for _ in range(5)])
    before = new_stepper(minute_config()).state.model.state_dict()
    train(law_config(str(data), accumulate_batches=2), tmp_path / "one", is_quiet=True)
    errors = finish(processes)
    assert [process.returncode for process in processes] == [0, 0], errors
    both = [safetensors.torch.load_file(tmp_path / f"rank{rank}.safetensors") for rank in range(2)]
    assert all(torch.equal(tensor, both[1][name]) for name, tensor in both[0].items())
    assert_close(both[0], one)
    said = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert said[0] == said[1]
    assert said[0][0] == [False, True, "skipped a batch whose loss is nan: u4, u5, u6, u7"]
    assert said[0][1] == [False, True, "skipped a batch whose gradients are not finite: u4, u5, u6, u7"]
    assert said[0][2] == [True, False, "skipped utterances that do not fit into memory even alone: u4, u5, u6, u7"]
    assert said[0][3] is False  # the first rank trained in the last of these
    assert max(float((tensor - before[name]).abs().max()) for name, tensor in one.items()) > 0.01
    assert errors[1] == ""
    folders = [checkpoint_folders(tmp_path / name) for name in ("run", "one")]
    assert list(folders[0]) == list(folders[1]) == [6]  # 3 batches per epoch: 2 steps, of 2 batches and of 1
    weights = [CheckpointFolder(folder[6]).tensors("model.safetensors") for folder in folders]
    assert_close(*weights)
    lines = [[line for line in read_metrics(tmp_path / name) if line["kind"] == "train"] for name in ("run", "one")]
    assert [line["loss"] for line in lines[0]] == pytest.approx([line["loss"] for line in lines[1]], rel=1e-4)
    for name in ("audio_h", "lr"):
        assert [line[name] for line in lines[0]] == [line[name] for line in lines[1]]
    hours = [CheckpointFolder(folder[6]).document("training.json")["scheduler"] for folder in folders]
    assert hours[0] == hours[1] == {"batch": 6, "hours": hours[0]["hours"]}


def test_resumed_ranks_are_bit_identical(data: Path, tmp_path: Path) -> None:
    """This holds with all randomness on, and with random states that differ between ranks."""
    processes = launch(ranks.runs, tmp_path, data)
    errors = finish(processes)
    assert [process.returncode for process in processes] == [0, 0], errors
    whole, parts = checkpoint_folders(tmp_path / "whole"), checkpoint_folders(tmp_path / "parts")
    assert set(whole) <= set(parts)
    for number, folder in whole.items():
        a, b = CheckpointFolder(folder), CheckpointFolder(parts[number])
        for name in ("model.safetensors", TENSORS_FILE, AVERAGE_FILE):
            tensors = b.tensors(name)
            assert all(torch.equal(tensor, tensors[key]) for key, tensor in a.tensors(name).items()), (number, name)
        told = a.document("training.json")["ranks"]
        assert told == b.document("training.json")["ranks"]
        random = a.tensors(TENSORS_FILE)["random.cpu"]
        assert told[0] is None and told[1]["random"]["cpu"] != bytes(random.tolist()).hex()


def test_ranks_go_back_and_give_up_together(data: Path, tmp_path: Path) -> None:
    processes = launch(ranks.diverging, tmp_path, data)
    errors = finish(processes)
    assert [process.returncode for process in processes] == [1, 1], errors
    assert "the last 2 steps up to 3 were not finite: going back to step 1 with the learning rate times 0.5" in errors[0]
    assert errors[0].count("skipped a batch whose loss is nan") == 4
    assert "diagnosis of step 3: learning rate" in errors[0]
    assert f"The last good checkpoint is {checkpoint_folders(tmp_path)[1]}" in errors[0]
    assert "ZipasrError" in errors[0]  # raised by the first rank, while the others exit silently
    assert errors[1] == ""


def wait_for_lines(folder: Path, num_lines: int, processes: list[Any]) -> None:
    deadline = time.monotonic() + WATCHDOG_S
    path = folder / "metrics.jsonl"
    while not path.is_file() or path.read_text().count("\n") < num_lines:
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes), finish(processes)
        time.sleep(0.05)


def test_sigterm_stops_all_ranks_and_a_dead_rank_is_reported(data: Path, tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text(
        "from tests.train.tones import minute_config\nfrom zipasr.train.config import TrainConfig\n\n"
        "def run() -> TrainConfig:\n    return minute_config(num_epochs=100_000, log_interval=1, rank_timeout_s=3600.0)\n"
    )
    processes = launch(ranks.endless, tmp_path, data)
    wait_for_lines(tmp_path / "run", 2, processes)
    processes[1].send_signal(signal.SIGTERM)  # to only one of them: they agree
    errors = finish(processes)
    assert [process.returncode for process in processes] == [0, 0], errors
    (stopped,) = checkpoint_folders(tmp_path / "run")
    assert f"stopped after batch {stopped}; run the same command to resume" in errors[0]
    assert "stopped after" not in errors[1]

    lines = (tmp_path / "run" / "metrics.jsonl").read_text().count("\n")
    processes = launch(ranks.endless, tmp_path, data)
    wait_for_lines(tmp_path / "run", lines + 2, processes)
    processes[1].kill()
    errors = finish(processes)  # long before rank_timeout_s
    assert processes[0].returncode == 1
    assert "continuing with" in errors[0]
    assert "process 0 of 2 lost another one" in errors[0]
    assert "Run the same command again to go on from the last checkpoint" in errors[0]
    assert "Traceback" not in errors[0]


@pytest.mark.slow(minutes=4)
def test_torchrun_on_two_machines_restarts_after_a_death(data: Path, tmp_path: Path) -> None:
    """Two agents meet by torchrun's own rendezvous; a killed worker costs one restart of both, from a checkpoint."""
    (tmp_path / "short.py").write_text(
        "from tests.train.tones import minute_config\nfrom zipasr.train.config import TrainConfig\n\n"
        "def run() -> TrainConfig:\n"
        f"    return minute_config({str(data)!r}, num_epochs=60, save_interval=5, log_interval=1)\n"
    )
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes",
        "2",
        "--nproc-per-node",
        "1",
        "--max-restarts",
        "1",
    ]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{free_port()}", "--rdzv-id", "zipasr"]
    command += ["-m", "zipasr", "train", f"{tmp_path / 'short.py'}:run", "--out", str(tmp_path / "run")]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    agents = [
        subprocess.Popen(command, cwd=REPOSITORY, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    wait_for_lines(tmp_path / "run", 12, agents)
    os.kill(child_of(agents[1].pid), signal.SIGKILL)
    try:
        said = [agent.communicate(timeout=WATCHDOG_S) for agent in agents]
    finally:
        for agent in agents:
            agent.terminate()  # this ends its worker, if it is still alive
    assert [agent.returncode for agent in agents] == [0, 0], said
    assert sum(out.count("dev WER") for out, _ in said) == 1
    errors = "".join(error for _, error in said)
    assert "training 0.07 M parameters on cpu x 2 in" in errors
    assert "continuing with 0.07 M parameters on cpu x 2 in" in errors


def child_of(pid: int) -> int:
    """The process that an agent supervises."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def test_processes_meet_where_others_met_before() -> None:
    """Three processes at a time share one store, as torchrun keeps it over restarts, each time in an empty part."""
    store, size, seen = torch.distributed.HashStore(), 3, set[str]()
    for _ in range(4):
        with ThreadPoolExecutor(size) as pool:
            jobs = [pool.submit(_fresh_part, store, rank, size, 100.0) for rank in (1, 2, 0)]
            parts = [job.result() for job in jobs]
        assert not parts[0].check(["address"])
        parts[0].set("address", str(len(seen)))
        assert [part.get("address").decode() for part in parts] == [str(len(seen))] * size
        seen.add(store.get("zipasr/call").decode())
    assert len(seen) == 4
    with pytest.raises(RuntimeError, match=r"3 processes did not meet in 0\.2 s"):
        _fresh_part(store, 1, size, 0.2)  # earlier messages of the others are not an answer


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert ranks_of_environment().size == 1
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match="torchrun --nproc-per-node"):
        ranks_of_environment()
    monkeypatch.setenv("LOCAL_RANK", "1")
    second = ranks_of_environment()
    assert (second.rank, second.size, second.is_main) == (1, 4, False)
    assert second.device("cpu") == torch.device("cpu")


def test_single_rank_exchanges_nothing() -> None:
    single = Ranks()
    assert single.sum([1.0, 2.0]) == [1.0, 2.0]
    assert single.exchange("a") == ["a"]
    assert single.main_first(lambda: 3) == single.from_main(lambda: 3) == 3
