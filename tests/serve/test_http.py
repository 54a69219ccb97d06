"""Contract: OpenAI's API over HTTP with the real `openai` client; unsupported requests are refused with an explanation. Law:
a transcript over HTTP is that of the recognizer; requests that arrive together are computed together."""

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import numpy as np
import openai
import pytest

from tests.audio.muxing import mux
from tests.serve.clients import closed, connect, form_of, openai_client, post, ws
from tests.serve.running import offline_recognizer, running, sentence, wav
from tests.tiny_model import tiny_asr_model, tiny_tokenizer
from tests.watchdog import WATCHDOG_S
from zipasr.errors import ConfigError
from zipasr.recognizer import Recognizer, SearchConfig
from zipasr.serve import Service
from zipasr.serve.protocol import write_recording
from zipasr.transcript import FORMATS, Transcript


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return offline_recognizer()


@pytest.fixture(scope="module")
def server() -> Iterator[Service]:
    with running(offline_recognizer()) as service:
        yield service


@pytest.fixture(scope="module")
def client(server: Service) -> Iterator[openai.OpenAI]:
    with openai_client(f"{server.url}/v1") as client:
        yield client


def message_of(response: httpx2.Response) -> str:
    return str(response.json()["error"]["message"])


def test_json(client: openai.OpenAI, recognizer: Recognizer) -> None:
    samples = sentence()
    text = recognizer.transcribe(samples).text
    assert text
    answer = client.audio.transcriptions.create(model="tiny", file=("a.wav", wav(samples)))
    assert answer.text == text
    assert client.audio.transcriptions.create(model="whisper-1", file=("a.wav", wav(samples)), temperature=0).text == text


