"""Run: the results of a trained causal model for live audio of prompts that it was not trained on. The stream, the recording
encoded in chunks, the exported graphs, the real sherpa-onnx on them and the server all give the same texts, and the whole
recording gives little better ones."""

import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.conftest import REPOSITORY, skip_unless_time_is_left
from tests.error_rate import wer
from tests.export.sherpa import sherpa_events, sherpa_recognizer, sherpa_spotter, sherpa_tokens
from tests.serve.browser import FAKE_MICROPHONE, browser
from tests.serve.clients import connect, results_of, stream_file, stream_samples
from tests.serve.running import running
from zipasr.evaluate import ReferenceUtterance, read_cuts
from zipasr.export import export_model
from zipasr.recognizer import ChunkConfig, Recognizer, SearchConfig, SpotterConfig
from zipasr.search.keywords import read_keywords

RUN, SHORT_RUN = REPOSITORY / "exp" / "streaming", REPOSITORY / "exp" / "streaming_short"
DATA = REPOSITORY / "data" / "prompts_streaming"  # its own: the quick start may write data/prompts now
CHUNK, LEFT = 16, 128
CHUNKS = ChunkConfig(chunk_frames_50hz=CHUNK, left_context_frames_50hz=LEFT, simulate_streaming=True)
NUM_EPOCHS = 6
"""A third of the recipe: enough to find words, if not the right ones."""
MINUTES = 22.0
"""What that takes on a slow machine of two cores, beside the tests on two processes."""
MAX_WER = 75.0
"""Percent, after so little training; docs/streaming.md has the result of the whole recipe."""
MAX_WORSE = 12.0
"""Points by which the word error rate in chunks of 320 ms may exceed that of the whole recording."""
MIN_SHARED_WORDS = 0.3
"""Share of the words of a prompt that must be right through a browser's echo and noise reduction and after so little
training; measured 0.6, and 0.9 with the whole recipe."""
METHODS = ("greedy", "beam", "ctc_greedy")
TIE_NATS, MAX_TIES = 0.02, 4
"""After a third of the recipe, sherpa-onnx's beam chooses another one of our best texts for 3 of 80 prompts, whose scores
per label are 0.0003, 0.0006 and 0.0142 nats below the best; greedy and CTC search agree for all. The reason is unknown: it
may be the silence of the last window, which sherpa-onnx counts as audio and zipasr does not. After the whole recipe all
agreed."""
SILENCE = np.zeros(16_000, np.float32)

pytestmark = [pytest.mark.slow(minutes=2), pytest.mark.network]


@pytest.fixture(scope="module")
def run() -> Path:
    """The run of the whole streaming recipe if it exists, else a short one."""
    command = [sys.executable, "-m", "zipasr"]
    if not DATA.is_dir():
        subprocess.run([*command, "prepare", "prompts", "--out", DATA], cwd=REPOSITORY, check=True)
    if (RUN / "model").is_dir():
        return RUN
    skip_unless_time_is_left(MINUTES, "the training of prompts:streaming")
    settings = ["--set", f"num_epochs={NUM_EPOCHS}", "--set", f"data={DATA}"]
    subprocess.run([*command, "train", "prompts:streaming", "--out", SHORT_RUN, *settings], cwd=REPOSITORY, check=True)
    return SHORT_RUN


@pytest.fixture(scope="module")
def utterances(run: Path) -> list[ReferenceUtterance]:
    """Dev and test prompts."""
    return [utterance for part in ("dev", "test") for utterance in read_cuts(DATA / f"{part}_cuts.jsonl.gz")]


