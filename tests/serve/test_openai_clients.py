"""Contract: OpenAI's clients work with what they send by default; wrong paths and methods get OpenAI's error objects."""

import json
from collections.abc import Iterator

import httpx2
import openai
import pytest
from websockets.exceptions import InvalidStatus

from tests.serve.clients import connect, openai_client, post, ws
from tests.serve.running import offline_recognizer, running, sentence, wav
from tests.watchdog import WATCHDOG_S
from zipasr.recognizer import Recognizer, SearchConfig
from zipasr.serve import Service

SENTENCE = "The following conversation is a smart home user talking to Home Assistant."
LIVEKIT = {"model": "gpt-4o-mini-transcribe", "language": "en", "response_format": "json"}
LIVEKIT_WHISPER = {"model": "whisper-1", "language": "en", "response_format": "verbose_json", "prompt": SENTENCE}
LIVEKIT_HINTS = {"model": "gpt-transcribe", "languages[]": ["en", "de"], "keywords[]": ["FOX"], "temperature": "0.2"}
PIPECAT = {
    "model": "gpt-transcribe",
    "language": "en",
    "temperature": "0.2",
    "include[]": "logprobs",
    "response_format": "json",
}
HOME_ASSISTANT = {"model": "gpt-4o-mini-transcribe", "language": "en", "response_format": "json", "prompt": SENTENCE}
OPEN_WEBUI = {"model": "whisper-1"}
DIFY = {"model": "tiny", "language": "zh", "prompt": "你好"}
SUBTITLE_EDIT = {
    "model": "whisper-1",
    "response_format": "verbose_json",
    "timestamp_granularities": "word,segment",
    "language": "",
    "prompt": "",
    "temperature": "",
}


@pytest.fixture(scope="module")
def server() -> Iterator[Service]:
    with running(offline_recognizer()) as service:
        yield service


@pytest.fixture(scope="module")
def english() -> Iterator[Service]:
    with running(offline_recognizer(), language="en") as service:
        yield service


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return offline_recognizer()


def error_of(response: httpx2.Response) -> dict[str, str]:
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)


CLIENTS = [LIVEKIT, LIVEKIT_WHISPER, LIVEKIT_HINTS, PIPECAT, HOME_ASSISTANT, OPEN_WEBUI, DIFY, SUBTITLE_EDIT]


@pytest.mark.parametrize("fields", CLIENTS)
def test_clients_with_their_defaults(fields: dict[str, object], server: Service, recognizer: Recognizer) -> None:
    response = post(server, **fields)
    assert response.status_code == 200, response.text
    if "prompt" not in fields and "keywords[]" not in fields:
        assert response.json()["text"] == recognizer.transcribe(sentence()).text


def test_granularities_with_commas_are_those_of_an_array(server: Service) -> None:
    answers = [
        post(server, response_format="verbose_json", **fields).json()
        for fields in (
            {"timestamp_granularities": "word,segment"},
            {"timestamp_granularities[]": ["word", "segment"]},
            {"timestamp_granularities[]": "word, segment"},
        )
    ]
    assert answers[0]["words"] and answers[0]["segments"]
    assert answers[0] == answers[1] == answers[2]
    only_words = post(server, response_format="verbose_json", timestamp_granularities="word,").json()
    assert "words" in only_words and "segments" not in only_words
    assert post(server, response_format="verbose_json", timestamp_granularities="word,phone").status_code == 400


