"""Run: the quick start at full size, as the README has it. Minutes long; what it prints goes straight to the log."""

import json
import os
import re
import signal
import subprocess
import threading

import pytest

from tests.conftest import REPOSITORY

TIMEOUT_S = 50 * 60


@pytest.mark.slow
@pytest.mark.network
def test_quickstart(capfd: pytest.CaptureFixture) -> None:
    lines = []
    with capfd.disabled():  # so that who watches the log sees how far it is
        process = subprocess.Popen(
            [REPOSITORY / "scripts" / "quickstart"], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        watchdog = threading.Timer(TIMEOUT_S, lambda: os.killpg(process.pid, signal.SIGKILL))
        watchdog.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line.rstrip("\n"))
            code = process.wait()
        finally:
            watchdog.cancel()
    assert code == 0, f"exit code {code} ({-signal.SIGKILL} after {TIMEOUT_S} s means that it took too long)"
    result = re.fullmatch(r"test WER: (\d+\.\d) %", lines[-1])
    assert result is not None, lines[-1]
    assert float(result.group(1)) <= 50.0  # the floor; the README has what is really reached

    import zipasr

    run = REPOSITORY / "exp" / "quickstart"
    said = next(line for line in lines if line.startswith("understood: "))
    recording = REPOSITORY / "data" / "prompts" / "audio" / "cannot-complete-as-dialed.flac"
    assert said == f"understood: {zipasr.load(run).transcribe(recording).text}".rstrip()
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    results = [json.loads(line) for line in (run / "test_results.jsonl").read_text().splitlines()]
    assert len(results) == 40
