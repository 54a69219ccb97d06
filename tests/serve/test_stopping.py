"""Contract: after SIGTERM accepted requests are completed, audio already sent is decoded, and new requests are refused."""

import contextlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from tests.serve.clients import (
    answer_of,
    closed,
    connect,
    frame,
    post,
    raw_socket,
    results_of,
    stream_samples,
    utterances_of,
    ws,
)
from tests.serve.running import gauge, held, running, sentence, streaming_recognizer, wait_until, wav
from tests.watchdog import WATCHDOG_S
from zipasr.recognizer import Recognizer

pytestmark = pytest.mark.usefixtures("each_loop")


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return streaming_recognizer()


def test_stopping_under_load(recognizer: Recognizer) -> None:
    """Accepted requests are completed, continuing live audio too; new requests are refused meanwhile."""
    slow, samples = streaming_recognizer(), sentence(1, 2.0)
    with held(slow) as (is_held, go_on), running(slow) as service, ThreadPoolExecutor(8) as pool:
        with connect(ws(service, "/online")) as live, connect(ws(service, "/offline")) as idle:
            stream_samples(live, samples)
            first = live.recv(WATCHDOG_S)  # one: a busy machine may send the results of several chunks as one
            answers = [pool.submit(post, service, wav(sentence(seed))) for seed in range(4)]
            assert is_held.wait(WATCHDOG_S)
            wait_until(lambda: gauge(service, "open") == 6)
            service.stop()
            wait_until(lambda: httpx2.get(f"{service.url}/health", timeout=WATCHDOG_S).status_code == 503)
            late = post(service)
            assert (late.status_code, late.headers["retry-after"]) == (503, "2")
            assert "shutting down" in late.json()["error"]["message"]
            go_on.set()
            assert closed(idle)[0] == 1012
            results = results_of(live)
            assert closed(live)[0] == 1012
        expected = recognizer.transcribe_many([sentence(seed) for seed in range(4)])
        assert [answer.result().json()["text"] for answer in answers] == [transcript.text for transcript in expected]
    assert first
    assert (results[-1]["is_final"], results[-1]["is_eof"]) == (True, True)
    assert results[-1]["text"] == utterances_of(recognizer, samples)[-1].text


@pytest.mark.parametrize("is_done", [True, False])
def test_audio_sent_before_the_signal_is_decoded_to_its_end(is_done: bool, recognizer: Recognizer) -> None:
    """A client sends a minute at once, most of which is still in buffers when the server starts to shut down."""
    samples = np.concatenate([sentence(seed, 10.0) for seed in range(6)])
    with running(streaming_recognizer()) as service, connect(ws(service)) as live:
        stream_samples(live, samples)
        if is_done:
            live.send("Done")
        results = [live.recv(WATCHDOG_S)]
        service.stop()
        finals = [result["text"] for result in results_of(live) if result["is_final"]]
        assert closed(live)[0] == (1000 if is_done else 1012)
    assert results
    assert finals == [transcript.text for transcript in utterances_of(recognizer, samples)]


def test_a_client_that_keeps_sending_after_the_close_can_read_the_response() -> None:
    """The server has stopped accepting, and waits for a client that has not seen the close frame yet."""
    message = frame(2, np.zeros(100, np.float32).tobytes())
    with running(streaming_recognizer()) as service, raw_socket(service, "/online") as live:
        port = service.port
        assert live.recv(65536).startswith(b"HTTP/1.1 101")
        live.sendall(message)
        service.stop()
        wait_until(lambda: not is_listening(port))
        for _ in range(20):
            live.sendall(message)
            time.sleep(0.01)
        live.sendall(frame(8, b""))
        answers = answer_of(live, encoding="latin-1")
    assert '"is_eof":true' in answers.replace(" ", "")
    assert "Done!" in answers


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=WATCHDOG_S).close()
    except ConnectionRefusedError:
        return False
    return True


def test_live_audio_without_a_pause_is_cut_off_with_a_result(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here after a second; the rest of the time is for the result."""
    monkeypatch.setattr("zipasr.serve.sockets._RECEIVE_SHARE", 1 / WATCHDOG_S)
    quiet = np.zeros(160, np.float32).tobytes()
    with running(streaming_recognizer(), drain_timeout_s=WATCHDOG_S) as service, connect(ws(service)) as live:
        with ThreadPoolExecutor(1) as pool:
            stream_samples(live, sentence(0, 2.0))
            live.recv(WATCHDOG_S)
            service.stop()
            answers = pool.submit(results_of, live)
            while not answers.done():
                with contextlib.suppress(ConnectionClosed):
                    live.send(quiet)
            assert answers.result()[-1]["is_eof"]
