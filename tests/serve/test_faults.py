"""Contract: a faulty client, or too much load, ends with a clear response and affects no other client; afterwards the server
is as before. Traffic stays on this machine, and every loop is bounded."""

import asyncio
import json
import socket
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx2
import numpy as np
import pytest
from websockets.exceptions import InvalidStatus

from tests.serve.clients import (
    FORM,
    PART,
    answer_of,
    closed,
    connect,
    form_of,
    post,
    raw_request,
    results_of,
    stream_samples,
    utterances_of,
    ws,
)
from tests.serve.clock import IDLE_S, Clock
from tests.serve.running import (
    called,
    gauge,
    held,
    num_alive,
    offline_recognizer,
    running,
    sentence,
    streaming_recognizer,
    wait_until,
    wav,
)
from tests.watchdog import WATCHDOG_S
from zipasr.recognizer import Recognizer
from zipasr.serve.connection import Connection
from zipasr.serve.live import LiveSession
from zipasr.serve.protocol import write_recording

pytestmark = pytest.mark.usefixtures("each_loop")
MB = 1_000_000


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return streaming_recognizer()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_client_that_disconnects_in_the_middle_of_a_word(recognizer: Recognizer) -> None:
    samples = sentence(0, 4.0)
    with running(streaming_recognizer()) as service, connect(ws(service)) as other:
        stream_samples(other, samples[:32_000])
        for path in ("/online", "/offline"):
            with connect(ws(service, path)) as leaving:
                stream_samples(leaving, samples) if path == "/online" else leaving.send(
                    b"\x80\x3e\x00\x00\x00\x00\x01\x00abc"
                )
                leaving.socket.close()
        raw_request(service, f"{FORM}Content-Length: 100000\r\n", body=PART + b"RIFF").close()
        wait_until(lambda: gauge(service, "open") == 1 and gauge(service, "live") == 1)
        wait_until(lambda: num_alive(LiveSession) == 1)  # ended sessions are freed
        stream_samples(other, samples[32_000:])
        other.send("Done")
        assert results_of(other)[-1]["text"] == utterances_of(recognizer, samples)[-1].text


def test_a_websocket_client_that_disconnects_leaves_the_queue() -> None:
    slow = offline_recognizer()
    with held(slow) as (is_held, go_on), running(slow) as service, ThreadPoolExecutor(4) as pool:
        first = pool.submit(post, service)
        assert is_held.wait(WATCHDOG_S)
        with connect(ws(service)) as leaving:
            leaving.send(write_recording(sentence()))
            wait_until(lambda: gauge(service, "waiting") == 1)
        wait_until(lambda: gauge(service, "open") == 1)
        go_on.set()
        assert first.result().status_code == 200


def test_an_http_client_that_disconnects_leaves_the_queue() -> None:
    slow = offline_recognizer()
    with held(slow) as (is_held, go_on), running(slow, max_waiting=1) as service, ThreadPoolExecutor(4) as pool:
        first = pool.submit(post, service)
        assert is_held.wait(WATCHDOG_S)
        body = form_of(wav(sentence()))
        waiting = raw_request(service, f"{FORM}Content-Length: {len(body)}\r\n", body=body)
        wait_until(lambda: gauge(service, "waiting") == 1)
        full = post(service)
        assert (full.status_code, full.headers["retry-after"]) == (503, "2")
        assert "retry later" in full.json()["error"]["message"]
        waiting.close()
        wait_until(lambda: gauge(service, "open") == 1)
        third = pool.submit(post, service)
        go_on.set()
        assert [first.result().status_code, third.result().status_code] == [200, 200]


