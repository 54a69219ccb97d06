"""Contract: a reference to the hub becomes a local folder, once; whatever goes wrong is said, and leaves nothing half done.

The real client library talks to a stand-in of the hub.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hub.published_layouts import icefall_folder, model_of, sentencepiece_model
from tests.hub.standin import StandIn
from tests.tiny_model import save_tiny
from zipasr.errors import CheckpointError, ConfigError
from zipasr.hub import local, local_model, origin, pinned
from zipasr.hub.settings import ModelSettings
from zipasr.model import AsrModel
from zipasr.search.default_search import read_default_search
from zipasr.train.config import FinetuneConfig
from zipasr.train.source import open_source

pytest.importorskip("huggingface_hub", reason='needs pip install "zipasr[hub]"')

NAME = "hf:someone/model"
Pull = Callable[..., Path]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of ours."""
    return save_tiny(tmp_path_factory.mktemp("ours") / "model")


@pytest.fixture(scope="module")
def icefall(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of icefall's layout."""
    return icefall_folder(tmp_path_factory.mktemp("icefall") / "repository", model_of(40), sentencepiece_model())


@pytest.fixture
def hub(ours: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A hub with our model as someone/model; the environment says nothing about hubs."""
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "ZIPASR_TOKEN"))]:
        monkeypatch.delenv(name)
    with StandIn() as hub:
        hub.add("someone/model", ours)
        yield hub


@pytest.fixture
def pull(hub: StandIn, tmp_path: Path) -> Pull:
    """`local_model` with this hub and a cache of its own."""

    def pull(reference: str = NAME, **options: object) -> Path:
        return local_model(reference, **{"endpoint": hub.url, "cache_dir": tmp_path / "cache", **options})  # type: ignore[arg-type]

    return pull


def leftovers(cache: Path) -> list[str]:
    """Names of everything in a cache that is not finished."""
    return [path.name for path in cache.rglob("*") if "partial" in path.name or path.name.endswith(".incomplete")]


# What comes


def test_a_path_is_returned_as_it_is(tmp_path: Path) -> None:
    assert local_model(tmp_path / "none") == tmp_path / "none"
    assert local_model("exp/mine") == Path("exp/mine")


def test_our_model_is_fetched_once_and_loads(hub: StandIn, pull: Pull, ours: Path, caplog: pytest.LogCaptureFixture) -> None:
    hub.add("someone/model", hub.files("someone/model") | {"README.md": b"card", "big.bin": b"x", "state.safetensors": b"y"})
    with caplog.at_level(logging.INFO, logger="zipasr.hub"):
        folder = pull()
    commit = hub.repositories["someone/model"].refs["main"]
    assert hub.fetched() == sorted(path.name for path in ours.iterdir())
    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    source = json.loads((folder / "source.json").read_text())
    assert (source["repository"], source["revision"], source["family"]) == ("someone/model", commit, "zipasr")
    assert [record.message.startswith(f"{NAME} is commit {commit}: zipasr, ") for record in caplog.records] == [False, True]
    assert str(folder) in caplog.messages[-1] and " MB" in caplog.messages[0]
    model, _ = AsrModel.load(folder)
    expected, _ = AsrModel.load(ours)
    assert all(tensor.equal(model.state_dict()[name]) for name, tensor in expected.state_dict().items())
    num_requests = len(hub.requests)
    assert pull() == folder
    assert len(hub.requests) == num_requests + 1  # which commit main is
    assert pull(f"{NAME}@{commit}") == folder
    assert len(hub.requests) == num_requests + 1


def test_a_checkpoint_is_converted_once(
    hub: StandIn, pull: Pull, icefall: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.add("someone/icefall", icefall)
    folder = pull("hf:someone/icefall")
    model, _ = AsrModel.load(folder)
    assert all(tensor.equal(model.state_dict()[name]) for name, tensor in model_of(40).state_dict().items())
    source = json.loads((folder / "source.json").read_text())
    assert (source["repository"], source["family"]) == ("someone/icefall", "icefall")
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert pull("hf:someone/icefall") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    (folder / "calibration.json").write_text("{}")
    (folder / "ngram.safetensors").write_bytes(b"an n-gram")
    monkeypatch.setattr(local, "CONVERTER_VERSION", 99)
    monkeypatch.setattr(origin, "CONVERTER_VERSION", 99)
    num_fetched = len(hub.fetched())
    assert pull("hf:someone/icefall") == folder  # converted again from what is in the cache, without losing what was saved
    assert (folder / "model.safetensors").stat().st_mtime_ns > written
    assert (folder / "calibration.json").read_text() == "{}"
    assert (folder / "ngram.safetensors").read_bytes() == b"an n-gram"
    assert len(hub.fetched()) == num_fetched
    assert not leftovers(tmp_path)


def test_settings_of_the_caller_and_of_the_table_count(hub: StandIn, pull: Pull, icefall: Path) -> None:
    known = "pkufool/icefall-asr-zipformer-wenetspeech-20230615"  # its row says: blank penalty 2
    hub.add(known, icefall)
    default = read_default_search(pull(f"hf:{known}"))
    assert default is not None and default.search.blank_penalty == 2.0
    other = pull(f"hf:{known}", settings=ModelSettings(blank_penalty=0.5))
    default = read_default_search(other)
    assert default is not None and default.search.blank_penalty == 0.5
    assert other != pull(f"hf:{known}")


def test_graphs_of_others_are_linked_with_their_search(hub: StandIn, pull: Pull) -> None:
    names = (
        "encoder.onnx",
        "decoder.onnx",
        "joiner.onnx",
        "encoder.int8.onnx",
        "joiner.int8.onnx",
        "tokens.txt",
        "encoder.weights",
    )
    known = "pkufool/icefall-asr-zipformer-wenetspeech-20230615"
    hub.add(known, {f"exp/{name}": name.encode() for name in names})
    folder = pull(f"hf:{known}")
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    needed = {f"exp/{name}" for name in ("encoder.onnx", "decoder.onnx", "joiner.onnx", "tokens.txt", "encoder.weights")}
    assert there == needed | {"source.json", "search.json"}
    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    default = read_default_search(folder)
    assert default is not None and default.search.blank_penalty == 2.0
    small = pull(f"hf:{known}", precision="int8")
    assert (small / "exp/encoder.int8.onnx").is_file() and not (small / "exp/encoder.onnx").exists()
    assert small != folder


def test_subfolders_and_revisions_are_kept_apart(hub: StandIn, pull: Pull, ours: Path) -> None:
    files = hub.files("someone/model")
    both = {f"{folder}/{name}": content for folder in ("small", "Small", "large model") for name, content in files.items()}
    hub.add("someone/model", both, revision="v2")
    folders = [pull(f"{NAME}{end}") for end in ("", "@v2#small", "@v2#Small", "@v2#large model")]
    assert len({str(folder).lower() for folder in folders}) == 4
    assert all((folder / "model.safetensors").is_file() for folder in folders)
    assert not [folder for folder in folders if set(folder.name) & set('<>:"|?* ')]
    with pytest.raises(CheckpointError, match="choose one"):
        pull(f"{NAME}@v2")


def test_what_was_fetched_is_not_changed_by_what_is_saved_beside_it(hub: StandIn, pull: Pull) -> None:
    hub.add("someone/model", hub.files("someone/model") | {"source.json": b'{"repository": "other/model"}'})
    folder = pull()
    assert json.loads((folder / "source.json").read_text())["repository"] == "someone/model"
    blobs = [path.read_bytes() for path in (folder.parents[1] / "blobs").iterdir()]
    assert b'{"repository": "other/model"}' in blobs


# Offline


@pytest.mark.parametrize("kind", ["down", "status", "offline"])
def test_without_the_hub_the_cache_is_used(hub: StandIn, pull: Pull, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pull()
    if kind == "down":
        hub.close()
    elif kind == "status":
        hub.status = 503
    else:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    num_requests = len(hub.requests)
    assert pull() == folder
    assert kind != "offline" or len(hub.requests) == num_requests
    shutil.rmtree(folder)  # made again from what the cache has
    assert pull() == folder
    AsrModel.load(folder)
    with pytest.raises(CheckpointError, match=r"hf:someone/other must be .* HF_HOME") as caught:
        pull("hf:someone/other")
    reason = {"down": "cannot be reached", "status": "status 503", "offline": "HF_HUB_OFFLINE"}[kind]
    assert reason in str(caught.value)


@pytest.mark.parametrize("is_offline", [False, True])
def test_half_a_cache_is_named(
    hub: StandIn, pull: Pull, is_offline: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pull()
    shutil.rmtree(folder)
    next((tmp_path / "cache").rglob("snapshots/*/model.safetensors")).unlink()
    if is_offline:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    else:
        hub.close()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        pull()
    assert not folder.exists() and not leftovers(tmp_path)


def test_a_new_commit_is_taken_and_the_old_one_stays(hub: StandIn, pull: Pull) -> None:
    first = pull()
    old = hub.repositories["someone/model"].refs["main"]
    hub.add("someone/model", hub.files("someone/model") | {"search.json": b'{"search": {"beam": 8}}'})
    second = pull()
    assert second != first and read_default_search(second) is not None
    assert pull(f"{NAME}@{old}") == first


# What is refused


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("unknown", "does not exist"),
        ("private", "does not exist there, or is private"),
        ("gated", "accept them on"),
        ("revision", "it has main"),
        ("empty", "there must be a Zipformer"),
        ("subfolder", "is not there"),
    ],
)
def test_what_cannot_be_had_is_said(hub: StandIn, pull: Pull, kind: str, told: str, ours: Path, tmp_path: Path) -> None:
    hub.add("someone/private", ours, is_private=True)
    hub.add("someone/gated", ours, is_gated=True)
    hub.add("someone/empty", {"README.md": b"nothing"})
    endings = {"revision": "model@v9", "subfolder": "model#exp"}
    with pytest.raises(CheckpointError, match=f"hf:someone/{endings.get(kind, kind)}.*must be") as caught:
        pull(f"hf:someone/{endings.get(kind, kind)}")
    assert told in str(caught.value)
    assert not list((tmp_path / "cache").rglob("source.json")) and not leftovers(tmp_path)


@pytest.mark.parametrize("name", ["someone/private", "someone/gated"])
def test_the_token_opens_what_it_may_read(hub: StandIn, pull: Pull, name: str, ours: Path) -> None:
    hub.add("someone/private", ours, is_private=True)
    hub.add("someone/gated", ours, is_gated=True)
    AsrModel.load(pull(f"hf:{name}", token=hub.token))
    with pytest.raises(CheckpointError, match=r"status 401|does not exist|accept"):
        pull(f"hf:{name}", token="hf_wrong", cache_dir=pull(f"hf:{name}", token=hub.token).parents[3])


def test_a_surprising_size_is_refused_before_anything_is_fetched(hub: StandIn, pull: Pull) -> None:
    hub.add("someone/model", hub.files("someone/model"), announced={"model.safetensors": 24_000_000_000})
    with pytest.raises(CheckpointError, match=r"at most 5\.0 GB.*24\.0 GB.*--max-gb 25"):
        pull()
    assert hub.fetched() == []
    with pytest.raises(ConfigError, match="above 0"):
        pull(max_gb=0)
    with pytest.raises(ConfigError, match="above 0"):
        pull(max_gb=float("nan"))


def test_a_disk_that_is_full_is_refused_before_anything_is_fetched(
    hub: StandIn, pull: Pull, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 100, 0))
    with pytest.raises(CheckpointError, match=r"needs 1\.\d MB, but the disk of .* is full \(0\.0 MB are free\)"):
        pull()
    assert hub.fetched() == []


def test_a_disk_that_fills_up_leaves_nothing(
    hub: StandIn, pull: Pull, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(local, "source_document", full)
    with pytest.raises(CheckpointError, match="is full"):
        pull()
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("place", ["file", "folder"])
def test_a_cache_that_cannot_be_written_is_named(pull: Pull, place: str, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file") if place == "file" else None
    cache = tmp_path / "cache" if place == "file" else Path("/proc/none")
    with pytest.raises(CheckpointError, match=f"must be written into the cache, but {cache}.*HF_HOME"):
        pull(cache_dir=cache)


def test_a_lfs_pointer_is_named(hub: StandIn, pull: Pull, tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    hub.add("someone/model", hub.files("someone/model") | {"model.safetensors": pointer})
    with pytest.raises(CheckpointError, match=r"model\.safetensors, but has only a Git LFS pointer"):
        pull()
    assert not list((tmp_path / "cache").rglob("source.json"))


def test_hostile_content_is_refused_and_nothing_stays(hub: StandIn, pull: Pull, icefall: Path, tmp_path: Path) -> None:
    files = {path.relative_to(icefall).as_posix(): path.read_bytes() for path in icefall.rglob("*") if path.is_file()}
    checkpoint = "exp/pretrained.pt"
    for content in (b"cos\nsystem\n(S'touch /tmp/owned'\ntR.", files[checkpoint][: len(files[checkpoint]) // 2]):
        hub.add("someone/hostile", files | {checkpoint: content})
        with pytest.raises(CheckpointError, match=r"hf:someone/hostile: .*pretrained\.pt"):
            pull("hf:someone/hostile")
    assert not list((tmp_path / "cache").rglob("source.json")) and not leftovers(tmp_path)


# Interruptions


@pytest.mark.filterwarnings("ignore")
def test_a_download_that_breaks_goes_on(hub: StandIn, pull: Pull, tmp_path: Path) -> None:
    hub.cuts["model.safetensors"] = 100_000
    AsrModel.load(pull())
    assert not leftovers(tmp_path)


def test_less_than_was_promised_is_refused_and_the_next_try_succeeds(hub: StandIn, pull: Pull, tmp_path: Path) -> None:
    hub.short["model.safetensors"] = 1000
    with pytest.raises(CheckpointError, match=r"model\.safetensors of hf:someone/model .* sent less than it promised"):
        pull()
    assert not list((tmp_path / "cache").rglob("source.json")) and not leftovers(tmp_path)
    hub.short.clear()
    AsrModel.load(pull())


def test_a_file_of_the_cache_that_was_cut_is_fetched_again(hub: StandIn, pull: Pull, tmp_path: Path) -> None:
    folder = pull()
    shutil.rmtree(folder)
    path = next((tmp_path / "cache").rglob("snapshots/*/model.safetensors")).resolve()
    path.chmod(0o644)
    content = path.read_bytes()
    path.write_bytes(content[:1000])
    assert (pull() / "model.safetensors").read_bytes() == content
    AsrModel.load(folder)


def test_ctrl_c_leaves_nothing_half_done(hub: StandIn, pull: Pull, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(local, "source_document", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pull()
    assert not leftovers(tmp_path) and not list((tmp_path / "cache").rglob("source.json"))
    AsrModel.load(pull())


def test_what_a_killed_process_left_is_cleaned_up(pull: Pull) -> None:
    folder = pull()
    orphan = folder.with_name(f".{folder.name}.partial-999999")
    other = folder.with_name(".other.partial-999999")
    shutil.copytree(folder, orphan)
    other.mkdir()
    shutil.rmtree(folder)
    assert pull() == folder
    assert not orphan.exists() and other.exists()


# The token


def authorizations(hub: StandIn) -> set[str | None]:
    """What the requests said about who asks."""
    return {request.headers.get("authorization") for request in hub.requests}


def test_the_token_is_not_sent_to_another_host(hub: StandIn, pull: Pull, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    pull()
    assert authorizations(hub) == {None}
    with pytest.raises(CheckpointError, match=r"was not sent to 127\.0\.0\.1:\d+; to send it there, set ZIPASR_TOKEN_HOST="):
        pull("hf:someone/unknown")
    assert authorizations(hub) == {None}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:{port}", "http://127.0.0.1:{port}/"])
def test_the_token_is_sent_where_the_user_says(hub: StandIn, pull: Pull, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("ZIPASR_TOKEN_HOST", host.format(port=hub.url.rpartition(":")[2]))
    pull()
    assert authorizations(hub) == {"Bearer hf_secret"}


def test_arguments_say_which_token_is_sent(hub: StandIn, pull: Pull, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    for token, sent in ((True, "Bearer hf_secret"), ("hf_other", "Bearer hf_other"), (False, None)):
        hub.requests.clear()
        pull(token=token)
        assert authorizations(hub) == {sent}


def test_a_run_that_finetunes_is_pinned(hub: StandIn, pull: Pull, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    old = hub.repositories["someone/model"].refs["main"]
    assert pinned(NAME) == f"{NAME}@{old}"
    assert pinned("exp/mine") == "exp/mine"
    hub.add("someone/model", hub.files("someone/model") | {"more.txt": b"x"})
    assert pinned(NAME) != f"{NAME}@{old}"
    assert pinned(NAME, like=f"{NAME}@{old}") == f"{NAME}@{old}"
    assert pinned(f"{NAME}#exp", like=f"{NAME}@{old}") != f"{NAME}@{old}"
    assert open_source(FinetuneConfig(checkpoint=f"{NAME}@{old}")).path.name == old
