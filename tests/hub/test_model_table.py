"""Contract: the table of published models is complete, well-formed and sourced; its settings are `ModelSettings`."""

import pytest

from zipasr.errors import ConfigError
from zipasr.hub import find_known, find_models, known_models, known_settings
from zipasr.hub.model_table import LANGUAGES
from zipasr.hub.reference import parse_reference
from zipasr.hub.settings import ModelSettings

WENETSPEECH = "hf:pkufool/icefall-asr-zipformer-wenetspeech-20230615"


def test_every_row_names_its_source_and_can_be_reached() -> None:
    for model in known_models():
        assert model.source and model.heads and model.vocabulary, model.title
        if model.reference is not None:
            assert str(parse_reference(model.reference)) == model.reference
        else:
            assert model.name and model.where.startswith("https://"), model.title


def test_titles_are_unique() -> None:
    titles = [model.title.lower() for model in known_models()]
    assert len(titles) == len(set(titles))


def test_values_are_plausible() -> None:
    for model in known_models():
        assert set(model.languages) <= set(LANGUAGES) and model.languages, model.title
        assert set(model.heads) <= {"transducer", "ctc", "attention"}, model.title
        assert model.family in {"icefall", "authors", "soundsgoodai", "onnx", "vosk", "keywords"}, model.title
        assert model.params_m is None or 1 < model.params_m < 1000, model.title
        assert all(0 < rate.percent < 40 for rate in model.error_rates), model.title
        assert model.license is None or model.license == model.license.lower(), model.title


def test_every_language_has_a_model_and_every_filter_fits_what_it_finds() -> None:
    for language in LANGUAGES:
        found = find_models(language=language)
        assert found and all(language in model.languages for model in found)
    live, others = find_models(is_streaming=True), find_models(is_streaming=False)
    assert all(model.is_streaming for model in live) and not any(model.is_streaming for model in others)
    assert len(live) + len(others) == len(known_models()) == len(find_models())
    assert find_models(language="Chinese") == find_models(language="zh") == find_models(language="ZH")


@pytest.mark.parametrize("language", ["klingon", "", "e", "en,zh"])
def test_an_unknown_language_is_refused(language: str) -> None:
    with pytest.raises(ConfigError, match=r"zh \(Chinese\)"):
        find_models(language=language)


@pytest.mark.parametrize(
    "reference", [WENETSPEECH, f"{WENETSPEECH}@main", f"{WENETSPEECH}@v1#exp", WENETSPEECH.upper().replace("HF:", "hf:")]
)
def test_settings_belong_to_the_repository_whatever_the_revision(reference: str) -> None:
    assert known_settings(reference) == ModelSettings(blank_penalty=2.0)


def test_settings_of_the_published_models_that_need_some() -> None:
    xl = known_settings("hf:yuekai/icefall-asr-multi-zh-hans-zipformer-xl")
    assert (xl.features, xl.blank_penalty, xl.num_heads) == ("whisper", 0.7, (4, 4, 4, 8, 4, 4))
    assert known_settings("hf:soundsgoodai/Zipformer-transducer-XL-290M") == ModelSettings(beam_size=6)
    assert known_settings("hf:nobody/nothing") == ModelSettings()
    assert find_known("hf:nobody/nothing") is None


def test_a_path_is_no_reference() -> None:
    with pytest.raises(ConfigError):
        known_settings("exp/mine")


def test_models_that_cannot_run_say_why_and_what_to_take_instead() -> None:
    refused = [model for model in known_models() if model.refused]
    assert refused
    for model in refused:
        assert "Zipformer 1" in model.refused and "Take" in model.refused, model.title
    assert {"hf:desh2608/icefall-asr-librispeech-zipformer-ctc"} <= {model.reference for model in refused}
