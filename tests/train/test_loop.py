"""Training. Run: it learns, and resumes as if it had not been interrupted; test_faults.py covers faults.

Law: resuming is exact to the bit: weights, running average, optimizer, schedules and the model that is written.
"""

import dataclasses
import gzip
import json
import logging
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch

from tests.forked import Forked, verb_of_a_terminal
from tests.train.runs import assert_same, content, run, stop_after
from tests.train.tones import WORDS, minute_config, validation_of, with_attention, without_heads, write_tones
from tests.watchdog import WATCHDOG_S
from zipasr import checkpoint
from zipasr.checkpoint import CheckpointFolder
from zipasr.cli import main
from zipasr.config import to_json
from zipasr.errors import CheckpointError, ConfigError
from zipasr.model import AsrModel
from zipasr.train import validator
from zipasr.train.config import ConsistencyConfig
from zipasr.train.metrics import read_metrics
from zipasr.train.state import AVERAGE_FILE, TRAINING_FILE, checkpoint_folders, checkpoint_path
from zipasr.train.validation import Validation


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # sums of tensors this small gain nothing from more threads, and two runs must be the same
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("small"), num_train=24, num_dev=3)


# Learning


def test_learns_a_language_of_tones(tmp_path: Path) -> None:
    """Of two words, since five take four times as many steps."""
    data = write_tones(tmp_path / "tones", num_dev=8, sounds={word: WORDS[word] for word in ("LO", "HI")})
    batch = dataclasses.replace(minute_config().batch, max_duration_s=4.0, spec_augment=None)
    config = minute_config(
        data,
        batch=batch,
        num_epochs=5,
        lr=0.12,
        ctc_loss_scale=0.5,
        save_interval=10,
        average_share=0.15,
        valid_interval=30,
    )
    report = run(config, tmp_path / "run")
    lines = read_metrics(tmp_path / "run")
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert losses[-1] < 0.1 * losses[0]
    dev = [line for line in lines if line["kind"] == "dev"]
    assert dev[0]["step"] == 30
    assert dev[0]["wer"] > 60
    assert report.wer == dev[-1]["wer"] < 20
    assert dev[-1]["ctc_wer"] < 20
    assert report.num_steps == dev[-1]["step"]
    assert report.hours_per_hour > 1
    model, tokenizer = AsrModel.load(report.folder / "model")
    assert tokenizer.vocab_size == model.config.vocab_size < config.tokenizer.vocab_size
    assert json.loads((report.folder / "config.json").read_text())["model"] == to_json(model.config)


@pytest.mark.parametrize(("has_transducer", "has_ctc"), [(True, False), (False, True), (True, True)])
def test_heads(small_data: Path, tmp_path: Path, has_transducer: bool, has_ctc: bool) -> None:
    config = without_heads(minute_config(small_data, num_epochs=6), has_transducer=has_transducer, has_ctc=has_ctc)
    run(dataclasses.replace(config, log_interval=3), tmp_path)  # an epoch, so that lines tell of the same audio
    names = ({"simple", "pruned"} if has_transducer else set()) | ({"ctc"} if has_ctc else set())
    lines = read_metrics(tmp_path)
    train_lines = [line for line in lines if line["kind"] == "train"]
    assert {name for name in ("simple", "pruned", "ctc") if name in train_lines[0]} == names
    assert train_lines[-1]["loss"] < 0.8 * train_lines[0]["loss"]
    assert {name for name in ("transducer_wer", "ctc_wer") if name in lines[-1]} == (
        {"transducer_wer"} if has_transducer else set()
    ) | ({"ctc_wer"} if has_ctc else set())


