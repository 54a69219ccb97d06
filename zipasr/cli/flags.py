"""Flags by the names of their arguments: which ones were given, and which ones need another one."""

import argparse
from collections.abc import Iterable
from typing import Any

from zipasr.errors import ConfigError


def flag(name: str) -> str:
    """The flag of an argument, such as --max-gb of `max_gb`."""
    return f"--{name.replace('_', '-')}"


def given(args: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """The arguments of these names that the verb has and that are not None, with their values."""
    return {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}


def refuse_without(args: argparse.Namespace, needed: str, *names: str) -> None:
    """Refuse arguments that have no effect without the argument `needed`.

    Raises:
        ConfigError: one of them is given, and `needed` is not.
    """
    if getattr(args, needed) is None or getattr(args, needed) is False:  # 0 is a value
        for name in given(args, names):
            raise ConfigError(f"{flag(name)} has no effect without {flag(needed)}; give that too, or leave {flag(name)} out")
