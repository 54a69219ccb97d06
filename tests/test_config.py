"""Configurations. Contract: JSON round trip; wrong names and types are refused with the expected type and the nearest
name."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zipasr import model
from zipasr.baselines import ConformerConfig
from zipasr.config import field_names, from_json, set_fields, to_json
from zipasr.errors import ConfigError
from zipasr.model import AsrConfig


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A nested configuration."""

    rate: float = 0.5
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[float, float] = (0.9, 0.98)

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError(f"rate must be 0 or more, but is {self.rate}")


@dataclass(frozen=True, kw_only=True)
class Outer:
    """One field of every kind."""

    count: int = 3
    is_on: bool = False
    name: str = "a"
    mode: Literal["fast", "exact"] = "fast"
    share: Literal[1, 2] = 1
    limit: float | None = None
    inner: Inner = field(default_factory=Inner)
    optional: Inner | None = None


@dataclass(frozen=True, kw_only=True)
class Either:
    """Two fields of which one has a value."""

    ALTERNATIVES = (("a", "b"),)

    a: int | None = 1
    b: int | None = None
    c: int | None = 3


@dataclass(frozen=True, kw_only=True)
class Around:
    """A configuration that contains it."""

    inner: Either = field(default_factory=Either)


INNER = st.builds(
    Inner,
    rate=st.floats(0, 1e6),
    sizes=st.lists(st.integers(-99, 99), max_size=4).map(tuple),
    pair=st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
)
OUTER = st.builds(
    Outer,
    count=st.integers(-(2**63) + 1, 2**63 - 1),
    is_on=st.booleans(),
    name=st.text(),
    mode=st.sampled_from(["fast", "exact"]),
    limit=st.none() | st.floats(-1e6, 1e6),
    inner=INNER,
    optional=st.none() | INNER,
)


@given(config=OUTER)
def test_round_trip(config: Outer) -> None:
    assert from_json(Outer, json.loads(json.dumps(to_json(config)))) == config


@pytest.mark.parametrize("preset", [model.tiny, model.small, model.medium, model.large])
def test_presets_round_trip(preset: Callable[[], AsrConfig]) -> None:
    assert from_json(AsrConfig, json.loads(json.dumps(to_json(preset())))) == preset()


def test_absent_fields_take_their_defaults() -> None:
    assert from_json(Outer, {"inner": {"rate": 1}}) == Outer(inner=Inner(rate=1.0))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"coumt": 1}, r"there is no setting run\.json\.coumt; did you mean count\?"),
        ({"inner": {"raet": 1}}, r"there is no setting run\.json\.inner\.raet; did you mean rate\?"),
        ({"zzzzzz": 1}, r"there is no setting run\.json\.zzzzzz; the fields are count, is_on"),
        ({"count": "3"}, r"run\.json\.count must be a whole number, but is '3'"),
        ({"count": 2.5}, r"run\.json\.count must be a whole number, but is 2\.5"),
        ({"count": True}, r"run\.json\.count must be a whole number, but is True"),
        ({"count": 2**63}, r"run\.json\.count must be below 2\*\*63 in size, but is a number of 64 bits"),
        ({"count": -1e308}, r"run\.json\.count must be below 2\*\*63 in size, but is a number of 1024 bits"),
        ({"limit": 10**400}, r"run\.json\.limit must be below 2\*\*1023 in size, but is a number of 1329 bits"),
        ({"count": None}, r"run\.json\.count must be a whole number, but is None"),
        ({"is_on": 1}, r"run\.json\.is_on must be true or false, but is 1"),
        ({"name": 1}, r"run\.json\.name must be text, but is 1"),
        ({"share": 2.0}, r"run\.json\.share must be one of 1, 2, but is 2\.0"),
        ({"share": True}, r"run\.json\.share must be one of 1, 2, but is True"),
        ({"mode": "quick"}, r"run\.json\.mode must be one of fast, exact, but is 'quick'"),
        ({"limit": "x"}, r"run\.json\.limit must be a number, but is 'x'"),
        ({"inner": 3}, r"run\.json\.inner must be an object with the fields of Inner, but is 3"),
        ({"inner": {"sizes": 3}}, r"run\.json\.inner\.sizes must be a list, but is 3"),
        ({"inner": {"sizes": [1, "b"]}}, r"run\.json\.inner\.sizes\[1\] must be a whole number, but is 'b'"),
        ({"inner": {"pair": [1]}}, r"run\.json\.inner\.pair must have 2 entries, but has 1"),
        ({"inner": {"rate": -1}}, r"run\.json\.inner: rate must be 0 or more, but is -1"),
        ([], r"run\.json must be an object with the fields of Outer, but is \[\]"),
    ],
)
def test_wrong_values_are_named(data: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_json(Outer, data, where="run.json")


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("count=7", Outer(count=7)),
        ("count = 7", Outer(count=7)),
        ("is_on=true", Outer(is_on=True)),
        ("is_on=False", Outer(is_on=False)),
        ("name=true", Outer(name="true")),
        ("name=a=b", Outer(name="a=b")),
        ("mode=exact", Outer(mode="exact")),
        ("share=2", Outer(share=2)),
        ("limit=1e-3", Outer(limit=0.001)),
        ("limit=2", Outer(limit=2.0)),
        ("limit=none", Outer(limit=None)),
        ("inner.rate=0", Outer(inner=Inner(rate=0.0))),
        ("inner.sizes=4,5,6", Outer(inner=Inner(sizes=(4, 5, 6)))),
        ("inner.sizes=[4, 5]", Outer(inner=Inner(sizes=(4, 5)))),
        ("inner.sizes=4", Outer(inner=Inner(sizes=(4,)))),
        ("inner.sizes=", Outer(inner=Inner(sizes=()))),
        ("inner.pair=0.1,0.2", Outer(inner=Inner(pair=(0.1, 0.2)))),
        ("optional={}", Outer(optional=Inner())),
        ('optional={"rate": 2}', Outer(optional=Inner(rate=2.0))),
    ],
)
def test_set_one_field(assignment: str, expected: Outer) -> None:
    assert set_fields(Outer(), [assignment]) == expected


