"""Checks of the numbers that give a comparison encoder its shape; each raises `ConfigError` with what was expected."""

from zipasr.errors import ConfigError


def check_positive(**values: int) -> None:
    """Every value must be at least 1."""
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, but is {value}")


def check_heads(channels: int, num_heads: int) -> None:
    """The channels must be shared evenly by the heads, and be even for the sines and cosines of the positions."""
    check_positive(channels=channels, num_heads=num_heads)
    if channels % num_heads or channels % 2:
        raise ConfigError(f"channels must be even and a multiple of num_heads = {num_heads}, but is {channels}")


def check_odd(**kernel_sizes: int) -> None:
    """A kernel that sees as far back as ahead must be odd."""
    check_positive(**kernel_sizes)
    for name, value in kernel_sizes.items():
        if value % 2 == 0:
            raise ConfigError(f"{name} must be odd, but is {value}")


def check_rates(**rates: float) -> None:
    """A rate of dropping must leave something."""
    for name, value in rates.items():
        if not 0.0 <= value < 1.0:
            raise ConfigError(f"{name} must be at least 0 and less than 1, but is {value}")


def check_halves(**widths: int) -> None:
    """A width of two halves must be even."""
    check_positive(**widths)
    for name, value in widths.items():
        if value % 2:
            raise ConfigError(f"{name} must be even, but is {value}")
