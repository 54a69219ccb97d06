"""Training checkpoints. Contract: all changing state comes back; a damaged checkpoint is skipped with a warning; old ones
are deleted."""

import dataclasses
import json
import logging
import shutil
from pathlib import Path

import pytest
import torch

from tests.train.states import TOKENIZER, new_state, train
from tests.train.tones import minute_config
from zipasr import checkpoint
from zipasr.errors import CheckpointError
from zipasr.model import AsrModel
from zipasr.nn.constraint import Whiten
from zipasr.train.distributed import Ranks
from zipasr.train.local_ranks import LocalRanks
from zipasr.train.state import (
    AVERAGE_FILE,
    TENSORS_FILE,
    TRAINING_FILE,
    Position,
    TrainState,
    _batches_per_step,
    checkpoint_folders,
    checkpoint_path,
    load_newest,
    read_note,
    remove_old,
)


def assert_same(a: TrainState, b: TrainState) -> None:
    assert a.position == b.position
    assert a.scheduler.state_dict() == b.scheduler.state_dict()
    assert a.scheduler.get_last_lr() == b.scheduler.get_last_lr()
    for one, other in ((a.model.state_dict(), b.model.state_dict()), (a.average.tensors, b.average.tensors)):
        assert one.keys() == other.keys()
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    one, other = a.optimizer.state_dict(), b.optimizer.state_dict()
    assert one["param_groups"] == other["param_groups"]
    assert one["state"].keys() == other["state"].keys()
    for index, values in one["state"].items():
        assert values.keys() == other["state"][index].keys()
        for name, value in values.items():
            theirs = other["state"][index][name]
            assert type(value) is type(theirs)
            assert torch.equal(value, theirs) if isinstance(value, torch.Tensor) else value == theirs
    assert [m.prob for m in a.model.modules() if isinstance(m, Whiten)] == [
        m.prob for m in b.model.modules() if isinstance(m, Whiten)
    ]


def save(state: TrainState, run: Path) -> Path:
    folder = checkpoint_path(run, state.position.num_steps)
    state.save(folder, TOKENIZER)
    return folder


def test_everything_is_restored_and_training_continues_identically(tmp_path: Path) -> None:
    state = new_state()
    train(state, 12)  # past the step at which clipping starts, and the first change of size
    state.position = Position(epoch=2, index=3, num_steps=12, audio_s=4.5, train_s=1.25)
    state.scheduler.step_epoch(2)
    whiten = [module for module in state.model.modules() if isinstance(module, Whiten)]
    whiten[0].prob, whiten[1].prob = Whiten.min_prob, Whiten.max_prob
    folder = save(state, tmp_path)
    random_state = torch.get_rng_state()
    other = new_state(seed=9)
    assert load_newest(other, tmp_path)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert_same(other, state)
    train(state, 5)
    torch.set_rng_state(random_state)
    train(other, 5)
    assert_same(other, state)
    assert {TRAINING_FILE, TENSORS_FILE, AVERAGE_FILE} < set(checkpoint.CheckpointFolder(folder).names())
    model, tokenizer = AsrModel.load(folder)  # a training checkpoint is also a model
    assert tokenizer.pieces == TOKENIZER.pieces
    assert model.config == state.model.config


def test_before_the_first_step(tmp_path: Path) -> None:
    state = new_state()
    save(state, tmp_path)
    other = new_state(seed=9)
    assert load_newest(other, tmp_path)
    assert_same(other, state)


def test_another_rank_has_a_random_state_of_its_own(tmp_path: Path) -> None:
    state = new_state()
    state.position.index = 7
    torch.manual_seed(5)
    of_second = state._of_rank()
    expected = torch.get_rng_state()
    torch.manual_seed(6)
    of_second["whiten_prob"] = dict.fromkeys(of_second["whiten_prob"], Whiten.min_prob)
    state._write(tmp_path, TOKENIZER, [None, of_second], 2)
    first, second = new_state(), new_state()
    second.load(tmp_path, Ranks(1, 2))
    assert torch.equal(torch.get_rng_state(), expected)
    assert second._whiten_prob() == of_second["whiten_prob"]
    first.load(tmp_path, Ranks(0, 2))
    assert not torch.equal(torch.get_rng_state(), expected)
    assert first._whiten_prob() == state._whiten_prob()
    assert first.position == second.position == state.position


def test_another_number_of_ranks_resumes_at_about_the_same_batch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = new_state()
    state.position.index = 7
    state._write(tmp_path, TOKENIZER, [None, state._of_rank()], 2)
    for size, index in ((1, 14), (2, 7), (4, 3)):
        state.load(tmp_path, Ranks(0, size))
        assert state.position.index == index
    assert caplog.text.count("batches instead of 2") == 2


