"""Run: what the page does with a transcript (player, saving, alternatives, keyboard, screen reader), the page below a path,
and what it says when something between it and the server refuses."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
import soundfile

from tests.serve.browser import COUNT_BLOCKS, Browser, browser
from tests.serve.proxy import proxied
from tests.serve.running import offline_recognizer, running, sentence, streaming_recognizer
from tests.watchdog import WATCHDOG_S
from zipasr.serve import Service
from zipasr.transcript import to_srt, to_vtt

IS_ANSWERED = "!document.querySelector('#result').hidden || !document.querySelector('#error').hidden"
IS_MARKED = "document.querySelector('[aria-current]') !== null"
NOTE_WHAT_IS_SAVED = """
window.saved = [];
window.Blob = class extends Blob { constructor(parts, options) { super(parts, options); saved.push(parts.join("")); } };
HTMLAnchorElement.prototype.click = function () { saved.push(this.download); };
"""
NOTE_WHAT_IS_MARKED = """
window.starts = [];
new MutationObserver((changes) => changes.forEach(({ target }) => target.ariaCurrent && starts.push(target.dataset.start)))
  .observe(document.querySelector("#lines"), { subtree: true, attributeFilter: ["aria-current"] });
"""


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recordings") / "a & b.wav"
    soundfile.write(path, sentence(0, 3.0), 16_000, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def chromium(recording: Path) -> Iterator[Browser]:
    """A browser whose fake microphone plays the recording in a loop."""
    fake = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with browser(*fake, f"--use-file-for-fake-audio-capture={recording}", "--mute-audio") as page:
        page.call("Emulation.setFocusEmulationEnabled", enabled=True)
        yield page


@pytest.fixture(scope="module")
def offline() -> Iterator[Service]:
    with running(offline_recognizer(), max_upload_mb=3, max_audio_s=90) as service:
        yield service


@pytest.fixture(scope="module")
def streaming() -> Iterator[Service]:
    with running(streaming_recognizer()) as service:
        yield service


def transcribe(page: Browser, path: Path) -> None:
    page.evaluate("document.querySelector('#result').hidden = document.querySelector('#error').hidden = true")
    page.choose_file("#file", path)
    page.wait_for(IS_ANSWERED)


def speak(page: Browser) -> None:
    """Speak until there is some text, and stop."""
    page.click("#microphone")
    page.wait_for("document.querySelector('#transcript .partial')?.innerText.length > 20")
    page.click("#microphone")
    page.wait_for("document.querySelector('#microphone-label').innerText === 'Speak'")


def marked(page: Browser) -> str:
    return str(page.evaluate("document.querySelector('[aria-current]')?.innerText ?? ''"))


def post(service: Service, path: Path, **fields: str) -> httpx2.Response:
    file = (path.name, path.read_bytes())
    url = f"{service.url}/v1/audio/transcriptions"
    return httpx2.post(url, data={"model": "tiny", **fields}, files={"file": file}, timeout=WATCHDOG_S)


def test_a_word_is_played_when_it_is_clicked_and_marked_while_it_is_spoken(
    chromium: Browser, offline: Service, recording: Path
) -> None:
    chromium.open(offline.url)
    transcribe(chromium, recording)
    assert chromium.text("#source").split() == ["a", "&", "b.wav", "0:03"]
    chromium.wait_for("document.querySelector('#player').readyState >= 1")
    assert chromium.evaluate("document.querySelector('#player').duration") == pytest.approx(3.0, abs=0.05)
    words = offline_recognizer().transcribe(recording).words
    assert len(words) > 3
    chromium.evaluate(NOTE_WHAT_IS_MARKED)
    height = chromium.evaluate("document.documentElement.scrollHeight")
    chromium.click(".word:nth-of-type(2)")
    assert chromium.evaluate("document.documentElement.scrollHeight") == height, "or words would move under the pointer"
    assert chromium.evaluate("!document.querySelector('#player').paused")
    assert float(str(chromium.evaluate("document.querySelector('#player').currentTime"))) >= words[1].start_s - 0.01
    assert "confidence" in chromium.text("#detail")
    chromium.wait_for("document.querySelector('#player').ended")
    starts_s = [float(start) for start in chromium.evaluate("starts")]  # type: ignore[attr-defined]
    assert starts_s[0] == pytest.approx(words[1].start_s, abs=1e-3)
    assert starts_s == sorted(starts_s)
    assert starts_s[-1] >= words[-4].start_s - 0.001, "the mark goes on to the last words"
    assert not chromium.evaluate(IS_MARKED), "nothing is spoken after the end"
    for word in words[::4]:  # also where the recording is only moved to
        chromium.evaluate(f"document.querySelector('#player').currentTime = {(word.start_s + word.end_s) / 2}")
        chromium.wait_for(f"document.querySelector('[aria-current]')?.innerText === {word.text!r}")


def test_words_are_played_with_the_keyboard(chromium: Browser, offline: Service, recording: Path) -> None:
    chromium.open(offline.url)
    chromium.evaluate("document.querySelector('#file').focus()")
    transcribe(chromium, recording)
    assert chromium.evaluate("document.activeElement.id") == "result-title", (
        "the control that was used is disabled meanwhile"
    )
    chromium.evaluate("document.querySelector('.word').focus()")
    for key in ("Enter", " "):
        chromium.press("ArrowRight")
        word = chromium.evaluate("document.activeElement.innerText")
        start_s = float(str(chromium.evaluate("document.activeElement.dataset.start")))
        at = chromium.evaluate("scrollY")
        chromium.press(key)
        assert chromium.evaluate(
            "!document.querySelector('#player').paused && document.querySelector('#player').currentTime"
        ) == (pytest.approx(start_s, abs=0.5))
        assert marked(chromium) == word
        assert chromium.evaluate("scrollY") == at, "Space does not scroll"
        chromium.press("Escape")
        assert chromium.evaluate("document.querySelector('#player').paused")


def test_what_is_saved_is_what_the_server_writes(chromium: Browser, offline: Service, tmp_path: Path) -> None:
    """Subtitles of two lines among them; the same texts as `transcribe --format` writes."""
    path = tmp_path / "long.1.wav"
    soundfile.write(path, np.concatenate([sentence(seed, 5.0) for seed in range(5)]), 16_000, subtype="PCM_16")
    chromium.open(offline.url)
    transcribe(chromium, path)
    chromium.evaluate(NOTE_WHAT_IS_SAVED)
    for ending in ("srt", "vtt", "json", "text"):
        chromium.click(f"#save-{ending}")
    srt, srt_name, vtt, vtt_name, text_of_json, json_name, text, text_name = chromium.evaluate("saved")  # type: ignore[misc]
    assert [srt_name, vtt_name, json_name, text_name] == ["long.1.srt", "long.1.vtt", "long.1.json", "long.1.txt"]
    transcript = offline_recognizer().transcribe(path)
    assert max(block.count("\n") for block in to_srt(transcript, "").split("\n\n")) == 3, "some cue has two lines"
    assert srt == to_srt(transcript, "") == post(offline, path, response_format="srt").text
    assert vtt == to_vtt(transcript, "") == post(offline, path, response_format="vtt").text
    assert text == post(offline, path, response_format="text").text
    saved = json.loads(text_of_json)
    asked = post(offline, path, response_format="verbose_json", **{"timestamp_granularities[]": "word"}).json()
    assert saved["audio"] == "long.1.wav"
    assert [saved[name] for name in ("duration", "text", "words")] == [asked[name] for name in ("duration", "text", "words")]
    assert saved["segments"][0]["start"] == saved["words"][0]["start"]


def test_alternatives_on_demand(chromium: Browser, offline: Service, recording: Path, tmp_path: Path) -> None:
    others = post(offline, recording, response_format="verbose_json", num_best="4").json()["alternatives"]
    expected = [other["text"] for other in others]
    shown = offline_recognizer().transcribe(recording).text
    assert len(expected) == 3
    assert shown not in expected
    chromium.open(offline.url)
    transcribe(chromium, recording)
    assert chromium.evaluate("document.querySelector('#others').hidden")
    chromium.click("#alternatives")
    chromium.wait_for("document.querySelectorAll('#others li').length > 0")
    found = chromium.evaluate("[...document.querySelectorAll('#others li')].map((one) => one.innerText)")
    assert found == list(dict.fromkeys(expected))
    assert chromium.evaluate("[...document.querySelectorAll('#others li')].every((one) => one.querySelector('mark, span'))")
    chromium.press("Escape")
    assert chromium.evaluate("document.querySelector('#others').hidden && document.activeElement.id") == "alternatives"
    long = tmp_path / "long.wav"
    soundfile.write(long, np.concatenate([sentence(seed, 5.0) for seed in range(7)]), 16_000, subtype="PCM_16")
    transcribe(chromium, long)
    assert chromium.evaluate("document.querySelector('#others').hidden"), "those of another recording are gone"
    chromium.click("#alternatives")
    chromium.wait_for("document.querySelector('#others-note').innerText.startsWith('Only recordings up to 30 seconds')")


def test_the_microphone_is_played_too(chromium: Browser, streaming: Service) -> None:
    chromium.open(streaming.url)
    speak(chromium)
    assert chromium.text("#source-name") == "microphone"
    chromium.wait_for("document.querySelector('#player').readyState >= 1")
    duration_s = float(str(chromium.evaluate("document.querySelector('#player').duration")))
    assert (
        float(str(chromium.evaluate("document.querySelector('#lines .word:last-of-type').dataset.end"))) <= duration_s + 0.1
    )
    chromium.click("#lines .word")
    assert chromium.evaluate("!document.querySelector('#player').paused")
    assert marked(chromium)
    chromium.click("#alternatives")  # of a server with --search greedy
    chromium.wait_for("document.querySelector('#others-note').innerText.startsWith('This server has no alternatives')")


def test_a_recording_is_not_played_while_the_microphone_records(
    chromium: Browser, offline: Service, recording: Path
) -> None:
    chromium.open(offline.url)
    transcribe(chromium, recording)
    chromium.evaluate(COUNT_BLOCKS)
    chromium.click(".word")
    chromium.click("#microphone")
    chromium.wait_for("document.querySelector('#microphone-label').innerText === 'Stop'")
    assert chromium.evaluate("document.querySelector('#player').paused && document.querySelector('#result').hidden")
    chromium.wait_for("numBlocks >= 8")
    chromium.click("#microphone")
    chromium.wait_for(IS_ANSWERED)
    assert chromium.text("#source-name") == "microphone.wav"


def test_the_start_page_says_what_is_accepted_and_has_an_example(chromium: Browser, offline: Service) -> None:
    chromium.open(offline.url)
    assert "MP3" in chromium.text("#accepted") and "up to 3 MB and 90 seconds" in chromium.text("#accepted")
    chromium.evaluate(COUNT_BLOCKS)
    later = (
        "{const later = setTimeout; setTimeout = (action, ms) => ms === 8000 ? (window.stop = action) : later(action, ms)}"
    )
    chromium.evaluate(later)
    chromium.click("#example")
    chromium.wait_for("document.querySelector('#microphone-hint').innerText === 'count aloud to ten …'")
    chromium.wait_for("numBlocks >= 10")
    chromium.evaluate("stop()")
    chromium.wait_for(IS_ANSWERED)  # it stops by itself
    assert chromium.evaluate("document.querySelectorAll('.word').length > 0 && document.querySelector('#start').hidden")


def test_tiles_shrink_on_a_phone_once_there_is_a_result(chromium: Browser, offline: Service, recording: Path) -> None:
    height = "document.querySelector('.inputs').getBoundingClientRect().height"
    chromium.open(offline.url)
    chromium.screenshot("start_phone", width=390, height=780)
    before = float(str(chromium.evaluate(height)))
    transcribe(chromium, recording)
    chromium.screenshot("player_phone", width=390, height=780)
    assert float(str(chromium.evaluate(height))) < before / 3
    assert chromium.evaluate("document.querySelector('#lines').getBoundingClientRect().top < 600"), "the text is in view"
    chromium.screenshot("player", width=1280, height=780)
    assert float(str(chromium.evaluate(height))) > before / 3, "a desktop has room"


def test_a_recording_that_the_browser_cannot_play(chromium: Browser, offline: Service, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "sun.au", sentence(0, 4.0), 16_000, format="AU", subtype="PCM_16")
    chromium.open(offline.url)
    transcribe(chromium, tmp_path / "sun.au")
    chromium.wait_for("document.querySelector('#player').hidden")
    assert "cannot play" in chromium.text("#source")
    chromium.click(".word")
    assert "confidence" in chromium.text("#detail")


def test_what_a_screen_reader_is_told(chromium: Browser, offline: Service, recording: Path) -> None:
    chromium.open(offline.url)
    at_start = chromium.accessible()
    named = {("button", "Choose a recording"), ("button", "Speak"), ("button", "Try an example")}
    assert named <= set(at_start)
    transcribe(chromium, recording)
    words = [word.text for word in offline_recognizer().transcribe(recording).words]
    told = chromium.accessible()
    assert [one for one in told if one[0] in ("banner", "main", "contentinfo", "heading", "region", "group", "Audio")] == [
        ("banner", ""),
        ("heading", "zipasr"),
        ("main", ""),
        ("region", "What to transcribe"),
        ("region", "Transcript"),
        ("heading", "Transcript"),
        ("Audio", "Recording"),
        ("group", "Save as"),
        ("group", "Transcript"),
        ("contentinfo", ""),
    ]
    assert all(name for role, name in told if role in ("button", "slider", "region"))
    spoken = told[told.index(("group", "Transcript")) :]
    assert [name for role, name in spoken if role == "button"] == words[:1], "the other words are text"
    assert [name for role, name in spoken if role == "StaticText" and name in words] == words
    assert "The transcript is ready" in chromium.text("#status")


def test_the_page_below_a_path(chromium: Browser, streaming: Service, recording: Path) -> None:
    """Files, uploads, the microphone and its audio thread; nothing asks for an address outside the path."""
    with proxied(streaming, prefix="/speech/en") as url:
        chromium.open(url)
        assert chromium.text("#api") == f"{url}v1"
        speak(chromium)
        assert chromium.evaluate("document.querySelector('#error').hidden")
        assert chromium.evaluate("document.querySelectorAll('#lines .word').length > 0")
        transcribe(chromium, recording)
        assert chromium.text("#source-name") == recording.name
        assert chromium.evaluate("document.querySelectorAll('#lines .word').length > 0")


def test_the_page_says_that_its_server_takes_it_for_another_site(
    chromium: Browser, streaming: Service, recording: Path
) -> None:
    """As behind nginx with its default Host header: uploads and the microphone are refused."""
    with proxied(streaming, host="upstream:6006") as url:
        chromium.open(url)
        for start in (lambda: chromium.choose_file("#file", recording), lambda: chromium.click("#microphone")):
            start()
            chromium.wait_for("!document.querySelector('#error').hidden")
            told = chromium.text("#error")
            assert "took this page for one of another site" in told and "Host header" in told
            assert f"--allow-origin {url.removesuffix('/')}" in told
            chromium.evaluate("document.querySelector('#error').hidden = true")
            chromium.wait_for("!document.querySelector('#file').disabled")


def test_errors_in_plain_words(chromium: Browser, offline: Service, recording: Path, tmp_path: Path) -> None:
    """Before an upload where the page can know, and for proxies that refuse it."""
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("this is not audio")
    soundfile.write(tmp_path / "large.wav", np.zeros(16_000 * 100, np.float32), 16_000, subtype="PCM_16")
    soundfile.write(tmp_path / "long.flac", np.zeros(16_000 * 100, np.float32), 16_000)
    chromium.open(offline.url)
    for name, told in (
        ("empty.wav", "empty.wav is empty."),
        ("large.wav", "large.wav has 4 MB, but this server accepts at most 3 MB."),
        ("long.flac", "long.flac lasts 1:40, but this server accepts at most 90 seconds."),
        ("notes.txt", "This file cannot be transcribed. Is it audio or video"),
    ):
        chromium.evaluate("document.querySelector('#error').hidden = true")
        transcribe(chromium, tmp_path / name)
        assert told in chromium.text("#error")
        chromium.wait_for("!document.querySelector('#file').disabled")
    for is_abrupt, told in (
        (False, "larger than a proxy in front of the server lets through"),
        (True, "upload was cut off"),
    ):
        with proxied(offline, max_bytes=50_000, is_abrupt=is_abrupt) as url:
            chromium.open(url)
            transcribe(chromium, recording)
            assert told in chromium.text("#error")


def test_the_search_of_one_request_does_not_change_that_of_others(offline: Service, recording: Path) -> None:
    """Requests with and without n-best lists wait together and are transcribed apart."""
    plain = post(offline, recording, response_format="verbose_json").json()
    with_list = post(offline, recording, response_format="verbose_json", num_best="3").json()
    assert "alternatives" not in plain
    assert len(with_list["alternatives"]) == 2
    assert with_list["text"] == plain["text"]
    for value, told in (("1", "from 2 to 20"), ("x", "from 2 to 20"), ("9" * 5000, "from 2 to 20")):
        answer = post(offline, recording, response_format="verbose_json", num_best=value)
        assert answer.status_code == 400 and told in answer.json()["error"]["message"]
    assert "only on verbose_json" in post(offline, recording, num_best="3").json()["error"]["message"]