@pytest.mark.parametrize(
    ("sent", "undeclared", "declared"),
    [
        (None, "unknown", "en"),
        ("", "unknown", "en"),
        ("en", "en", "en"),
        ("EN-us", "EN-us", "en"),
        ("auto", "unknown", "en"),
        ("de", "de", None),
        ("eng", "eng", None),
    ],
)
def test_the_language_is_echoed(
    sent: str | None, undeclared: str, declared: str | None, server: Service, english: Service
) -> None:
    """Without a declared language, that of the request; with one, the declared, and no other is accepted."""
    fields = {} if sent is None else {"language": sent}
    assert post(server, response_format="verbose_json", **fields).json()["language"] == undeclared
    answer = post(english, response_format="verbose_json", **fields)
    if declared is None:
        assert answer.status_code == 400
        assert (error_of(answer)["param"], "must be en" in error_of(answer)["message"]) == ("language", True)
    else:
        assert answer.json()["language"] == declared
    streamed = post(server, response_format="verbose_json", stream="true", **fields).text
    assert json.loads(streamed.split("data: ")[-1])["language"] == undeclared


def test_empty_values_are_absent_values(server: Service) -> None:
    names = ("language", "prompt", "temperature", "response_format", "stream", "chunking_strategy", "color", "keywords[]")
    empty = dict.fromkeys((*names, "include[]", "timestamp_granularities[]"), "")
    assert post(server, **empty).json() == post(server).json()
    assert error_of(post(server, model=""))["param"] == "model"


def test_unknown_fields_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with running(offline_recognizer()) as service:
        for _ in range(3):
            assert post(service, color=["red", "blue"], **{"known_speaker_names[]": "Ann"}).status_code == 200
        logged = [record.getMessage() for record in caplog.records if record.name == "zipasr.serve"]
        assert [sum(repr(name) in line for line in logged) for name in ("color", "known_speaker_names[]")] == [1, 1]
        assert len(logged) == 2
        assert post(service, **{f"x{i}": "1" for i in range(150)}).status_code == 200
    assert sum(record.name == "zipasr.serve" for record in caplog.records) == 100, "the log must not grow without end"


def test_a_prompt_gives_the_words_that_can_be_written(server: Service, recognizer: Recognizer) -> None:
    samples = sentence()
    expected = recognizer.transcribe(samples, hotwords=("DOZEN", "THEN", "FOX")).text
    assert expected != recognizer.transcribe(samples).text
    for prompt in ("DOZEN, THEN, FOX", "Dozen 3 then 日本 fox!", "“Dozen”: then. Fox 2026", "DOZEN\r\nTHEN é FOX"):
        assert post(server, wav(samples), prompt=prompt).json()["text"] == expected, prompt
    for prompt in ("日本", "123 456", "!?", "é"):
        assert post(server, wav(samples), prompt=prompt).json()["text"] == recognizer.transcribe(samples).text


def test_all_keywords_that_cannot_be_written_are_named_at_once(server: Service) -> None:
    for stream in ("false", "true"):
        response = post(server, stream=stream, prompt="é", **{"keywords[]": ["FOX", "Łódź", "DOZEN", "日本"]})
        error = error_of(response)
        assert (response.status_code, error["param"]) == (400, "keywords")
        assert "keywords 'Łódź', '日本' must be writable" in error["message"] and "FOX" not in error["message"]


def test_a_prompt_is_no_error_for_a_search_without_hotwords() -> None:
    plain = offline_recognizer()
    greedy = Recognizer(plain.engine.scorer, plain.engine.tokenizer, search=SearchConfig(method="ctc_greedy"))
    with running(greedy) as service:
        assert post(service, prompt=SENTENCE).json()["text"] == greedy.transcribe(sentence()).text
        assert "ctc_greedy cannot use hotwords" in error_of(post(service, **{"keywords[]": "FOX"}))["message"]


@pytest.mark.parametrize("name", ["tiny", "whisper-1", "gpt-4o-transcribe"])
def test_models_by_name(name: str, server: Service) -> None:
    with openai_client(f"{server.url}/v1") as client:
        assert client.models.retrieve(name).id == name
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("whisper-2")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/audio/transcriptions"),
        ("POST", "/v1/v1/audio/transcriptions"),
        ("POST", "/v1/audio/translations"),
        ("POST", "/v1/chat/completions"),
        ("GET", "/models"),
        ("GET", "/v2"),
        ("PUT", "/favicon.ico"),
        ("GET", "/v1/x%0d%0aSet-Cookie:%20a"),
    ],
)
def test_an_unknown_path(method: str, path: str, server: Service) -> None:
    response = httpx2.request(method, server.url + path, timeout=WATCHDOG_S)
    error = error_of(response)
    assert (response.status_code, error["type"], error["code"]) == (404, "invalid_request_error", "unknown_url")
    assert "base URL of a client must end with /v1" in error["message"]


