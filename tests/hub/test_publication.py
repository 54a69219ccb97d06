"""Contract: `collect` and `publish` send the files of a model and its card, nothing else, to a hub (a local stand-in) whose
client is the real one; what was pushed can be loaded, and what is there is not lost, mixed up or seen by everybody."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.standin import StandIn
from tests.tiny_model import save_tiny, tiny_asr_model, tiny_tokenizer
from zipasr.checkpoint import CheckpointFolder, write_folder
from zipasr.config import to_json
from zipasr.errors import CheckpointError, ConfigError
from zipasr.export import export_model
from zipasr.export.keywords import KEYWORDS_FILE
from zipasr.hub.card import CardFacts, model_card
from zipasr.hub.local import local_model
from zipasr.hub.publication import Publication, collect, publish
from zipasr.model import AsrModel
from zipasr.onnx_runtime import load
from zipasr.search.confidence import Calibration, write_calibration
from zipasr.search.default_search import write_default_search
from zipasr.search.strategy import SearchConfig
from zipasr.train.config import TrainConfig

CARD = "---\nlibrary_name: zipasr\n---\n\n# mine\n"
TOKEN = "hf_reader"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with StandIn(token=TOKEN, lfs_from=50_000) as hub:
        for name, value in hub.environment(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("ZIPASR_TOKEN_HOST", hub.url)
        yield hub


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a default search, a calibration, and files that are not the model's."""
    folder = save_tiny(tmp_path_factory.mktemp("publish") / "model")
    write_default_search(folder, SearchConfig(method="beam", beam=8), [], chosen_on="dev")
    write_calibration(folder, "beam", Calibration(temperature=2.0))
    (folder / "private.wav").write_bytes(b"RIFF")
    (folder / "notes.txt").write_text("secret")
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    folder = tmp_path_factory.mktemp("publish") / "exported"
    export_model(model, folder)
    return folder


def pushed(hub: StandIn) -> dict[str, bytes]:
    return {name: content for name, content in hub.files("me/mine").items() if name != ".gitattributes"}


def test_the_files_of_a_model_folder_are_published_and_can_be_loaded(hub: StandIn, model: Path, tmp_path: Path) -> None:
    done = publish(collect(model), CARD, "me/mine", message="First")
    files = pushed(hub)
    names = {"config.json", "model.safetensors", "tokenizer.model", "tokens.txt", "search.json", "confidence.json"}
    assert set(files) == {*names, "checksums.json", "README.md"}
    assert files["README.md"].decode() == CARD
    assert done.commit == hub.repositories["me/mine"].refs["main"] and done.url == f"{hub.url}/me/mine"
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, content in files.items():
        (copy / name).write_bytes(content)
    loaded, _ = AsrModel.load(copy)
    assert all((a == b).all() for a, b in zip(loaded.parameters(), AsrModel.load(model)[0].parameters(), strict=True))
    assert set(CheckpointFolder(copy).names()) <= set(files), "nothing is listed that is not there"


def test_large_files_go_through_lfs_and_nothing_private_leaves(hub: StandIn, model: Path) -> None:
    publish(collect(model), CARD, "me/mine")
    sent = b"".join(request.body for request in hub.requests)
    assert (model / "model.safetensors").read_bytes() in hub.uploads.values()
    assert b"secret" not in sent and str(model).encode() not in sent and b"private.wav" not in sent


def test_a_training_checkpoint_is_published_without_its_state(hub: StandIn, tmp_path: Path) -> None:
    run = tmp_path / "run"
    folder = run / "checkpoints" / "batch-5"
    documents, tensors, blobs = tiny_asr_model().to_files(tiny_tokenizer())
    state = {"training.safetensors": tiny_asr_model().state_dict(), "average.safetensors": tiny_asr_model().state_dict()}
    documents["training.json"] = {"data": "/home/someone/secret"}
    write_folder(folder, documents=documents, tensors={**tensors, **state}, blobs=blobs)
    config = dataclasses.replace(TrainConfig(), data="/home/someone/secret", num_epochs=7)
    (run / "config.json").write_text(json.dumps(to_json(config)))
    publication = collect(run)
    assert publication.settings["num_epochs"] == 7 and publication.settings["batch.max_duration_s"] > 0
    card = model_card(CardFacts(repository="me/mine", settings=publication.settings), publication.description)
    publish(publication, card, "me/mine")
    assert not {"training.json", "training.safetensors", "average.safetensors"} & set(pushed(hub))
    assert b"someone" not in b"".join(pushed(hub).values())
    assert set(json.loads(pushed(hub)["checksums.json"])["sha256"]) <= set(pushed(hub))


def test_an_exported_folder_is_published_with_its_instructions_in_the_card(
    hub: StandIn, exported: Path, tmp_path: Path
) -> None:
    publication = collect(exported)
    card = model_card(CardFacts(repository="me/mine", other_programs=publication.readme), publication.description)
    publish(publication, card, "me/mine")
    files = pushed(hub)
    assert {"export.json", "encoder.onnx", "decoder.onnx", "joiner.onnx", "tokens.txt"} <= set(files)
    assert "extras `hub` and `onnx`" in card and "sherpa-onnx" in card.split("## In other programs")[1]
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, content in files.items():
        (copy / name).write_bytes(content)
    assert load(copy).tokenizer.pieces == tiny_tokenizer().pieces


def test_a_second_push_makes_a_second_commit_of_what_changed(hub: StandIn, model: Path) -> None:
    publish(collect(model), CARD, "me/mine")
    publish(collect(model), CARD + "more\n", "me/mine")
    assert pushed(hub)["README.md"].decode() == CARD + "more\n"


