"""Contract: a server runs on uvloop's event loop where it is installed, on the standard one elsewhere, and changes no other
event loop of the process."""

import asyncio
import sys

import pytest

from tests.serve.clients import post
from tests.serve.running import offline_recognizer, running


@pytest.mark.parametrize("is_installed", [True, False])
def test_the_event_loop(is_installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_installed:
        expected = pytest.importorskip("uvloop", reason="uvloop is not installed").Loop
    else:
        monkeypatch.setitem(sys.modules, "uvloop", None)
        expected = asyncio.SelectorEventLoop
    with running(offline_recognizer()) as service:
        assert post(service).status_code == 200
        assert isinstance(service._loop, expected)
        with asyncio.Runner() as other:
            assert isinstance(other.get_loop(), asyncio.SelectorEventLoop)
