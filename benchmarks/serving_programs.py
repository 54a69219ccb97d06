"""The servers that `serving_load.py` compares: how they are started, pinned to a core, watched and ended."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from zipasr.errors import ConfigError, ZipasrError

PYTORCH, ONNX, SHERPA = "zipasr PyTorch", "zipasr ONNX", "sherpa-onnx"
"""What the servers are called."""
_SHERPA_METHODS = {"greedy": "greedy_search", "beam": "modified_beam_search"}
_SHERPA_BATCH = {"online": 32, "offline": 1}
"""`--max-batch-size` of sherpa-onnx, 5 by default; these were its best on one core, with models of the size of tiny: of live
streams 128 were held with 16 to 64 and not with 5, of recordings 8 clients got 91 a second with 1, 63 with 5, 61 with 32."""
_START_S, _STOP_S, _SETTLE_S = 120.0, 3.0, 20.0


class Program(NamedTuple):
    """A server that can be started."""

    name: str
    command: Callable[[int], list[str]]
    """The command line that listens at a port."""


class Usage(NamedTuple):
    """Clocks of a server and its cores, in seconds."""

    wall_s: float
    server_s: float
    """All its threads together."""
    cores_s: float
    """All its cores together, busy with whatever; stolen time counts."""


class Server(NamedTuple):
    """A server that is up."""

    name: str
    port: int
    pid: int
    cores: Sequence[int]

    def usage(self) -> Usage:
        """What it has used so far."""
        ticks_per_s = os.sysconf("SC_CLK_TCK")
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        core_ticks = 0
        for line in Path("/proc/stat").read_text().splitlines():
            name, *ticks = line.split()
            if name in {f"cpu{core}" for core in self.cores}:
                user, nice, system, _idle, _wait, irq, softirq, steal = map(int, ticks[:8])
                core_ticks += user + nice + system + irq + softirq + steal
        return Usage(time.monotonic(), (int(fields[11]) + int(fields[12])) / ticks_per_s, core_ticks / ticks_per_s)

    def shares_since(self, before: Usage) -> tuple[float, float]:
        """Cores used since then: by the server, and by everybody else."""
        now = self.usage()
        wall_s, server_s = now.wall_s - before.wall_s, now.server_s - before.server_s
        return server_s / wall_s, max(0.0, now.cores_s - before.cores_s - server_s) / wall_s

    def settle(self) -> None:
        """Wait until it is done with what clients have left behind."""
        end_s = time.monotonic() + _SETTLE_S
        while time.monotonic() < end_s:
            before = self.usage()
            time.sleep(0.3)
            if self.shares_since(before)[0] < 0.1:
                return


def export(model: Path, folder: Path, *options: str) -> Path:
    """`zipasr export`.

    Raises:
        ZipasrError: it failed, and has said why.
    """
    command = [sys.executable, "-m", "zipasr", "export", str(model), "--out", str(folder), *options]
    if subprocess.run(command, check=False, stdout=sys.stderr).returncode != 0:
        raise ZipasrError(f"{model} must be a model that can be exported, but could not be")
    return folder


def zipasr_program(name: str, model: Path, search: str, *options: str) -> Program:
    """`zipasr serve`."""
    options = ("--search", search, "--device", "cpu", "--max-connections", "2000", "--max-waiting", "2000", *options)
    return Program(name, lambda port: [sys.executable, "-m", "zipasr", "serve", str(model), "--port", str(port), *options])


def sherpa_program(kind: Literal["online", "offline"], exported: Path, search: str) -> Program:
    """The program of the wheel sherpa-onnx-bin that serves live sound (online) or recordings (offline).

    Raises:
        ConfigError: it is not installed, or the model lacks a transducer.
    """
    program = shutil.which(f"sherpa-onnx-{kind}-websocket-server", path=str(Path(sys.executable).parent))
    if program is None:
        raise ConfigError(f"sherpa-onnx's {kind} server is needed, but is not installed; pip install sherpa-onnx-bin")
    files = json.loads((exported / "export.json").read_text())["files"]
    if files["encoder"] is None:
        raise ConfigError("the model must have a transducer head, but has none; give another")
    options = [f"--{part}={exported / files[part]}" for part in ("encoder", "decoder", "joiner")]
    options += [f"--tokens={exported / 'tokens.txt'}", f"--decoding-method={_SHERPA_METHODS[search]}"]
    options += ["--num-threads=1", "--num-work-threads=1", "--num-io-threads=1", f"--max-batch-size={_SHERPA_BATCH[kind]}"]
    options += [f"--log-file={exported.with_name(f'sherpa_{kind}.txt')}"]
    return Program(SHERPA, lambda port: [program, f"--port={port}", *options])


@contextmanager
def running(program: Program, cores: Sequence[int], folder: Path) -> Iterator[Server]:
    """A server on some cores while the block lasts; it is ended in every case.

    Args:
        program: what to start.
        cores: where all its threads run.
        folder: for what it prints.
    Raises:
        ZipasrError: it does not start.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    log = folder / f"{program.name.replace(' ', '_')}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            program.command(port),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
            start_new_session=True,  # Ctrl-C is for us, and we end it
        )
    try:
        end_s = time.monotonic() + _START_S
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > end_s:
                said = " / ".join(log.read_text(errors="replace").strip().splitlines()[-3:])
                raise ZipasrError(f"{program.name} must start, but did not: {said}")
            time.sleep(0.05)
        yield Server(program.name, port, process.pid, cores)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
