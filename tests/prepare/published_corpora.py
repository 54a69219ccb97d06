"""Miniatures of published corpora in the layout of their downloads: a few utterances of one second, in tones."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from tests.train.tones import RATE_HZ, WORDS, say

CHARACTERS = dict(zip(WORDS, "低中高上下", strict=True))
"""The Mandarin word for each word of tones."""
LIBRISPEECH_PARTS = (
    "train-clean-100",
    "train-clean-360",
    "train-other-500",
    "dev-clean",
    "dev-other",
    "test-clean",
    "test-other",
)


def speak(generator: np.random.Generator, num_words: int = 2) -> tuple[np.ndarray, list[str]]:
    """Samples (samples,) of about a second, and their words."""
    words = [str(word) for word in generator.choice(list(WORDS), size=num_words)]
    samples = say(words, generator)
    length = max(len(samples), round(generator.uniform(1.01, 1.1) * RATE_HZ))
    return np.pad(samples, (0, length - len(samples))), words


def write_librispeech(folder: Path, *, num_utterances: int = 4) -> Path:
    """A LibriSpeech corpus with the given number of utterances in each part."""
    generator = np.random.default_rng(0)
    for number, part in enumerate(LIBRISPEECH_PARTS, start=1):
        chapter = folder / "LibriSpeech" / part / str(100 + number) / str(1000 + number)
        chapter.mkdir(parents=True)
        lines = []
        for i in range(num_utterances):
            samples, words = speak(generator, 3)
            id = f"{100 + number}-{1000 + number}-{i:04d}"
            soundfile.write(chapter / f"{id}.flac", samples, RATE_HZ)
            lines.append(f"{id} {' '.join(words)}\n")
        (chapter / f"{100 + number}-{1000 + number}.trans.txt").write_text("".join(lines))
    return folder / "LibriSpeech"


def write_aishell(folder: Path, *, num_utterances: int = 6) -> Path:
    """An AISHELL-1 corpus; its transcripts have spaces between words, as in the original."""
    generator = np.random.default_rng(1)
    lines = []
    for number, part in enumerate(("train", "dev", "test"), start=2):
        speaker = folder / "data_aishell" / "wav" / part / f"S{number:04d}"
        speaker.mkdir(parents=True)
        for i in range(num_utterances):
            samples, words = speak(generator)
            id = f"BAC009S{number:04d}W{i:04d}"
            soundfile.write(speaker / f"{id}.wav", samples, RATE_HZ, subtype="PCM_16")
            lines.append(f"{id} {' '.join(CHARACTERS[word] for word in words)}\n")
    transcript = folder / "data_aishell" / "transcript"
    transcript.mkdir()
    (transcript / "aishell_transcript_v0.8.txt").write_text("".join(lines), encoding="utf-8")
    return folder


def write_long_recording(
    path: Path, generator: np.random.Generator, num_segments: int
) -> list[tuple[float, float, list[str]]]:
    """An Opus file with the given number of segments; returns start, end and words of each."""
    parts, segments, start_s = [np.zeros(RATE_HZ // 2, np.float32)], [], 0.5
    for _ in range(num_segments):
        samples, words = speak(generator)
        parts.append(samples)
        segments.append((round(start_s, 3), round(start_s + len(samples) / RATE_HZ, 3), words))
        start_s += len(samples) / RATE_HZ
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(
        path, np.concatenate([*parts, np.zeros(RATE_HZ // 2, np.float32)]), RATE_HZ, format="OGG", subtype="OPUS"
    )
    return segments


def write_wenetspeech(folder: Path, *, num_segments: int = 6) -> Path:
    """A WenetSpeech corpus: one Opus file for each part, each with a segment that the recipe drops."""
    generator, audios = np.random.default_rng(2), []
    for number, (part, subsets) in enumerate(
        {"train": ["L", "M", "S"], "dev": ["DEV"], "net": ["TEST_NET"], "meeting": ["TEST_MEETING"]}.items()
    ):
        path = f"audio/{part}/podcast/B0000{number}/X{number:010d}.opus"
        spoken = write_long_recording(folder / path, generator, num_segments)
        texts = ["".join(CHARACTERS[word] for word in words) for _, _, words in spoken]
        texts[0] = f"{texts[0]}<QUESTIONMARK>"
        texts[-1] = "<SIL>"
        audios.append(
            {
                "aid": f"X{number:010d}",
                "path": path,
                "duration": soundfile.info(folder / path).duration,
                "segments": [
                    {
                        "sid": f"X{number:010d}_S{i:05d}",
                        "begin_time": begin,
                        "end_time": end,
                        "text": text,
                        "subsets": subsets,
                    }
                    for i, ((begin, end, _), text) in enumerate(zip(spoken, texts, strict=True))
                ],
            }
        )
    write_json(folder / "WenetSpeech.json", {"task": "ASR", "language": "ZH", "audios": audios})
    return folder


def write_gigaspeech(folder: Path, *, num_segments: int = 6) -> Path:
    """A GigaSpeech corpus: one Opus file for each part, with punctuation tags and garbage as in the original."""
    generator, audios = np.random.default_rng(3), []
    for number, (part, subsets) in enumerate({"train": ["{XL}", "{L}"], "dev": ["{DEV}"], "test": ["{TEST}"]}.items()):
        path = f"audio/podcast/P{number:04d}/POD{number:010d}.opus"
        spoken = write_long_recording(folder / path, generator, num_segments)
        texts = [f"{words[0]} <COMMA> {words[1]} <PERIOD>" for _, _, words in spoken]
        texts[-1] = "<MUSIC>"
        audios.append(
            {
                "aid": f"POD{number:010d}",
                "title": part,
                "path": path,
                "sample_rate": 16000,
                "channels": 1,
                "duration": soundfile.info(folder / path).duration,
                "subsets": subsets,
                "segments": [
                    {
                        "sid": f"POD{number:010d}_S{i:07d}",
                        "speaker": "N/A",
                        "begin_time": begin,
                        "end_time": end,
                        "text_tn": text,
                        # segments outside the clean subset are only in XL
                        "subsets": subsets if i else subsets[:1],
                    }
                    for i, ((begin, end, _), text) in enumerate(zip(spoken, texts, strict=True))
                ],
            }
        )
    write_json(folder / "GigaSpeech.json", {"dataset": "GigaSpeech", "version": "v1.0.0", "audios": audios})
    return folder


def write_musan(folder: Path) -> Path:
    """A MUSAN corpus with one recording of each kind: 16 s, which gives a window of 10 s and one of 6 s."""
    generator = np.random.default_rng(4)
    for kind, place in (("music", "fma"), ("noise", "free-sound"), ("speech", "librivox")):
        path = folder / "musan" / kind / place / f"{kind}-{place}-0000.wav"
        path.parent.mkdir(parents=True)
        soundfile.write(path, 0.1 * generator.standard_normal(16 * RATE_HZ), RATE_HZ, subtype="PCM_16")
    (folder / "musan" / "music" / "fma" / "ANNOTATIONS").write_text("music-fma-0000 classical N somebody\n")
    return folder / "musan"


def write_json(path: Path, content: Any) -> None:
    """Write JSON over several lines, as the corpora do."""
    path.write_text(json.dumps(content, indent=4, ensure_ascii=False), encoding="utf-8")
