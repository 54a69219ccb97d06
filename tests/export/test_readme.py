"""Contract: the shell commands in the README of an exported folder run in that folder, with the real programs."""

import os
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import soundfile

from tests.tiny_model import noise
from zipasr.export import ExportReport


def commands(folder: Path) -> list[str]:
    """Indented lines that call sherpa-onnx or zipasr."""
    text = (folder / "README.md").read_text().replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.startswith(("    sherpa-onnx", "    zipasr "))]


def assert_serves(line: str, folder: Path, env: dict[str, str]) -> None:
    """It prints its address, answers there, and ends when asked to."""
    process = subprocess.Popen([*shlex.split(line), "--port", "0"], cwd=folder, env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with urllib.request.urlopen(f"{url}/health", timeout=30) as answer:
            assert answer.status == 200
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()


@pytest.mark.parametrize("fixture", ["report", "streaming"])
def test_commands_run(fixture: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    report: ExportReport = request.getfixturevalue(fixture)
    soundfile.write(tmp_path / "audio.wav", noise(2.0), 16_000, subtype="PCM_16")
    lines = commands(report.folder)
    assert len(lines) == (3 if fixture == "report" else 4)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for line in lines:
        if " serve " in line:
            assert_serves(line, report.folder, os.environ | {"PATH": path})
            continue
        line = line.replace("audio.wav", str(tmp_path / "audio.wav"))
        done = subprocess.run(
            line, shell=True, cwd=report.folder, env=os.environ | {"PATH": path}, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        if line.startswith("sherpa-onnx"):
            assert '"text":' in done.stdout + done.stderr
        else:
            assert done.stdout.strip()
