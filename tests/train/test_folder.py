"""The folder of a run. Contract: data and vocabulary are known by content and may be given by another path; a refused run
leaves every file as it was."""

import dataclasses
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.train.runs import assert_same, content, run, stop_after
from tests.train.tones import minute_config, vocabulary, write_tones
from zipasr import load, model
from zipasr.checkpoint import CheckpointFolder
from zipasr.cli import main
from zipasr.config import from_json
from zipasr.data.batching import BatchConfig
from zipasr.data.noise import NoiseConfig
from zipasr.errors import CheckpointError, ConfigError, DataError, ZipasrError
from zipasr.model import resolve_model_folder
from zipasr.train.config import MixConfig, TokenizerConfig, TrainConfig
from zipasr.train.folder import stored_config
from zipasr.train.state import checkpoint_path

WORDS = ["LO", "MID", "HI", "UP", "DOWN"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, other data, noise, a vocabulary, and the run of all of these after one of its two epochs."""
    home = tmp_path_factory.mktemp("home")
    write_tones(home / "data", num_train=12, num_dev=2)
    write_tones(home / "old", num_train=6, num_dev=2, prefix="old")
    (home / "noise").mkdir()
    shutil.copy(home / "old" / "dev_cuts.jsonl.gz", home / "noise" / "noise_cuts.jsonl.gz")
    (home / "words.model").write_bytes(vocabulary(WORDS).to_bytes())
    run(config(home, num_epochs=1), home / "run")
    run(config(home), home / "whole")
    return home


@pytest.fixture
def out(home: Path, tmp_path: Path) -> Path:
    """A copy of the run after one epoch."""
    return shutil.copytree(home / "run", tmp_path / "run")


def config(home: Path, **changes: object) -> TrainConfig:
    base = minute_config(
        home / "data",
        mix=(MixConfig(data=str(home / "old"), share=0.3),),
        tokenizer=TokenizerConfig(file=str(home / "words.model")),
    )
    batch = with_noise(base, f"{home}/noise/noise_cuts.jsonl.gz")
    return dataclasses.replace(base, batch=batch, **changes)  # type: ignore[arg-type]


def with_noise(made: TrainConfig, manifest: str) -> BatchConfig:
    return dataclasses.replace(made.batch, cache_mb=0, noise=NoiseConfig(cuts=manifest))


def with_home(made: TrainConfig, path: str) -> TrainConfig:
    """The configuration with all its data below another path."""
    return dataclasses.replace(
        made,
        data=f"{path}/data",
        mix=(MixConfig(data=f"{path}/old", share=0.3),),
        batch=with_noise(made, f"{path}/noise/noise_cuts.jsonl.gz"),
        tokenizer=TokenizerConfig(file=f"{path}/words.model"),
    )


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def with_slashes(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return f"{home.parent}//{home.name}/."


def relative(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(home.parent)
    return home.name


def linked(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "link").symlink_to(home)
    return str(tmp_path / "link")


def moved(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("data", "old", "noise", "words.model"):
        copy = shutil.copytree if (home / name).is_dir() else shutil.copy
        (tmp_path / "moved").mkdir(exist_ok=True)
        copy(home / name, tmp_path / "moved" / name)
    return str(tmp_path / "moved")


def without_new_settings(out: Path) -> None:
    """Write the configuration of a run as versions wrote it that did not have the settings of today."""
    stored = json.loads((out / "config.json").read_text(encoding="utf-8"))
    for name in ("use_copy_limits", "use_token_limit", "search"):
        del stored[name]
    del stored["tokenizer"]["max_texts"]
    (out / "config.json").write_text(json.dumps(stored), encoding="utf-8")


def test_run_of_an_earlier_version_resumes_with_the_same_bits(home: Path, out: Path) -> None:
    without_new_settings(out)
    report = run(config(home), out)
    assert_same(content(checkpoint_path(out, report.num_steps)), content(checkpoint_path(home / "whole", report.num_steps)))


def test_run_of_an_earlier_version_is_refused_by_the_names_of_what_changed(home: Path, out: Path) -> None:
    without_new_settings(out)
    before = files_of(out)
    changed = dataclasses.replace(config(home), use_copy_limits=True, lr_warmup_start=0.5)
    with pytest.raises(
        ConfigError, match=r"lr_warmup_start \(was 0.1, now 0.5\); use_copy_limits \(was False, now True\). Use the same"
    ):
        run(changed, out)
    assert files_of(out) == before


def test_consistency_of_an_earlier_version_keeps_its_warmup() -> None:
    old = from_json(TrainConfig, {"model": {"ctc": {}}, "consistency": {"scale": 0.2, "time_mask_ratio": 2.5}})
    assert old.consistency is not None and old.consistency.has_warmup


@pytest.mark.parametrize("path_to", [with_slashes, relative, linked, moved])
def test_the_same_data_by_another_path_resumes(
    home: Path, out: Path, tmp_path: Path, path_to: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends with the bits of one that was never stopped, and its configuration has the new paths."""
    path = path_to(home, tmp_path, monkeypatch)
    report = run(with_home(config(home), path), out)
    assert_same(content(checkpoint_path(out, report.num_steps)), content(checkpoint_path(home / "whole", report.num_steps)))
    stored = stored_config(out)
    assert stored is not None and stored.data == f"{path}/data" and stored.tokenizer.file == f"{path}/words.model"


def test_a_vocabulary_file_that_is_gone_is_not_missed(home: Path, out: Path, tmp_path: Path) -> None:
    file = str(shutil.copy(home / "words.model", tmp_path / "words.model"))
    changed = dataclasses.replace(config(home, num_epochs=1), tokenizer=TokenizerConfig(file=file))
    run(changed, out)
    Path(file).unlink()
    run(changed, out)
    with pytest.raises(ZipasrError, match=r"tokenizer.file must be a vocabulary, but nowhere cannot be read"):
        run(dataclasses.replace(changed, tokenizer=TokenizerConfig(file="nowhere")), out)


def shortened(manifest: Path, tmp_path: Path) -> str:
    """A copy, with this name and in a folder of its own beside copies of its siblings, without the first line."""
    folder = shutil.copytree(manifest.parent, tmp_path / "other")
    lines = gzip.decompress(manifest.read_bytes()).splitlines(keepends=True)
    (folder / manifest.name).write_bytes(gzip.compress(b"".join(lines[1:])))
    return str(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda made, home, tmp: dataclasses.replace(made, lr=0.01), r"other settings: lr \(was 0.045, now 0.01\)"),
        (
            lambda made, home, tmp: dataclasses.replace(made, data=shortened(home / "data/train_cuts.jsonl.gz", tmp)),
            "other utterances than .*other/train_cuts.jsonl.gz holds now: there must be the 12 .* but there are 11",
        ),
        (
            lambda made, home, tmp: dataclasses.replace(made, data=shortened(home / "data/dev_cuts.jsonl.gz", tmp)),
            "other utterances to validate on",
        ),
        (
            lambda made, home, tmp: dataclasses.replace(
                made, mix=(MixConfig(data=shortened(home / "old/train_cuts.jsonl.gz", tmp), share=0.3),)
            ),
            "other utterances mixed in",
        ),
        (
            lambda made, home, tmp: dataclasses.replace(made, mix=(MixConfig(data=str(home / "old"), share=0.4),)),
            r"other settings: mix \(was .*0.3.*, now .*0.4",
        ),
        (lambda made, home, tmp: dataclasses.replace(made, mix=()), r"other settings: mix \(was .*0.3.*, now \[\]\)"),
        (
            lambda made, home, tmp: dataclasses.replace(
                made,
                batch=with_noise(made, shortened(home / "noise/noise_cuts.jsonl.gz", tmp) + "/noise_cuts.jsonl.gz"),
            ),
            "other noise",
        ),
        (
            lambda made, home, tmp: dataclasses.replace(
                made, tokenizer=TokenizerConfig(file=str(shutil.copy(other_vocabulary(tmp), tmp / "copy.model")))
            ),
            "tokenizer.file must hold the vocabulary that the run in .* started with, but .*copy.model holds another",
        ),
        (
            lambda made, home, tmp: dataclasses.replace(made, tokenizer=TokenizerConfig(kind="char", vocab_size=None)),
            r"other settings: .*tokenizer.file \(was .*, now None\)",
        ),
        (lambda made, home, tmp: dataclasses.replace(made, data="no/such/folder"), "there is no such file"),
    ],
)
def test_a_refused_run_leaves_everything_as_it_was(
    home: Path, out: Path, tmp_path: Path, change: Callable[[TrainConfig, Path, Path], TrainConfig], message: str
) -> None:
    changed = change(config(home), home, tmp_path)
    (out / ".lock").write_text("1234567")  # another process trained there
    before = files_of(out)
    with pytest.raises((ConfigError, DataError), match=message):
        run(changed, out)
    assert files_of(out) == before


