"""Contract: `zipasr serve` responds at the URL that it prints, shuts down cleanly after SIGTERM, and reports in one line why
it cannot start."""

import contextlib
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed

from tests.forked import Forked, verb
from tests.serve.clients import FORM, connect, results_of, stream_samples
from tests.serve.running import sentence, streaming_recognizer, wav
from tests.tiny_model import save_tiny
from tests.watchdog import WATCHDOG_S
from zipasr.cli import main
from zipasr.model import AsrModel
from zipasr.recognizer import Recognizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("run") / "model").parent


@contextlib.contextmanager
def served(model: Path, *flags: str, key: str = "") -> Iterator[tuple[Forked, str]]:
    """A server process and the URL that it prints."""
    command = ["serve", str(model), "--port", "0", "--device", "cpu", *flags]
    process = Forked(verb, *command, cwd=model, environment={"ZIPASR_API_KEY": key})
    try:
        yield process, process.first_line()
    finally:
        process.kill()


def test_it_serves_until_sigterm(model: Path) -> None:
    with served(model) as (process, url):
        assert url.startswith("http://127.0.0.1:")
        health = httpx2.get(f"{url}/health", timeout=WATCHDOG_S).json()
        assert (health["status"], health["model"]) == ("ok", model.name)
        files = {"file": ("a.wav", wav(sentence()))}
        answer = httpx2.post(f"{url}/v1/audio/transcriptions", data={"model": model.name}, files=files, timeout=WATCHDOG_S)
        assert answer.json()["text"] == Recognizer.load(model).transcribe(sentence()).text
        process.send_signal(signal.SIGTERM)
        assert process.wait(WATCHDOG_S) == 0
        assert process.communicate(WATCHDOG_S)[1] == f"zipasr: serving {model.name}; Ctrl-C stops it\n"


def test_live_audio_is_completed_after_sigterm(tmp_path: Path) -> None:
    recognizer = streaming_recognizer()
    assert isinstance(recognizer.engine.scorer, AsrModel)
    recognizer.engine.scorer.save(tmp_path / "model", recognizer.engine.tokenizer)
    with served(tmp_path, "--search", "greedy") as (process, url), connect(url.replace("http", "ws")) as live:
        stream_samples(live, sentence(0, 3.0))
        live.recv(WATCHDOG_S)
        process.send_signal(signal.SIGTERM)
        assert results_of(live)[-1]["is_eof"]
        with pytest.raises(ConnectionClosed) as closed:
            live.recv(WATCHDOG_S)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012
        assert process.wait(WATCHDOG_S) == 0


def test_requests_are_completed_after_sigterm(model: Path) -> None:
    with served(model) as (process, url), ThreadPoolExecutor(20) as pool:

        def post(seed: int) -> httpx2.Response:
            files = {"file": ("a.wav", wav(sentence(seed % 3, 10.0)))}
            return httpx2.post(f"{url}/v1/audio/transcriptions", data={"model": model.name}, files=files, timeout=WATCHDOG_S)

        answers = [pool.submit(post, seed) for seed in range(20)]
        while "zipasr_open 20.0" not in httpx2.get(f"{url}/metrics", timeout=WATCHDOG_S).text:
            assert not any(answer.done() and answer.result().status_code != 200 for answer in answers)
            if all(answer.done() for answer in answers):
                break
        process.send_signal(signal.SIGTERM)
        expected = [
            transcript.text for transcript in Recognizer.load(model).transcribe_many([sentence(i, 10.0) for i in range(3)])
        ]
        assert [answer.result().json()["text"] for answer in answers] == [expected[seed % 3] for seed in range(20)]
        assert process.wait(WATCHDOG_S) == 0


def test_a_second_signal_does_not_wait_for_requests(model: Path) -> None:
    with served(model) as (process, url), socket.socket() as slow:
        slow.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        slow.sendall(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: a\r\n" + FORM.encode() + b"Content-Length: 9\r\n\r\n-"
        )
        while "zipasr_open 1.0" not in httpx2.get(f"{url}/metrics", timeout=WATCHDOG_S).text:
            pass
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(httpx2.HTTPError):
            while httpx2.get(f"{url}/health", timeout=WATCHDOG_S).status_code == 200:
                pass
        process.send_signal(signal.SIGTERM)
        assert process.wait(WATCHDOG_S) == 1
        assert "some requests could not be completed in time" in process.communicate(WATCHDOG_S)[1]


def test_a_key_from_the_environment(model: Path) -> None:
    """Without the line end of the file that it was read from; addresses of proxies may have spaces between them."""
    with served(model, "--forwarded-allow-ips", "127.0.0.1, ::1", key="a secret\n") as (_, url):
        assert httpx2.get(f"{url}/v1/models", timeout=WATCHDOG_S).status_code == 401
        assert (
            httpx2.get(f"{url}/v1/models", headers={"authorization": "Bearer a secret"}, timeout=WATCHDOG_S).status_code
            == 200
        )


def test_a_port_in_use(model: Path, capsys: pytest.CaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", str(model), "--port", str(port)]) == 1
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use; stop the" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "sentence_part"),
    [
        (["--port", "70000"], "from 0 to 65535"),
        (["--max-connections", "0"], "at least 1"),
        (["--workers", "0"], "at least 1"),
        (["--workers", "3", "--threads", "2"], "--workers must be from 1 to the number of threads, 2, but is 3"),
        (["--idle-timeout-s", "-1"], "not below 0"),
        (["--host", "nowhere.invalid", "--port", "0"], "an address of this machine"),
        (["--host", "a" * 100, "--port", "0"], "an address of this machine"),
        (["--api-key-file", "missing.txt"], "cannot be read"),
        (["--beam", "8", "--search", "greedy"], "beam has no effect"),
        (["--max-symbols-per-frame", "2", "--search", "ctc_greedy"], "max_symbols_per_frame has no effect"),
    ],
)
def test_misuse(flags: list[str], sentence_part: str, model: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["serve", str(model), *flags]) == 2
    assert sentence_part in capsys.readouterr().err


def test_a_truncated_model_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    weights = next(save_tiny(tmp_path / "model").rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:10_000])
    assert main(["serve", str(tmp_path), "--port", "0"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("zipasr: error: ") and str(weights) in message


def test_missing_packages(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("zipasr.serve.server._PACKAGES", ("starlette", "a_package_that_is_not_there"))
    assert main(["serve", str(model), "--port", "0"]) == 2
    assert 'pip install "zipasr[serve]"' in capsys.readouterr().err