def test_a_client_that_disconnects_from_an_event_stream_leaves_the_queue() -> None:
    slow = offline_recognizer()
    with held(slow) as (is_held, go_on), running(slow) as service, ThreadPoolExecutor(4) as pool:
        first = pool.submit(post, service)
        assert is_held.wait(WATCHDOG_S)
        body = form_of(wav(sentence()), stream="true")
        leaving = raw_request(service, f"{FORM}Content-Length: {len(body)}\r\n", body=body)
        wait_until(lambda: gauge(service, "waiting") == 1)
        leaving.close()
        wait_until(lambda: gauge(service, "open") == 1)
        go_on.set()
        assert first.result().status_code == 200
        assert 'zipasr_recordings_total{outcome="left"} 1.0' in httpx2.get(f"{service.url}/metrics", timeout=WATCHDOG_S).text


def test_long_recordings_that_wait_are_on_disk_and_not_copied() -> None:
    """A reader copies what it reads; the copy must not be kept while the recording waits."""
    content = wav(np.concatenate([sentence(seed, 10.0) for seed in range(6)]))
    slow = offline_recognizer()
    with held(slow) as (is_held, go_on), running(slow) as service, ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(post, service, content) for _ in range(5)]
        assert is_held.wait(WATCHDOG_S)
        wait_until(lambda: gauge(service, "open") == 5)
        threading.Event().wait(1.0)  # the readers need a tenth of this to open all of them
        assert num_alive(tempfile.SpooledTemporaryFile) == 5
        go_on.set()
        assert len({answer.result().json()["text"] for answer in answers}) == 1
    assert num_alive(tempfile.SpooledTemporaryFile) == 0


def test_recordings_of_disconnected_clients_are_freed() -> None:
    slow = offline_recognizer()
    with held(slow) as (is_held, go_on), running(slow) as service, ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(post, service)]
        assert is_held.wait(WATCHDOG_S)
        for _ in range(5):
            with connect(ws(service)) as leaving:
                leaving.send(write_recording(sentence()))
                wait_until(lambda: gauge(service, "open") == 2 and gauge(service, "waiting") == 1)
            wait_until(lambda: gauge(service, "open") == 1)
        answers.append(pool.submit(post, service))
        wait_until(lambda: gauge(service, "waiting") == 1 and gauge(service, "open") == 2)
        go_on.set()
        assert [answer.result().status_code for answer in answers] == [200, 200]


@pytest.mark.parametrize("head", ["Content-Length: 10000000000\r\n", "Transfer-Encoding: chunked\r\n"])
def test_ten_gigabytes(head: str) -> None:
    """Refused at the limit, whether announced or not; later data is discarded for a short time."""
    with running(offline_recognizer(), max_upload_mb=1.0) as service:
        connection = raw_request(service, FORM + head)
        block = bytes(MB)
        if "chunked" in head:
            block = b"%x\r\n%s\r\n" % (len(block), block)
            connection.sendall(b"%x\r\n%s\r\n" % (len(PART), PART))
        else:
            connection.sendall(PART)
        num_sent = 0
        try:
            for _ in range(10_000):
                connection.sendall(block)
                num_sent += MB
        except OSError:
            pass  # the server has closed
        assert MB <= num_sent < 500 * MB
        connection.close()
        wait_until(lambda: gauge(service, "open") == 0)
        assert post(service).status_code == 200


def test_a_recording_that_is_too_large_is_refused() -> None:
    with running(offline_recognizer(), max_upload_mb=0.1) as service:
        response = post(service, wav(sentence(0, 4.0)))
        assert response.status_code == 413
        assert "at most 0.1 MB" in response.json()["error"]["message"]
        chunked = httpx2.post(
            f"{service.url}/v1/audio/transcriptions",
            content=(bytes(1000) for _ in range(200)),
            headers={"content-type": "multipart/form-data; boundary=x"},
            timeout=WATCHDOG_S,
        )
        assert chunked.status_code in (400, 413)


def test_a_recording_that_is_too_long_is_refused() -> None:
    with running(offline_recognizer(), max_audio_s=5.0) as service:
        for duration_s in (6.0, 40.0):
            response = post(service, wav(np.zeros(round(duration_s * 16_000), np.float32), subtype="PCM_16"))
            assert response.status_code == 400
            assert "at most 5 s" in response.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/online", "/offline"])
