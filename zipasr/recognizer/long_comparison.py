"""A long recording (samples,) at 16 kHz -> its transcript by each of several searches, every piece encoded once."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from zipasr.nn.encoded import Encoded
from zipasr.recognizer.batches import plan_batches
from zipasr.recognizer.recognizer import Recognizer
from zipasr.recognizer.stitch import PlacedTranscript, stitch
from zipasr.recognizer.transcripts import to_transcripts
from zipasr.search.hypothesis import Hypothesis
from zipasr.transcript import Transcript

FindWithEach = Callable[[Encoded], Iterable[Sequence[Sequence[Hypothesis]]]]
"""For a batch, the ranked hypotheses of each of its utterances, by one search after the other."""


def transcribe_with_each(
    recognizer: Recognizer, samples: np.ndarray, find_with_each: FindWithEach, num_searches: int
) -> list[Transcript]:
    """The transcript of a long recording by each of several searches, in pieces as `Recognizer.transcribe` cuts them.

    Args:
        recognizer: the model, and how it cuts long recordings.
        samples: (samples,) float32 at 16 kHz.
        find_with_each: searches a batch of pieces in `num_searches` ways.
    Returns:
        A transcript for each search, its confidence as the model has it.
    """
    engine = recognizer.engine
    pieces = list(recognizer.long_recordings.pieces([samples], recognizer.detector))
    found = [[Transcript("", duration_s=piece.duration_s) for piece in pieces] for _ in range(num_searches)]
    lens = [engine.fbank.num_frames(len(piece.samples)) for piece in pieces]
    for batch in plan_batches(engine, lens):
        features = [engine.fbank(pieces[i].samples) for i in batch]
        durations_s = [pieces[i].duration_s for i in batch]
        encoded = engine.encode(features)
        for transcripts, of_batch in zip(found, find_with_each(encoded), strict=True):
            best = [ranked[:1] for ranked in of_batch]
            made = to_transcripts(engine, encoded, features, best, durations_s, None)
            for i, transcript in zip(batch, made, strict=True):
                transcripts[i] = transcript
    return [
        stitch(
            (PlacedTranscript(one, piece.start_s, piece.overlap_s) for one, piece in zip(transcripts, pieces, strict=True)),
            joiner=engine.tokenizer.word_joiner,
        )
        for transcripts in found
    ]
