"""Law: every property also holds for examples drawn at random, not only for those that `scripts/test` tries every time.

The run prints its seed. An example that fails is printed with the way to repeat it, and kept in `.hypothesis`, where the
next random run looks first; pin it with `@example` in its test. To search further:

    scripts/test -m "hypothesis and not slow" --hypothesis-profile random --hypothesis-seed 7
"""

import secrets
import shlex
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY


@pytest.mark.slow(minutes=60)
def test_random_examples(capsys: pytest.CaptureFixture) -> None:
    options = f"-n 2 -m 'hypothesis and not slow' --hypothesis-profile random --hypothesis-seed {secrets.randbelow(2**32)}"
    command = [sys.executable, "-m", "pytest", *shlex.split(options)]
    with capsys.disabled():
        print(f"\nrandom examples, to be repeated with: pytest {options}")
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
