"""Draw a transcript as an SVG: the waveform, and every word at its time, with its confidence.

    python benchmarks/transcript_picture.py exp/quickstart data/prompts/audio/cannot-complete-as-dialed.flac \\
        --said "YOUR CALL CANNOT BE COMPLETED AS DIALED" --out docs/pictures/transcript.svg

The picture has a background of its own, so that it reads well on light and dark pages.
"""

import argparse
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

import zipasr
from zipasr.audio import load_audio

WIDTH, HEIGHT, MARGIN = 660, 300, 20
WAVE_TOP, WAVE_HEIGHT = 48, 110
SECONDS_Y, WORDS_Y = 180, 218
BAR_PITCH = 4
SAMPLE_RATE_HZ = 16_000
PAPER, INK, GRAY, WORD_FILL = "#f6f8fa", "#1f2328", "#656d76", "#0969da"
SANS, MONO = "Helvetica, Arial, sans-serif", "Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def text_at(x: float, y: float, text: str, size: int, *, color: str = INK, family: str = SANS, anchor: str = "start") -> str:
    """One line of text."""
    style = f'font-family="{family}" font-size="{size}" fill="{color}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'


def wave_bars(samples: np.ndarray, left: float, right: float) -> list[str]:
    """The waveform as bars, one for every BAR_PITCH units of width: the largest value of its piece."""
    pieces = np.array_split(np.abs(samples), int((right - left) / BAR_PITCH))
    peaks = np.array([piece.max() for piece in pieces])
    heights = np.maximum(peaks / max(peaks.max(), 1e-9) * WAVE_HEIGHT, 2.0)
    middle = WAVE_TOP + WAVE_HEIGHT / 2
    return [
        f'<rect x="{left + i * BAR_PITCH:.1f}" y="{middle - height / 2:.1f}" width="2.4" height="{height:.1f}" rx="1.2" '
        f'fill="{GRAY}"/>'
        for i, height in enumerate(heights)
    ]


def draw(transcript: zipasr.Transcript, samples: np.ndarray, *, title: str, said: str) -> str:
    """The picture of a transcript as SVG."""
    duration_s = len(samples) / SAMPLE_RATE_HZ
    left, right = float(MARGIN), float(WIDTH - MARGIN)

    def x_of(time_s: float) -> float:
        return left + (right - left) * time_s / duration_s

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="12" fill="{PAPER}"/>',
        text_at(left, 30, title, 16, color=GRAY),
    ]
    for word in transcript.words:
        x, width = x_of(word.start_s), max(x_of(word.end_s) - x_of(word.start_s), 2.0)
        fill = f'fill="{WORD_FILL}" fill-opacity="{0.65 * word.confidence**2:.2f}"'
        lines.append(f'<rect x="{x:.1f}" y="{WAVE_TOP - 6}" width="{width:.1f}" height="{WAVE_HEIGHT + 12}" rx="4" {fill}/>')
    lines += wave_bars(samples, left, right)
    for word in transcript.words:
        x, middle = x_of(word.start_s), (x_of(word.start_s) + x_of(word.end_s)) / 2
        lines.append(text_at(x, SECONDS_Y, f"{word.start_s:.2f}", 12, color=GRAY))
        lines.append(text_at(middle, WORDS_Y - 10, word.text, 19, family=MONO, anchor="middle"))
        lines.append(text_at(middle, WORDS_Y + 12, f"{word.confidence:.2f}", 15, color=WORD_FILL, anchor="middle"))
    lines.append(text_at(left, HEIGHT - 44, f"said: {said}", 16, color=GRAY))
    legend = "gray: start in seconds · blue: confidence · the shade of a word is its confidence"
    lines.append(text_at(left, HEIGHT - 18, legend, 14, color=GRAY))
    return "\n".join([*lines, "</svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--said", required=True, help="the words that are spoken")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    transcript = zipasr.load(arguments.model).transcribe(arguments.recording)
    samples = load_audio(arguments.recording)
    title = f"zipasr transcribe {arguments.model} {arguments.recording.name}"
    arguments.out.write_text(draw(transcript, samples, title=title, said=arguments.said), encoding="utf-8")


if __name__ == "__main__":
    main()
