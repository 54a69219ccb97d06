"""Graphs by name. Contract: each request gets what its graph allows, with slots, whatever other requests name; names that
the server does not have, and fields that do not go together, are refused."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from tests.recognizer.phrase_graphs import ORDERS, phrase_graph
from tests.serve.clients import connect, post, results_of, send_recordings, stream_samples, ws
from tests.serve.running import running, sentence, streaming_recognizer, wav
from tests.tiny_model import tiny_tokenizer
from zipasr.errors import ConfigError
from zipasr.recognizer import LongRecordingConfig, Recognizer, SearchConfig
from zipasr.search.graph import LoadedGraph, save_graph
from zipasr.serve import Service
from zipasr.serve.graphs import load_graphs

ANIMALS = {phrase: tag for phrase, tag in ORDERS.items() if "animal" in tag}
COUNTS = {phrase: tag for phrase, tag in ORDERS.items() if "count" in tag}


def recognizer() -> Recognizer:
    """One that streams; its beam is so wide that any phrase may win."""
    parts = streaming_recognizer().engine
    default = SearchConfig(method="greedy")
    graph = phrase_graph(tiny_tokenizer())
    return Recognizer(
        parts.scorer,
        parts.tokenizer,
        search=SearchConfig(graph_beam_nats=1e4),
        default_search=default,
        graph=graph,
        long_recordings=LongRecordingConfig(use_vad=False),
    )


def folder_of(path: Path, graph: LoadedGraph) -> Path:
    save_graph(path, graph.graph, tiny_tokenizer(), settings=graph.settings)
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    root = tmp_path_factory.mktemp("graphs")
    graphs = [
        folder_of(root / "animals", phrase_graph(tiny_tokenizer(), ANIMALS)),
        folder_of(root / "counts", phrase_graph(tiny_tokenizer(), COUNTS)),
        folder_of(root / "strict", phrase_graph(tiny_tokenizer(), ANIMALS, rejection=0.0)),
    ]
    with running(recognizer(), graphs) as service:
        yield service


@pytest.mark.parametrize("response_format", ["json", "verbose_json"])
def test_a_request_names_its_graph(server: Service, response_format: str) -> None:
    audio = wav(sentence(1, 2.0))
    for name, phrases in (("animals", ANIMALS), ("counts", COUNTS), ("", ORDERS)):
        answer = post(server, audio, graph=name, response_format=response_format).json()
        assert answer["text"] in phrases
        assert ORDERS[answer["text"]] == "{{{}={}}}".format(*next(iter(answer["slots"].items())))
    answer = post(server, audio, graph="strict").json()
    assert (answer["text"], answer["slots"]) == ("", {})


def test_live_audio_and_recordings_of_sockets_name_theirs(server: Service) -> None:
    samples = sentence(1, 2.0)
    with connect(ws(server, "/online?graph=animals")) as live:
        with connect(ws(server, "/online?graph=counts")) as other:
            for connection in (live, other):
                stream_samples(connection, samples)
                connection.send("Done")
            ends = [results_of(connection)[-1] for connection in (live, other)]
    assert ends[0]["text"] in ANIMALS
    assert ends[1]["text"] in COUNTS
    assert all(end["slots"] for end in ends)
    (found,) = send_recordings(ws(server, "/offline?graph=animals"), [samples])
    assert found["text"] in ANIMALS
    assert found["slots"]


def test_what_the_server_lacks_or_cannot_combine_is_refused(server: Service) -> None:
    audio = wav(sentence(1, 1.0))
    response = post(server, audio, graph="orders")
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["message"]) == (
        "graph",
        "graph must be one of animals, counts, strict, but is 'orders'.",
    )
    response = post(server, audio, graph="animals", **{"keywords[]": "FOX"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "keywords")
    assert post(server, audio, graph="animals", prompt="the lazy DOG").status_code == 200
    for path in ("/online?graph=orders", "/offline?graph=orders"):
        with pytest.raises(InvalidStatus) as refused:
            connect(ws(server, path))
        assert refused.value.response.status_code == 400
        assert b"must be one of animals, counts, strict" in (refused.value.response.body or b"")


def test_two_graphs_of_one_name_are_refused(tmp_path: Path) -> None:
    folders = [folder_of(tmp_path / kind / "orders", phrase_graph(tiny_tokenizer())) for kind in ("a", "b")]
    with pytest.raises(ConfigError, match="names of their own, but two are orders"):
        load_graphs(folders, tiny_tokenizer())


def test_a_graph_that_the_search_cannot_use_is_refused_at_the_start(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "orders", phrase_graph(tiny_tokenizer()))
    with pytest.raises(ConfigError, match="the search greedy cannot use a graph"):
        Service(streaming_recognizer(), graphs=[folder])
