"""Contract: `inspect_model` says what a model is, from its own files or from small ones on the hub (a local stand-in); of a
model that cannot be used it says why."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.export.models import causal_model
from tests.hub.published_layouts import icefall_folder, model_of, soundsgoodai_folder, soundsgoodai_model
from tests.hub.standin import StandIn
from tests.model_kinds import REFUSED
from tests.onnx_runtime import small_graphs
from tests.tiny_model import save_tiny, tiny_asr_model, tiny_config, tiny_tokenizer
from zipasr.checkpoint import write_folder
from zipasr.errors import CheckpointError, ConfigError
from zipasr.hub.description import count_params
from zipasr.hub.inspection import inspect_model
from zipasr.hub.local import local_model
from zipasr.search.default_search import write_default_search
from zipasr.search.strategy import SearchConfig


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with StandIn() as hub:
        for name, value in hub.environment(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        yield hub


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_tiny(tmp_path_factory.mktemp("inspect") / "model")
    write_default_search(folder, SearchConfig(method="beam", blank_penalty=1.5), [], chosen_on="dev")
    return folder


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of icefall's form."""
    model = model_of(tiny_tokenizer().vocab_size)
    return icefall_folder(
        tmp_path_factory.mktemp("icefall") / "r", model, tiny_tokenizer().to_bytes(), "lang_bpe_48/bpe.model"
    )


def test_a_model_folder(own: Path) -> None:
    found = inspect_model(own)
    assert (found.kind, found.refused, found.source) == ("zipasr", "", "")
    assert found.description is not None and found.vocabulary == found.description.vocabulary
    assert (
        found.description.num_params == count_params(tiny_config()) == sum(p.numel() for p in tiny_asr_model().parameters())
    )
    assert found.description.encoder.num_layers == (1, 1, 1) and found.description.context_size == 2
    assert found.description.search == "beam, blank_penalty 1.5"
    assert found.files["model.safetensors"] == (own / "model.safetensors").stat().st_size
    assert not found.abilities["streams"].can and found.abilities["hotwords"].can


