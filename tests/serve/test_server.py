"""Contract: a server runs on uvloop's event loop where it is installed, on the standard one elsewhere, and changes no other
event loop of the process; its thread interrupts no other while it serves."""

import asyncio
import importlib.util
import os
import sys
import threading

import pytest

from tests.serve.clients import post
from tests.serve.running import offline_recognizer, running
from tests.watchdog import WATCHDOG_S
from zipasr.errors import ConfigError
from zipasr.recognizer import LongRecordingConfig
from zipasr.serve import ServeConfig, Service


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


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="only Linux schedules threads so")
def test_the_thread_of_the_event_loop_waits_its_turn() -> None:
    """It alone, and only as long as it serves; a process may forbid it."""
    service, policies = Service(offline_recognizer(), ServeConfig(port=0)), []

    def look() -> None:
        (worker,) = (one for one in threading.enumerate() if one.name.startswith("zipasr-recognizer"))
        assert worker.native_id is not None
        policies.extend([os.sched_getscheduler(0), os.sched_getscheduler(worker.native_id)])
        service.stop()

    def run() -> None:
        policies.append(os.sched_getscheduler(0))
        service.run(look)
        policies.append(os.sched_getscheduler(0))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(WATCHDOG_S)
    usual = os.sched_getscheduler(0)
    assert policies == [usual, os.SCHED_BATCH if usual == os.SCHED_OTHER else usual, usual, usual]


def test_a_system_that_forbids_it_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", forbid, raising=False)
    with running(offline_recognizer()) as service:
        assert post(service).status_code == 200


def test_voice_activity_detection_that_is_not_installed_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not to every client with a long recording."""
    recognizer, find_spec = offline_recognizer(), importlib.util.find_spec
    recognizer.long_recordings = LongRecordingConfig(use_vad=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "silero_vad" else find_spec(name))
    with pytest.raises(ConfigError, match=r'pip install "zipasr\[vad\]"'):
        Service(recognizer, ServeConfig(port=0))