@pytest.mark.parametrize("has_transducer", [True, False])
def test_all_heads_with_two_views(small_data: Path, tmp_path: Path, has_transducer: bool) -> None:
    config = with_attention(
        minute_config(small_data, num_epochs=6, log_interval=3, consistency=ConsistencyConfig(scale=0.1))
    )
    report = run(without_heads(config, has_transducer=has_transducer, has_ctc=True), tmp_path)
    lines = read_metrics(tmp_path)
    train_lines = [line for line in lines if line["kind"] == "train"]
    names = ({"simple", "pruned"} if has_transducer else set()) | {"ctc", "attention"}
    assert {"simple", "pruned", "ctc", "attention", "consistency"} & train_lines[0].keys() == names | {"consistency"}
    assert all(line["consistency"] > 0.0 for line in train_lines)
    for name in names - {"simple"}:
        assert train_lines[-1][name] < 0.95 * train_lines[0][name], name
    assert {f"{name}_loss" for name in names} <= lines[-1].keys()
    assert "consistency_loss" not in lines[-1]
    model, _ = AsrModel.load(report.folder / "model")
    assert model.attention is not None


def test_figures_of_two_views_count_the_audio_once(small_data: Path, tmp_path: Path) -> None:
    """Seconds and batches are those of one view, and losses have the same size: the mean of both views."""
    lines = {}
    for name, consistency in (("one", None), ("two", ConsistencyConfig(time_mask_ratio=1.0))):
        config = minute_config(small_data, num_epochs=1, log_interval=1, consistency=consistency)
        report = run(config, tmp_path / name)
        lines[name] = read_metrics(tmp_path / name)
        assert report.num_steps == len(lines["one"]) - 1
    first, second = lines["one"][0], lines["two"][0]
    assert first["audio_h"] == second["audio_h"]
    for name in ("simple", "pruned", "ctc"):
        assert first[name] == pytest.approx(second[name], rel=0.3)