def test_a_message_that_is_too_large(path: str) -> None:
    """The client receives the reason although it is still sending when the server sees the head of the message."""
    with running(streaming_recognizer(), max_utterance_s=1.0) as service:
        for _ in range(5):
            with connect(ws(service, path)) as connection:
                connection.send(bytes(20 * MB))
                assert closed(connection)[0] == 1009
        wait_until(lambda: gauge(service, "open") == 0)


def test_silent_clients_are_disconnected(clock: Clock) -> None:
    """A client that stops sending in the head of a request, in its body, in a message or between messages."""
    with running(streaming_recognizer(), idle_timeout_s=IDLE_S) as service:
        head = socket.create_connection(("127.0.0.1", service.port), timeout=WATCHDOG_S)
        head.sendall(b"P")
        nothing = socket.create_connection(("127.0.0.1", service.port), timeout=WATCHDOG_S)
        body = raw_request(service, f"{FORM}Content-Length: 100\r\n", body=b"-")
        with connect(ws(service, "/online")) as live, connect(ws(service, "/offline")) as recording:
            live.send(b"\x00")
            recording.socket.sendall(b"\x82\xfe")  # the start of a frame
            with clock.hurrying(service):
                assert answer_of(head) == answer_of(nothing) == ""
                assert answer_of(body).startswith("HTTP/1.1 408 ")
                for connection in (live, recording):
                    assert closed(connection) == (1008, "The client sent nothing for 300 s.")
        wait_until(lambda: gauge(service, "open") == 0)


