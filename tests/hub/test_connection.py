"""Contract: which hub and cache are used, and to whom the token of this machine goes."""

import os
from pathlib import Path

import pytest

from zipasr.errors import ConfigError
from zipasr.hub.connection import open_hub
from zipasr.hub.reference import parse_reference

huggingface_hub = pytest.importorskip("huggingface_hub", reason='needs pip install "zipasr[hub]"')


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [
        name for name in os.environ if name.startswith(("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "ZIPASR_TOKEN", "XDG_"))
    ]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: os.environ.get("HF_TOKEN"))  # none of this machine's files


@pytest.mark.parametrize(
    ("environment", "cache"),
    [
        ({}, "~/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"HF_HOME": "~/home", "XDG_CACHE_HOME": "/x"}, "~/home/hub"),
        ({"HF_HOME": "/home", "HF_HUB_CACHE": "/cache"}, "/cache"),
        ({"HUGGINGFACE_HUB_CACHE": "$HOME/cache"}, "~/cache"),
        ({"HF_HUB_CACHE": "relative"}, "relative"),
    ],
)
def test_the_cache_is_that_of_the_client(environment: dict[str, str], cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert open_hub().cache == Path(cache).expanduser().absolute()
    assert open_hub(cache_dir="/given").cache == Path("/given")
    assert open_hub().folder(parse_reference("hf:a/b")).name == "models--a--b"


@pytest.mark.parametrize("value", ["1", "ON", "true", "yes"])
@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not open_hub().is_offline
    monkeypatch.setenv(name, value)
    assert open_hub().offline == f"{name} is set"
    monkeypatch.setenv(name, "0")
    assert not open_hub().is_offline


@pytest.mark.parametrize(
    ("endpoint", "host", "is_sent"),
    [
        ("", "", True),
        ("https://huggingface.co", "", True),
        ("https://huggingface.co/", "", True),
        ("https://huggingface.co:443", "", True),
        ("https://HuggingFace.co", "", True),
        ("http://huggingface.co", "", False),
        ("https://huggingface.co:8443", "", False),
        ("https://huggingface.co.example.org", "", False),
        ("https://huggingface.co@example.org", "", False),
        ("https://sub.huggingface.co", "", False),
        ("https://hf-mirror.example.org", "", False),
        ("https://hf-mirror.example.org", "hf-mirror.example.org", True),
        ("https://hf-mirror.example.org:8443", "hf-mirror.example.org", True),
        ("https://hf-mirror.example.org:8443", "hf-mirror.example.org:9000", False),
        ("https://other.example.org", "hf-mirror.example.org", False),
        ("https://hf-mirror.example.org.evil.org", "hf-mirror.example.org", False),
    ],
)
def test_the_token_goes_to_its_own_host_only(
    endpoint: str, host: str, is_sent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("ZIPASR_TOKEN_HOST", host)
    hub = open_hub()
    assert hub.token == ("hf_secret" if is_sent else False)
    assert hub.is_token_withheld == (not is_sent)
    assert open_hub(token=True).token == "hf_secret"
    assert open_hub(token=False).token is False
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    assert open_hub().token is False


@pytest.mark.parametrize("endpoint", ["huggingface.co", "ftp://example.org", "https://", "file:///etc"])
def test_an_endpoint_must_be_an_address(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(ConfigError, match="HF_ENDPOINT"):
        open_hub()