def other_vocabulary(folder: Path) -> Path:
    path = folder / "other.model"
    path.write_bytes(vocabulary(["FAR", "NEAR"]).to_bytes())
    return path


def test_a_refused_new_run_leaves_room_for_another(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(DataError, match="max_duration_s"):
        run(minute_config(home / "data", max_duration_s=0.5), out)
    assert list(files_of(out)) == [".lock"]
    assert run(minute_config(home / "data", num_epochs=1), out).num_steps


def test_a_run_without_checkpoints_keeps_its_configuration_where_its_data_is_refused(home: Path, tmp_path: Path) -> None:
    made = minute_config(home / "data", num_epochs=1)
    run(made, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")  # killed before it wrote one
    before = files_of(tmp_path / "run")
    empty = shutil.copytree(home / "data", tmp_path / "empty")
    (empty / "train_cuts.jsonl.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(DataError):
        run(dataclasses.replace(made, data=str(empty)), tmp_path / "run")
    assert files_of(tmp_path / "run") == before


def test_a_run_stopped_before_its_first_validation_can_be_used(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Every command takes its newest checkpoint and says so in one line, and its averaged model once there is one."""
    out, made = tmp_path / "run", minute_config(home / "data", num_epochs=6, save_interval=2)
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            run(made, out)
    recording, test = str(home / "data" / "dev000.flac"), str(home / "data" / "dev_cuts.jsonl.gz")
    newest = CheckpointFolder(checkpoint_path(out, 5)).tensors("model.safetensors")
    assert_same(load(out, device="cpu").engine.scorer.state_dict(), newest)  # type: ignore[attr-defined]
    for command in (["transcribe", str(out), recording], ["evaluate", str(out), test]):
        capsys.readouterr()
        model._say_once.cache_clear()  # as in another process
        assert main([*command, "--device", "cpu"]) == 0
        said = [line for line in capsys.readouterr().err.splitlines() if "averaged model" in line]
        assert len(said) == 1 and said[0].endswith("using the checkpoint of batch 5")
    run(made, out)
    assert resolve_model_folder(out) == out / "model"


def test_a_run_that_has_written_nothing_is_no_unknown_folder(home: Path, tmp_path: Path) -> None:
    run(minute_config(home / "data", num_epochs=1), tmp_path)
    for name in ("checkpoints", "model"):
        shutil.rmtree(tmp_path / name)
    with pytest.raises(CheckpointError, match="has written none yet; go on with the same train command"):
        resolve_model_folder(tmp_path)
