"""Contract: the user's input finds a recipe, or gives a message that lists what exists."""

from pathlib import Path

import pytest

from zipasr.config import from_json, to_json
from zipasr.errors import ConfigError
from zipasr.recipes import prompts
from zipasr.recipes.find import find_recipe, recipe_names
from zipasr.train.config import TrainConfig

RECIPE = """
import dataclasses
from zipasr.recipes.prompts import tiny
from zipasr.train.config import TrainConfig

def mine() -> TrainConfig:
    return dataclasses.replace(tiny(), lr=0.0123)

def with_argument(lr: float) -> TrainConfig:
    return mine()

def something_else() -> int:
    return 3
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "my recipe.py"
    path.write_text(RECIPE)
    return path


def test_every_recipe_of_ours_can_be_found_and_written() -> None:
    assert "prompts:tiny" in recipe_names()
    for name in recipe_names():
        config = find_recipe(name)
        assert isinstance(config, TrainConfig)
        assert from_json(TrainConfig, to_json(config)) == config
    assert find_recipe("prompts:tiny") == prompts.tiny()


def test_recipe_in_a_file(recipe_file: Path) -> None:
    assert find_recipe(f"{recipe_file}:mine").lr == 0.0123


@pytest.mark.parametrize("function", ["minne", "something_else", "with_argument", "tiny", ""])
def test_file_without_that_recipe_names_those_it_has(recipe_file: Path, function: str) -> None:
    with pytest.raises(ConfigError, match=r"returns a TrainConfig.*there are mine$"):
        find_recipe(f"{recipe_file}:{function}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def broken(:\n", "SyntaxError"),
        ("import no_such_module_at_all\n", "ModuleNotFoundError"),
        ("raise ValueError('on purpose')\n", "on purpose"),
        ("x = 3\n", "there are none"),
    ],
)
def test_file_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        find_recipe(f"{path}:mine")


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        find_recipe(f"{tmp_path / 'none.py'}:mine")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("promts:tiny", "there is no recipe 'promts:tiny'; did you mean prompts:tiny"),
        ("./nope:x", "there is no recipe './nope:x'; did you mean"),
        ("data/v1.2:x", "there is no recipe 'data/v1.2:x'"),
        ("my_recipe.pyy:function", "there is no recipe 'my_recipe.pyy:function'"),
        ("..:x", "there is no recipe"),
        (":x", "there is no recipe"),
        ("C:\\data", "there is no recipe"),
        ("prompts:tinny", r"'tinny' must be a function of prompts .*; there are tiny"),
        ("find:find_recipe", "there are none"),
        ("no/such/folder", r"is neither; the recipes are .*prompts:tiny.*zipasr prepare SOURCE --out DIR"),
    ],
)
def test_wrong_name_gives_the_nearest(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_recipe(name)