@pytest.fixture(scope="module")
def recordings(utterances: list[ReferenceUtterance]) -> list[np.ndarray]:
    """The samples of all prompts, each with the second of silence that a microphone records after it."""
    found = [np.concatenate([one.samples, SILENCE]) for one in utterances if one.samples is not None]
    assert len(found) == len(utterances) > 70
    return found


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as graphs that encode chunks."""
    folder = tmp_path_factory.mktemp("export") / "out"
    return export_model(run, folder, chunk_ms=20 * CHUNK, left_context_ms=20 * LEFT).folder


def streamed(recognizer: Recognizer, recordings: Sequence[np.ndarray]) -> list[str]:
    """The texts of streams of all recordings, decoded side by side, in pieces of 0.1 s."""
    streams = [recognizer.stream() for _ in recordings]
    for start in range(0, max(map(len, recordings)), 1600):
        for stream, samples in zip(streams, recordings, strict=True):
            if start < len(samples):
                stream.accept_waveform(samples[start : start + 1600])
        while recognizer.decode_streams(streams):
            pass
    return [stream.finish().text for stream in streams]


def test_chunks_cost_little(run: Path, utterances: list[ReferenceUtterance], recordings: list[np.ndarray]) -> None:
    rates = {}
    for name, chunks in (("whole", None), ("in chunks", CHUNKS)):
        texts = [transcript.text for transcript in Recognizer.load(run, chunks=chunks).transcribe_many(recordings)]
        rates[name] = round(wer(utterances, texts), 1)
    print(f"{run.name}, WER on {len(utterances)} prompts: {rates}")
    assert rates["whole"] <= MAX_WER
    assert rates["in chunks"] <= rates["whole"] + MAX_WORSE


def tied_texts(run: Path, method: str, samples: np.ndarray) -> set[str]:
    """The texts that a beam search scores within `TIE_NATS` per label of its best one; nothing for other searches."""
    if method != "beam":
        return set()
    model = Recognizer.load(run, search=SearchConfig(method="beam", num_best=4), chunks=CHUNKS)
    engine = model.engine
    ranked = engine.find(engine.encode([engine.fbank(samples)]), model.search)[0]
    scores = [hypothesis.normalized_score(engine.scorer.context_size) for hypothesis in ranked]
    pairs = zip(ranked, scores, strict=True)
    return {engine.tokenizer.decode(hypothesis.ids) for hypothesis, score in pairs if scores[0] - score < TIE_NATS}


@pytest.mark.parametrize("method", METHODS)
def test_streams_graphs_and_sherpa_onnx_say_the_same(
    method: str, run: Path, exported: Path, recordings: list[np.ndarray]
) -> None:
    search = SearchConfig(method=method)  # type: ignore[arg-type]
    model, graphs = Recognizer.load(run, search=search, chunks=CHUNKS), Recognizer.load(exported, search=search)
    expected = streamed(model, recordings)
    assert sum(map(bool, expected)) > 0.8 * len(recordings)
    assert [transcript.text for transcript in model.transcribe_many(recordings)] == expected
    assert streamed(graphs, recordings) == expected
    assert [transcript.text for transcript in graphs.transcribe_many(recordings)] == expected
    tokens = sherpa_tokens(sherpa_recognizer(exported, method), recordings)
    told = [" ".join("".join(pieces).split()) for pieces in tokens]  # where it found the space twice
    other = {i for i, (ours, theirs) in enumerate(zip(expected, told, strict=True)) if ours != theirs}
    assert len(other) <= (MAX_TIES if run == SHORT_RUN else 0)
    ties = {i: tied_texts(run, method, recordings[i]) for i in other}
    assert all(told[i] in ties[i] for i in other), [(expected[i], told[i]) for i in other]


def test_keywords_are_those_of_sherpa_onnx(run: Path, recordings: list[np.ndarray], tmp_path: Path) -> None:
    """Words of the prompts as keywords. sherpa-onnx judges the best path alone, where zipasr finds a few more."""
    keywords = ["CONFERENCE", "NUMBER", "MESSAGE", "ENTER", "PRESS", "POUND"]
    folder = export_model(run, tmp_path / "out", chunk_ms=20 * CHUNK, left_context_ms=20 * LEFT, keywords=keywords).folder
    config = SpotterConfig(refractory_s=0.0, max_symbols_per_frame=1)
    spotter = Recognizer.load(folder).spotter(read_keywords(folder / "keywords.txt"), config=config)
    theirs, different, num_events = sherpa_spotter(folder), 0, 0
    for samples in recordings:
        ours = [(event.keyword, event.times_s) for event in spotter.spot(samples)]
        different += ours != sherpa_events(theirs, samples)
        num_events += len(ours)
    print(f"{run.name}: {num_events} events, {different} of {len(recordings)} recordings with other events in sherpa-onnx")
    assert num_events > 0.2 * len(recordings)
    assert different <= 0.2 * len(recordings)  # after the whole recipe 9 of 80


def test_live_audio_over_sockets(run: Path, exported: Path, recordings: list[np.ndarray], tmp_path: Path) -> None:
    """Eight clients at once and the wheel's own client agree, for the model and for the graphs."""
    chosen = [samples for samples in recordings if len(samples) > 3 * 16_000][:8]
    expected = streamed(Recognizer.load(run, chunks=CHUNKS), chosen)
    for recognizer in (Recognizer.load(run, chunks=CHUNKS), Recognizer.load(exported)):
        with running(recognizer) as service:

            def said(samples: np.ndarray, url: str = f"ws://127.0.0.1:{service.port}/online") -> str:
                with connect(url) as connection:
                    stream_samples(connection, samples)
                    connection.send("Done")
                    finals = [result for result in results_of(connection) if result["is_final"]]
                    return " ".join(str(final["text"]) for final in finals if final["text"])

            with ThreadPoolExecutor(len(chosen)) as pool:
                assert list(pool.map(said, chosen)) == expected
            soundfile.write(tmp_path / "a.wav", chosen[0], 16_000, subtype="PCM_16")
            finals = [result for result in stream_file(service.port, tmp_path / "a.wav") if result["is_final"]]
            assert " ".join(str(final["text"]) for final in finals if final["text"]) == expected[0]