def test_views_are_the_same_after_a_stop(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_attention(minute_config(small_data, consistency=ConsistencyConfig()))
    run(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "stopped")
    run(config, tmp_path / "stopped")
    (whole,) = checkpoint_folders(tmp_path / "whole").values()
    assert_same(content(checkpoint_folders(tmp_path / "stopped")[int(whole.name.split("-")[1])]), content(whole))


def test_scales_that_do_not_sum_to_one_are_refused(small_data: Path, tmp_path: Path) -> None:
    config = without_heads(with_attention(minute_config(small_data, ctc_loss_scale=0.5)), has_transducer=False, has_ctc=True)
    with pytest.raises(ConfigError, match="ctc_loss_scale and attention_loss_scale must sum to 1"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision(small_data: Path, tmp_path: Path, precision: Literal["bfloat16", "float16"]) -> None:
    """Of few seconds of audio a batch, since a CPU computes slowly in half precision."""
    batch = dataclasses.replace(minute_config().batch, max_duration_s=2.0)
    run(minute_config(small_data, precision=precision, batch=batch, max_batches=25, log_interval=1), tmp_path)
    lines = [line for line in read_metrics(tmp_path) if line["kind"] == "train"]
    assert lines[-1].get("loss_scale", 2.0) == 2.0  # doubled at step 25
    losses = [line["loss"] for line in lines]
    assert losses[-1] < 0.8 * losses[0]
    (folder,) = checkpoint_folders(tmp_path).values()
    assert {tensor.dtype for tensor in CheckpointFolder(folder).tensors("model.safetensors").values()} == {torch.float32}


def test_same_seed_same_run(small_data: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(len(name) + seed)
        run(minute_config(small_data, num_epochs=1, seed=seed), tmp_path / name)
    a, b, c = (content(*checkpoint_folders(tmp_path / name).values()) for name in "abc")
    assert_same(a, b)
    assert not torch.equal(
        a["model.safetensors"]["encoder.frontend.out.weight"], c["model.safetensors"]["encoder.frontend.out.weight"]
    )


# Stopping and resuming


def test_a_checkpoint_that_a_kill_kept_from_deletion_changes_nothing(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is killed after it has written a checkpoint and before it deletes the oldest, from which it must not average."""
    config = minute_config(small_data, num_epochs=3, save_interval=2, keep_checkpoints=2, average_share=0.7)
    config = dataclasses.replace(config, valid_interval=9)  # before the last checkpoint is written
    run(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "parts")
    oldest = checkpoint_folders(tmp_path / "parts")[2]
    shutil.copytree(oldest, tmp_path / "oldest")
    with monkeypatch.context() as patch:
        stop_after(patch, 8)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "parts")
    assert not oldest.exists()
    shutil.copytree(tmp_path / "oldest", oldest)
    run(config, tmp_path / "parts")
    dev = [[line for line in read_metrics(tmp_path / name) if line["kind"] == "dev"] for name in ("whole", "parts")]
    assert dev[0] == dev[1]


RESUMED = {"num_epochs": 3, "save_interval": 5, "valid_interval": 6}


@pytest.fixture(scope="module")
def whole(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 3 epochs of 3 batches that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run(minute_config(small_data, **RESUMED), folder)
    return folder


@pytest.mark.parametrize(("stop", "num_workers"), [(1, 0), (3, 1), (4, 1), (5, 0)])
def test_resumed_run_is_bit_identical(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path, stop: int, num_workers: int
) -> None:
    """With all randomness on, the run stops after a batch, at the end of an epoch, within one, and where it saves."""
    config = minute_config(small_data, num_workers=num_workers, **RESUMED)
    with monkeypatch.context() as patch:
        stop_after(patch, stop)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path)
    assert list(checkpoint_folders(tmp_path))[-1] == stop
    run(config, tmp_path)
    expected, found = checkpoint_folders(whole), checkpoint_folders(tmp_path)
    assert set(expected) == set(found) - ({stop} - {5})
    for num_batches in expected:
        assert_same(content(expected[num_batches]), content(found[num_batches]))
    (expected_model, _), (model, _) = (AsrModel.load(folder / "model") for folder in (whole, tmp_path))
    weights = model.state_dict()
    for name, tensor in expected_model.state_dict().items():
        assert tensor.numpy().tobytes() == weights[name].numpy().tobytes(), name
    for a, b in zip(read_metrics(whole), read_metrics(tmp_path), strict=True):
        if a["kind"] == "dev":
            assert a == b


def test_longer_run_resumes_a_finished_one(small_data: Path, tmp_path: Path) -> None:
    run(minute_config(small_data, num_epochs=2), tmp_path / "whole")
    run(minute_config(small_data, num_epochs=1), tmp_path / "parts")
    report = run(minute_config(small_data, num_epochs=2, num_workers=1, log_interval=1), tmp_path / "parts")
    whole, parts = (checkpoint_folders(tmp_path / name)[report.num_steps] for name in ("whole", "parts"))
    assert_same(content(whole), content(parts))
    again = run(minute_config(small_data, num_epochs=2), tmp_path / "parts")
    assert (again.num_steps, again.wer) == (report.num_steps, report.wer)


def test_sigterm_saves_and_ends_well(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 2, signal.SIGTERM)
        report = run(minute_config(small_data), tmp_path)
    assert (report.num_steps, report.is_finished) == (2, False)
    assert list(checkpoint_folders(tmp_path)) == [2]
    assert "stopped after batch 2; run the same command to resume" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert run(minute_config(small_data), tmp_path).is_finished


def test_best_models_are_kept(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = iter([90.0, 70.0, 80.0, 70.0, 95.0, 60.0])
    monkeypatch.setattr(validator, "validate", lambda *args: validation_of(wer=next(rates)))
    run(minute_config(small_data, num_epochs=2, valid_interval=1, keep_best=3), tmp_path)
    kept = sorted(path.name for path in (tmp_path / "best").iterdir())
    assert kept == ["batch-00000002", "batch-00000004", "batch-00000006"]
    assert CheckpointFolder(tmp_path / "best" / kept[2]).document("validation.json") == {"wer": 60.0}
    AsrModel.load(tmp_path / "best" / kept[0])


@pytest.mark.parametrize(
    ("selection", "rates", "chosen", "num_validations"),
    [
        ("last", [60.0, 70.0, 95.0], 3, 3),
        ("best", [60.0, 70.0, 95.0], 1, 4),
        ("best", [60.0, 55.0, 55.0], 3, 3),
        ("best", [60.0, 55.0, 55.5], 2, 4),
    ],
)
def test_model_of_a_finished_run(
    small_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    selection: Literal["last", "best"],
    rates: list[float],
    chosen: int,
    num_validations: int,
) -> None:
    asked = [*rates, rates[chosen - 1]]
    validations = iter(validation_of(wer=wer) for wer in asked)
    monkeypatch.setattr(validator, "validate", lambda *args: next(validations))
    config = minute_config(small_data, num_epochs=1, valid_interval=1, keep_best=3, selection=selection)
    report = run(config, tmp_path)
    assert report.wer == rates[chosen - 1]
    assert len(list(validations)) == len(asked) - num_validations
    model, best = (
        AsrModel.load(path)[0].state_dict() for path in (tmp_path / "model", tmp_path / f"best/batch-{chosen:08d}")
    )
    torch.testing.assert_close(model, best, rtol=0, atol=0)
    assert (tmp_path / "model" / "search.json").is_file()


def test_a_damaged_model_of_a_validation_does_not_end_the_run(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The next best one that can be read becomes the model of the run."""
    rates = iter([55.0, 60.0, 95.0, 60.0])

    def validated(*args: object) -> Validation:
        wer = next(rates)
        if wer == 95.0:
            (tmp_path / "best" / "batch-00000001" / "model.safetensors").write_bytes(b"")
        return validation_of(wer=wer)

    monkeypatch.setattr(validator, "validate", validated)
    report = run(minute_config(small_data, num_epochs=1, valid_interval=1, keep_best=3, selection="best"), tmp_path)
    assert report.wer == 60.0
    printed = "".join(capsys.readouterr())
    assert "batch-00000001 is damaged, so it cannot become the model of the run" in printed
    assert "the model of batch 2 has a lower error rate" in printed


def test_checkpoint_of_another_version_is_refused(small_data: Path, tmp_path: Path) -> None:
    config = minute_config(small_data, num_epochs=1)
    run(config, tmp_path)
    (folder,) = checkpoint_folders(tmp_path).values()
    files = CheckpointFolder(folder)
    document = {name: value for name, value in files.document(TRAINING_FILE).items() if name != "ranks"}
    blobs = {name: files.blob(name) for name in files.names() if name != TRAINING_FILE}
    checkpoint.write_folder(folder, documents={TRAINING_FILE: document}, tensors={}, blobs=blobs)
    with pytest.raises(
        CheckpointError, match=r"this model and version, but is of another: KeyError\('ranks'\); .* another --out"
    ):
        run(dataclasses.replace(config, num_epochs=2), tmp_path)


def test_ctrl_c_in_a_terminal(small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The user's process group gets SIGINT, reader processes included; the same command then resumes the run."""
    recipe = tmp_path / "my_recipe.py"
    recipe.write_text(
        "from tests.train.tones import minute_config\nfrom zipasr.train.config import TrainConfig\n\n"
        f"def mine() -> TrainConfig:\n    return minute_config({str(small_data)!r}, num_epochs=100_000, num_workers=1)\n"
    )
    out = tmp_path / "run"
    command = ["train", f"{recipe}:mine", "--out", str(out), "--set", "log_interval=1"]
    process = Forked(verb_of_a_terminal, *command, cwd=tmp_path, environment={})
    deadline = time.monotonic() + WATCHDOG_S
    while not (out / "metrics.jsonl").is_file() or (out / "metrics.jsonl").stat().st_size == 0:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate(WATCHDOG_S)
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=WATCHDOG_S)
    assert process.returncode == 130, error
    assert "stopping" in error
    assert "run the same command to resume" in error
    assert "Traceback" not in error
    (num_batches,) = checkpoint_folders(out)
    assert num_batches == read_metrics(out)[-1]["step"]
    num_epochs = num_batches // 3 + 2
    assert main([*command, "--set", f"num_epochs={num_epochs}"]) == 0
    done = capsys.readouterr()
    assert f"continuing with 0.07 M parameters on cpu in {out}" in done.err
    assert done.out.startswith(f"{out / 'model'}: {3 * num_epochs} batches, dev WER ")


def test_changed_settings_are_named(small_data: Path, tmp_path: Path) -> None:
    config = minute_config(small_data, num_epochs=1)
    run(config, tmp_path)
    batch = dataclasses.replace(config.batch, max_duration_s=9.0, cache_mb=1)
    changed = dataclasses.replace(config, lr=0.01, batch=batch)
    with pytest.raises(ConfigError) as error:
        run(changed, tmp_path)
    assert "settings: batch.max_duration_s (was 12.0, now 9.0); lr (was 0.045, now 0.01). Use" in str(error.value)
    run(dataclasses.replace(config, num_epochs=2, batch=dataclasses.replace(config.batch, cache_mb=1)), tmp_path)


def test_changed_utterances_are_noticed(small_data: Path, tmp_path: Path) -> None:
    own = shutil.copytree(small_data, tmp_path / "data")
    run(minute_config(own, num_epochs=1), tmp_path / "run")
    lines = gzip.decompress((own / "train_cuts.jsonl.gz").read_bytes()).splitlines(keepends=True)
    (own / "train_cuts.jsonl.gz").write_bytes(gzip.compress(b"".join(lines[1:])))
    with pytest.raises(ConfigError, match="other utterances"):
        run(minute_config(own, num_epochs=2), tmp_path / "run")


def test_folder_of_something_else(small_data: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"color": "red"}')
    with pytest.raises(CheckpointError, match="color"):
        run(minute_config(small_data), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="folder to write into"):
        run(minute_config(small_data), tmp_path / "file")


# Averaged models


def test_average_starts_at_the_checkpoint_nearest_to_its_share(small_data: Path, tmp_path: Path) -> None:
    config = minute_config(small_data, num_epochs=2, average_period=1, save_interval=1)
    run(config, tmp_path)
    weights = {n: CheckpointFolder(p).tensors("model.safetensors") for n, p in checkpoint_folders(tmp_path).items()}
    assert list(weights) == list(range(1, 7))
    for share, first in ((1.0, 1), (0.5, 4), (0.01, 6)):
        run(dataclasses.replace(config, average_share=share), tmp_path)  # finished: averages and validates again
        model, _ = AsrModel.load(tmp_path / "model")
        for name, tensor in model.state_dict().items():
            mean = torch.stack([weights[n][name].double() for n in range(first, 7)]).mean(0)
            torch.testing.assert_close(tensor.double(), mean, rtol=1e-4, atol=1e-5)


def test_run_shorter_than_a_period_gives_its_last_model(small_data: Path, tmp_path: Path) -> None:
    run(minute_config(small_data, num_epochs=1, average_period=200), tmp_path)
    (folder,) = checkpoint_folders(tmp_path).values()
    model, _ = AsrModel.load(tmp_path / "model")
    for name, tensor in CheckpointFolder(folder).tensors("model.safetensors").items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_damaged_old_checkpoint_does_not_stop_the_run(
    small_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = minute_config(small_data, num_epochs=1, save_interval=2)
    run(config, tmp_path)
    path = checkpoint_path(tmp_path, 2) / AVERAGE_FILE
    path.write_bytes(path.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        report = run(dataclasses.replace(config, num_epochs=2), tmp_path)
    assert report.num_steps == 6
