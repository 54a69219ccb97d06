"""Contract: the stand-in of the hub answers the real client library as the sheet of its routes says."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.standin import StandIn

huggingface_hub = pytest.importorskip("huggingface_hub", reason='needs pip install "zipasr[hub]"')

FILES = {"README.md": b"a card", "exp/pretrained.pt": b"\1" * 5000, "data/lang_bpe_500/bpe.model": b"bpe"}


@pytest.fixture
def hub() -> Iterator[StandIn]:
    """A hub with the repository someone/model."""
    with StandIn() as hub:
        hub.add("someone/model", FILES)
        yield hub


def test_a_snapshot_is_what_was_added(hub: StandIn, tmp_path: Path) -> None:
    folder = Path(huggingface_hub.snapshot_download("someone/model", endpoint=hub.url, cache_dir=tmp_path, token=False))
    assert {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == FILES
    assert hub.fetched() == sorted(FILES)


def test_a_listing_has_sizes(hub: StandIn) -> None:
    entries = huggingface_hub.HfApi(endpoint=hub.url, token=False).list_repo_tree("someone/model", recursive=True)
    assert {entry.path: entry.size for entry in entries if hasattr(entry, "size")} == {
        name: len(FILES[name]) for name in FILES
    }


@pytest.mark.parametrize("lfs_from", [None, 100])
@pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning")
def test_an_upload_can_be_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lfs_from: int | None) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    folder = tmp_path / "folder"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    with StandIn(lfs_from=lfs_from) as hub:
        api = huggingface_hub.HfApi(endpoint=hub.url, token=hub.token)
        api.create_repo("someone/new", private=True)
        commit = api.upload_folder(repo_id="someone/new", folder_path=folder, commit_message="Add the model")
        assert hub.files("someone/new", commit.oid).items() >= FILES.items()
        assert len(hub.uploads) == (1 if lfs_from else 0)
        path = huggingface_hub.hf_hub_download(
            "someone/new", "exp/pretrained.pt", endpoint=hub.url, cache_dir=tmp_path / "cache", token=hub.token
        )
        assert Path(path).read_bytes() == FILES["exp/pretrained.pt"]
        with pytest.raises(huggingface_hub.errors.RepositoryNotFoundError):
            api.repo_info("someone/new", token=False)


def test_what_is_refused(hub: StandIn, tmp_path: Path) -> None:
    errors = huggingface_hub.errors
    api = huggingface_hub.HfApi(endpoint=hub.url, token=False)
    hub.add("someone/gated", FILES, is_gated=True)
    with pytest.raises(errors.GatedRepoError):
        huggingface_hub.hf_hub_download("someone/gated", "README.md", endpoint=hub.url, cache_dir=tmp_path, token=False)
    with pytest.raises(errors.RepositoryNotFoundError):
        api.repo_info("someone/unknown")
    with pytest.raises(errors.RevisionNotFoundError):
        api.repo_info("someone/model", revision="v9")
    with pytest.raises(errors.RemoteEntryNotFoundError):
        huggingface_hub.hf_hub_download("someone/model", "none.pt", endpoint=hub.url, cache_dir=tmp_path, token=False)


def test_a_connection_that_breaks_is_tried_again(hub: StandIn, tmp_path: Path) -> None:
    hub.cuts["exp/pretrained.pt"] = 1000
    path = huggingface_hub.hf_hub_download(
        "someone/model", "exp/pretrained.pt", endpoint=hub.url, cache_dir=tmp_path, token=False
    )
    assert Path(path).read_bytes() == FILES["exp/pretrained.pt"]
    assert sum(request.method == "GET" for request in hub.requests) == 2
