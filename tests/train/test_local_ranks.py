"""Processes that a run starts itself. Run: they train together, resume to the same bits and with any number of them, stop
when asked, and none is left when one dies. Contract: their logs, errors and ends are reported by the first."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.forked import Forked
from tests.train.ranks import REPOSITORY
from tests.train.runs import assert_same, content, stop_after
from tests.train.tones import minute_config, write_tones
from tests.watchdog import WATCHDOG_S
from zipasr.checkpoint import CheckpointFolder
from zipasr.data.batching import Batch
from zipasr.errors import DataError, ZipasrError
from zipasr.train import length, local_ranks
from zipasr.train.config import TrainConfig
from zipasr.train.length import fit_to_time
from zipasr.train.local_ranks import LocalRanks, LostRankError, Team
from zipasr.train.loop import TrainReport, train
from zipasr.train.metrics import read_metrics
from zipasr.train.state import TRAINING_FILE, checkpoint_folders
from zipasr.train.step import Stepper


@pytest.fixture(autouse=True)
def _forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that have imported everything already; the command line starts them anew."""
    import tests.forked

    monkeypatch.setattr(local_ranks, "_CONTEXT", tests.forked._CONTEXT)


@pytest.fixture(autouse=True)
def _interrupts() -> Iterator[None]:
    """Let Ctrl-C interrupt, even where these tests run in the background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("tones"), num_train=24, num_dev=2)


def train_in(size: int, config: TrainConfig, out: Path) -> TrainReport:
    """Train in that many processes."""
    with Team() as team:
        team.start(size)
        return team.call(train, config, out, is_quiet=True)


def steps_of(out: Path) -> list[int]:
    return [line["step"] for line in read_metrics(out) if line["kind"] == "train"]


# Messages


def meet(work: str, *, ranks: LocalRanks | None) -> Any:
    """Something that all ranks do; rank 0 returns a result."""
    assert ranks is not None
    if work == "numbers":
        target = torch.full((3,), float(ranks.rank))
        ranks.copy_from_main([target])
        main = ranks.main_first(lambda: os.getpid())
        return ranks.sum([1.0, ranks.rank]), ranks.exchange([ranks.rank, target.tolist(), main == os.getpid()])
    if work == "log":
        logging.getLogger("zipasr.data.reading").warning("seen by %d", ranks.rank)
        return ranks.exchange(None)
    if work == "error" and ranks.rank == 2:
        raise DataError("what is wrong")
    if work == "bug" and ranks.rank == 1:
        raise KeyError("a name")
    if work == "exit" and ranks.rank == 1:
        os._exit(3)
    if work == "signal" and ranks.rank == 1:
        signal.raise_signal(signal.SIGINT)  # ignored
        os.kill(os.getpid(), signal.SIGKILL)
    return ranks.exchange(ranks.rank)


def test_ranks_exchange_values() -> None:
    with Team() as team:
        team.start(3)
        sums, values = team.call(meet, "numbers")
        assert sums == [3.0, 3.0]
        assert values == [[rank, [0.0, 0.0, 0.0], True] for rank in range(3)]
        assert team.call(meet, "again") == [0, 1, 2]
        team.start(5)  # those that are there stay
        assert team.call(meet, "again") == [0, 1, 2]
        assert team.ranks is not None and (team.ranks.batches_per_step, team.ranks.steps_at_once) == (1, 3)


def test_log_of_another_process_is_logged_here(caplog: pytest.LogCaptureFixture) -> None:
    with Team() as team:
        team.start(2)
        team.call(meet, "log")
    assert sorted(record.getMessage() for record in caplog.records) == ["seen by 0", "seen by 1"]


@pytest.mark.parametrize(
    ("work", "kind", "message"),
    [
        ("error", DataError, "what is wrong"),
        ("bug", RuntimeError, r"(?s)in process 2 of 3:.*KeyError: 'a name'"),
        ("exit", LostRankError, "process 2 of 3, which computed a part of this run, ended with exit code 3. What"),
        ("signal", LostRankError, "killed by signal 9, perhaps because memory ran out.*run the same command again"),
    ],
)
def test_end_of_another_process_is_reported_here(work: str, kind: type[Exception], message: str) -> None:
    with Team() as team:
        team.start(3)
        processes = list(team._processes)
        with pytest.raises(kind, match=message):
            team.call(meet, work)
        with pytest.raises(KeyboardInterrupt):
            raise_in(team)
    assert [process.is_alive() for process in processes] == [False, False]


def raise_in(team: Team) -> None:
    """Leave the block of a team by Ctrl-C."""
    with team:
        raise KeyboardInterrupt


def test_single_process_needs_no_other() -> None:
    with Team() as team:
        team.start(1)
        assert team.ranks is None
        assert team.call(lambda value, ranks: (value, ranks), 5) == (5, None)


# Runs


def test_resumed_run_is_bit_identical(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all randomness on, after Ctrl-C in the first process, which comes in the middle of a round."""
    config = minute_config(data, num_epochs=4, save_interval=5, log_interval=1)
    report = train_in(2, config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            train_in(2, config, tmp_path / "parts")
    assert list(checkpoint_folders(tmp_path / "parts")) == [5]
    assert train_in(2, config, tmp_path / "parts").num_steps == report.num_steps == 12
    whole, parts = (checkpoint_folders(tmp_path / name) for name in ("whole", "parts"))
    assert list(whole) == [5, 10, 12] and set(whole) <= set(parts)
    for number, folder in whole.items():
        assert_same(content(parts[number]), content(folder))
    told = CheckpointFolder(whole[12]).document(TRAINING_FILE)["ranks"]
    assert len(told) == 2 and told[0] is None and told[1]["random"]["cpu"]
    assert steps_of(tmp_path / "whole") == steps_of(tmp_path / "parts") == list(range(1, 13))
    for name in ("lr", "audio_h", "epoch"):
        lines = [[line[name] for line in read_metrics(tmp_path / run) if name in line] for run in ("whole", "parts")]
        assert lines[0] == lines[1]


def test_run_resumes_with_another_number_of_processes(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    """Positions, learning rates and audio are those of one process, and nothing needs to be said."""
    for number, size in ((5, 1), (8, 2), (9, 1), (12, 3)):
        config = minute_config(data, num_epochs=4, max_batches=number, log_interval=1)
        assert train_in(size, config, tmp_path / "parts").num_steps == number
    assert "continuing with 0.07 M parameters on cpu in 3 processes" in capsys.readouterr().err
    assert "batches instead of" not in caplog.text
    train_in(1, config, tmp_path / "one")
    lines = [[line for line in read_metrics(tmp_path / name) if line["kind"] == "train"] for name in ("parts", "one")]
    for name in ("step", "lr", "audio_h", "epoch"):
        assert [line[name] for line in lines[0]] == [line[name] for line in lines[1]]
    assert lines[0][4]["loss"] == lines[1][4]["loss"]
    assert lines[0][-1]["loss"] == pytest.approx(lines[1][-1]["loss"], rel=0.2)


def diverge(config: TrainConfig, out: Path, *, ranks: LocalRanks) -> TrainReport:
    """Train a run in which the second process has no finite loss."""
    losses = Stepper.losses

    def spoil(self: Stepper, batch: Batch, num_steps: int) -> Any:
        parts, total = losses(self, batch, num_steps)
        return parts, total * float("nan")

    if ranks.rank == 1:
        Stepper.losses = spoil  # type: ignore[method-assign]
    return train(config, out, is_quiet=True, ranks=ranks)


def test_processes_go_back_and_give_up_together(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = minute_config(data, save_interval=3, max_skipped_batches=1, max_rollbacks=1)
    with Team() as team:
        team.start(2)
        with pytest.raises(ZipasrError, match="were not in 1 steps in a row, and going back 1 times"):
            team.call(diverge, config, tmp_path)
    error = capsys.readouterr().err
    assert "the last 1 steps up to 2 were not finite: going back to step 0 with the learning rate times 0.5" in error
    assert error.count("skipped a batch whose loss is nan") == 2
    assert "diagnosis of step 2: learning rate" in error


def test_sigterm_to_any_process_stops_all(data: Path, tmp_path: Path) -> None:
    with Team() as team:
        team.start(2)
        terminate_later(tmp_path, team._processes[0].pid)
        config = minute_config(data, num_epochs=100_000, log_interval=1)
        report = team.call(train, config, tmp_path / "run", is_quiet=True)
    assert not report.is_finished
    assert list(checkpoint_folders(tmp_path / "run")) == [report.num_steps]


def terminate_later(folder: Path, pid: int | None) -> None:
    """Send SIGTERM to a process once the run has taken two steps."""
    assert pid is not None

    def wait() -> None:
        deadline = time.monotonic() + WATCHDOG_S
        path = folder / "run" / "metrics.jsonl"
        while (not path.is_file() or path.read_text().count("\n") < 2) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(pid, signal.SIGTERM)

    threading.Thread(target=wait).start()


def test_budget_is_measured_with_the_processes_that_will_train(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    turns = length._turns

    def noted(*args: Any) -> Iterator[int]:
        for number in turns(*args):
            taken.append(number)
            yield number

    monkeypatch.setattr(length, "_turns", noted)
    monkeypatch.setattr(length, "_MEASURE_S", 0.1)
    with Team() as team:
        team.start(2)
        run = team.call(fit_to_time, minute_config(data, num_epochs=1000), 3600.0)
    assert run.num_steps > length.MIN_BATCHES and run.pace.step_s > 0.0
    assert taken[0] == 2


# The command


def endless(out: str, data: str, context: str) -> None:
    """Do what `zipasr train` does, for a run that does not end; its processes are started as the context says."""
    from zipasr.cli import main

    local_ranks._CONTEXT = multiprocessing.get_context(context)
    recipe = f"{Path(out) / 'endless.py'}:run"
    sys.exit(main(["train", recipe, "--out", f"{out}/run", "--set", f"data={data}", "--no-progress", "--threads", "2"]))


def started(out: Path, data: Path, context: str) -> tuple[Forked, int]:
    """The command in two processes, and the id of the second, once it has taken further steps."""
    lines = steps_of(out / "run")[-1:] if (out / "run" / "metrics.jsonl").is_file() else [0]
    command = Forked(endless, str(out), str(data), context, cwd=REPOSITORY, environment={})
    deadline = time.monotonic() + WATCHDOG_S
    while not (out / "run" / "metrics.jsonl").is_file() or steps_of(out / "run")[-1:] <= lines:
        assert time.monotonic() < deadline and command.poll() is None, command.communicate(WATCHDOG_S)
        time.sleep(0.05)
    pids = children_of(command.pid)
    (second,) = [pid for pid in pids if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return command, second


def children_of(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + WATCHDOG_S
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended may remain as a zombie where nobody waits for orphans."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes in /proc")
def test_command_stops_and_leaves_no_process(data: Path, tmp_path: Path) -> None:
    """By Ctrl-C in a terminal, which all processes receive, by the death of the second, and by that of the first.

    The second is spawned as for users, or forked, which is faster.
    """
    (tmp_path / "endless.py").write_text(
        "from tests.train.tones import minute_config\nfrom zipasr.train.config import TrainConfig\n\n"
        "def run() -> TrainConfig:\n    return minute_config(num_epochs=100_000, log_interval=1)\n"
    )
    command, second = started(tmp_path, data, "spawn")
    for pid in (second, command.pid):
        os.kill(pid, signal.SIGINT)
    _, error = command.communicate(WATCHDOG_S)
    assert command.returncode == 130
    (stopped,) = checkpoint_folders(tmp_path / "run")
    assert f"stopped after batch {stopped}; run the same command to resume" in error
    assert "on cpu in 2 processes" in error and error.count("a checkpoint is saved after this batch") == 1
    assert error.endswith("zipasr: interrupted\n") and "Traceback" not in error
    wait_for_end(second)

    command, second = started(tmp_path, data, "fork")
    os.kill(second, signal.SIGKILL)
    _, error = command.communicate(WATCHDOG_S)
    assert command.returncode == 1 and "Traceback" not in error
    assert "continuing with" in error and "process 2 of 2, which computed a part of this run, was killed" in error

    command, second = started(tmp_path, data, "fork")
    command.kill()
    wait_for_end(second)
