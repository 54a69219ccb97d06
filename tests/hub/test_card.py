"""Contract: a model card states what is known, says what is not, and its front matter is what the hub reads."""

import json
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from tests.tiny_model import save_tiny, tiny_config, tiny_tokenizer
from zipasr.errors import ConfigError, DataError
from zipasr.hub.card import CardFacts, TestResult, model_card, read_results
from zipasr.hub.description import ModelDescription, describe_config, describe_folder

RESULT = TestResult(name="My | test", wer=12.3456, cer=4.5, num_utterances=7, audio_s=90.0, search="beam, beam 8")


@pytest.fixture(scope="module")
def model() -> ModelDescription:
    return describe_config(tiny_config(), tiny_tokenizer())


def front_matter(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def section(card: str, title: str) -> str:
    return card.split(f"## {title}\n\n")[1].split("\n## ")[0].strip()


def test_front_matter_holds_what_was_stated_and_the_client_reads_its_results(model: ModelDescription) -> None:
    facts = CardFacts(
        repository="me/mine",
        languages=("en", "zh"),
        license="cc-by-4.0",
        datasets=("librispeech_asr",),
        base_model="someone/else",
        results=(RESULT,),
    )
    card = ModelCard(model_card(facts, model))
    data = card.data
    assert (data.language, data.license, data.datasets) == (["en", "zh"], "cc-by-4.0", ["librispeech_asr"])
    assert (data.library_name, data.pipeline_tag) == ("zipasr", "automatic-speech-recognition")
    assert data.base_model == "someone/else" and data.metrics == ["wer", "cer"]
    assert {"zipformer", "transducer", "ctc"} <= set(data.tags) and "streaming" not in data.tags
    assert [(r.dataset_name, r.metric_type, r.metric_value) for r in data.eval_results] == [
        ("My | test", "wer", 12.35),
        ("My | test", "cer", 4.5),
    ]
    assert data.model_name == "mine"


def test_what_nobody_stated_is_not_in_the_front_matter_and_said_to_be_not_stated(model: ModelDescription) -> None:
    facts = CardFacts(repository="me/mine")
    card = model_card(facts, model)
    assert set(front_matter(card)) == {"library_name", "pipeline_tag", "tags"}
    for title in ("Error rates", "Training data", "How it was trained", "License"):
        assert section(card, title).startswith("Not stated."), title
    assert set(facts.missing()) == {"language", "license", "training data", "error rates"}


def test_card_says_how_to_load_the_model_in_three_lines_that_compile(model: ModelDescription) -> None:
    code = section(model_card(CardFacts(repository="me/mine"), model), "Use it").split("```python\n")[1].split("```")[0]
    lines = [line for line in code.splitlines() if line]
    compile(code, "card", "exec")
    assert len(lines) == 3 and 'zipasr.load("hf:me/mine")' in lines[1]


def test_card_describes_the_model_and_its_limits(model: ModelDescription) -> None:
    facts = CardFacts(
        repository="me/mine", limits="It knows no names.", settings={"lr": 0.045, "batch.speed_factors": [0.9, 1]}
    )
    card = model_card(facts, model)
    assert f"{model.num_params:,}" in section(card, "What it is") and "layers 1 1 1" in section(card, "What it is")
    assert "upper case only, without punctuation" in section(card, "Limits")
    assert "live audio" in section(card, "Limits") and "It knows no names." in section(card, "Limits")
    assert "| `batch.speed_factors` | 0.9, 1 |" in section(card, "How it was trained")


def test_tables_survive_whatever_a_set_is_called(model: ModelDescription) -> None:
    rows = section(model_card(CardFacts(repository="me/mine", results=(RESULT,)), model), "Error rates").splitlines()
    assert rows[-1] == r"| My \| test | 12.35 | 4.50 | 7 | 1.5 min | beam, beam 8 |"


@pytest.mark.parametrize("text", ['yes"\n---\nlicense: mit', "a: b # c", "#", "---", "{}", "'", "\u2028x"])
def test_no_argument_adds_to_the_front_matter(text: str, model: ModelDescription) -> None:
    facts = CardFacts(repository="me/mine", datasets=(text,), base_model=text)
    data = yaml.safe_load(model_card(facts, model).split("---\n", 1)[1].split("\n---\n\n# mine")[0])
    assert (data["datasets"], data["base_model"]) == ([text], text) and "license" not in data


@pytest.mark.parametrize(
    "facts", [{"languages": ("English",)}, {"languages": ("en", "")}, {"license": "Apache 2"}, {"recipe": "\udcff"}]
)
def test_values_that_the_hub_does_not_take_are_refused(facts: dict) -> None:
    with pytest.raises(ConfigError):
        CardFacts(repository="me/mine", **facts)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "test set.json"
    values = {
        "wer": 20.892,
        "cer": 6.6324,
        "num_utterances": 40,
        "audio_s": 179.291,
        "search": {"method": "beam", "beam": 8},
    }
    path.write_text(json.dumps(values))
    return path


def test_results_are_those_of_evaluate(results: Path) -> None:
    named, plain = read_results([f"My test={results}", str(results)])
    assert (named.name, plain.name) == ("My test", "test set")
    assert (named.wer, named.cer, named.num_utterances, named.audio_s) == (20.892, 6.6324, 40, 179.291)
    assert named.search == "beam, beam 8"


def test_a_file_with_an_equals_sign_in_its_name_is_a_file(results: Path) -> None:
    path = results.rename(results.with_name("a=b.json"))
    assert read_results([str(path)])[0].name == "a=b"


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"wer": "1", "cer": 1, "audio_s": 1, "num_utterances": 1}', "1", "\xff"]
)
def test_other_files_are_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match="evaluate --json"):
        read_results([str(path)])


def test_results_without_a_file_or_a_name_are_refused(tmp_path: Path, results: Path) -> None:
    with pytest.raises(DataError):
        read_results([str(tmp_path / "missing.json")])
    for argument in (f"={results}", "name="):
        with pytest.raises(ConfigError):
            read_results([argument])


def test_a_folder_is_described_without_its_weights(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", has_attention=True)
    (folder / "model.safetensors").unlink()
    model = describe_folder(folder)
    assert model.heads == ("transducer", "ctc", "attention") and model.encoder.channels == (32, 64, 48)
    assert model.vocabulary.size == tiny_tokenizer().vocab_size and model.vocabulary.kind == "pieces"
