"""Contract: every preset builds and has its published size; names, aliases, folders; unknown names are refused with the
nearest names."""

from pathlib import Path

import pytest
import torch

from tests.tiny_model import save_tiny, tiny_config, tiny_tokenizer
from zipasr.errors import CheckpointError, ConfigError
from zipasr.model import CONFIG_FILE, AsrModel
from zipasr.presets import (
    ABLATIONS,
    ALIASES,
    PRESETS,
    TABLE_2,
    TABLE_5,
    find_config,
    find_preset,
    find_published,
    preset_names,
)
from zipasr.profile import count_params


def test_second_names_stand_for_presets() -> None:
    assert set(preset_names()) == set(PRESETS) | set(ALIASES)
    assert not set(PRESETS) & set(ALIASES)
    for alias, name in ALIASES.items():
        assert find_preset(alias) == find_preset(name)


def test_every_model_of_the_table_has_a_preset() -> None:
    assert set(TABLE_2) <= set(preset_names())
    assert len(TABLE_2) == 15


@pytest.mark.parametrize(
    ("name", "num_params"),
    [
        ("small", 23_285_615),
        ("zipformer-m", 65_549_011),
        ("large", 148_439_574),
        ("xlarge", 288_154_582),
        ("zipformer-xl", 288_154_582),
        ("e-branchformer-l", 148_923_152 - 1024),  # the published decoder ends in a LayerNorm, ours does not
    ],
)
def test_exact_sizes(name: str, num_params: int) -> None:
    with torch.device("meta"):
        assert count_params(AsrModel(find_preset(name))) == num_params


@pytest.mark.parametrize(
    "name", [name for name in TABLE_2 if name.startswith(("squeezeformer", "branchformer", "e-branch"))]
)
def test_heads_of_the_compared_encoders(name: str) -> None:
    config = find_preset(name)
    assert config.transducer is None
    assert config.ctc is not None
    assert (config.attention is not None) == ("branchformer" in name)
    assert config.vocab_size == (5000 if config.attention else 128)
    assert find_published(name).type == ("CTC/AED" if config.attention else "CTC")


def test_published_rows_go_by_both_names() -> None:
    assert find_published("small") is find_published("zipformer-s") is TABLE_2["zipformer-s"]
    assert find_published("conformer-l").title == "Conformer-L"
    assert find_published("tiny") is None
    families = ["Zipformer", "E-Branchformer", "Branchformer"]
    assert [TABLE_2[name].family for name in ("zipformer-l", "e-branchformer-b", "branchformer")] == families


@pytest.mark.parametrize("name", list(TABLE_5))
def test_ablations_have_the_published_size_to_the_digit_shown(name: str) -> None:
    with torch.device("meta"):
        num_params = count_params(AsrModel(find_preset(name)))
    assert round(num_params / 1e6, 1) == TABLE_5[name].params_m


def test_every_ablation_differs_from_the_base_and_from_the_others() -> None:
    configs = [find_preset(name) for name in ("medium", "medium-no-downsampling", *ABLATIONS)]
    assert all(a != b for i, a in enumerate(configs) for b in configs[:i])
    assert set(TABLE_5) <= {"medium-no-downsampling", *ABLATIONS}
    assert {"medium-no-balancer", "medium-no-whitener", "medium-no-constraints"} <= set(ABLATIONS)  # the paper's table 6


@pytest.mark.parametrize(
    ("name", "near"), [("zipformer", "zipformer-"), ("branchfromer", "branchformer"), ("meduim", "medium")]
)
def test_unknown_names(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"no preset '{name}'; did you mean .*{near}"):
        find_preset(name)
    with pytest.raises(ConfigError, match=f"'{name}' must be a preset or a folder .* but is neither; did you mean .*{near}"):
        find_config(name)


def test_a_name_like_none_lists_all() -> None:
    with pytest.raises(ConfigError, match=r"the presets are tiny, small, .*, zipformer-xl$"):
        find_preset("quux")


def test_folders(tmp_path: Path) -> None:
    save_tiny(tmp_path / "run" / "model")
    assert find_config(tmp_path / "run" / "model") == tiny_config()
    assert find_config(str(tmp_path / "run")) == tiny_config()


def test_preset_comes_before_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny(tmp_path / "small")
    monkeypatch.chdir(tmp_path)
    assert find_config("small") == find_preset("small")
    assert find_config("./small").vocab_size == tiny_tokenizer().vocab_size


def test_folders_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="must be a model folder"):
        find_config(tmp_path)
    save_tiny(tmp_path / "model")
    (tmp_path / "model" / CONFIG_FILE).write_text("{}")
    with pytest.raises(CheckpointError, match="damaged"):
        find_config(tmp_path)
