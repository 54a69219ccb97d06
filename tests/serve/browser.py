"""Headless Chromium, controlled over the part of its DevTools protocol that the tests of the page need."""

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import ClientConnection

from tests.serve.clients import connect
from tests.watchdog import WATCHDOG_S

SCREENSHOTS = os.environ.get("ZIPASR_SCREENSHOTS")
"""A folder for screenshots of the page, to look at."""
FAKE_MICROPHONE = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
"""Flags of a browser whose microphone is simulated and allowed."""
COUNT_BLOCKS = (
    "window.numBlocks = 0; window.AudioWorkletNode = class extends AudioWorkletNode {"
    "constructor(...options) { super(...options); this.port.addEventListener('message', () => window.numBlocks++); }}"
)
"""Makes the page count the blocks of 0.1 s that its microphone has recorded, in `numBlocks`."""
HAS_CRASHED = ("Inspector.targetCrashed", "Inspector.detached")
"""Events of a page after which it answers nothing more."""
MIDDLE_TO_CLICK = """
((element) => {{
  element.scrollIntoView({{ block: "center" }});
  window.clicked = "nothing";
  document.addEventListener("click", ({{ target }}) => {{
    window.clicked = element.contains(target) ? "" : target.outerHTML.slice(0, 200);
  }}, {{ once: true, capture: true }});
  const box = element.getClientRects()[0];
  return [box.x + box.width / 2, box.y + box.height / 2];
}})(document.querySelector({selector}))
"""
"""Scrolls to an element and returns the middle of its first box; `clicked` says where the next click goes, if not to it."""


class Browser:
    """One page of a browser."""

    def __init__(self, connection: ClientConnection) -> None:
        """Wrap a DevTools connection to the page."""
        self._connection = connection
        self._ids = itertools.count(1)
        self.call("Inspector.enable")

    def call(self, method: str, **params: object) -> dict[str, object]:
        """The result of a method of the protocol."""
        id = next(self._ids)
        self._connection.send(json.dumps({"id": id, "method": method, "params": params}))
        while True:
            message = json.loads(self._connection.recv(WATCHDOG_S))
            assert message.get("method") not in HAS_CRASHED, f"{method}: {message}"
            if message.get("id") == id:
                assert "error" not in message, message
                return dict(message["result"])

    def open(self, url: str) -> None:
        """Open a page and wait until it shows the server's model."""
        self.call("Page.enable")
        self.call("Page.navigate", url=url)
        self.wait_for(
            "document.readyState === 'complete' && !['', '…'].includes(document.querySelector('#model')?.textContent)"
        )

    def evaluate(self, expression: str) -> object:
        """The value of an expression in the page."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")  # type: ignore[attr-defined]

    def wait_for(self, condition: str) -> None:
        """Wait until an expression is true."""
        end_s = time.monotonic() + WATCHDOG_S
        while not self.evaluate(condition):
            assert time.monotonic() < end_s, f"never true: {condition}; the page says {self.text('body')!r}"
            time.sleep(0.05)

    def text(self, selector: str) -> str:
        """The visible text of an element."""
        return str(self.evaluate(f"document.querySelector({selector!r}).innerText"))

    def choose_file(self, selector: str, path: Path) -> None:
        """Choose a file in an input."""
        document = self.call("DOM.getDocument")
        found = self.call("DOM.querySelector", nodeId=document["root"]["nodeId"], selector=selector)  # type: ignore[index]
        self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=found["nodeId"])

    def press(self, key: str) -> None:
        """Press a key and release it."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        number = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}.get(key, 0)
        for kind in ("keyDown", "keyUp"):
            down = {"text": text} if text and kind == "keyDown" else {}
            code = "Space" if key == " " else key
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=code, windowsVirtualKeyCode=number, **down)

    def click(self, selector: str) -> None:
        """Click the middle of an element, or of its first line, with the mouse; fails if the click goes elsewhere."""
        x, y = map(float, self.evaluate(MIDDLE_TO_CLICK.format(selector=json.dumps(selector))))  # type: ignore[call-overload]
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        clicked = self.evaluate("window.clicked")
        assert clicked == "", f"the click on {selector} at {x:.0f}, {y:.0f} went to {clicked}"

    def accessible(self) -> list[tuple[str, str]]:
        """Role and name of every element of the accessibility tree, in reading order, as a screen reader is told them."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        by_id = {node["nodeId"]: node for node in nodes}  # type: ignore[attr-defined]
        told, waiting = [], [nodes[0]]  # type: ignore[index]
        while waiting:
            node = waiting.pop()
            if not node.get("ignored"):
                told.append((node["role"]["value"], node.get("name", {}).get("value", "")))
            waiting += [by_id[id] for id in reversed(node.get("childIds", [])) if id in by_id]
        return told

    def screenshot(self, name: str, *, width: int, height: int, is_dark: bool = False) -> bytes:
        """A screenshot of the page as PNG, also written to the folder `SCREENSHOTS`."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        scheme = "dark" if is_dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        picture = base64.b64decode(str(self.call("Page.captureScreenshot")["data"]))
        if SCREENSHOTS:
            Path(SCREENSHOTS, f"{name}.png").write_bytes(picture)
        return picture


@contextlib.contextmanager
def browser(*flags: str) -> Iterator[Browser]:
    """A browser that runs during the block; skips the test if none is installed."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("Chromium is not installed; apt-get install chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        always = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage")
        command = [program, *always, f"--user-data-dir={folder}", "--remote-debugging-port=0", *flags, "about:blank"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                with connect(_page_address(Path(folder), process), max_size=None) as connection:
                    yield Browser(connection)
            finally:
                process.kill()


def _page_address(folder: Path, process: "subprocess.Popen[bytes]") -> str:
    """The DevTools address of the browser's first page."""
    import httpx2

    end_s = time.monotonic() + WATCHDOG_S
    while time.monotonic() < end_s and process.poll() is None:
        with contextlib.suppress(OSError, ValueError, IndexError, httpx2.HTTPError):
            port = (folder / "DevToolsActivePort").read_text().split()[0]
            pages = httpx2.get(f"http://127.0.0.1:{port}/json/list", timeout=WATCHDOG_S).json()
            return str(next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page"))
        time.sleep(0.05)
    pytest.fail("Chromium did not start")