def test_a_second_push_leaves_nothing_of_the_first_model(hub: StandIn, model: Path, tmp_path: Path) -> None:
    """Neither its search nor its calibration, which would be applied to the weights of the second; but files of others."""
    publish(collect(model), CARD, "me/mine")
    others = {"a.wav": b"RIFF", "keywords.txt": b"A", "more/search.json": b"{}"}
    hub.add("me/mine", {**hub.files("me/mine"), **others, "source.json": b"{}"})
    second = save_tiny(tmp_path / "second")
    publish(collect(second), CARD, "me/mine")
    names = {"config.json", "model.safetensors", "tokenizer.model", "tokens.txt", "checksums.json", "README.md"}
    assert set(pushed(hub)) == {*names, *others}
    assert not list(local_model("hf:me/mine").glob("confidence.json"))


@pytest.mark.parametrize("index", [None, b"[", b"[]", b"{}"])
def test_a_second_push_of_an_export_deletes_the_graphs_of_the_first(
    index: bytes | None, hub: StandIn, exported: Path
) -> None:
    """Those that the first listed; the others are of somebody else. A list that cannot be read lists none."""
    publish(collect(exported), CARD, "me/mine")
    before = hub.files("me/mine")
    listed = json.loads(before["checksums.json"])
    listed["sha256"]["ctc.onnx"] = "0" * 64
    others = {"theirs.onnx": b"x", "config.json": b"{}"}
    old = {"ctc.onnx": b"x", "keywords.txt": b"A", "quantization.json": b"{}"}
    hub.add("me/mine", {**before, **others, **old, "checksums.json": index or json.dumps(listed).encode()})
    publish(collect(exported), CARD, "me/mine")
    left = {"ctc.onnx": b"x"} if index else {}
    assert hub.files("me/mine") == {**before, **others, **left}


def test_a_private_repository_is_private(hub: StandIn, model: Path) -> None:
    publish(collect(model), CARD, "me/mine", is_private=True)
    assert hub.repositories["me/mine"].is_private


def test_a_private_model_is_not_pushed_to_a_public_repository(hub: StandIn, model: Path) -> None:
    hub.add("me/mine", {"a.txt": b""})
    with pytest.raises(ConfigError, match="public"):
        publish(collect(model), CARD, "me/mine", is_private=True)
    assert set(pushed(hub)) == {"a.txt"} and not hub.uploads


def test_a_card_of_another_hand_is_replaced_only_if_asked(hub: StandIn, model: Path) -> None:
    hub.add("me/mine", {"README.md": b"---\nlicense: mit\n---\nWritten by hand."})
    with pytest.raises(ConfigError, match="--replace-card"):
        publish(collect(model), CARD, "me/mine")
    assert set(pushed(hub)) == {"README.md"}
    publish(collect(model), CARD, "me/mine", replaces_card=True)
    assert pushed(hub)["README.md"].decode() == CARD


def test_the_keywords_of_an_export_are_published(exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "exported"))
    (folder / KEYWORDS_FILE).write_text("A :1 #0.3 @A\n")
    index = json.loads((folder / "checksums.json").read_text())
    index["sha256"][KEYWORDS_FILE] = hashlib.sha256((folder / KEYWORDS_FILE).read_bytes()).hexdigest()
    (folder / "checksums.json").write_text(json.dumps(index))
    assert collect(folder).files[KEYWORDS_FILE] == folder / KEYWORDS_FILE


@pytest.mark.parametrize("first", ["model", "exported"])
def test_a_model_and_an_export_do_not_mix(first: str, hub: StandIn, model: Path, exported: Path) -> None:
    one, other = (model, exported) if first == "model" else (exported, model)
    publish(collect(one), CARD, "me/mine")
    before = pushed(hub)
    with pytest.raises(ConfigError, match="another name"):
        publish(collect(other), CARD, "me/mine")
    assert pushed(hub) == before


def test_a_damaged_model_is_not_published(hub: StandIn, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(model, folder)
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\0")
    with pytest.raises(CheckpointError, match="damaged"):
        collect(folder)
    assert not hub.requests


@pytest.mark.parametrize("kind", ["missing", "empty", "optimizer"])
def test_other_folders_are_refused(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    if kind != "missing":
        folder.mkdir()
    if kind == "optimizer":
        (folder / "training.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError):
        collect(folder)


def test_a_model_is_not_pushed_without_a_token_or_to_a_host_that_the_token_is_not_for(
    hub: StandIn, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ZIPASR_TOKEN_HOST")
    with pytest.raises(ConfigError, match="ZIPASR_TOKEN_HOST"):
        publish(collect(model), CARD, "me/mine")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("ZIPASR_TOKEN_HOST", hub.url)
    with pytest.raises(ConfigError, match="HF_TOKEN"):
        publish(collect(model), CARD, "me/mine")
    assert not hub.requests


def test_a_token_that_may_not_write_is_told_apart_from_a_missing_repository(
    hub: StandIn, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(CheckpointError, match="write"):
        publish(collect(model), CARD, "me/mine")
    assert not hub.repositories


def test_a_hub_that_is_down_or_not_wanted_is_an_error(hub: StandIn, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publication: Publication = collect(model)
    hub.close()
    with pytest.raises(CheckpointError, match=r"127\.0\.0\.1"):
        publish(publication, CARD, "me/mine")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE"):
        publish(publication, CARD, "me/mine")


def test_sizes_are_those_of_what_is_sent(model: Path) -> None:
    publication = collect(model)
    assert publication.sizes()["model.safetensors"] == (model / "model.safetensors").stat().st_size
    assert publication.description.vocabulary.size == tiny_tokenizer().vocab_size
