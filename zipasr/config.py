"""Frozen dataclasses <-> JSON, typed both ways: `to_json`, `from_json`, and `set_fields` for `--set name=value`.

A configuration is a tree of frozen dataclasses with numbers, strings, booleans, tuples and None as leaves. If a field
allows several classes, each has a class variable `kind`, which its JSON states; without it the first class is used.
Unknown names and wrong types raise `ConfigError` with the expected value and the nearest names.
"""

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, Literal, TypeVar, Union, cast

from zipasr.errors import ConfigError

T = TypeVar("T")
KIND = "kind"
"""Class variable, and key in JSON, that identifies one of several classes that a field allows."""
ALTERNATIVES = "ALTERNATIVES"
"""Class variable with pairs of fields of which at most one has a value: `set_fields` sets the other one to None."""
_RULES: dict[str, Callable[[Any], bool]] = {
    "at least 1": lambda value: value >= 1,
    "positive": lambda value: value > 0,
    "at least 1e-9": lambda value: value >= 1e-9,  # the square of a count divided by it is a number
    "at most 1000": lambda value: value <= 1000,
    "from 0 to 1000": lambda value: 0 <= value <= 1000,
    "0 or more": lambda value: value >= 0,
    "within 0 and 1": lambda value: 0 <= value <= 1,
}


def to_json(config: Any) -> Any:
    """The JSON value of a configuration (dicts, lists, numbers, strings, booleans, None)."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        kind = {KIND: getattr(config, KIND)} if hasattr(config, KIND) else {}
        return kind | {field.name: to_json(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, tuple | list):
        return [to_json(item) for item in config]
    if isinstance(config, Mapping):
        return {key: to_json(value) for key, value in config.items()}
    return config


def from_json(cls: type[T], data: Any, *, where: str = "") -> T:
    """Build a configuration of type `cls` from its JSON value.

    Args:
        cls: the dataclass.
        data: result of `to_json`; missing fields take their defaults.
        where: name of the configuration in messages.
    Raises:
        ConfigError: a field does not exist or has the wrong type, or fields contradict each other.
    """
    return cast(T, _convert(cls, data, where or cls.__name__))


def set_fields(config: T, assignments: Sequence[str]) -> T:
    """A copy of `config` with fields set from `name=value` strings; `a.b=1,2` sets fields of nested configurations.

    A field that gets a value replaces its alternative in `config`, but not one among the assignments.

    Raises:
        ConfigError: no `=`, an unknown name (the message lists the nearest ones), a value of the wrong type, or two
            assignments that exclude each other.
    """
    done = set[str]()
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"a setting must be name=value, but is {assignment!r}")
        config = _set_field(config, name.strip().split("."), text.strip(), name.strip(), done)
        done.add(name.strip())
    return config


def require_fields(config: object, rule: str, *names: str) -> None:
    """Check that fields of a configuration obey a rule of `_RULES`, as in "positive"; None does.

    Raises:
        ConfigError: a field does not.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and not _RULES[rule](value):
            raise ConfigError(f"{name} must be {rule}, but is {value}")


def differences(before: Any, now: Any) -> dict[str, tuple[Any, Any]]:
    """The leaves that differ between two JSON values, by dotted name; None stands for a leaf that one of them lacks."""
    old, new = _leaves(before), _leaves(now)
    return {name: (old.get(name), new.get(name)) for name in old | new if old.get(name) != new.get(name)}


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for key, item in value.items() for k, v in _leaves(item, f"{prefix}.{key}" if prefix else key).items()}


def field_names(config: Any, prefix: str = "") -> list[str]:
    """Dotted names of all fields of a configuration, including nested ones."""
    names = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        names.append(prefix + field.name)
        if dataclasses.is_dataclass(value):
            names += field_names(value, f"{prefix}{field.name}.")
    return names


def _set_field(config: Any, path: list[str], text: str, full_name: str, done: Set[str]) -> Any:
    hints, changes = typing.get_type_hints(type(config)), dict[str, Any]()
    prefix = full_name.removesuffix(".".join(path))
    if path[0] not in {field.name for field in dataclasses.fields(config)}:
        if path == [KIND] and prefix and hasattr(config, KIND):
            raise ConfigError(
                f'{full_name} cannot be set, since another kind has other fields; set {prefix[:-1]}={{"{KIND}": "{text}"}}'
            )
        _raise_unknown(full_name, field_names(config, prefix), full_name)
    if len(path) > 1:
        inner = getattr(config, path[0])
        if not dataclasses.is_dataclass(inner):
            raise ConfigError(f"{full_name} cannot be set: {path[0]} is {inner!r}; set {path[0]}={{}} first")
        value = _set_field(inner, path[1:], text, full_name, done)
    else:
        value = _convert(hints[path[0]], _parse(hints[path[0]], text), full_name)
        others = {name for pair in getattr(config, ALTERNATIVES, ()) if path[0] in pair for name in pair} - {path[0]}
        changes = {name: None for name in others if value is not None and prefix + name not in done}
    try:
        return dataclasses.replace(config, **changes, **{path[0]: value})
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{full_name}: {error}") from error


