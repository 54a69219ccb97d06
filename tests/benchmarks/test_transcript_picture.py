"""Contract: the picture of a transcript is well-formed SVG with every word at its time, whatever the words are."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from benchmarks.transcript_picture import HEIGHT, MARGIN, WIDTH, draw
from zipasr import Transcript
from zipasr.transcript import Word


def test_words_are_at_their_times() -> None:
    words = (Word("R&B", 0.0, 0.5, 0.9), Word("<end>", 1.5, 2.0, 0.4))
    transcript = Transcript("R&B <end>", words=words, duration_s=2.0)
    picture = ElementTree.fromstring(draw(transcript, np.zeros(32_000, dtype=np.float32), title="a.wav", said="R&B"))
    texts = {element.text: element for element in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert float(texts["R&B"].get("x", "nan")) == pytest.approx(MARGIN + 0.125 * (WIDTH - 2 * MARGIN), abs=0.1)
    assert float(texts["<end>"].get("x", "nan")) == pytest.approx(MARGIN + 0.875 * (WIDTH - 2 * MARGIN), abs=0.1)
    assert {"0.90", "0.40", "1.50", "said: R&B"} <= texts.keys()
    places = [(float(shape.get("x", 0)), float(shape.get("y", 0))) for shape in picture]
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places)
