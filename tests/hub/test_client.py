"""Contract: the progress of a download counts every byte once, and odd answers of a server are said to be odd."""

import io
import logging
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

from tests.hub.standin import StandIn
from zipasr.errors import CheckpointError
from zipasr.hub import client
from zipasr.hub.client import fetch, find_commit, list_files
from zipasr.hub.connection import Hub, open_hub
from zipasr.hub.reference import Reference
from zipasr.hub.refusals import explained
from zipasr.progress import Progress, quiet

huggingface_hub = pytest.importorskip("huggingface_hub", reason='needs pip install "zipasr[hub]"')

FILES = {"a.bin": b"a" * 30_000, "folder/b [1].bin": b"b" * 20_000, "empty.txt": b""}
MODEL = Reference("someone/model")


@pytest.fixture
def served() -> Iterator[StandIn]:
    """A hub with the repository someone/model."""
    with StandIn() as served:
        served.add("someone/model", FILES)
        yield served


def fetch_all(served: StandIn, cache: Path) -> dict[str, Path]:
    """Fetch all files of the model."""
    hub = open_hub(endpoint=served.url, cache_dir=cache, token=False)
    commit, hub = find_commit(hub, MODEL)
    return fetch(hub, MODEL, commit, list_files(hub, MODEL, commit), max_bytes=1e6)


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def test_every_byte_is_counted_once(served: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Progress] = []

    def make(*args: object, **options: object) -> Progress:
        made.append(Progress(*args, **options))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(client, "Progress", make)
    paths = fetch_all(served, tmp_path)
    assert {name: path.read_bytes() for name, path in paths.items()} == FILES
    (progress,) = made
    assert progress.done == progress.total == 50_000
    fetch_all(served, tmp_path)
    assert len(made) == 1  # nothing is left to fetch


def test_transfers_by_xet_are_counted_once_too() -> None:
    reporting = pytest.importorskip("huggingface_hub.utils._xet_progress_reporting", reason="an older huggingface_hub")
    with Progress("fetch", unit="bytes", total=100, is_hidden=True) as progress:
        bar = type("Bar", (client._Bar,), {"progress": progress})
        with reporting.XetDownloadProgressReporter(
            reconstruction_desc="a", total=100, log_level=30, tqdm_class=bar
        ) as report:
            for done in (40, 100):
                rates = {"total_bytes_completion_rate": 1.0, "total_transfer_bytes_completion_rate": 1.0, "total_bytes": 100}
                report.update_progress(
                    SimpleNamespace(total_bytes_completed=done, total_transfer_bytes_completed=done, **rates)
                )
        assert progress.done == 100


@pytest.mark.parametrize("kind", ["pipe", "terminal", "quiet"])
def test_a_bar_is_on_terminals_only(served: StandIn, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO() if kind == "pipe" else Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    if kind == "quiet":
        with quiet():
            fetch_all(served, tmp_path)
    else:
        fetch_all(served, tmp_path)
    assert ("fetch someone/model" in stream.getvalue()) == (kind == "terminal")
    assert logging.getLogger("zipasr.hub").level == logging.NOTSET


class LoginPage(BaseHTTPRequestHandler):
    """What networks in hotels answer."""

    def do_GET(self) -> None:
        body = b"<html>Log in</html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Write nothing."""


def test_a_page_instead_of_an_answer_is_no_hub(tmp_path: Path) -> None:
    server = HTTPServer(("127.0.0.1", 0), LoginPage)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        hub: Hub = open_hub(endpoint=f"http://127.0.0.1:{server.server_address[1]}", cache_dir=tmp_path, token=False)
        with pytest.raises(CheckpointError, match="does not answer like a hub"):
            find_commit(hub, MODEL)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_odd_answer_without_a_message_is_named_by_its_type(tmp_path: Path) -> None:
    hub = open_hub(endpoint="http://127.0.0.1:1", cache_dir=tmp_path, token=False)
    with pytest.raises(CheckpointError, match=r"does not answer like a hub \(ValueError\)"), explained(hub, MODEL):
        raise ValueError


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_refusals_by_status(served: StandIn, tmp_path: Path, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits for 23 s between its tries
    served.status = status
    hub = open_hub(endpoint=served.url, cache_dir=tmp_path, token="hf_x")
    with pytest.raises(CheckpointError, match=f"status {status}|does not exist"):
        find_commit(hub, MODEL)


def test_unknown_revisions_are_answered_with_those_that_are_there(served: StandIn, tmp_path: Path) -> None:
    for i in range(12):
        served.add("someone/model", FILES, revision=f"v{i}")
    hub = open_hub(endpoint=served.url, cache_dir=tmp_path, token=False)
    with pytest.raises(CheckpointError, match=r"no 'v99'; it has main, v0, .* and more"):
        find_commit(hub, MODEL._replace(revision="v99"))
    assert not list(tmp_path.rglob("v99"))
