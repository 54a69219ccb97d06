"""Run: the page in a real browser, with files, a fake microphone, a denied one, and a server that requires a key."""

import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
import soundfile

from tests.serve.browser import COUNT_BLOCKS, FAKE_MICROPHONE, Browser, browser
from tests.serve.clients import connect
from tests.serve.running import gauge, held, offline_recognizer, running, sentence, streaming_recognizer, wait_until
from tests.watchdog import WATCHDOG_S
from zipasr.serve.pages import PAGE_PATHS

NOTE_WHAT_IS_SAVED = """
window.saved = [];
window.Blob = class extends Blob { constructor(parts, options) { super(parts, options); saved.push(parts.join("")); } };
HTMLAnchorElement.prototype.click = function () { saved.push(this.download); };
"""
RESAMPLE_A_SECOND = """
async (rate) => {
  const received = [];
  globalThis.sampleRate = rate;
  globalThis.AudioWorkletProcessor = class { port = { postMessage: (block) => received.push(...block) }; };
  const Microphone = await new Promise((resolve) => {
    globalThis.registerProcessor = (_, found) => resolve(found);
    import("./microphone.js");
  });
  const microphone = new Microphone();
  for (let start = 0; start < rate; start += 100) {
    microphone.process([[Float32Array.from({ length: 100 }, (_, i) => start + i)]]);
  }
  return JSON.stringify(received);
}
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as page:
        yield page


@pytest.fixture(scope="module")
def wav_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recordings") / "a <b>.wav"
    soundfile.write(path, sentence(0, 4.0), 16_000, subtype="PCM_16")
    return path


def transcribe(page: Browser, path: Path) -> None:
    page.choose_file("#file", path)
    page.wait_for("!document.querySelector('#result').hidden || !document.querySelector('#error').hidden")


def test_files_are_served_without_foreign_resources() -> None:
    with running(offline_recognizer()) as service:
        page = httpx2.get(service.url, timeout=WATCHDOG_S)
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'self'" in page.headers["content-security-policy"]
        names = [path.removeprefix("/") for path in PAGE_PATHS if path != "/"]
        texts = [
            page.text,
            *(httpx2.get(f"{service.url}/{name}", timeout=WATCHDOG_S).raise_for_status().text for name in names),
        ]
        assert not [
            text for text in texts if "https://" in text or "http://" in text.replace("http://www.w3.org/2000/svg", "")
        ]


def test_a_recording(chromium: Browser, wav_file: Path) -> None:
    """Words with times and confidence."""
    samples, _ = soundfile.read(wav_file, dtype="float32")
    transcript = offline_recognizer().transcribe(samples)
    with running(offline_recognizer()) as service:
        chromium.open(service.url)
        chromium.screenshot("start", width=1100, height=760)
        transcribe(chromium, wav_file)
        words = json.loads(
            str(
                chromium.evaluate(
                    "JSON.stringify([...document.querySelectorAll('.word')].map((w) => ({...w.dataset, t: w.innerText})))"
                )
            )
        )
        assert [word["t"] for word in words] == [word.text for word in transcript.words]
        assert [float(word["start"]) for word in words] == pytest.approx([w.start_s for w in transcript.words], abs=1e-3)
        assert [float(word["confidence"]) for word in words] == pytest.approx(
            [w.confidence for w in transcript.words], abs=1e-3
        )
        for name, width, is_dark in (("result", 1100, False), ("result_dark", 1100, True), ("result_phone", 390, False)):
            picture = chromium.screenshot(name, width=width, height=760, is_dark=is_dark)
            assert len(picture) > 5000
            assert chromium.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing may stick out"


def test_samples_of_a_microphone_are_at_16_khz(chromium: Browser) -> None:
    """Where the browser cannot resample: samples are repeated, or each is the mean of those that it covers."""
    with running(offline_recognizer()) as service:
        for rate_hz, expected in (
            (8_000, np.repeat(np.arange(8_000), 2)),
            (16_000, np.arange(16_000)),
            (32_000, np.arange(16_000) * 2 + 0.5),
        ):
            chromium.open(service.url)
            received = chromium.evaluate(f"({RESAMPLE_A_SECOND})({rate_hz})")
            assert np.array_equal(json.loads(str(received)), expected)


def test_words_by_keyboard(chromium: Browser, wav_file: Path) -> None:
    with running(offline_recognizer()) as service:
        chromium.open(service.url)
        chromium.call("Emulation.setFocusEmulationEnabled", enabled=True)
        transcribe(chromium, wav_file)
        chromium.evaluate("document.querySelector('.word').focus()")
        chromium.press("ArrowRight")
        second = chromium.text(".word:nth-of-type(2)")
        assert second in chromium.text("#detail") and "confidence" in chromium.text("#detail")
        chromium.press("End")
        assert chromium.evaluate("document.activeElement === [...document.querySelectorAll('.word')].at(-1)")


def test_every_control_is_reached_with_the_tab_key_and_shows_focus(chromium: Browser, wav_file: Path) -> None:
    with running(offline_recognizer()) as service:
        chromium.open(service.url)
        chromium.call("Emulation.setFocusEmulationEnabled", enabled=True)
        transcribe(chromium, wav_file)
        chromium.evaluate("document.querySelector('#file').focus()")
        reached, outlines = ["file"], []
        while reached[-1] != "word" and len(reached) < 20:
            chromium.press("Tab")
            where = chromium.evaluate("document.activeElement.id || document.activeElement.className")
            if where == "player":  # its controls are the browser's
                reached += ["player"] * (reached[-1] != "player")
                continue
            reached.append(where)
            shown = "(document.activeElement.closest('.tile') ?? document.activeElement)"
            outlines.append(
                chromium.evaluate(f"getComputedStyle({shown}).outlineStyle + getComputedStyle({shown}).outlineWidth")
            )
        chromium.screenshot("focus", width=1100, height=760)
    saving = ["save-srt", "save-vtt", "save-json", "save-text"]
    assert reached == ["file", "microphone", "player", "copy", "alternatives", *saving, "word"]
    assert outlines == ["solid3px"] * 8


def test_one_thing_at_a_time_and_it_can_be_cancelled(chromium: Browser, wav_file: Path) -> None:
    slow = offline_recognizer()
    with held(slow) as (is_held, go_on), running(slow) as service:
        chromium.open(service.url)
        chromium.choose_file("#file", wav_file)
        assert is_held.wait(WATCHDOG_S)
        chromium.wait_for("document.querySelector('#work-label').innerText.startsWith('Transcribing a <b>.wav')")
        assert chromium.evaluate(
            "document.querySelector('#file').disabled && document.querySelector('#microphone').disabled"
        )
        chromium.evaluate(
            "{const data = new DataTransfer(); data.items.add(new File(['x'], 'other.wav'));"
            "document.dispatchEvent(new DragEvent('drop', {dataTransfer: data, cancelable: true}))}"
        )
        assert "A transcription is running" in chromium.text("#error")
        chromium.evaluate("document.querySelector('#cancel').click()")
        chromium.wait_for("document.querySelector('#work').hidden")
        wait_until(lambda: gauge(service, "open") == 0)
        go_on.set()
        transcribe(chromium, wav_file)
        assert chromium.evaluate("document.querySelectorAll('.word').length > 0 && document.querySelector('#error').hidden")


def test_text_and_progress_of_a_long_recording(chromium: Browser, tmp_path: Path) -> None:
    """Final text is shown while the rest is computed, with the progress."""
    samples = np.concatenate([sentence(seed % 5, 5.0) for seed in range(30)])
    soundfile.write(tmp_path / "long.wav", samples, 16_000, subtype="PCM_16")
    slow = offline_recognizer()
    go_on, num_calls, transcribe_many = threading.Event(), itertools.count(1), slow.transcribe_many

    def one_by_one(recordings: list[np.ndarray], **options: object) -> object:
        if next(num_calls) == 4:
            assert go_on.wait(WATCHDOG_S)
        return transcribe_many(recordings, **options)  # type: ignore[arg-type]

    slow.transcribe_many = one_by_one  # type: ignore[method-assign, assignment]
    with running(slow) as service, pytest.MonkeyPatch.context() as patch:
        patch.setattr("zipasr.serve.batching._BATCH_S", 30.0)
        chromium.open(service.url)
        chromium.choose_file("#file", tmp_path / "long.wav")
        chromium.wait_for("document.querySelector('#partial').innerText.length > 10")
        chromium.wait_for("document.querySelector('#work-label').innerText.includes(' of 2:30 done')")
        assert 0.3 < float(str(chromium.evaluate("document.querySelector('#progress').value"))) < 0.9
        start = chromium.text("#partial")
        chromium.screenshot("long_phone", width=390, height=780)
        go_on.set()
        chromium.wait_for("document.querySelectorAll('#lines .word').length > 0")
        text = " ".join(chromium.evaluate("[...document.querySelectorAll('.word')].map((w) => w.innerText)"))  # type: ignore[arg-type]
    assert text.startswith(start) and len(text) > len(start)
    assert text == offline_recognizer().transcribe(tmp_path / "long.wav").text


def test_the_page_shows_that_the_server_is_full(chromium: Browser, wav_file: Path, tmp_path: Path) -> None:
    """For small recordings, for large ones that are still being uploaded, and for the microphone."""
    soundfile.write(tmp_path / "large.wav", np.zeros(16_000 * 600, np.float32), 16_000, subtype="PCM_16")
    with running(streaming_recognizer(), max_connections=1) as service, browser(*FAKE_MICROPHONE) as page:
        page.open(service.url)
        page.wait_for("document.querySelector('#microphone-hint').innerText === 'see the text as you speak'")
        with connect(service.url.replace("http", "ws")):
            wait_until(lambda: gauge(service, "open") == 1)
            for path in (wav_file, tmp_path / "large.wav"):
                transcribe(page, path)
                assert "please retry later" in page.text("#error")
            page.evaluate("document.querySelector('#error').hidden = true; document.querySelector('#microphone').click()")
            page.wait_for("!document.querySelector('#error').hidden")
            assert "please retry later" in page.text("#error")
            assert page.text("#microphone-label") == "Speak"


def test_the_page_shows_that_a_file_is_not_a_recording(chromium: Browser, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("this is not audio")
    with running(offline_recognizer()) as service:
        chromium.open(service.url)
        transcribe(chromium, tmp_path / "notes.txt")
        assert (
            "notes.txt must be a recording (wav, flac, mp3, ogg, opus, m4a, webm, ...), but has an unknown or damaged format"
            in chromium.text("#error")
        )
        assert chromium.evaluate("document.querySelector('#work').hidden")


def test_a_server_with_a_key(chromium: Browser, wav_file: Path) -> None:
    with running(offline_recognizer(), api_key="a secret") as service:
        chromium.open(service.url)
        chromium.wait_for("!document.querySelector('#key-form').hidden")
        transcribe(chromium, wav_file)
        assert "API key" in chromium.text("#error")
        chromium.evaluate(
            "document.querySelector('#key').value = ' a secret\\t'; document.querySelector('#key-form button').click()"
        )
        transcribe(chromium, wav_file)
        assert chromium.evaluate("document.querySelectorAll('.word').length > 0")


def test_the_page_shows_a_wrong_key_for_the_microphone(speaking: Browser) -> None:
    """A browser does not say why a WebSocket was refused; the page asks the server."""
    with running(streaming_recognizer(), api_key="a secret") as service:
        speaking.open(service.url)
        speaking.wait_for("!document.querySelector('#key-form').hidden")
        for key, is_right in (("a guess", False), (" a secret ", True)):
            speaking.evaluate(
                f"document.querySelector('#key').value = {key!r}; document.querySelector('#key-form button').click();"
                "document.querySelector('#microphone').click()"
            )
            speaking.wait_for(
                "document.querySelector('#partial .word') !== null || !document.querySelector('#error').hidden"
            )
            assert speaking.evaluate("document.querySelector('#error').hidden") == is_right
            assert speaking.evaluate("document.querySelector('#key-form').hidden") == is_right
            assert is_right or "API key" in speaking.text("#error")


def test_a_microphone_that_is_denied_or_missing(chromium: Browser) -> None:
    with running(streaming_recognizer()) as service:
        with browser("--use-fake-device-for-media-stream") as page:
            page.open(service.url)
            page.call("Browser.setPermission", permission={"name": "microphone"}, setting="denied", origin=service.url)
            page.evaluate("document.querySelector('#microphone').click()")
            page.wait_for("!document.querySelector('#error').hidden")
            assert "did not let this page use the microphone" in page.text("#error")
            assert page.text("#microphone-label") == "Speak"
        chromium.open(service.url)
        chromium.evaluate("document.querySelector('#microphone').click()")
        chromium.wait_for("!document.querySelector('#error').hidden")
        assert "No microphone was found" in chromium.text("#error")


@pytest.fixture
def speaking(wav_file: Path) -> Iterator[Browser]:
    """A browser whose fake microphone plays the recording in a loop."""
    with browser(*FAKE_MICROPHONE, f"--use-file-for-fake-audio-capture={wav_file}") as page:
        yield page


def test_live_microphone(speaking: Browser) -> None:
    """Words with times and confidence appear while the microphone is on, stay when it is off, and can be saved."""
    with running(streaming_recognizer()) as service:
        speaking.open(service.url)
        speaking.call("Emulation.setFocusEmulationEnabled", enabled=True)
        assert speaking.text("#microphone-hint") == "see the text as you speak"
        speaking.evaluate("document.querySelector('#microphone').click()")
        speaking.wait_for("document.querySelector('#transcript .partial')?.innerText.length > 20")
        assert len(speaking.screenshot("live_phone", width=390, height=780)) > 5000
        assert speaking.text("#microphone-label") == "Stop"
        assert float(str(speaking.evaluate("document.querySelector('.partial .word').dataset.confidence"))) <= 1
        speaking.evaluate("document.querySelector('#microphone').click()")
        speaking.wait_for("document.querySelector('#microphone-label').innerText === 'Speak'")
        assert speaking.evaluate("document.querySelectorAll('#transcript .final').length > 0")
        assert speaking.evaluate("document.querySelector('#partial').innerText") == ""
        speaking.evaluate("document.querySelector('.word').focus()")
        assert "confidence" in speaking.text("#detail")
        speaking.evaluate(NOTE_WHAT_IS_SAVED)
        speaking.evaluate("document.querySelector('#save-srt').click()")
        text, name = speaking.evaluate("saved")  # type: ignore[misc]
        assert name == "microphone.srt" and text.startswith("1\n00:00:0") and speaking.text(".word") in text
        assert speaking.evaluate("document.querySelector('#error').hidden")


def test_two_clicks_start_one_recording(speaking: Browser) -> None:
    """Both clicks come before the browser has opened the microphone, and so before the button says Stop."""
    with running(streaming_recognizer()) as service:
        speaking.open(service.url)
        speaking.evaluate("for (const _ of [1, 2]) document.querySelector('#microphone').click()")
        speaking.wait_for("document.querySelector('#transcript .partial')?.innerText.length > 5")
        assert gauge(service, "live") == 1
        speaking.evaluate("document.querySelector('#microphone').click()")
        speaking.wait_for("document.querySelector('#microphone-label').innerText === 'Speak'")
        wait_until(lambda: gauge(service, "open") == 0)


def test_the_page_shows_that_the_server_stops_during_live_audio(speaking: Browser) -> None:
    """The text so far stays, and the microphone is released."""
    with running(streaming_recognizer()) as service:
        speaking.open(service.url)
        speaking.evaluate(
            "{const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);"
            "navigator.mediaDevices.getUserMedia = async (what) => (window.microphone = await ask(what))}"
        )
        speaking.evaluate("document.querySelector('#microphone').click()")
        speaking.wait_for("document.querySelector('#transcript .partial')?.innerText.length > 20")
        service.stop()
        speaking.wait_for("!document.querySelector('#error').hidden")
        assert "shutting down" in speaking.text("#error")
        assert speaking.evaluate("document.querySelectorAll('.final .word').length > 0")
        assert speaking.evaluate("microphone.getTracks().every((track) => track.readyState === 'ended')")


def test_the_server_is_asked_when_the_microphone_is_open(speaking: Browser) -> None:
    """A person may take minutes to allow it; meanwhile the server would disconnect a client that sends nothing."""
    with running(streaming_recognizer()) as service:
        speaking.open(service.url)
        speaking.evaluate(
            "window.numSockets = 0; window.WebSocket = class extends WebSocket {"
            "constructor(...options) { super(...options); window.numSockets++; } };"
            "{const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);"
            "navigator.mediaDevices.getUserMedia = (what) => new Promise((resolve) => "
            "{ window.allow = () => resolve(ask(what)); })}"
        )
        speaking.evaluate("document.querySelector('#microphone').click()")
        speaking.wait_for("window.allow !== undefined")
        assert speaking.evaluate("window.numSockets") == 0
        speaking.evaluate("window.allow()")
        speaking.wait_for("document.querySelector('#transcript .partial')?.innerText.length > 5")
        assert speaking.evaluate("window.numSockets") == 1
        speaking.evaluate("document.querySelector('#microphone').click()")
        speaking.wait_for("document.querySelector('#microphone-label').innerText === 'Speak'")


def test_a_page_that_stays_open_while_the_server_gets_another_model(speaking: Browser, wav_file: Path) -> None:
    """Recordings go to the new one, and the microphone shows the text at once only where that can stream."""
    with running(streaming_recognizer()) as first:
        port = first.port
        speaking.open(first.url)
        transcribe(speaking, wav_file)
    with running(offline_recognizer(), port=port, model_name="other"):
        speaking.evaluate("document.querySelector('#result').hidden = true")
        transcribe(speaking, wav_file)
        assert speaking.evaluate("document.querySelector('#error').hidden")
        assert (speaking.text("#model"), speaking.text("#microphone-hint")) == ("other", "see the text when you stop")
    with running(streaming_recognizer(), port=port, model_name="third"):
        speaking.evaluate("document.querySelector('#microphone').click()")
        speaking.wait_for("document.querySelector('#transcript .partial')?.innerText.length > 5")
        speaking.evaluate("document.querySelector('#microphone').click()")
        speaking.wait_for("document.querySelector('#microphone-label').innerText === 'Speak'")


def test_microphone_of_a_model_that_cannot_stream(speaking: Browser) -> None:
    with running(offline_recognizer()) as service:
        speaking.open(service.url)
        speaking.evaluate(COUNT_BLOCKS)
        speaking.evaluate("document.querySelector('#microphone').click()")
        speaking.wait_for("document.querySelector('#microphone-label').innerText === 'Stop'")
        speaking.wait_for("numBlocks >= 15")
        speaking.evaluate("document.querySelector('#microphone').click()")
        speaking.wait_for("document.querySelectorAll('.word').length > 0 || !document.querySelector('#error').hidden")
        assert speaking.evaluate("document.querySelector('#error').hidden")
