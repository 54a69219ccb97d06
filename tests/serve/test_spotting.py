"""Contract: the WebSocket `/spot`. Law: the events are those of a `SpotterStream`, whatever else the server decodes."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from websockets.exceptions import InvalidStatus

from tests.recognizer.causal_models import KEYWORDS, RECORDINGS, pausing_model, pausing_recognizer
from tests.serve.clients import closed, connect, results_of, stream_samples, ws
from tests.serve.running import offline_recognizer, running
from tests.tiny_model import tiny_tokenizer
from zipasr.cli import main
from zipasr.errors import ConfigError
from zipasr.recognizer import KeywordEvent, Recognizer, SpotterConfig
from zipasr.search.keywords import parse_keyword
from zipasr.serve import ServeConfig, Service

WITH_THRESHOLD = tuple(f"{keyword} #0.55" for keyword in KEYWORDS)


@pytest.fixture(scope="module")
def server() -> Iterator[Service]:
    own = Recognizer(pausing_model(), tiny_tokenizer())
    with running(own, keywords=tuple(map(parse_keyword, WITH_THRESHOLD))) as service:
        yield service


def spot(server: Service, samples: np.ndarray, query: str = "") -> list[dict[str, object]]:
    with connect(ws(server, f"/spot{query}")) as connection:
        stream_samples(connection, samples, message_samples=1_777)
        connection.send("Done")
        found = results_of(connection)
        assert closed(connection)[0] == 1000
    return found


def as_json(events: list[KeywordEvent]) -> list[dict[str, object]]:
    return [
        {
            "keyword": event.keyword,
            "start_time": event.start_s,
            "timestamps": list(event.times_s),
            "tokens": list(event.tokens),
            "end_time": event.end_s,
            "score": pytest.approx(event.score, abs=2e-4),
            "threshold": event.threshold,
            "is_near": event.is_near,
        }
        for event in events
    ]


def test_the_keywords_of_the_server(server: Service) -> None:
    expected = pausing_recognizer().spotter(WITH_THRESHOLD).spot(RECORDINGS[0])
    assert len(expected) > 2
    assert spot(server, RECORDINGS[0]) == as_json(expected)
    assert spot(server, RECORDINGS[0][:100]) == []


def test_keywords_of_the_client_beside_live_text(server: Service) -> None:
    query = f"?keyword={quote(WITH_THRESHOLD[0])}&keyword={quote(WITH_THRESHOLD[3])}&near=0.3"
    own = [WITH_THRESHOLD[0], WITH_THRESHOLD[3]]
    expected = pausing_recognizer().spotter(own, config=SpotterConfig(near=0.3)).spot(RECORDINGS[1])
    with connect(ws(server, "/online")) as text:
        stream_samples(text, RECORDINGS[1], message_samples=1_777)
        assert spot(server, RECORDINGS[1], query) == as_json(expected)
        text.send("Done")
        results = results_of(text)
    assert {event.is_near for event in expected} == {True, False}
    stream = pausing_recognizer().stream()
    stream.accept_waveform(RECORDINGS[1])
    assert results[-1]["text"] == stream.finish().text


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?keyword=D%C3%89J%C3%80", "must be writable in the model's vocabulary"),
        ("?keyword=FOX%20%23high", "threshold after # must be a number"),
        ("?near=2", "near must be a share of the threshold"),
        ("?near=high", "near must be a share of the threshold from 0 to 1"),
        ("?words=FOX", "The parameters must be keyword and near"),
    ],
)
def test_wrong_requests_are_refused(query: str, message: str, server: Service) -> None:
    with pytest.raises(InvalidStatus) as caught, connect(ws(server, f"/spot{query}")):
        pass
    assert caught.value.response.status_code == 400
    assert message in json.loads(caught.value.response.body)["error"]["message"]


def test_bad_samples_close_the_connection(server: Service) -> None:
    with connect(ws(server, "/spot")) as connection:
        connection.send(np.full(100, np.nan, np.float32).tobytes())
        code, reason = closed(connection)
    assert code == 1007 and "samples must be finite" in reason


def test_servers_without_keywords_or_streams() -> None:
    for recognizer, message in (
        (pausing_recognizer(), "There must be keywords"),
        (offline_recognizer(), "a causal Zipformer"),
    ):
        with running(recognizer) as service:
            with pytest.raises(InvalidStatus) as caught, connect(ws(service, "/spot")):
                pass
            assert message in json.loads(caught.value.response.body)["error"]["message"]
    with pytest.raises(ConfigError, match="a causal Zipformer"):
        Service(offline_recognizer(), ServeConfig(port=0, keywords=(parse_keyword("QUICK FOX"),)))


def test_the_flag_of_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pausing_model().save(tmp_path / "model", tiny_tokenizer())
    (tmp_path / "keywords.txt").write_text("QUICK FOX #9\n")
    assert main(["serve", str(tmp_path / "model"), "--port", "0", "--keywords", str(tmp_path / "keywords.txt")]) == 2
    assert "threshold of keyword 'QUICK FOX' in line 1 of" in capsys.readouterr().err
