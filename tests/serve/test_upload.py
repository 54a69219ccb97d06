"""Contract: uploads that are refused while they arrive get the reason, and the rest of them is read first; connections last
from one upload to the next."""

import socket
import tempfile
from pathlib import Path
from typing import IO

import httpx2
import pytest
from starlette.types import Receive

from tests.serve.clients import FORM, PART, answer_of, form_of, post, raw_request
from tests.serve.clock import IDLE_S, Clock
from tests.serve.running import gauge, offline_recognizer, running, sentence, wait_until, wav
from tests.watchdog import WATCHDOG_S
from zipasr.serve import upload
from zipasr.serve.upload import linger

FULL = Path("/dev/full")
MB = 1_000_000


@pytest.fixture
def lingering(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Grows when the server starts to read the rest of a refused upload."""
    found = list[float]()

    async def noted(receive: Receive, timeout_s: float = upload._LINGER_S) -> None:
        found.append(timeout_s)
        await linger(receive, timeout_s)

    monkeypatch.setattr("zipasr.serve.http.linger", noted)
    return found


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has a device that is always full")
def test_a_full_disk_is_told(
    monkeypatch: pytest.MonkeyPatch, lingering: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    def full(**_: object) -> IO[bytes]:
        return FULL.open("w+b")

    with running(offline_recognizer()) as service:
        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "TemporaryFile", full)
            patch.setattr(tempfile, "tempdir", "/folder")
            response = post(service, bytes(8 * MB))
        assert response.status_code == 503
        assert response.json()["error"] == {
            "message": "The server cannot store the recording: No space left on device; whoever runs it must free space in "
            "its folder for temporary files, which its log names, or set TMPDIR.",
            "type": "server_error",
            "param": None,
            "code": None,
        }
        assert len(lingering) == 1
        assert [record.getMessage() for record in caplog.records] == [
            "an upload cannot be stored in /folder: [Errno 28] No space left on device"
        ]
        assert post(service).status_code == 200


def test_a_client_that_was_let_send_gets_the_reason(lingering: list[float]) -> None:
    """With `Expect: 100-continue`, the body is on its way once the server has said so."""
    with running(offline_recognizer(), max_upload_mb=0.1) as service:
        head = f"{FORM}Expect: 100-continue\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n"
        connection = raw_request(service, head)
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"%x\r\n%s\r\n" % (len(PART), PART))
        connection.sendall(b"%x\r\n%s\r\n" % (MB, bytes(MB)))
        wait_until(lambda: len(lingering) == 1)
        connection.sendall(b"0\r\n\r\n")
        assert answer_of(connection).startswith("HTTP/1.1 413 ")


def test_a_client_that_was_not_let_send_is_not_waited_for(lingering: list[float]) -> None:
    with running(offline_recognizer(), max_upload_mb=0.1) as service:
        connection = raw_request(service, f"{FORM}Expect: 100-continue\r\nContent-Length: {MB}\r\n")
        assert answer_of(connection).startswith("HTTP/1.1 413 ")
    assert not lingering


def test_malformed_forms_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The parser warns of them; they are faults of clients, who are told."""
    with running(offline_recognizer()) as service:
        headers = {"content-type": "multipart/form-data; boundary=x"}
        for content in (b"nonsense", b"--x\r\nnonsense", b"--x--\r\nmore than the last boundary"):
            url = f"{service.url}/v1/audio/transcriptions"
            assert httpx2.post(url, content=content, headers=headers, timeout=WATCHDOG_S).status_code == 400
    assert not caplog.records


def test_a_form_must_be_in_utf8_or_a_superset_of_ascii(caplog: pytest.LogCaptureFixture) -> None:
    """Some of Python's other encodings take seconds for a field, raise errors of their own or yield lone surrogates."""
    surrogates = form_of(wav(sentence()), language=r"\ud800", response_format="verbose_json")
    with running(offline_recognizer()) as service:

        def response(charset: str, content: bytes = surrogates) -> httpx2.Response:
            headers = {"content-type": f"multipart/form-data; boundary=x; charset={charset}"}
            url = f"{service.url}/v1/audio/transcriptions"
            return httpx2.post(url, content=content, headers=headers, timeout=WATCHDOG_S)

        for charset in ("undefined", "punycode", "unicode_escape", "utf-7", "utf-16", '""'):
            refused = response(charset)
            assert refused.status_code == 400
            assert refused.json()["error"]["message"].startswith("The texts of a form must be in UTF-8, but its charset is ")
        for charset in ("utf-8", '"UTF-8"', "US-ASCII", "windows-1252"):
            assert response(charset).json()["language"] == r"\ud800"
        latin = form_of(wav(sentence()), language="fran\xe7ais", response_format="verbose_json")
        assert response("ISO-8859-1", latin.replace("\xe7".encode(), b"\xe7")).json()["language"] == "fran\xe7ais"
    assert not caplog.records


def test_a_connection_may_be_idle_between_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as before its first one: clients that keep connections reuse them after more than five seconds."""
    clock = Clock(monkeypatch)
    request = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with running(offline_recognizer(), idle_timeout_s=IDLE_S) as service:
        connection = socket.create_connection(("127.0.0.1", service.port), timeout=WATCHDOG_S)
        for _ in range(3):
            connection.sendall(request)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
            clock.ahead_s += IDLE_S / 2
            for _ in range(3):  # the event loop looks at its timers
                gauge(service, "open")
        with clock.hurrying(service):
            assert answer_of(connection) == ""
