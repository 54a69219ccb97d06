"""The repository's tests that need a GPU, in a process of their own, after the blocks that measure time."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from gpu.absent import NeedsPackage
from gpu.runner import Block

REPOSITORY = Path(__file__).parents[2]
NEEDED = ("pytest", "filelock", "hypothesis")
"""What tests/conftest.py imports."""


def gpu_tests(block: Block) -> None:
    """Run `pytest -m gpu` until the deadline; what fails is recorded."""
    block.case("pytest -m gpu", lambda: run_tests(block.left_s))


def marked_files() -> list[str]:
    """Files with tests marked `gpu`; collecting all others would take longer than running these."""
    files = sorted((REPOSITORY / "tests").rglob("test_*.py"))
    return [str(path.relative_to(REPOSITORY)) for path in files if re.search(r"\bmark\.gpu\b", path.read_text())]


def run_tests(timeout_s: float) -> dict[str, Any]:
    """Exit status, counts, and the end of the output."""
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            raise NeedsPackage(f"needs {name}")
    files = marked_files()
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", *files]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    try:
        done = subprocess.run(
            command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=max(timeout_s - 1.0, 1.0)
        )
    except subprocess.TimeoutExpired as error:
        output = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else error.stdout or ""
        return {"outcome": "stopped at the deadline", "num_files": len(files), "output": output.splitlines()[-20:]}
    lines = done.stdout.splitlines()
    return {
        "outcome": lines[-1] if lines else done.stderr.strip()[-200:],
        "exit_status": done.returncode,
        "num_files": len(files),
        "output": lines[-40:],
    }