def test_the_page_shows_live_text_of_the_microphone(run: Path, recordings: list[np.ndarray], tmp_path: Path) -> None:
    """A real browser receives a prompt as its microphone, in a loop, and processes it like a call."""
    samples = max((samples for samples in recordings if len(samples) < 8 * 16_000), key=len)
    recognizer = Recognizer.load(run, chunks=CHUNKS)
    (expected,) = streamed(recognizer, [samples])
    soundfile.write(tmp_path / "prompt.wav", np.concatenate([samples, SILENCE]), 16_000, subtype="PCM_16")
    with (
        running(recognizer) as service,
        browser(*FAKE_MICROPHONE, f"--use-file-for-fake-audio-capture={tmp_path / 'prompt.wav'}") as page,
    ):
        page.open(service.url)
        page.evaluate("document.querySelector('#microphone').click()")
        page.wait_for("document.querySelector('#transcript .partial')?.innerText.length > 10")
        page.wait_for("document.querySelectorAll('#transcript .final').length > 0")
        page.screenshot("live_trained", width=1100, height=760)
        page.evaluate("document.querySelector('#microphone').click()")
        page.wait_for("document.querySelector('#microphone-label').innerText === 'Speak'")
        said = str(page.evaluate("[...document.querySelectorAll('.final .word')].map((w) => w.innerText).join(' ')"))
    print(f"expected: {expected}\nthe page: {said}")
    assert len(set(said.split()) & set(expected.split())) >= MIN_SHARED_WORDS * len(set(expected.split()))


def test_8_bits_are_judged_in_chunks(run: Path, tmp_path: Path) -> None:
    cuts, flags = DATA / "dev_cuts.jsonl.gz", ["--chunk-ms", str(20 * CHUNK), "--max-wer-increase", "2", "--json"]
    line = [sys.executable, "-m", "zipasr", "export", run, "--out", tmp_path / "out", "--int8", "--cuts", cuts, *flags]
    report = json.loads(subprocess.run(line, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True).stdout)
    print(report["quantization"]["heads"])
    for head in report["quantization"]["heads"].values():
        before, after = head["word_error_rate"]
        assert after <= before + 2.0
        assert head["num_bytes"][1] < 0.7 * head["num_bytes"][0]
