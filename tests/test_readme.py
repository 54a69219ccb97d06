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
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import soundfile

from tests.conftest import REPOSITORY
from tests.forked import Forked, verb
from tests.tiny_model import save_tiny
from tests.train.tones import RATE_HZ, WORDS, say
from tests.watchdog import WATCHDOG_S

SKIPPED = {
    r"git clone |cd zipasr\b": "the tests run in a clone already",
    r"(source|\.) \.venv/bin/activate|scripts/install\b|pip install ": "installed already",
    r"scripts/quickstart\b": "run by tests/test_quickstart.py",
    r"scripts/(test|check)\b": "that is what runs this",
}
ASK = 'zipasr() { local status; printf "%s\\0" $# "$@" >&$REQUESTS; read -r -u $ANSWERS status; return $status; }\n'
"""Let this process run the verbs, in processes that need not import torch again; other programs are run as they are."""
SHORT = "--set num_epochs=1 --set batch.speed_factors=1.0 --set device=cpu"


def furnish(folder: Path) -> None:
    """Recordings with texts (recordings/a.wav to x.wav), two prompts, and a quick-start model without training."""
    generator = np.random.default_rng(0)
    (folder / "recordings").mkdir()
    for name in "abcdefghijklmnopqrstuvwx":
        words = [str(word) for word in generator.choice(list(WORDS), size=3)]
        soundfile.write(folder / "recordings" / f"{name}.wav", say(words, generator), RATE_HZ)
        (folder / "recordings" / f"{name}.txt").write_text(" ".join(words))
    prompts = folder / "data" / "prompts" / "audio"
    (prompts / "digits").mkdir(parents=True)
    for name in ("cannot-complete-as-dialed", "digits/7"):
        soundfile.write(prompts / f"{name}.flac", say(list(WORDS), generator), RATE_HZ)
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


def fields(stream: BinaryIO) -> Iterator[str]:
    """The texts that end with a zero byte, as they come."""
    text = b""
    while byte := stream.read(1):
        text += byte
        if byte == b"\0":
            yield text[:-1].decode()
            text = b""


def run_bash(script: str, folder: Path, environment: dict[str, str]) -> int:
    """Run commands, with all output printed; returns the exit status."""
    (requests, to_us), (answers, to_bash) = os.pipe(), os.pipe()
    environment = environment | {"REQUESTS": str(to_us), "ANSWERS": str(answers)}
    command = ["bash", "-euxo", "pipefail", "-c", ASK + script]
    with (
        os.fdopen(requests, "rb", buffering=0) as stream,
        os.fdopen(to_bash, "w") as status,
        subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, pass_fds=(to_us, answers)
        ) as process,
    ):
        os.close(to_us)
        os.close(answers)
        arguments = fields(stream)
        for number in arguments:
            asked = Forked(verb, *islice(arguments, int(number)), cwd=folder, environment=environment)
            print(*asked.communicate(WATCHDOG_S))
            print(asked.returncode, file=status, flush=True)
    return process.returncode


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
        if language == "bash":
            status = run_bash(shell_script(block), tmp_path, environment)
        else:
            command = [sys.executable, "-c", block]
            status = subprocess.run(command, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, check=False).returncode
        output = capfd.readouterr()
        print(output.out, output.err)
        assert status == 0, (
            f"a block of the README fails with {status}:\n{block}\n{output.out[-3000:]}\n{output.err[-3000:]}"
        )
