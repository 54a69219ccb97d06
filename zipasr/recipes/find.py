"""Recipe lookup by name: `module:function` or `file.py:function`."""

import difflib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import zipasr.recipes
from zipasr.errors import ConfigError
from zipasr.train.config import TrainConfig


def find_recipe(name: str) -> TrainConfig:
    """The configuration of the recipe `name`.

    Args:
        name: `prompts:tiny` (a module of `zipasr.recipes` and a function in it) or `my_recipe.py:function`.
    Raises:
        ConfigError: there is no such recipe; the message lists the existing ones.
    """
    module_name, colon, function_name = name.rpartition(":")
    if not colon:
        raise ConfigError(
            f"RECIPE_OR_DATA must be a recipe or a data folder, but {name!r} is neither; the recipes are "
            f"{', '.join(recipe_names())}; make a data folder with: zipasr prepare SOURCE --out DIR"
        )
    if module_name.endswith(".py"):
        module = _load_file(Path(module_name))
    elif module_name.isidentifier():
        module = _load_module(module_name, name)
    else:
        raise _unknown(name)
    function = _recipes_of(module).get(function_name)
    if function is None:
        raise ConfigError(
            f"{function_name!r} must be a function of {module_name} that returns a TrainConfig, but is not; there are "
            f"{', '.join(_recipes_of(module)) or 'none'}"
        )
    return function()


def recipe_names() -> list[str]:
    """Names of the recipes in the package."""
    names = []
    for info in pkgutil.iter_modules(zipasr.recipes.__path__):
        module = importlib.import_module(f"zipasr.recipes.{info.name}")
        names += [f"{info.name}:{function}" for function in _recipes_of(module)]
    return names


def _recipes_of(module: ModuleType) -> dict[str, Callable[[], TrainConfig]]:
    """The functions of a module without parameters whose annotated return type is TrainConfig."""
    return {
        name: value
        for name, value in vars(module).items()
        if callable(value)
        and getattr(value, "__module__", None) == module.__name__
        and getattr(value, "__annotations__", {}).get("return") in (TrainConfig, "TrainConfig")
        and not getattr(value, "__code__", find_recipe.__code__).co_argcount
    }


def _load_module(module_name: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(f"zipasr.recipes.{module_name}")
    except ModuleNotFoundError as error:
        if error.name != f"zipasr.recipes.{module_name}":
            raise  # one of our own recipes imports something that is missing
        raise _unknown(name) from error


def _unknown(name: str) -> ConfigError:
    near = difflib.get_close_matches(name, recipe_names(), n=3, cutoff=0.3) or recipe_names()
    return ConfigError(f"there is no recipe {name!r}; did you mean {' or '.join(near)}?")


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"{path} must be a recipe file, but does not exist")
    name = f"zipasr_recipe_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # Differs: whatever a user's own code may raise
        del sys.modules[name]
        raise ConfigError(f"the recipe file {path} cannot be run: {type(error).__name__}: {error}") from error
    return module