def test_local_ranks_take_one_batch_a_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Their number does not change the position; in checkpoints of 0.2.0 the number of ranks is that of batches."""
    state = new_state()
    state.position.index = 7
    state._write(tmp_path / "local", TOKENIZER, [None, state._of_rank()], 1)
    for ranks in (LocalRanks(0, 3, []), LocalRanks(0, 2, []), Ranks()):
        state.load(tmp_path / "local", ranks)
        assert state.position.index == 7
    assert read_note(tmp_path / "local").batches_per_step == 1
    assert not caplog.text
    document = json.loads((tmp_path / "local" / TRAINING_FILE).read_text())
    del document["batches_per_step"]
    assert _batches_per_step(document) == 2


def test_no_checkpoint(tmp_path: Path) -> None:
    state = new_state()
    assert not load_newest(state, tmp_path)
    (tmp_path / "checkpoints" / "batch-00000001.txt").mkdir(parents=True)
    assert not load_newest(state, tmp_path)
    assert checkpoint_folders(tmp_path) == {}


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with checkpoints after 0, 1 and 2 batches."""
    state = new_state()
    for _ in range(3):
        save(state, tmp_path)
        train(state, 1)
    return tmp_path


@pytest.mark.parametrize("name", ["model.safetensors", TRAINING_FILE, TENSORS_FILE, AVERAGE_FILE, checkpoint.CHECKSUMS])
def test_damaged_newest_is_passed_over_with_a_warning(run: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    cut_in_half(checkpoint_path(run, 2) / name)
    state = new_state(seed=9)
    with caplog.at_level(logging.WARNING):
        assert load_newest(state, run)
    assert state.position.num_steps == 1
    assert "skipping a checkpoint" in caplog.text
    assert "batch-00000002" in caplog.text


def test_all_damaged(run: Path) -> None:
    for folder in checkpoint_folders(run).values():
        cut_in_half(folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"none of the 3 checkpoints .* choose another --out"):
        load_newest(new_state(), run)


def test_checkpoint_of_another_version(run: Path) -> None:
    """The checksums are right, but the content is not what this version expects."""
    for folder in list(checkpoint_folders(run).values())[:2]:
        shutil.rmtree(folder)
    folder = checkpoint_path(run, 2)
    files = checkpoint.CheckpointFolder(folder)
    document = files.document(TRAINING_FILE)
    document["position"]["mood"] = "good"
    tensors = {name: files.tensors(name) for name in files.names() if name.endswith(".safetensors")}
    documents = {"config.json": files.document("config.json"), TRAINING_FILE: document}
    checkpoint.write_folder(folder, documents=documents, tensors=tensors, blobs={})
    with pytest.raises(CheckpointError, match=r"of this model and version.*mood"):
        load_newest(new_state(), run)


def test_checkpoint_of_another_model(run: Path, tmp_path: Path) -> None:
    config = minute_config().model
    model = AsrModel(dataclasses.replace(config, vocab_size=99))
    state = new_state()
    other = TrainState(model, state.optimizer, state.scheduler, state.average, Position())
    with pytest.raises(CheckpointError, match="does not match"):
        load_newest(other, run)


def test_remove_old(run: Path) -> None:
    half_done = run / "checkpoints" / ".batch-00000001.partial-123"
    half_done.mkdir()
    remove_old(run, keep=2, newest=1)  # the one after 2 batches is later than the run and does not count
    assert list(checkpoint_folders(run)) == [0, 1, 2]
    assert not half_done.exists()
    remove_old(run, keep=1, newest=1)
    assert list(checkpoint_folders(run)) == [1, 2]
    remove_old(run, keep=1, newest=2)
    assert list(checkpoint_folders(run)) == [2]


def test_interruptions_do_not_push_out_regular_checkpoints(tmp_path: Path) -> None:
    for number in (10, 20, 30, 31, 33):
        checkpoint_path(tmp_path, number).mkdir(parents=True)
    remove_old(tmp_path, keep=2, newest=33, save_interval=10)
    assert list(checkpoint_folders(tmp_path)) == [20, 30, 33]  # the run resumes from 33
    checkpoint_path(tmp_path, 40).mkdir()
    remove_old(tmp_path, keep=2, newest=40, save_interval=10)
    assert list(checkpoint_folders(tmp_path)) == [30, 40]


def test_documents_are_plain_json(run: Path) -> None:
    document = json.loads((checkpoint_path(run, 2) / TRAINING_FILE).read_text())
    assert document["position"]["num_steps"] == 2
    assert document["optimizer"]["items"]
