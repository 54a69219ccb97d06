"""A real nginx as proxy, from this machine or from its Debian package, with the block of docs/serving.md."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.ports import free_port
from tests.watchdog import WATCHDOG_S

_CONFIGURATION = """
{user}
worker_processes 1;
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 100; }}
http {{
    access_log off;
    {paths}
    server {{
        listen 127.0.0.1:{port};
        {block}
    }}
}}
"""
_PATHS = ("client_body_temp_path", "proxy_temp_path", "fastcgi_temp_path", "uwsgi_temp_path", "scgi_temp_path")


def documented_block() -> str:
    """The configuration of nginx in docs/serving.md."""
    (block,) = re.findall(r"```text\n(location /.*?)```", (REPOSITORY / "docs" / "serving.md").read_text(), re.DOTALL)
    return str(block)


def find_program(folder: Path) -> str:
    """The path of nginx, fetched into a folder if need be; skips the test if none can be had."""
    found = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if found is not None:
        return found
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip("nginx is not installed, and this system has no Debian packages; install nginx")
    fetched = subprocess.run(["apt-get", "download", "nginx"], cwd=folder, capture_output=True, text=True, check=False)
    packages = list(folder.glob("nginx_*.deb"))
    if not packages:
        pytest.skip(f"nginx is not installed and cannot be fetched: {fetched.stderr.strip()[-200:]}")
    subprocess.run(["dpkg-deb", "-x", packages[0], folder / "package"], check=True)
    unpacked = folder / "package" / "usr" / "sbin" / "nginx"
    tried = subprocess.run([unpacked, "-v"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"the fetched nginx does not run here: {tried.stderr.strip()[-200:]}")
    return str(unpacked)


@contextlib.contextmanager
def nginx(program: str, folder: Path, block: str) -> Iterator[str]:
    """The URL of an nginx that runs during the block, with this configuration of its only server."""
    port = free_port()
    paths = " ".join(f"{name} {folder}/{name};" for name in _PATHS)
    user = "user root;" if os.geteuid() == 0 else ""  # another user cannot write to the folder of a test
    path = folder / "nginx.conf"
    path.write_text(_CONFIGURATION.format(user=user, folder=folder, paths=paths, port=port, block=block))
    command = [program, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(port, process, folder / "error.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _wait_for(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end_s = time.monotonic() + WATCHDOG_S
    while time.monotonic() < end_s:
        assert process.poll() is None, f"nginx did not start: {log.read_text()}"
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        time.sleep(0.05)
    pytest.fail("nginx did not start")
