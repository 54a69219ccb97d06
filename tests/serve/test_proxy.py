"""Contract: the server behind a proxy that changes host, scheme and path, and pages of other origins (CORS). Run: the nginx
block of docs/serving.md in a real nginx."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from websockets.exceptions import InvalidStatus

from tests.serve.browser import FAKE_MICROPHONE, browser
from tests.serve.clients import connect, results_of, stream_samples, utterances_of, ws
from tests.serve.nginx import documented_block, find_program, nginx
from tests.serve.running import held, offline_recognizer, running, sentence, streaming_recognizer, wav
from tests.watchdog import WATCHDOG_S
from zipasr.errors import ConfigError
from zipasr.serve import ServeConfig, Service

FOREIGN = "https://elsewhere.example"
ALLOWED = "https://app.example:8443"


@pytest.fixture(scope="module")
def allowing() -> Iterator[Service]:
    """A server with a key that allows pages of one other origin."""
    with running(streaming_recognizer(), allow_origins=("https://App.example:8443/", "null"), api_key="a secret") as service:
        yield service


def upload(url: str, headers: dict[str, str], **fields: str) -> httpx2.Response:
    """The response to a request to transcribe, sent with headers."""
    files = {"file": ("a.wav", wav(sentence()))}
    data = {"model": "tiny", **fields}
    return httpx2.post(f"{url}/v1/audio/transcriptions", data=data, files=files, headers=headers, timeout=WATCHDOG_S)


def socket_status(url: str, headers: dict[str, str]) -> int:
    """The status of a handshake: 101, or why it was refused."""
    try:
        with connect(url, additional_headers=headers):
            return 101
    except InvalidStatus as error:
        return error.response.status_code


def preflight(service: Service, origin: str, **headers: str) -> httpx2.Response:
    """The response to a browser's question whether it may send a transcription request."""
    asked = {"origin": origin, "access-control-request-method": "POST", **headers}
    return httpx2.options(f"{service.url}/v1/audio/transcriptions", headers=asked, timeout=WATCHDOG_S)


def test_preflight_of_an_allowed_page(allowing: Service) -> None:
    """OpenAI's JavaScript client sends headers of its own; the browser sends no key with the question."""
    asked = "authorization,content-type,x-stainless-os"
    response = preflight(allowing, ALLOWED, **{"access-control-request-headers": asked})
    assert response.status_code == 204
    assert response.headers["access-control-allow-origin"] == ALLOWED
    assert "POST" in response.headers["access-control-allow-methods"]
    assert response.headers["access-control-allow-headers"] == asked
    assert "access-control-allow-private-network" not in response.headers
    private = preflight(allowing, ALLOWED, **{"access-control-request-private-network": "true"})
    assert private.headers["access-control-allow-private-network"] == "true"


def test_an_allowed_page_uses_the_server_and_can_read_its_errors(allowing: Service) -> None:
    key = {"authorization": "Bearer a secret"}
    for origin in (ALLOWED, "null"):
        headers = {"origin": origin, "sec-fetch-site": "cross-site"}
        good, keyless = upload(allowing.url, headers | key), upload(allowing.url, headers)
        responses = [good, keyless, upload(allowing.url, headers | key, model="x")]
        assert [response.status_code for response in responses] == [200, 401, 404]
        assert {response.headers["access-control-allow-origin"] for response in responses} == {origin}
        assert all(response.headers["vary"] == "origin" for response in responses)
        models = httpx2.get(f"{allowing.url}/v1/models", headers=headers | key, timeout=WATCHDOG_S)
        assert models.headers["access-control-allow-origin"] == origin
        assert socket_status(ws(allowing, "/online"), headers | key) == 101


@pytest.mark.parametrize("origin", [FOREIGN, "https://app.example", "http://app.example:8443", "https://app.example:8443.x"])
def test_a_page_that_is_not_allowed_is_refused(origin: str, allowing: Service) -> None:
    key = {"authorization": "Bearer a secret"}
    response = upload(allowing.url, {"origin": origin, **key})
    assert (response.status_code, response.json()["error"]["code"]) == (403, "origin_not_allowed")
    assert origin in response.json()["error"]["message"] and "--allow-origin" in response.json()["error"]["message"]
    refused = preflight(allowing, origin, **key)
    assert refused.status_code == 403
    for answer in (response, refused):
        assert "access-control-allow-origin" not in answer.headers
    assert socket_status(ws(allowing), {"Origin": origin, **key}) == 403


