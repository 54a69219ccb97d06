"""Contract: sherpa-onnx's WebSocket protocols. The wheel's own client for live audio works unchanged; the test's client for
recordings works with the wheel's own server and with ours. Law: the results are those of `Stream` and `transcribe`."""

import base64
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import pytest
import soundfile
from websockets.exceptions import InvalidStatus

from tests.ports import free_port
from tests.serve.clients import (
    closed,
    connect,
    results_of,
    send_recordings,
    sherpa_program,
    stream_file,
    stream_samples,
    utterances_of,
    ws,
)
from tests.serve.running import gauge, held, offline_recognizer, running, sentence, streaming_recognizer, wait_until
from tests.watchdog import WATCHDOG_S
from zipasr.errors import ConfigError
from zipasr.recognizer import Recognizer
from zipasr.serve import Service
from zipasr.serve.protocol import write_recording
from zipasr.serve.receiving import Recordings
from zipasr.transcript import to_cues

pytestmark = pytest.mark.usefixtures("each_loop")
ONLINE_KEYS = {
    *("text", "tokens", "timestamps", "ys_probs", "lm_probs", "context_scores", "segment", "words", "start_time"),
    *("is_final", "is_eof"),
}
OFFLINE_KEYS = {"lang", "emotion", "event", "text", "timestamps", "durations", "tokens", "ys_log_probs", "words"}


@pytest.fixture(scope="module")
def streaming() -> Recognizer:
    return streaming_recognizer()


@pytest.fixture(scope="module")
def server(each_loop: str) -> Iterator[Service]:
    with running(streaming_recognizer(), max_utterance_s=60.0) as service:
        yield service


def test_the_wheels_client_works_unchanged(server: Service, streaming: Recognizer, tmp_path: Path) -> None:
    samples = sentence(0, 3.0)
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="PCM_16")
    written, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    results = stream_file(server.port, tmp_path / "a.wav")
    (expected,) = utterances_of(streaming, written)
    assert expected.text
    assert results[-1]["text"] == expected.text
    assert (results[-1]["is_final"], results[-1]["is_eof"]) == (True, True)
    assert len(results) >= 4 and not any(result["is_final"] for result in results[:-1])
    assert results[-1]["timestamps"] == [round(token.start_s, 2) for token in expected.tokens]
    assert results[-1]["ys_probs"] == pytest.approx([token.log_prob for token in expected.tokens], abs=1e-4)


@pytest.mark.parametrize("path", ["/", "/online"])
def test_utterances_of_a_long_stream(path: str, server: Service, streaming: Recognizer) -> None:
    samples = np.concatenate([sentence(seed, 9.0) for seed in range(5)])
    with connect(ws(server, path)) as connection:
        stream_samples(connection, samples, message_samples=7777)
        connection.send("Done")
        results = results_of(connection)
        assert closed(connection)[0] == 1000
    finals = [result for result in results if result["is_final"]]
    expected = utterances_of(streaming, samples)
    assert len(expected) > 2
    assert [final["text"] for final in finals] == [one.text for one in expected]
    assert [final["segment"] for final in finals] == list(range(len(expected)))
    assert [final["is_eof"] for final in finals] == [False] * (len(finals) - 1) + [True]
    for final, one in zip(finals, expected, strict=True):
        times_s = [final["start_time"] + time_s for time_s in final["timestamps"]]  # type: ignore[operator, attr-defined]
        assert times_s == pytest.approx([token.start_s for token in one.tokens], abs=0.011)


def test_messages_may_cut_samples(server: Service, streaming: Recognizer) -> None:
    samples = sentence(1, 2.0)
    content = samples.astype("<f4").tobytes()
    with connect(ws(server)) as connection:
        for start in range(0, len(content), 1001):
            connection.send(content[start : start + 1001])
        connection.send("Done")
        assert results_of(connection)[-1]["text"] == utterances_of(streaming, samples)[-1].text


def test_nothing_but_done(server: Service) -> None:
    with connect(ws(server)) as connection:
        connection.send("Done")
        (result,) = results_of(connection)
        assert (result["text"], result["is_eof"]) == ("", True)


def test_many_connections_each_receive_their_own_results(server: Service, streaming: Recognizer) -> None:
    def transcribed(seed: int) -> str:
        with connect(ws(server)) as connection:
            stream_samples(connection, sentence(seed, 6.0))
            connection.send("Done")
            return str(results_of(connection)[-1]["text"])

    with ThreadPoolExecutor(12) as pool:
        texts = list(pool.map(transcribed, range(12)))
    assert texts == [utterances_of(streaming, sentence(seed, 6.0))[-1].text for seed in range(12)]


