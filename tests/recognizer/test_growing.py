"""Law: the transcript of a hypothesis that grows, or changes anywhere, is that of `to_transcript`, in every kind of
vocabulary; words that a chunk does not touch are not computed again."""

import random
from itertools import accumulate
from pathlib import Path

import pytest

from tests.tiny_model import tiny_tokenizer
from tests.tokenizer.published import write_tokens
from zipasr.alignment.word_times import emission_spans
from zipasr.recognizer import growing
from zipasr.recognizer.growing import GrowingTranscript
from zipasr.recognizer.transcripts import to_transcript
from zipasr.search.confidence import Calibration
from zipasr.search.hypothesis import Hypothesis
from zipasr.tokenizer import Tokenizer
from zipasr.transcript import Transcript

MANDARIN = ["今天天气很好", "我们去北京 HELLO WORLD"] * 3
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TABLES = {
    "phones": ["<blk>", "<sos/eos>", "<unk>", "AH0", "B", "K", "SIL"],
    "pieces and bytes": ["<blk>", "<unk>", "▁", "▁HELLO", "HE", "你", "好", "▁今", "天", "，", "a▁", *BYTES],
}


def vocabulary(name: str, folder: Path) -> Tokenizer:
    if name in TABLES:
        return Tokenizer.from_file(write_tokens(folder / "tokens.txt", TABLES[name]))
    if name == "pieces":
        return tiny_tokenizer()
    texts = ["THE QUICK BROWN FOX", "PACK MY BOX"] if name == "char" else MANDARIN
    return Tokenizer.train(texts, kind=name, vocab_size=48 if name == "bbpe" else None)  # type: ignore[arg-type]


def whole(hypothesis: Hypothesis, duration_s: float, tokenizer: Tokenizer, calibration: Calibration | None) -> Transcript:
    spans = emission_spans([7 + frame for frame in hypothesis.frames])
    return to_transcript(hypothesis, duration_s, tokenizer=tokenizer, spans=spans, calibration=calibration)


def random_tokens(generator: random.Random, tokenizer: Tokenizer, num: int) -> list[int]:
    """Ids of the vocabulary; of 256 bytes mostly those of a few characters, and those that come to nothing."""
    likely = [i for i, piece in enumerate(tokenizer.pieces) if not piece.startswith("<0x")]
    likely += [tokenizer.pieces.index(f"<0x{byte:02X}>") for byte in "龘é ".encode() if "<0x20>" in tokenizer.pieces]
    return generator.choices(likely, k=num)


@pytest.mark.parametrize("name", ["pieces", "char", "spaceless", "bbpe", *TABLES])
@pytest.mark.parametrize("calibration", [None, Calibration(temperature=2.0, offset=-1.0)])
def test_equals_the_transcript_of_the_whole(name: str, calibration: Calibration | None, tmp_path: Path) -> None:
    tokenizer, generator = vocabulary(name, tmp_path), random.Random(name)
    for _ in range(40):
        growing_transcript = GrowingTranscript(tokenizer, calibration, 7)
        ids: list[int] = []
        gaps: list[int] = []
        log_probs: list[float] = []
        num_frames, duration_s = 0, 0.0
        for _ in range(25):
            if ids and generator.random() < 0.2:  # a beam search changes its mind
                first = generator.choice([0, len(ids) // 2, *range(max(0, len(ids) - 4), len(ids))])
                del ids[first:], gaps[first:], log_probs[first:]
            num_new = generator.choice([0, 0, 1, 1, 2, 4])
            ids += random_tokens(generator, tokenizer, num_new)
            gaps += generator.choices([0, 1, 1, 2, 30], k=num_new)
            log_probs += generator.choices([-0.1, -0.5, -2.0], k=num_new)
            frames = tuple(accumulate(gaps))
            num_frames = max([num_frames, *frames[-1:]]) + generator.choice([0, 1, 8])
            hypothesis = Hypothesis(tuple(ids), frames, tuple(log_probs), -len(ids) - 0.1 * num_frames)
            duration_s = max(duration_s, (7 + num_frames + 1) * 0.04 - generator.choice([0.0, 0.005, 0.05]))
            found = growing_transcript.update(hypothesis, duration_s)
            assert found == whole(hypothesis, duration_s, tokenizer, calibration)


@pytest.mark.parametrize("name", ["pieces", "char", "spaceless", "bbpe"])
def test_words_that_stay_are_not_computed_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = vocabulary(name, tmp_path)
    text = "THE QUICK BROWN FOX " * 30 if name in ("pieces", "char") else "今天天气很好我们去北京" * 30
    ids = tokenizer.encode(text)
    growing_transcript, lengths = GrowingTranscript(tokenizer, None, 0), list[int]()

    def count(hypothesis: Hypothesis, duration_s: float, **options: object) -> Transcript:
        lengths.append(len(hypothesis.ids))
        return to_transcript(hypothesis, duration_s, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(growing, "to_transcript", count)
    hypothesis = Hypothesis()
    for num_ids in range(1, len(ids) + 1):
        hypothesis = Hypothesis(tuple(ids[:num_ids]), tuple(range(num_ids)), (-0.1,) * num_ids, 0.0)
        found = growing_transcript.update(hypothesis, 1000.0)
    assert found.text == tokenizer.decode(ids)
    longest_word = max(len(tokenizer.encode(f" {word}")) for word in (text.split() if " " in text else text))
    assert max(lengths) <= 2 * longest_word + 2
    lengths.clear()
    assert growing_transcript.update(hypothesis._replace(score=-5.0), 1001.0).duration_s == 1001.0
    assert not lengths