def test_the_openai_client_reports_a_wrong_base_url(server: Service) -> None:
    with openai_client(server.url) as client, pytest.raises(openai.NotFoundError, match="must end with /v1"):
        client.audio.transcriptions.create(model="tiny", file=("a.wav", wav(sentence())))


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/audio/transcriptions", "POST"),
        ("DELETE", "/v1/models/tiny", "GET, HEAD"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("POST", "/", "GET, HEAD"),
        ("OPTIONS", "/v1/audio/transcriptions", "POST"),
    ],
)
def test_a_wrong_method(method: str, path: str, allowed: str, server: Service) -> None:
    response = httpx2.request(method, server.url + path, timeout=WATCHDOG_S)
    assert (response.status_code, response.headers["allow"]) == (405, allowed)
    assert (error_of(response)["code"], f"must be {allowed}" in error_of(response)["message"]) == (
        "method_not_supported",
        True,
    )


def test_a_slash_at_the_end_of_a_path_is_redirected(server: Service) -> None:
    assert httpx2.get(f"{server.url}/health/", follow_redirects=True, timeout=WATCHDOG_S).json()["status"] == "ok"


@pytest.mark.parametrize("path", ["/v1/realtime?intent=transcription", "/onlin", "/v1/audio/transcriptions", "/health"])
def test_an_unknown_websocket_path(path: str, server: Service) -> None:
    with pytest.raises(InvalidStatus) as refused, connect(ws(server, path)):
        pass
    assert refused.value.response.status_code == 404
    assert "its WebSockets are /, /online, /offline" in json.loads(refused.value.response.body)["error"]["message"]


def test_a_websocket_path_over_http_hints_at_the_proxy(server: Service) -> None:
    response = httpx2.get(f"{server.url}/online", timeout=WATCHDOG_S)
    assert response.status_code == 404
    assert "the headers Upgrade and Connection" in error_of(response)["message"]


@pytest.mark.parametrize("disposition", ['name="file"', "name=file", 'name="file"; filename=""'])
@pytest.mark.parametrize("duration_s", [0.5, 20.0])
def test_a_file_without_a_filename(duration_s: float, disposition: str, server: Service, recognizer: Recognizer) -> None:
    """A field in a form may have 100 kB; a file may have as much as a request."""
    content = wav(sentence(0, duration_s))
    parts = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\ntiny\r\n--x\r\nContent-Disposition: form-data; '
    body = parts + disposition.encode() + b"\r\n\r\n" + content + b"\r\n--x--\r\n"
    headers = {"content-type": "multipart/form-data; boundary=x"}
    url = f"{server.url}/v1/audio/transcriptions"
    response = httpx2.post(url, content=body, headers=headers, timeout=WATCHDOG_S)
    assert response.status_code == 200, response.text
    assert response.json()["text"] == recognizer.transcribe(sentence(0, duration_s)).text


def test_a_file_without_a_filename_has_the_limits_of_a_file() -> None:
    with running(offline_recognizer(), max_upload_mb=0.3) as service:
        url = f"{service.url}/v1/audio/transcriptions"
        sent = {"model": (None, "tiny"), "file": (None, wav(sentence(0, 6.0)))}
        response = httpx2.post(url, files=sent, timeout=WATCHDOG_S)
        assert response.status_code == 413
        twice = [("file", (None, b"a")), ("file", (None, b"b")), ("model", (None, "tiny"))]
        assert httpx2.post(url, files=twice, timeout=WATCHDOG_S).status_code == 400