@pytest.fixture(scope="module")
def wheel_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the wheel's own offline server, with a CTC model of a single matrix."""
    folder = tmp_path_factory.mktemp("ctc")
    _write_ctc_model(folder)
    port = free_port()
    program = sherpa_program("sherpa-onnx-offline-websocket-server")
    options = [f"--tokens={folder}/tokens.txt", f"--zipformer-ctc-model={folder}/model.onnx", f"--log-file={folder}/log.txt"]
    with subprocess.Popen(
        [program, f"--port={port}", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        end_s = time.monotonic() + WATCHDOG_S
        while True:
            assert process.poll() is None and time.monotonic() < end_s, "the wheel's server did not start"
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)
        yield f"ws://127.0.0.1:{port}"
        process.kill()


def _write_ctc_model(folder: Path) -> None:
    """Every fourth frame through a random matrix: x (N, T, 80), x_lens (N) -> log_probs (N, T', 4), log_probs_len (N)."""
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper, kinds = onnx.helper, onnx.numpy_helper, onnx.TensorProto
    matrix = np.random.default_rng(0).standard_normal((80, 4)).astype(np.float32)
    constants = {"start": [0], "end": [2**31 - 1], "axis": [1], "step": [4], "three": [3], "four": [4]}
    initializers = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()]
    graph = helper.make_graph(
        [
            helper.make_node("Slice", ["x", "start", "end", "axis", "step"], ["every_fourth"]),
            helper.make_node("MatMul", ["every_fourth", "matrix"], ["scores"]),
            helper.make_node("LogSoftmax", ["scores"], ["log_probs"], axis=-1),
            helper.make_node("Add", ["x_lens", "three"], ["rounded_up"]),
            helper.make_node("Div", ["rounded_up", "four"], ["log_probs_len"]),
        ],
        "ctc",
        [
            helper.make_tensor_value_info("x", kinds.FLOAT, ["N", "T", 80]),
            helper.make_tensor_value_info("x_lens", kinds.INT64, ["N"]),
        ],
        [
            helper.make_tensor_value_info("log_probs", kinds.FLOAT, ["N", "S", 4]),
            helper.make_tensor_value_info("log_probs_len", kinds.INT64, ["N"]),
        ],
        [*initializers, numpy_helper.from_array(matrix, "matrix")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, {"model_type": "zipformer2_ctc"})
    onnx.save(model, str(folder / "model.onnx"))
    (folder / "tokens.txt").write_text("<blk> 0\na 1\nb 2\nc 3\n")


@pytest.mark.parametrize("message_bytes", [10_000, 10_000_000])
def test_our_client_of_recordings_works_with_the_wheels_server(message_bytes: int, wheel_server: str) -> None:
    answers = send_recordings(wheel_server, [sentence(0), sentence(1)], message_bytes=message_bytes)
    assert [set(answer) >= OFFLINE_KEYS for answer in answers] == [True, True], answers
    assert all(answer["text"] for answer in answers)


@pytest.mark.parametrize("message_bytes", [3, 10_000, 10_000_000])
def test_recordings(message_bytes: int) -> None:
    recordings = [sentence(seed)[: 8000 if message_bytes == 3 else None] for seed in range(3)]
    recognizer = offline_recognizer()
    with running(offline_recognizer()) as service:
        for path in ("/", "/offline"):
            answers = send_recordings(ws(service, path), recordings, message_bytes=message_bytes)
            expected = recognizer.transcribe_many(recordings)
            assert [answer["text"] for answer in answers] == [transcript.text for transcript in expected]
            assert {frozenset(answer) for answer in answers} == {frozenset(OFFLINE_KEYS)}
            assert answers[0]["timestamps"] == [round(token.start_s, 2) for token in expected[0].tokens]


def test_a_model_that_cannot_stream_says_so() -> None:
    with running(offline_recognizer()) as service, pytest.raises(InvalidStatus) as refused, connect(ws(service, "/online")):
        pass
    assert refused.value.response.status_code == 400
    assert "a stream needs a causal Zipformer" in json.loads(refused.value.response.body)["error"]["message"]


LOUD = np.full(3200, 12_000, "<f4").tobytes()


@pytest.mark.parametrize(
    ("path", "message", "code", "sentence_part"),
    [
        ("/online", "hello", 1003, "but is the text 'hello'"),
        ("/online", b"\x00\x00\xc0\x7f" * 100, 1007, "must be finite numbers"),
        ("/online", b"\x00\x00\xc0\x7f" * 100, 1007, "of 100 is nan; send 16-bit PCM divided by 32768"),
        ("/online", b"this is not audio at all, but enough of it.." * 100, 1007, "must be finite numbers"),
        ("/online", LOUD, 1007, "is 12000; if it is int16 as floats, divide by 32768"),
        (
            "/offline",
            np.array([16_000, len(LOUD)], "<i4").tobytes() + LOUD,
            1007,
            "if it is int16 as floats, divide by 32768",
        ),
        ("/offline", "hello", 1003, "but is the text 'hello'"),
        ("/offline", b"RIFF....WAVEfmt ", 1003, "The first value, the sample rate, must be"),
        ("/offline", np.array([16_000, 7], "<i4").tobytes(), 1003, "multiple of 4"),
        ("/offline", np.array([16_000, 2_000_000_000], "<i4").tobytes(), 1009, "at most 60 s"),
        (
            "/offline",
            np.array([16_000, 400], "<i4").tobytes() + b"\x00\x00\xc0\x7f" * 100,
            1007,
            "samples of the recording must be finite",
        ),
        (
            "/offline",
            np.array([16_000, 400], "<i4").tobytes() + b"\x00\x00\xc0\x7f" * 100,
            1007,
            "0.00 s on; send 16-bit PCM divided by 32768",
        ),
    ],
)
def test_invalid_messages_are_refused_with_a_reason(
    path: str, message: str | bytes, code: int, sentence_part: str, server: Service
) -> None:
    with connect(ws(server, path)) as connection:
        connection.send(message)
        found_code, reason = closed(connection)
    assert (found_code, sentence_part in reason) == (code, True), reason


def test_half_a_recording(server: Service) -> None:
    with connect(ws(server, "/offline")) as connection:
        connection.send(np.array([16_000, 400], "<i4").tobytes() + bytes(100))
        connection.send("Done")
        assert closed(connection) == (1007, "The recording is incomplete: its header states more bytes.")


def test_a_recording_above_the_limit_of_the_server_is_refused_by_its_header() -> None:
    with running(offline_recognizer(), max_audio_s=5.0) as service, connect(ws(service, "/offline")) as connection:
        connection.send(np.array([16_000, 6 * 64_000], "<i4").tobytes())
        assert closed(connection) == (1009, "A recording must be at most 5 s long, but has 6 s.")


def test_a_search_that_the_server_cannot_do_closes_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConfigError("the search must be another")

    monkeypatch.setattr(Recognizer, "transcribe_many", refuse)
    with running(offline_recognizer()) as service, connect(ws(service, "/offline")) as connection:
        connection.send(write_recording(sentence()))
        assert closed(connection) == (1011, "the search must be another")


@pytest.mark.parametrize("path", ["/", "/online", "/offline"])
def test_unknown_parameters_are_refused(path: str, server: Service) -> None:
    with pytest.raises(InvalidStatus) as refused, connect(ws(server, f"{path}?grpah=orders")):
        pass
    assert refused.value.response.status_code == 400
    assert json.loads(refused.value.response.body)["error"]["message"] == "The only parameter is graph, but one is 'grpah'."


def test_recordings_are_counted_by_outcome() -> None:
    """A client that leaves between recordings has its transcripts; one that leaves in the middle of one has not."""
    recording = write_recording(sentence())

    def counted(service: Service) -> dict[str, float]:
        wait_until(lambda: gauge(service, "open") == 0)
        lines = httpx2.get(f"{service.url}/metrics", timeout=WATCHDOG_S).text.splitlines()
        start = 'zipasr_recordings_total{outcome="'
        found = (line.removeprefix(start).split('"} ') for line in lines if line.startswith(start))
        return {outcome: float(number) for outcome, number in found}

    with running(offline_recognizer()) as service:
        with connect(ws(service)) as leaving:
            leaving.send(recording)
            leaving.recv(WATCHDOG_S)
        assert counted(service) == {"done": 1}
        with connect(ws(service)) as leaving:
            leaving.send(recording + recording[:100])
            leaving.recv(WATCHDOG_S)
        assert counted(service) == {"done": 2, "left": 1}
        for rest in (np.array([16_000, 2_000_000_000], "<i4").tobytes(), recording[:100]):  # too long, incomplete
            with connect(ws(service)) as refused:
                refused.send(rest)
                refused.send("Done")
                assert closed(refused)[0] in (1007, 1009)
        assert counted(service) == {"done": 2, "left": 1, "refused": 2}


@pytest.mark.parametrize("origin", ["http://elsewhere.example", "null", "http://["])
def test_pages_of_other_sites_may_not_connect(origin: str, server: Service) -> None:
    with pytest.raises(InvalidStatus) as refused, connect(ws(server), origin=origin):  # type: ignore[arg-type]
        pass
    assert refused.value.response.status_code == 403


def test_our_own_page_may_connect_behind_a_proxy(server: Service) -> None:
    with connect(ws(server), origin=server.url) as connection:  # type: ignore[arg-type]
        assert connection.ping().wait(WATCHDOG_S)
    behind = {"Origin": "https://speech.example", "Sec-Fetch-Site": "same-origin"}
    with connect(ws(server), additional_headers=behind) as connection:
        assert connection.ping().wait(WATCHDOG_S)


def test_our_subprotocol_adds_words_with_times(server: Service, streaming: Recognizer) -> None:
    """sherpa-onnx's clients, which name no subprotocol, receive sherpa-onnx's fields only."""
    samples = sentence(0, 3.0)
    finals = []
    for subprotocols in (None, ["zipasr"]):
        with connect(ws(server), subprotocols=subprotocols) as connection:  # type: ignore[arg-type]
            stream_samples(connection, samples)
            connection.send("Done")
            finals.append(results_of(connection)[-1])
    plain, with_words = finals
    (expected,) = utterances_of(streaming, samples)
    assert set(plain) == ONLINE_KEYS
    words, segments = with_words.pop("timed_words"), with_words.pop("timed_segments")
    assert with_words == plain
    assert [tuple(segment.values()) for segment in segments] == [  # type: ignore[attr-defined]
        (
            pytest.approx(cue.start_s, abs=1e-3),
            pytest.approx(cue.end_s, abs=1e-3),
            cue.text.replace("\n", " "),
            cue.text.split("\n"),
        )
        for cue in to_cues(expected)
    ]
    assert [word["word"] for word in words] == [word.text for word in expected.words]  # type: ignore[attr-defined, index]
    for word, one in zip(words, expected.words, strict=True):  # type: ignore[call-overload]
        assert (word["start"], word["end"]) == pytest.approx((one.start_s, one.end_s), abs=1e-3)
        assert word["confidence"] == pytest.approx(one.confidence, abs=1e-3)


def test_recordings_of_all_sockets_together_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zipasr.serve.sockets._MAX_HELD_BYTES", 100_000, raising=False)
    header = np.array([16_000, 80_000], "<i4").tobytes()
    with running(offline_recognizer()) as service:
        for _ in range(3):  # a disconnected client holds no memory
            with connect(ws(service)) as first, connect(ws(service)) as second:
                first.send(header + bytes(60_000))
                first.ping().wait(WATCHDOG_S)
                second.send(header + bytes(60_000))
                assert closed(second) == (1013, "The server holds too many recordings; please retry later.")
                first.send(bytes(20_000))
                assert json.loads(first.recv(WATCHDOG_S))["durations"]
                first.send(header + bytes(80_000))  # and neither do completed recordings
                assert json.loads(first.recv(WATCHDOG_S))["durations"]


def test_recordings_that_wait_for_another_of_their_client_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is answered, and then the client is told; later it may send them again."""
    monkeypatch.setattr("zipasr.serve.sockets._MAX_HELD_BYTES", 100_000)
    message, slow, sizes, receive = write_recording(sentence(0, 1.0)), offline_recognizer(), [], Recordings.message_received

    def note(recordings: Recordings, message: bytes | str) -> None:
        receive(recordings, message)
        sizes.append(len(message))

    monkeypatch.setattr(Recordings, "message_received", note)
    with held(slow) as (is_held, go_on), running(slow) as service:
        with connect(ws(service)) as connection:
            connection.send(message)
            assert is_held.wait(WATCHDOG_S)
            connection.send(message)
            wait_until(lambda: sizes == [64_008] * 2)
            go_on.set()
            assert json.loads(connection.recv(WATCHDOG_S))["durations"]
            assert closed(connection) == (1013, "The server holds too many recordings; please retry later.")
        metrics = httpx2.get(f"{service.url}/metrics", timeout=WATCHDOG_S).text
        assert 'zipasr_recordings_total{outcome="refused"} 1.0' in metrics
        assert len(send_recordings(ws(service), [sentence(0, 1.0)] * 2)) == 2


def test_api_key() -> None:
    with running(streaming_recognizer(), api_key="a secret") as service:
        with pytest.raises(InvalidStatus) as refused, connect(ws(service)):
            pass
        assert refused.value.response.status_code == 401
        with connect(ws(service), additional_headers={"Authorization": "Bearer a secret"}) as connection:
            connection.ping()
        for key in (b"a secret", b" a secret\n"):  # in a header, too, spaces around it do not count
            encoded = base64.urlsafe_b64encode(key).decode().rstrip("=")
            with connect(ws(service), subprotocols=["zipasr", f"zipasr.key.{encoded}"]) as connection:  # type: ignore[list-item]
                assert connection.subprotocol == "zipasr"