def test_a_run_is_its_model_and_a_file_of_weights_is_not_read(own: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    shutil.copytree(own, tmp_path / "run" / "model")
    (tmp_path / "run" / "model" / "model.safetensors").write_bytes(b"damaged")
    assert inspect_model(tmp_path / "run").description == inspect_model(own).description


def test_a_run_before_its_first_validation_is_its_checkpoint(tmp_path: Path) -> None:
    documents, tensors, blobs = tiny_asr_model().to_files(tiny_tokenizer())
    write_folder(tmp_path / "checkpoints" / "batch-7", documents=documents, tensors=tensors, blobs=blobs)
    assert inspect_model(tmp_path).kind == "zipasr"


def test_a_causal_model_names_its_chunks(tmp_path: Path) -> None:
    found = inspect_model(causal_model().save(tmp_path / "model", tiny_tokenizer()))
    assert found.description is not None
    assert found.description.chunks_ms == (320, 640, 1280) and found.description.left_contexts_ms == (1280, 2560, 5120)
    assert found.abilities["streams"].can


def test_a_checkpoint_of_others_and_its_file(repository: Path) -> None:
    for path in (repository, repository / "exp", repository / "exp" / "pretrained.pt"):
        found = inspect_model(path)
        assert found.kind == "icefall" and found.description is not None and not found.refused
        assert found.description.heads == ("transducer", "ctc")
        assert sum(size for name, size in found.files.items() if name.endswith("pretrained.pt")) > 0


def test_settings_of_a_config_yaml_are_part_of_it(tmp_path: Path) -> None:
    found = inspect_model(soundsgoodai_folder(tmp_path / "r", soundsgoodai_model()))
    assert found.kind == "soundsgoodai" and found.description is not None
    assert found.description.search == "beam, beam 6" and found.description.encoder.num_heads == (2, 4)


def test_graphs_name_their_precision_and_what_their_table_cannot_do(tmp_path: Path) -> None:
    folder = small_graphs.write(tmp_path / "g", **small_graphs.transducer())
    (folder / "joiner.onnx").rename(folder / "joiner.int8.onnx")
    (folder / "encoder.onnx").rename(folder / "encoder.int8.onnx")
    (folder / "bpe.model").unlink()
    found = inspect_model(folder)
    assert found.kind == "onnx transducer" and found.description is not None
    assert found.description.precision == "encoder int8, decoder float32, joiner int8"
    assert not found.abilities["hotwords"].can and not found.abilities["finetunes"].can
    assert found.description.vocabulary.can_encode is False


def test_streaming_graphs_tell_the_sizes_of_their_encoder(tmp_path: Path) -> None:
    graphs = {"decoder": small_graphs.decoder_graph(), "joiner": small_graphs.joiner_graph()}
    found = inspect_model(small_graphs.write(tmp_path / "g", encoder=small_graphs.zipformer1_graph(), **graphs))
    assert found.kind == "onnx zipformer 1" and found.description is not None
    assert found.description.encoder.num_layers == (2, 1) and found.description.chunks_ms == (320,)


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_models_keep_their_reason_as_json(kind: str, tmp_path: Path) -> None:
    document = inspect_model(REFUSED[kind](tmp_path / "model")).to_dict()
    assert document["refused"] and not any(ability["can"] for ability in document["abilities"].values())


def test_a_folder_without_a_model_and_a_damaged_one_are_refused(own: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").write_text("x")
    found = inspect_model(tmp_path / "empty")
    assert found.refused and found.files == {"a.txt": 1} and found.layout == "no model that zipasr knows"
    shutil.copytree(own, tmp_path / "damaged")
    (tmp_path / "damaged" / "config.json").write_text("{}")
    assert "damaged" in inspect_model(tmp_path / "damaged").refused


def test_what_is_not_there_is_an_error(tmp_path: Path, hub: StandIn) -> None:
    with pytest.raises(CheckpointError):
        inspect_model(tmp_path / "missing")
    with pytest.raises(CheckpointError):
        inspect_model("hf:me/missing")
    with pytest.raises(ConfigError):
        inspect_model("hf:me")


def test_our_own_models_on_the_hub_are_described_without_their_weights(own: Path, hub: StandIn) -> None:
    commit = hub.add("me/mine", own)
    found = inspect_model("hf:me/mine")
    assert found.description == inspect_model(own).description and found.commit == commit
    assert "model.safetensors" in found.files and "model.safetensors" not in hub.fetched()


def test_of_models_of_others_only_small_files_are_fetched(repository: Path, hub: StandIn) -> None:
    hub.add("me/icefall", repository)
    found = inspect_model("hf:me/icefall")
    assert found.kind == "icefall" and found.description is None and not found.refused and found.abilities == {}
    assert found.vocabulary is not None and found.vocabulary.size == tiny_tokenizer().vocab_size
    assert "exp/pretrained.pt" not in hub.fetched() and "exp/jit_script.pt" not in hub.fetched()


def test_what_is_in_the_cache_is_described_wholly_and_offline(
    repository: Path, hub: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.add("me/icefall", repository)
    local_model("hf:me/icefall")
    hub.close()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = inspect_model("hf:me/icefall")
    assert found.description is not None and found.description.num_params == inspect_model(repository).description.num_params  # type: ignore[union-attr]
    assert found.source == f"hf:me/icefall@{commit}" and found.model == "hf:me/icefall"


def test_a_known_model_brings_its_row_and_a_known_refusal(repository: Path, hub: StandIn) -> None:
    name = "pkufool/icefall-asr-zipformer-wenetspeech-20230615"
    hub.add(name, repository)
    known = inspect_model(f"hf:{name}").known
    assert known is not None and known.settings.blank_penalty == 2.0
    refused = "desh2608/icefall-asr-librispeech-zipformer-ctc"
    hub.add(refused, repository)
    assert "Zipformer 1" in inspect_model(f"hf:{refused}").refused


def test_a_repository_with_several_models_says_which(repository: Path, hub: StandIn) -> None:
    files = {path.relative_to(repository).as_posix(): path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    small = {f"exp_small/{name.partition('/')[2]}": content for name, content in files.items() if name.startswith("exp/")}
    hub.add(
        "me/two",
        {
            **{f"exp_big/{name.partition('/')[2]}": c for name, c in files.items() if "exp/" in name},
            **small,
            **{n: c for n, c in files.items() if n.startswith("data/")},
        },
    )
    assert "exp_small" in inspect_model("hf:me/two").refused
    assert inspect_model("hf:me/two#exp_small").kind == "icefall"
