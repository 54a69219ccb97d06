"""Contract: references to the hub, well-formed ones and what people write instead."""

import os
from pathlib import Path

import pytest

from zipasr.errors import ConfigError
from zipasr.hub.reference import Reference, is_reference, parse_reference, refuse_page

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf:someone/model", Reference("someone/model")),
        ("hf:Zengwei/icefall-asr_2023.05", Reference("Zengwei/icefall-asr_2023.05")),
        ("hf:someone/model@v1.0", Reference("someone/model", "v1.0")),
        ("hf:someone/model@refs/pr/3", Reference("someone/model", "refs/pr/3")),
        (f"hf:someone/model@{SHA}", Reference("someone/model", SHA)),
        ("hf:someone/model#exp_small", Reference("someone/model", "main", "exp_small")),
        ("hf:someone/model#exp/small model/", Reference("someone/model", "main", "exp/small model")),
        ("hf:someone/model@dev#a@b", Reference("someone/model", "dev", "a@b")),
        ("hf://someone/model", Reference("someone/model")),
        (Path("hf://someone/model@v1"), Reference("someone/model", "v1")),
        (Path("hf:someone/model#64"), Reference("someone/model", "main", "64")),
    ],
)
def test_parts(text: str | Path, expected: Reference) -> None:
    assert is_reference(text)
    parsed = parse_reference(text)
    assert parsed == expected
    assert parse_reference(str(parsed)) == parsed
    assert parsed.is_pinned == (expected.revision == SHA)


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("hf:", "hf:OWNER/NAME"),
        ("hf:model", "hf:OWNER/model"),
        ("hf:someone/", "letters"),
        ("hf:/model", "letters"),
        ("hf:someone/model/exp", "hf:someone/model#exp"),
        ("hf:someone/model/exp/small/", "hf:someone/model#exp/small"),
        ("hf:../model", "letters"),
        ("hf:some one/model", "letters"),
        ("hf: someone/model", "letters"),
        ("hf:someone/model ", "letters"),
        ("hf:someone/mo--del", "letters"),
        ("hf:someone/-model", "letters"),
        ("hf:someone/" + "m" * 100, "letters"),
        ("hf:C:\\models\\mine", "hf:C:\\models\\mine"),
        ("hf:\\models\\mine", "drive"),
        ("hf:someone/model@", "leave @ out"),
        ("hf:someone/model@a b", "leave @ out"),
        ("hf:someone/model@../x", "leave @ out"),
        ("hf:someone/model@v1@v2", "leave @ out"),
        ("hf:someone/model@#exp", "leave @ out"),
        ("hf:someone/model#", "leave # out"),
        ("hf:someone/model#../x", "leave # out"),
        ("hf:someone/model#a/../b", "leave # out"),
        ("hf:someone/model#/etc", "leave # out"),
        ("hf:someone/model#a//b", "leave # out"),
        ("hf:someone/model#a\\b", "leave # out"),
        ("hf:someone/model# exp", "leave # out"),
        ("hf:someone/model#a\nb", "leave # out"),
    ],
)
def test_wrong_ones_are_refused_with_the_cure(text: str, cure: str) -> None:
    assert is_reference(text)
    with pytest.raises(ConfigError, match="must be") as caught:
        parse_reference(text)
    assert cure in str(caught.value)


@pytest.mark.parametrize(
    "text", ["exp/mine", "./hf:someone/model", "C:\\models", "hf", "hfx:someone/model", "", "someone/model"]
)
def test_paths_are_no_references(text: str) -> None:
    assert not is_reference(text)


@pytest.mark.parametrize("name", ["hf:x", "hf:someone/model"])
def test_a_folder_of_that_name_comes_first(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_reference(name)
    os.makedirs(name)
    assert not is_reference(name)
    assert not is_reference(tmp_path / name)
    os.rmdir(name)
    os.symlink("nowhere", name)
    assert not is_reference(name)


@pytest.mark.parametrize(
    ("page", "reference"),
    [
        ("https://huggingface.co/someone/model", "hf:someone/model"),
        ("https://huggingface.co/someone/model/tree/main", "hf:someone/model"),
        ("https://huggingface.co/someone/model/tree/v1/exp_small", "hf:someone/model@v1#exp_small"),
        ("http://hf.co/someone/model/", "hf:someone/model"),
    ],
)
def test_the_address_of_a_page_is_answered_with_the_reference(page: str, reference: str) -> None:
    with pytest.raises(ConfigError) as caught:
        refuse_page(page)
    assert str(caught.value).endswith(f"use {reference}")
    refuse_page("exp/mine")