def test_set_several_fields_in_order() -> None:
    config = set_fields(Outer(), ["optional={}", "optional.rate=3", "count=1", "count=2"])
    assert config == Outer(count=2, optional=Inner(rate=3.0))
    assert set_fields(config, ["optional=none"]).optional is None
    assert set_fields(config, []) is config


def test_a_field_replaces_its_alternative() -> None:
    assert set_fields(Either(), ["b=2"]) == Either(a=None, b=2)
    assert set_fields(Either(), ["b=none"]) == Either()
    assert set_fields(Either(), ["c=4"]) == Either(c=4)
    assert set_fields(Either(), ["a=5", "b=2"]) == Either(a=5, b=2)  # for the class to refuse
    assert set_fields(Around(), ["inner.b=2"]) == Around(inner=Either(a=None, b=2))
    assert set_fields(Around(), ["inner.a=5", "inner.b=2"]) == Around(inner=Either(a=5, b=2))
    assert to_json(Either()) == {"a": 1, "b": None, "c": 3}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("count", "a setting must be name=value, but is 'count'"),
        ("cuont=1", r"there is no setting cuont; did you mean count\?"),
        ("inner.rtae=1", r"there is no setting inner\.rtae; did you mean inner\.rate"),
        ("rate=1", r"there is no setting rate; did you mean inner\.rate"),
        (f"count={'9' * 5000}", "count must be a whole number, but is '9999"),
        (f"inner.sizes={'[' * 100_000}", r"inner\.sizes must be a list, but is '\[\["),
        ("count=many", "count must be a whole number, but is 'many'"),
        ("is_on=maybe", "is_on must be true or false, but is 'maybe'"),
        ("share=2.0", r"share must be one of 1, 2, but is 2\.0"),
        ("mode=quick", "mode must be one of fast, exact, but is 'quick'"),
        ("inner.sizes=1,b", r"inner\.sizes\[1\] must be a whole number"),
        ("inner=3", "inner must be an object with the fields of Inner"),
        ("optional.rate=1", r"optional\.rate cannot be set: optional is None; set optional=\{\} first"),
        ("count.x=1", r"count\.x cannot be set"),
        ("inner.rate=-1", "rate must be 0 or more, but is -1"),
    ],
)
def test_wrong_assignments_are_named(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        set_fields(Outer(), [assignment])


def test_field_names_reach_into_nested_configurations() -> None:
    names = field_names(Outer())
    assert names[:2] == ["count", "is_on"]
    assert "inner.rate" in names
    assert "optional" in names
    assert "optional.rate" not in names


def test_the_kind_is_set_with_its_fields() -> None:
    with pytest.raises(ConfigError) as caught:
        set_fields(AsrConfig(), ["encoder.kind=conformer"])
    assert str(caught.value) == (
        'encoder.kind cannot be set, since another kind has other fields; set encoder={"kind": "conformer"}'
    )
    assert set_fields(AsrConfig(), ['encoder={"kind": "conformer"}']).encoder == ConformerConfig()
    with pytest.raises(ConfigError, match=r"there is no setting encoder\.min_features; did you mean"):
        set_fields(AsrConfig(encoder=ConformerConfig()), ["encoder.min_features=3"])


def test_a_kind_that_is_no_name() -> None:
    with pytest.raises(ConfigError, match=r"encoder\.kind must be one of zipformer, .*, but is \[1\]"):
        set_fields(AsrConfig(), ['encoder={"kind": [1]}'])


def test_contradictions_of_the_model() -> None:
    with pytest.raises(ConfigError, match="must have a head"):
        from_json(AsrConfig, {"transducer": None, "ctc": None})
    with pytest.raises(ConfigError, match=r"encoder\.num_features must equal features\.num_mel_bins, 40, but is 80"):
        set_fields(AsrConfig(), ["features.num_mel_bins=40"])
    with pytest.raises(ConfigError, match="vocab_size must be at least 2"):
        set_fields(AsrConfig(), ["vocab_size=1"])