def test_without_allowed_origins_no_page_may_ask() -> None:
    with running(streaming_recognizer()) as service:
        assert preflight(service, FOREIGN).status_code == upload(service.url, {"origin": FOREIGN}).status_code == 403
        assert "access-control-allow-origin" not in upload(service.url, {"origin": service.url}).headers


def test_all_origins() -> None:
    with running(streaming_recognizer(), allow_origins=("*",)) as service:
        assert upload(service.url, {"origin": FOREIGN}).headers["access-control-allow-origin"] == FOREIGN
        assert preflight(service, "null").headers["access-control-allow-origin"] == "null"
        assert socket_status(ws(service), {"Origin": "http://elsewhere.example"}) == 101


def test_forwarded_headers_count_from_trusted_proxies_only() -> None:
    """nginx sends its upstream's name as Host by default; X-Forwarded-Host says what the browser asked for."""
    forwarded = {"x-forwarded-host": "Speech.example:443, inner", "x-forwarded-proto": "https"}
    headers = {"origin": "https://speech.example", **forwarded}
    good, bad = [("127.0.0.1", "::1"), ("127.0.0.0/8",), ("*",)], [("10.0.0.0/8", "127.0.0.2")]
    for trusted, status in [*((ips, 200) for ips in good), *((ips, 403) for ips in bad)]:
        with running(streaming_recognizer(), forwarded_allow_ips=trusted) as service:
            assert upload(service.url, headers).status_code == status, trusted
            assert socket_status(ws(service), headers) == (101 if status == 200 else 403)
            assert upload(service.url, headers | {"origin": FOREIGN}).status_code == 403
            location = httpx2.get(f"{service.url}/health/", headers=headers, timeout=WATCHDOG_S).headers["location"]
            asked = "https://speech.example" if status == 200 else service.url
            assert location.lower().replace(":443", "") == f"{asked}/health"


@pytest.mark.parametrize("prefix", ["", "/speech"])
def test_a_root_path_is_there_or_removed(prefix: str) -> None:
    """Proxies differ: some remove the path that they publish the server at from requests, some do not."""
    with running(streaming_recognizer(), root_path="/speech", api_key="a secret") as service:
        url, key = service.url + prefix, {"authorization": "Bearer a secret"}
        assert "<title>" in httpx2.get(f"{url}/", timeout=WATCHDOG_S).text
        assert httpx2.get(f"{url}/health", timeout=WATCHDOG_S).status_code == 200
        assert httpx2.get(f"{url}/metrics", timeout=WATCHDOG_S).status_code == 401
        assert upload(url, key).status_code == 200
        assert socket_status(ws(service, f"{prefix}/online"), key) == 101
        unknown = httpx2.get(f"{url}/speechless", headers=key, timeout=WATCHDOG_S)
        assert unknown.status_code == 404 and "/speech/v1" in unknown.json()["error"]["message"]
        redirected = httpx2.get(f"{url}/health/", timeout=WATCHDOG_S, headers=key)
        assert redirected.headers["location"] == f"{service.url}/speech/health"


def test_the_root_path_without_a_slash_leads_to_the_page() -> None:
    """Otherwise the page's relative URLs would be wrong."""
    with running(offline_recognizer(), root_path="/speech", api_key="a secret") as service:
        response = httpx2.get(f"{service.url}/speech", timeout=WATCHDOG_S)
        assert (response.status_code, response.headers["location"]) == (307, f"{service.url}/speech/")