def test_a_client_that_falls_silent_gets_the_end_of_its_utterance(
    recognizer: Recognizer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A microphone that sends only speech: the last chunk is incomplete, and nothing follows it."""
    samples, num_received, push = sentence(1, 2.9), [], LiveSession.push

    def count(session: LiveSession, received: np.ndarray) -> None:
        push(session, received)
        num_received.append(len(received))

    monkeypatch.setattr(LiveSession, "push", count)
    with running(streaming_recognizer(), idle_timeout_s=IDLE_S) as service, connect(ws(service, "/online")) as live:
        stream_samples(live, samples)
        wait_until(lambda: sum(num_received) == len(samples))
        with clock.hurrying(service):
            results = results_of(live)
            assert closed(live) == (1008, "The client sent nothing for 300 s.")
        wait_until(lambda: gauge(service, "open") == gauge(service, "live") == 0)
    assert [result["is_final"] for result in results].index(True) == len(results) - 1
    assert results[-1]["is_eof"]
    assert results[-1]["text"] == utterances_of(recognizer, samples)[-1].text
    stream = recognizer.stream()
    stream.accept_waveform(samples)
    while recognizer.decode_streams([stream]):
        pass
    assert stream.result().text != results[-1]["text"], "the samples must end within a chunk"


def test_without_an_idle_timeout_silent_clients_stay(
    recognizer: Recognizer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Live audio, recordings and uploads may pause; a client without a request, which waits for nothing, may not."""
    monkeypatch.setattr("zipasr.serve.limits._STALL_S", IDLE_S)
    samples, content = sentence(1, 2.0), form_of(wav(sentence()))
    with running(streaming_recognizer(), idle_timeout_s=0.0) as service:
        body = raw_request(service, f"{FORM}Connection: close\r\nContent-Length: {len(content)}\r\n", body=content[:1000])
        nothing = socket.create_connection(("127.0.0.1", service.port), timeout=WATCHDOG_S)
        with connect(ws(service, "/online")) as live, connect(ws(service, "/offline")) as recording:
            stream_samples(live, samples[:8000])
            message = write_recording(samples)
            recording.send(message[:5000])
            wait_until(lambda: gauge(service, "open") == 3)
            with clock.hurrying(service):
                assert answer_of(nothing) == ""
                wait_until(lambda: clock.ahead_s > 5 * IDLE_S)
            stream_samples(live, samples[8000:])
            live.send("Done")
            recording.send(message[5000:])
            body.sendall(content[1000:])
            assert results_of(live)[-1]["text"] == utterances_of(recognizer, samples)[-1].text
            assert json.loads(recording.recv(WATCHDOG_S))["durations"]
            assert answer_of(body).startswith("HTTP/1.1 200 ")


def test_a_client_that_does_not_read_the_response_is_disconnected(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = called(monkeypatch, Connection, "pause_writing")
    with running(offline_recognizer(), idle_timeout_s=IDLE_S) as service, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(WATCHDOG_S)
        connection.connect(("127.0.0.1", service.port))
        requests = b"GET /page.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 500_000
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(connection.sendall, requests)
            wait_until(lambda: bool(stuck))
            with clock.hurrying(service), pytest.raises(ConnectionError):
                sending.result()
        wait_until(lambda: gauge(service, "open") == 0)
        assert post(service).status_code == 200


def test_many_clients_at_once() -> None:
    """500 clients at a server that accepts 20: each receives its text, or 503 and when to try again."""
    content = wav(sentence(0, 0.5))
    body = form_of(content)
    head = f"Host: 127.0.0.1\r\nConnection: close\r\n{FORM}Content-Length: {len(body)}\r\n\r\n"
    request = f"POST /v1/audio/transcriptions HTTP/1.1\r\n{head}"

    async def ask(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request.encode() + body)
        answer = await reader.read()
        writer.close()
        return answer

    async def ask_all(port: int) -> list[bytes]:
        return await asyncio.wait_for(asyncio.gather(*(ask(port) for _ in range(500))), WATCHDOG_S)

    text = offline_recognizer().transcribe(sentence(0, 0.5)).text
    with running(offline_recognizer(), max_connections=20, max_waiting=10) as service:
        answers = asyncio.run(ask_all(service.port))
        answered = [answer for answer in answers if answer.startswith(b"HTTP/1.1 200 ")]
        refused = [answer for answer in answers if answer.startswith(b"HTTP/1.1 503 ")]
        assert len(answered) + len(refused) == 500
        assert answered and all(f'"text": "{text}"'.encode() in answer for answer in answered)
        assert all(b"retry-after: 2" in answer.lower() for answer in refused)
        wait_until(lambda: gauge(service, "open") == gauge(service, "waiting") == 0)
        assert post(service, content).json()["text"] == text


def test_a_large_request_to_a_full_server_receives_the_refusal() -> None:
    """So does one without the key: the response is not lost in a connection that breaks while the client sends."""
    body = form_of(bytes(20 * MB))
    with running(streaming_recognizer(), max_connections=1, api_key="a secret") as service:
        head = f"{FORM}Content-Length: {len(body)}\r\nConnection: close\r\n"
        with connect(ws(service), additional_headers={"Authorization": "Bearer a secret"}):
            for key, status in (("a secret", 503), ("a guess", 401)):
                for _ in range(3):
                    with raw_request(service, f"{head}Authorization: Bearer {key}\r\n", body=body) as connection:
                        assert answer_of(connection).startswith(f"HTTP/1.1 {status} ")


def test_a_full_server_refuses_requests_and_websockets(caplog: pytest.LogCaptureFixture) -> None:
    with running(streaming_recognizer(), max_connections=1) as service:
        with connect(ws(service)):
            wait_until(lambda: gauge(service, "open") == 1)
            response = post(service)
            with pytest.raises(InvalidStatus) as refused, connect(ws(service)):
                pass
            assert response.status_code == refused.value.response.status_code == 503
            assert response.headers["retry-after"] == refused.value.response.headers["retry-after"] == "2"
            assert httpx2.get(f"{service.url}/health", timeout=WATCHDOG_S).status_code == 200
        wait_until(lambda: gauge(service, "open") == 0)
        assert post(service).status_code == 200
    assert not caplog.records, "faults of clients must not be logged as errors of the server"