def _parse(hint: Any, text: str) -> Any:
    """The JSON value of `text` for a field of type `hint`: JSON, a comma-separated list, `none`, or bare text."""
    options = _options(hint)
    if type(None) in options and text.lower() in ("none", "null", ""):
        return None
    if any(typing.get_origin(option) is tuple for option in options) and not text.startswith("["):
        return [_parse(Any, item.strip()) for item in text.split(",")] if text else []
    if str in options and float not in options and int not in options:
        return text
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except (ValueError, RecursionError):  # RecursionError: brackets that are nested too deeply
        return text


def _options(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def _convert(hint: Any, data: Any, where: str) -> Any:
    options = _options(hint)
    if len(options) > 1:
        if data is None and type(None) in options:
            return None
        chosen = _chosen_by_kind(options, data, where)
        if chosen is not None:
            return _convert(chosen, data, where)
        errors = []
        for option in (o for o in options if o is not type(None)):
            try:
                return _convert(option, data, where)
            except ConfigError as error:
                errors.append(error)
        raise errors[0]
    origin = typing.get_origin(hint)
    if hint is Any:
        return data
    if dataclasses.is_dataclass(hint):
        return _convert_dataclass(cast(type, hint), data, where)
    if origin is tuple:
        return _convert_tuple(typing.get_args(hint), data, where)
    if origin is Literal:
        for literal in typing.get_args(hint):
            if type(literal) is type(data) and literal == data:  # 2.0 and True equal 2 and 1
                return literal
        raise ConfigError(f"{where} must be one of {', '.join(map(str, typing.get_args(hint)))}, but is {data!r}")
    return _convert_leaf(hint, data, where)


def _chosen_by_kind(options: Sequence[Any], data: Any, where: str) -> Any:
    """The class among `options` selected by the kind in `data`, the first if it states none; None if they have no kinds."""
    kinds = {getattr(option, KIND): option for option in options if hasattr(option, KIND)}
    if not kinds:
        return None
    if not isinstance(data, Mapping):
        return next((option for option in kinds.values() if isinstance(data, option)), next(iter(kinds.values())))
    kind = data.get(KIND, next(iter(kinds)))
    if not isinstance(kind, str) or kind not in kinds:
        raise ConfigError(f"{where}.{KIND} must be one of {', '.join(kinds)}, but is {kind!r}")
    return kinds[kind]


def _convert_dataclass(cls: type, data: Any, where: str) -> Any:
    if isinstance(data, cls):
        return data
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where} must be an object with the fields of {cls.__name__}, but is {data!r}")
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    if hasattr(cls, KIND) and data.get(KIND, getattr(cls, KIND)) == getattr(cls, KIND):
        data = {key: value for key, value in data.items() if key != KIND}
    for key in data:
        if key not in names:
            _raise_unknown(f"{where}.{key}", names, key)
    values = {key: _convert(hints[key], value, f"{where}.{key}") for key, value in data.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"{where} is incomplete: {error}") from error
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _convert_tuple(item_hints: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(data, list | tuple):
        raise ConfigError(f"{where} must be a list, but is {data!r}")
    if len(item_hints) == 2 and item_hints[1] is Ellipsis:
        return tuple(_convert(item_hints[0], item, f"{where}[{i}]") for i, item in enumerate(data))
    if len(data) != len(item_hints):
        raise ConfigError(f"{where} must have {len(item_hints)} entries, but has {len(data)}: {data!r}")
    return tuple(_convert(hint, item, f"{where}[{i}]") for i, (hint, item) in enumerate(zip(item_hints, data, strict=True)))


def _convert_leaf(hint: Any, data: Any, where: str) -> Any:
    if hint is int and isinstance(data, float) and data.is_integer():
        data = int(data)
    most_bits = {int: 63, float: 1023}.get(hint)  # torch takes no larger whole numbers, Python makes no larger ones floats
    if most_bits is not None and isinstance(data, int) and data.bit_length() > most_bits:
        raise ConfigError(f"{where} must be below 2**{most_bits} in size, but is a number of {data.bit_length()} bits")
    if hint is float and isinstance(data, int | float) and not isinstance(data, bool):
        return float(data)
    if hint in (int, str, bool) and type(data) is hint:
        return data
    kind = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}.get(hint, str(hint))
    raise ConfigError(f"{where} must be {kind}, but is {data!r}")


def _raise_unknown(shown: str, names: Sequence[str], key: str) -> None:
    near = difflib.get_close_matches(key, names, n=3, cutoff=0.5) or [
        name for name in names if name.split(".")[-1] == key.split(".")[-1]
    ]
    hint = f"did you mean {' or '.join(near)}?" if near else f"the fields are {', '.join(names)}"
    raise ConfigError(f"there is no setting {shown}; {hint}")