@pytest.mark.parametrize(
    "wrong",
    [
        {"allow_origins": ("app.example",)},
        {"allow_origins": ("https://app.example/page",)},
        {"allow_origins": ("",)},
        {"root_path": "speech"},
        {"root_path": "/speech/"},
        {"root_path": "/a b"},
        {"root_path": "/v1"},
        {"root_path": "/health"},
        {"root_path": "/online/more"},
        {"root_path": "/page.js"},
        {"forwarded_allow_ips": ("proxy.example",)},
        {"forwarded_allow_ips": ("10.0.0.0/40",)},
        {"api_key": "a secret "},
        {"language": "English, please"},
        {"idle_timeout_s": -1.0},
        {"idle_timeout_s": float("nan")},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"must .*but is"):
        ServeConfig(**wrong)  # type: ignore[arg-type]


def test_events_are_not_buffered_by_proxies_and_come_at_least_every_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zipasr.serve.http._KEEP_ALIVE_S", 0.0)
    monkeypatch.setattr("zipasr.serve.http._PROGRESS_EVERY_S", 0.001)
    slow, sent = (
        offline_recognizer(),
        {"data": {"model": "tiny", "stream": "true"}, "files": {"file": ("a.wav", wav(sentence()))}},
    )
    with held(slow) as (_, go_on), running(slow) as service:
        url = f"{service.url}/v1/audio/transcriptions"
        with httpx2.stream("POST", url, **sent, timeout=WATCHDOG_S) as response:
            lines = response.iter_lines()
            assert next(lines) == ": 0.0 s done"  # while the recording is transcribed
            go_on.set()
            text = "\n".join(lines)
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["cache-control"] == "no-cache"
    assert text.rstrip().splitlines()[-1].startswith('data: {"type": "transcript.text.done"')


@pytest.fixture(scope="module")
def nginx_program(tmp_path_factory: pytest.TempPathFactory) -> str:
    return find_program(tmp_path_factory.mktemp("nginx"))


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize(("has_host", "root_path"), [(True, ""), (True, "/speech"), (False, "")])
def test_the_documented_nginx_block(has_host: bool, root_path: str, nginx_program: str, tmp_path: Path) -> None:
    """Page, upload, events and WebSocket below a path; also without the line that passes the host on, nginx's default."""
    samples = sentence(1, 3.0)
    with running(streaming_recognizer(), root_path=root_path, max_upload_mb=20.0) as service:
        block = documented_block().replace("127.0.0.1:6006", f"127.0.0.1:{service.port}")
        assert block.count(f"127.0.0.1:{service.port}") == 1
        if not has_host:
            block = re.sub(r".*proxy_set_header Host .*\n", "", block)
        with nginx(nginx_program, tmp_path, block) as origin:
            url = f"{origin}/speech"
            assert httpx2.get(url, follow_redirects=True, timeout=WATCHDOG_S).url == f"{url}/"
            page = httpx2.get(f"{url}/", timeout=WATCHDOG_S)
            files = re.findall(r'(?:src|href)="([\w./]+)"', page.text)
            assert len(files) >= 3
            for name in files:
                assert httpx2.get(httpx2.URL(f"{url}/").join(name), timeout=WATCHDOG_S).status_code == 200, name
            # Over http from another machine, browsers send no Sec-Fetch-Site.
            own = 200 if has_host else 403
            assert upload(url, {"origin": origin}).status_code == own
            assert upload(url, {"origin": origin, "sec-fetch-site": "same-origin"}).status_code == 200
            assert upload(url, {"origin": FOREIGN}).status_code == 403
            assert upload(url, {}, stream="true").text.count("data: ") == 2
            long = {"file": ("long.wav", wav(sentence(0, 60.0)))}  # beyond nginx's own limit of 1 MB
            sent = httpx2.post(f"{url}/v1/audio/transcriptions", data={"model": "tiny"}, files=long, timeout=WATCHDOG_S)
            assert sent.status_code == 200
            socket_url = url.replace("http", "ws") + "/online"
            assert socket_status(socket_url, {"Origin": FOREIGN}) == 403
            assert socket_status(socket_url, {"Origin": origin}) == (101 if has_host else 403)
            with connect(socket_url) as live:
                stream_samples(live, samples)
                live.send("Done")
                assert results_of(live)[-1]["text"] == utterances_of(streaming_recognizer(), samples)[-1].text
            wrong = httpx2.get(f"{url}/models", timeout=WATCHDOG_S)
            assert (wrong.status_code, f"{root_path}/v1" in json.loads(wrong.content)["error"]["message"]) == (404, True)


@pytest.mark.slow
@pytest.mark.network
def test_the_page_behind_nginx(nginx_program: str, tmp_path: Path) -> None:
    """A browser uploads a recording and uses the microphone on the page below a path."""
    recording = tmp_path / "a.wav"
    recording.write_bytes(wav(sentence(0, 4.0)))
    microphone = (*FAKE_MICROPHONE, f"--use-file-for-fake-audio-capture={recording}")
    with running(streaming_recognizer()) as service, browser(*microphone) as page:
        block = documented_block().replace("127.0.0.1:6006", f"127.0.0.1:{service.port}")
        with nginx(nginx_program, tmp_path, block) as origin:
            page.open(f"{origin}/speech/")
            page.choose_file("#file", recording)
            page.wait_for("!document.querySelector('#result').hidden || !document.querySelector('#error').hidden")
            said = page.evaluate("[...document.querySelectorAll('.word')].map((word) => word.innerText).join(' ')")
            assert said == streaming_recognizer().transcribe(recording).text
            page.evaluate("document.querySelector('#microphone').click()")
            page.wait_for("document.querySelector('#transcript .partial')?.innerText.length > 20")
            page.evaluate("document.querySelector('#microphone').click()")
            page.wait_for("document.querySelectorAll('#transcript .final').length > 0")