def test_verbose_json(client: openai.OpenAI, recognizer: Recognizer) -> None:
    samples = sentence(1)
    transcript = recognizer.transcribe(samples)
    answer = client.audio.transcriptions.create(
        model="tiny",
        file=("a.wav", wav(samples)),
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert answer.text == transcript.text
    assert answer.duration == pytest.approx(1.5)
    assert answer.words is not None and answer.segments is not None
    assert [(word.word, word.start, word.end) for word in answer.words] == [
        (word.text, pytest.approx(word.start_s, abs=1e-3), pytest.approx(word.end_s, abs=1e-3)) for word in transcript.words
    ]
    assert " ".join(segment.text for segment in answer.segments).split() == transcript.text.split()
    assert [id for segment in answer.segments for id in segment.tokens] == [
        recognizer.engine.tokenizer.pieces.index(token.text) for token in transcript.tokens
    ]
    assert all(segment.avg_logprob <= 0 and segment.start <= segment.end for segment in answer.segments)


@pytest.mark.parametrize(("format", "has_times"), [("json", False), ("text", False), ("srt", True), ("verbose_json", True)])
def test_words_are_aligned_for_formats_with_times(
    format: str, has_times: bool, server: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    transcribe_many = Recognizer.transcribe_many

    def observed(self: Recognizer, recordings: list[np.ndarray], *, use_true_times: bool, **others: object) -> object:
        asked.append(use_true_times)
        return transcribe_many(self, recordings, use_true_times=use_true_times, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(Recognizer, "transcribe_many", observed)
    assert post(server, wav(sentence()), response_format=format).status_code == 200
    assert asked == [has_times]


@pytest.mark.parametrize("format", ["text", "srt", "vtt"])
def test_written_formats(format: str, client: openai.OpenAI, recognizer: Recognizer) -> None:
    samples = sentence(2)
    answer = client.audio.transcriptions.create(model="tiny", file=("a.wav", wav(samples)), response_format=format)  # type: ignore[call-overload]
    assert answer == FORMATS[format](recognizer.transcribe(samples), "")


def test_stream_of_events(client: openai.OpenAI, recognizer: Recognizer) -> None:
    samples = sentence()
    events = list(
        client.audio.transcriptions.create(model="tiny", file=("a.wav", wav(samples)), stream=True, include=["logprobs"])
    )
    assert [event.type for event in events] == ["transcript.text.delta", "transcript.text.done"]
    text = recognizer.transcribe(samples).text
    assert "".join(event.delta for event in events if event.type == "transcript.text.delta") == text
    assert events[-1].text == text  # type: ignore[union-attr]
    log_probs = [one.logprob for one in events[-1].logprobs or ()]  # type: ignore[union-attr]
    assert log_probs == pytest.approx([token.log_prob for token in recognizer.transcribe(samples).tokens], abs=1e-5)


def test_text_of_a_long_recording_comes_piece_by_piece(recognizer: Recognizer) -> None:
    """Each part of the text is sent as soon as it is final, while later pieces still wait to be computed."""
    samples = np.concatenate([sentence(seed % 5, 5.0) for seed in range(30)])
    slow = offline_recognizer()
    go_on, num_calls, transcribe_many = threading.Event(), itertools.count(1), slow.transcribe_many

    def one_by_one(recordings: list[np.ndarray], **options: object) -> object:
        if next(num_calls) == 4:
            assert go_on.wait(WATCHDOG_S)
        return transcribe_many(recordings, **options)  # type: ignore[arg-type]

    slow.transcribe_many = one_by_one  # type: ignore[method-assign, assignment]
    with (
        running(slow) as service,
        openai_client(f"{service.url}/v1") as client,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr("zipasr.serve.batching._BATCH_S", 30.0)
        stream = client.audio.transcriptions.create(
            model="tiny", file=("a.wav", wav(samples)), stream=True, include=["logprobs"]
        )
        first = next(iter(stream))
        go_on.set()
        events = [first, *stream]
    expected = recognizer.transcribe(samples)
    deltas = [event for event in events if event.type == "transcript.text.delta"]
    assert len(deltas) >= 4 and events[-1].type == "transcript.text.done"
    assert "".join(delta.delta for delta in deltas) == events[-1].text == expected.text  # type: ignore[union-attr]
    log_probs = [one.logprob for delta in deltas for one in delta.logprobs or ()]
    assert log_probs == pytest.approx([token.log_prob for token in expected.tokens], abs=1e-5)


def test_error_in_a_stream(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIError, match=r"unknown or damaged format"):
        list(client.audio.transcriptions.create(model="tiny", file=("a.wav", b"this is not audio"), stream=True))


def test_long_recording(client: openai.OpenAI, recognizer: Recognizer) -> None:
    samples = np.concatenate([sentence(seed % 5, 5.0) for seed in range(15)])
    answer = client.audio.transcriptions.create(model="tiny", file=("long.flac", wav(samples)))
    assert answer.text == recognizer.transcribe(samples).text


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "zipasr"
    with pytest.raises(openai.NotFoundError, match="its model is tiny"):
        client.models.retrieve("other")


def test_prompt_and_keywords_are_hotwords(server: Service, recognizer: Recognizer) -> None:
    samples = sentence()
    hotwords = ("DOZEN", "THEN", "FOX")
    expected = recognizer.transcribe(samples, hotwords=hotwords).text
    assert expected != recognizer.transcribe(samples).text
    assert post(server, wav(samples), prompt="THEN, FOX\n", **{"keywords[]": ["DOZEN"]}).json()["text"] == expected
    spelled = post(server, wav(samples), prompt="\ufeffThen, f\u00adox\n\u200b", **{"keywords[]": ["dozen"]})
    assert spelled.json()["text"] == expected


@pytest.mark.parametrize(
    ("fields", "status", "sentence_part"),
    [
        ({"model": "gpt-9"}, 404, "its model is tiny"),
        ({"temperature": "2"}, 400, "temperature must be from 0 to 1"),
        ({"temperature": "warm"}, 400, "temperature must be from 0 to 1"),
        ({"response_format": "diarized_json"}, 400, "must be one of json, text"),
        ({"stream": "true", "response_format": "srt"}, 400, "leave stream out"),
        ({"timestamp_granularities[]": "word"}, 400, "only on verbose_json"),
        ({"include[]": "logprobs", "response_format": "text"}, 400, "for json only"),
        ({"chunking_strategy": '{"type": "server_vad"}'}, 400, "or give auto"),
        ({"chunking_strategy[type]": "server_vad"}, 400, "or give auto"),
        ({"stream": ["true", "false"]}, 400, "once"),
    ],
)
def test_unsupported_fields_are_refused(fields: dict[str, object], status: int, sentence_part: str, server: Service) -> None:
    response = post(server, **fields)
    assert response.status_code == status
    assert sentence_part in message_of(response)


def test_the_number_of_hotwords_is_limited(server: Service) -> None:
    """All requests wait while their graph is built."""
    for fields, param in (
        ({"prompt": "A" * 20_001}, "prompt"),
        ({"prompt": "A" * 15_000, "keywords[]": ["B" * 15_000]}, "prompt"),
        ({"keywords[]": ["A" * 15_000, "B" * 15_000]}, "keywords"),
    ):
        response = post(server, **fields)  # type: ignore[arg-type]
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)
        assert "at most 20000 characters in total" in message_of(response)


def test_an_error_of_the_search_names_the_field_that_caused_it() -> None:
    """A prompt is dropped where hotwords cannot be used, so it is never the cause."""
    greedy = Recognizer(tiny_asr_model(), tiny_tokenizer(), search=SearchConfig(method="ctc_greedy"))
    with running(greedy) as service:
        for fields, param in (({"keywords[]": "FOX"}, "keywords"), ({"keywords": "FOX", "prompt": "DOG"}, "keywords")):
            response = post(service, **fields)  # type: ignore[arg-type]
            assert (response.status_code, response.json()["error"]["param"]) == (400, param)
            assert "cannot use hotwords" in message_of(response)
        greedy.transcribe_many = refusing  # type: ignore[method-assign]
        response = post(service, prompt="DOG")
        assert (response.status_code, response.json()["error"]["param"]) == (400, None)


def refusing(*_: object, **__: object) -> list[Transcript]:
    raise ConfigError("the search must be another")


def test_every_hotword_may_be_a_field(server: Service) -> None:
    phrases = ["".join(letters) for letters in itertools.product("ABCDEFGHIJK", repeat=3)]
    assert post(server, **{"keywords[]": phrases[:260]}).status_code == 200
    response = post(server, **{"keywords[]": phrases[:1100]})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "keywords")
    assert "at most 1000 hotwords, but there are 1100" in message_of(response)


def test_a_page_of_another_site_may_not_post(server: Service) -> None:
    def status(**headers: str) -> int:
        files = {"file": ("a.wav", wav(sentence()))}
        url = f"{server.url}/v1/audio/transcriptions"
        return httpx2.post(url, data={"model": "tiny"}, files=files, headers=headers, timeout=WATCHDOG_S).status_code

    assert status(origin="http://elsewhere.example") == 403
    assert status(origin="http://elsewhere.example", **{"sec-fetch-site": "cross-site"}) == 403
    assert status(origin=server.url) == status() == 200


@pytest.mark.parametrize(
    ("content", "sentence_part"),
    [
        (b"this is not audio", ", but has an unknown or damaged format"),
        (wav(sentence() * float("nan")), "samples of a.wav must be finite"),
        (wav(sentence() * 32768), "if it is int16 as floats, divide by 32768"),
        (wav(sentence(), subtype="PCM_16")[:20_000], "the file is truncated"),
        (mux("adts", "aac", 16_000, sentence(), damage=[1.0]), "); copy it again"),
    ],
)
def test_bad_audio_is_refused_with_a_reason(content: bytes, sentence_part: str, server: Service) -> None:
    response = post(server, content)
    assert response.status_code == 400
    assert sentence_part in message_of(response)
    assert "format=" not in message_of(response) and "allow" not in message_of(response)
    assert response.json()["error"]["param"] == "file"


def test_a_gap_in_a_recording_is_silence(server: Service, recognizer: Recognizer) -> None:
    """As in `transcribe`: samples are placed at the timestamps of the file."""
    samples = np.rint(sentence() * 32767) / 32767
    film = mux("matroska", "pcm_s16le", 16_000, samples, video_s=1.0, retime=lambda start_s: start_s + 2)
    answer = post(server, film, response_format="verbose_json").json()
    assert answer["duration"] == pytest.approx(len(samples) / 16_000 + 2, abs=1e-3)
    assert answer["text"] == recognizer.transcribe(film).text


def test_short_and_empty_recordings_have_no_words(server: Service) -> None:
    assert post(server, wav(sentence()[:160])).json()["text"] == ""
    assert post(server, wav(sentence()[:0])).json()["text"] == ""


def test_no_form_and_no_file(server: Service) -> None:
    url = f"{server.url}/v1/audio/transcriptions"
    assert "multipart/form-data" in message_of(httpx2.post(url, json={"model": "tiny"}, timeout=WATCHDOG_S))
    without = httpx2.post(url, files={"model": (None, "tiny")}, timeout=WATCHDOG_S)
    assert without.status_code == 400
    assert "no such field" in message_of(without)
    whole = form_of(wav(sentence()), model="tiny")
    headers = {"content-type": "multipart/form-data; boundary=x"}
    for content in (whole[:20_000], whole[: whole.rindex(b"--x--")]):
        cut = httpx2.post(url, content=content, headers=headers, timeout=WATCHDOG_S)
        assert cut.status_code == 400
        assert "ends before its last boundary" in message_of(cut)
    assert httpx2.post(url, content=whole.rstrip(), headers=headers, timeout=WATCHDOG_S).status_code == 200
    broken = httpx2.post(
        url, content=b"--x\r\nnonsense", headers={"content-type": "multipart/form-data; boundary=x"}, timeout=WATCHDOG_S
    )
    assert broken.status_code == 400
    assert httpx2.get(url, timeout=WATCHDOG_S).status_code == 405


def test_requests_that_arrive_together_are_one_batch(recognizer: Recognizer) -> None:
    """While the first request is held up, the others queue; then they are computed together, each with its own text."""
    held, batches, go_on = threading.Event(), [], threading.Event()
    slow = offline_recognizer()
    transcribe_many = slow.transcribe_many

    def watched(recordings: list[np.ndarray], **options: object) -> object:
        batches.append(len(recordings))
        if not held.is_set():
            held.set()
            assert go_on.wait(WATCHDOG_S)
        return transcribe_many(recordings, **options)  # type: ignore[arg-type]

    slow.transcribe_many = watched  # type: ignore[method-assign, assignment]
    with running(slow) as service, ThreadPoolExecutor(8) as pool:
        first = pool.submit(post, service)
        assert held.wait(WATCHDOG_S)
        others = [pool.submit(post, service, wav(sentence(seed))) for seed in range(1, 6)]
        for _ in range(6000):
            if b"zipasr_waiting 5.0" in httpx2.get(f"{service.url}/metrics", timeout=WATCHDOG_S).content:
                break
        go_on.set()
        assert first.result().status_code == 200
        for seed, other in enumerate(others, start=1):
            assert other.result().json()["text"] == recognizer.transcribe(sentence(seed)).text
    assert batches == [1, 5]


def test_a_recording_that_fails_in_a_batch_affects_no_other(recognizer: Recognizer) -> None:
    broken = offline_recognizer()
    transcribe_many = broken.transcribe_many

    def sometimes(recordings: list[np.ndarray], **options: object) -> object:
        if any(len(samples) == 16_001 for samples in recordings):
            raise RuntimeError("a bug")
        return transcribe_many(recordings, **options)  # type: ignore[arg-type]

    broken.transcribe_many = sometimes  # type: ignore[method-assign, assignment]
    with running(broken) as service, ThreadPoolExecutor(8) as pool:
        lengths = [16_000, 16_001, 20_000, 16_001, 22_000]
        answers = [pool.submit(post, service, wav(sentence()[:length])) for length in lengths]
        for length, answer in zip(lengths, answers, strict=True):
            response = answer.result()
            if length == 16_001:
                assert response.status_code == 500
                assert "unexpected RuntimeError" in message_of(response)
            else:
                assert response.json()["text"] == recognizer.transcribe(sentence()[:length]).text


def test_a_bug_ends_a_response_and_a_stream_with_an_error(caplog: pytest.LogCaptureFixture) -> None:
    """In OpenAI's form, logged once, and counted as failed."""

    def broken(*_: object, **__: object) -> list[Transcript]:
        raise RuntimeError("a bug")

    recognizer = offline_recognizer()
    recognizer.transcribe_many = broken  # type: ignore[method-assign]
    with running(recognizer) as service:
        error = post(service).json()["error"]
        with openai_client(f"{service.url}/v1") as client, pytest.raises(openai.APIError) as caught:
            list(client.audio.transcriptions.create(model="tiny", file=("a.wav", wav(sentence())), stream=True))
        with connect(ws(service)) as connection:
            connection.send(write_recording(sentence()))
            code, reason = closed(connection)
        metrics = httpx2.get(f"{service.url}/metrics", timeout=WATCHDOG_S).text
    assert error["message"] == caught.value.message == reason
    assert (code, reason) == (1011, "Internal server error: unexpected RuntimeError; please report it.")
    assert error["type"] == caught.value.type == "server_error"
    assert 'zipasr_recordings_total{outcome="failed"} 3.0' in metrics
    assert [record.name for record in caplog.records] == ["zipasr.serve"] * 3


def test_health_and_metrics(server: Service) -> None:
    post(server)
    assert httpx2.get(f"{server.url}/health", timeout=WATCHDOG_S).json()["status"] == "ok"
    lines = httpx2.get(f"{server.url}/metrics", timeout=WATCHDOG_S).text.splitlines()
    assert "# TYPE zipasr_audio_seconds_total counter" in lines
    assert 'zipasr_batch_size_count{kind="recordings"}' in {line.split(" ")[0] for line in lines}


def test_api_key() -> None:
    with (
        running(offline_recognizer(), api_key="a secret") as service,
        openai_client(f"{service.url}/v1", api_key="a secret") as client,
    ):
        assert client.audio.transcriptions.create(model="tiny", file=("a.wav", wav(sentence()))).text
        with pytest.raises(openai.AuthenticationError, match="the API key of this server"):
            client.with_options(api_key="a secre").models.list()
        assert httpx2.get(f"{service.url}/metrics", timeout=WATCHDOG_S).status_code == 401
        assert httpx2.get(f"{service.url}/health", timeout=WATCHDOG_S).status_code == 200
        assert httpx2.get(service.url, timeout=WATCHDOG_S).status_code == 200
