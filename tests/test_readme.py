"""Contract: every ```bash and ```python block of the README runs, in order, in one folder; every change to a block is
printed.

The folder holds what `furnish` puts there and what earlier blocks made. Lines that match SKIPPED are skipped and training is
shortened by SHORT; both are printed. Blocks that are not meant to run (output, layouts) are fenced as ```text.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.conftest import REPOSITORY
from tests.tiny_model import save_tiny
from tests.train.tones import RATE_HZ, WORDS, say

SKIPPED = {
    r"git clone |cd zipasr\b": "the tests run in a clone already",
    r"(source|\.) \.venv/bin/activate|scripts/install\b|pip install ": "installed already",
    r"scripts/quickstart\b": "run by tests/test_quickstart.py",
    r"scripts/(test|check)\b": "that is what runs this",
}
SHORT = "--set num_epochs=1 --set batch.speed_factors=1.0 --set device=cpu"


def furnish(folder: Path) -> None:
    """Recordings with texts (recordings/a.wav to x.wav), a prompt, and a quick-start model without training."""
    generator = np.random.default_rng(0)
    (folder / "recordings").mkdir()
    for name in "abcdefghijklmnopqrstuvwx":
        words = [str(word) for word in generator.choice(list(WORDS), size=3)]
        soundfile.write(folder / "recordings" / f"{name}.wav", say(words, generator), RATE_HZ)
        (folder / "recordings" / f"{name}.txt").write_text(" ".join(words))
    prompt = folder / "data" / "prompts" / "audio" / "cannot-complete-as-dialed.flac"
    prompt.parent.mkdir(parents=True)
    soundfile.write(prompt, say(list(WORDS), generator), RATE_HZ)
    save_tiny(folder / "exp" / "quickstart" / "model")


def blocks_of(text: str) -> list[tuple[str, str]]:
    """Language and content of every fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def shell_script(block: str) -> str:
    """The commands of a block; lines that are not run as they stand are marked."""
    lines = []
    for line in block.replace("\\\n", " ").splitlines():
        command = line.strip().removeprefix("$ ")
        reason = next((reason for pattern, reason in SKIPPED.items() if re.match(pattern, command)), None)
        if reason is not None:
            lines.append(f"echo {shlex.quote(f'skipped, {reason}: {command}')}")
        elif command.startswith("zipasr train"):
            lines += [f"echo 'shortened by: {SHORT}'", f"{command.partition(' #')[0]} {SHORT}"]
        else:
            lines.append(command)
    return "\n".join(lines)


def test_readme_runs_from_top_to_bottom(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    blocks = blocks_of((REPOSITORY / "README.md").read_text(encoding="utf-8"))
    languages = {language for language, _ in blocks}
    assert languages <= {"bash", "python", "text"}, "fence what is not to be run as ```text"
    assert {"bash", "python"} <= languages, "the README must show commands and Python, but has none"
    furnish(tmp_path)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"ZIPASR_CACHE": str(REPOSITORY / ".cache"), **os.environ, "PATH": path}
    for language, block in blocks:
        if language == "text":
            continue
        command = (
            ["bash", "-euxo", "pipefail", "-c", shell_script(block)] if language == "bash" else [sys.executable, "-c", block]
        )
        done = subprocess.run(command, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, check=False)
        output = capfd.readouterr()
        print(output.out, output.err)
        assert done.returncode == 0, f"a block of the README fails with {done.returncode}:\n{block}\n{output.err[-3000:]}"
