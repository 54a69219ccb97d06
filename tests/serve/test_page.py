"""Run: the page in a real browser, with files, a fake microphone, a denied one, and a server that asks for a key."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import soundfile

from tests.serve.browser import Browser, browser
from tests.serve.running import WATCHDOG_S, offline_recognizer, running, sentence, streaming_recognizer
from zipasr.transcript import to_cues

FAKE_MICROPHONE = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
NOTE_WHAT_IS_SAVED = """
window.saved = [];
window.Blob = class extends Blob { constructor(parts, options) { super(parts, options); saved.push(parts.join("")); } };
HTMLAnchorElement.prototype.click = function () { saved.push(this.download); };
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as page:
        yield page


@pytest.fixture(scope="module")
def wav_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sounds") / "a <b>.wav"
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
        names = ["page.css", "page.js", "live.js", "microphone.js", "icon.svg"]
        texts = [
            page.text,
            *(httpx2.get(f"{service.url}/{name}", timeout=WATCHDOG_S).raise_for_status().text for name in names),
        ]
        assert not [
            text for text in texts if "https://" in text or "http://" in text.replace("http://www.w3.org/2000/svg", "")
        ]


def test_a_recording(chromium: Browser, wav_file: Path) -> None:
    """Words with times and confidence, SRT as the library writes it, but for its line breaks."""
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
        chromium.evaluate(NOTE_WHAT_IS_SAVED)
        chromium.evaluate("document.querySelector('#save-srt').click()")
        text, name = chromium.evaluate("saved")  # type: ignore[misc]
        assert name == "a <b>.srt"
        assert [block.splitlines()[2] for block in text.strip().split("\n\n")] == [
            cue.text.replace("\n", " ") for cue in to_cues(transcript)
        ]
        assert text.startswith("1\n00:00:0")
        for name, width, is_dark in (("result", 1100, False), ("result_dark", 1100, True), ("result_phone", 390, False)):
            picture = chromium.screenshot(name, width=width, height=760, is_dark=is_dark)
            assert len(picture) > 5000
            assert chromium.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing may stick out"


def test_words_by_keyboard(chromium: Browser, wav_file: Path) -> None:
    with running(offline_recognizer()) as service:
        chromium.open(service.url)
        chromium.call("Emulation.setFocusEmulationEnabled", enabled=True)
        transcribe(chromium, wav_file)
        chromium.evaluate("document.querySelector('.word').focus()")
        chromium.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight", code="ArrowRight")
        second = chromium.text(".word:nth-of-type(2)")
        assert second in chromium.text("#detail") and "% sure" in chromium.text("#detail")


def test_what_is_no_recording_is_told(chromium: Browser, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("this is no sound")
    with running(offline_recognizer()) as service:
        chromium.open(service.url)
        transcribe(chromium, tmp_path / "notes.txt")
        assert "in notes.txt, got an unknown or damaged format" in chromium.text("#error")
        assert chromium.evaluate("document.querySelector('#work').hidden")


def test_a_server_with_a_key(chromium: Browser, wav_file: Path) -> None:
    with running(offline_recognizer(), api_key="a secret") as service:
        chromium.open(service.url)
        chromium.wait_for("!document.querySelector('#key-form').hidden")
        transcribe(chromium, wav_file)
        assert "API key" in chromium.text("#error")
        chromium.evaluate(
            "document.querySelector('#key').value = 'a secret'; document.querySelector('#key-form button').click()"
        )
        transcribe(chromium, wav_file)
        assert chromium.evaluate("document.querySelectorAll('.word').length > 0")


def test_a_microphone_that_is_denied_or_missing(chromium: Browser) -> None:
    with running(streaming_recognizer()) as service:
        with browser("--use-fake-device-for-media-stream") as page:
            page.open(service.url)
            page.call("Browser.setPermission", permission={"name": "microphone"}, setting="denied", origin=service.url)
            page.evaluate("document.querySelector('#microphone').click()")
            page.wait_for("!document.querySelector('#error').hidden")
            assert "did not let this page listen" in page.text("#error")
            assert page.text("#microphone-label") == "Speak"
        chromium.open(service.url)
        chromium.evaluate("document.querySelector('#microphone').click()")
        chromium.wait_for("!document.querySelector('#error').hidden")
        assert "No microphone was found" in chromium.text("#error")


@pytest.fixture
def speaking(wav_file: Path) -> Iterator[Browser]:
    """A browser whose microphone hears the recording again and again."""
    with browser(*FAKE_MICROPHONE, f"--use-file-for-fake-audio-capture={wav_file}") as page:
        yield page


def test_live_microphone(speaking: Browser) -> None:
    """Text appears while the microphone is open, and stands when it is closed."""
    with running(streaming_recognizer()) as service:
        speaking.open(service.url)
        assert speaking.text("#microphone-hint") == "and read along"
        speaking.evaluate("document.querySelector('#microphone').click()")
        speaking.wait_for("document.querySelector('#transcript .partial')?.innerText.length > 20")
        speaking.screenshot("live_phone", width=390, height=780)
        assert speaking.text("#microphone-label") == "Stop"
        speaking.evaluate("document.querySelector('#microphone').click()")
        speaking.wait_for("document.querySelector('#microphone-label').innerText === 'Speak'")
        assert speaking.evaluate("document.querySelectorAll('#transcript .final').length > 0")
        assert speaking.evaluate("document.querySelector('#error').hidden")


def test_microphone_of_a_model_that_cannot_stream(speaking: Browser) -> None:
    with running(offline_recognizer()) as service:
        speaking.open(service.url)
        speaking.evaluate("document.querySelector('#microphone').click()")
        speaking.wait_for("document.querySelector('#microphone-label').innerText === 'Stop'")
        speaking.evaluate("new Promise((resolve) => setTimeout(resolve, 1500))")
        speaking.evaluate("document.querySelector('#microphone').click()")
        speaking.wait_for("document.querySelectorAll('.word').length > 0 || !document.querySelector('#error').hidden")
        assert speaking.evaluate("document.querySelector('#error').hidden")
