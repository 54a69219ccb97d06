"""A known text and its recording in, the times of its words out: `align_text`, and `align_file` for files.

The CTC head scores every frame at 25 Hz, the best path through the text is found, and the edges of the words are sought
in the energy of the features (`search/word_times.py`). A recording of over 30 s is encoded in windows; the path is sought
through all of it at once, so a text may be as long as its recording.
"""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zipasr.audio import SAMPLE_RATE_HZ, load_audio
from zipasr.encoder.rates import FEATURES_PER_FRAME_25HZ, FRAME_S_25HZ
from zipasr.errors import ConfigError, DataError
from zipasr.recognizer import Recognizer
from zipasr.search.align import ctc_align
from zipasr.search.word_times import energy_db, token_spans
from zipasr.tokenizer import Tokenizer
from zipasr.transcript import Token, Transcript, words_from_tokens

_WINDOW_FRAMES_25HZ = 750
"""30 s, as long as anything that a recogniser is usually trained on; attention costs the square of it."""
_MARGIN_FRAMES_25HZ = 50
"""2 s at either end of a window are left to its neighbours, which hear more of what is around."""


def align_file(
    recognizer: Recognizer,
    audio: str | os.PathLike[str],
    text: str | None = None,
    *,
    audio_track: int | None = None,
    allow_damaged: bool = False,
) -> Transcript:
    """Align a recording with its text.

    Args:
        recognizer: its model has a CTC head.
        audio: the recording.
        text: what is said; None: it is in the file beside the recording whose name ends in .txt.
        audio_track: the one to align with of a file with several, from 0; None: its default one.
        allow_damaged: whether to take a damaged or cut file, with silence for what cannot be decoded.
    Raises:
        AudioError: the recording cannot be read.
        DataError: there is no such file, or the text cannot be that of the recording; the message names the recording.
        ConfigError: the model has no CTC head.
    """
    if text is None:
        text = read_text(os.path.splitext(os.fspath(audio))[0] + ".txt")
    samples = load_audio(audio, audio_track=audio_track, allow_damaged=allow_damaged)
    try:
        return align_text(recognizer, samples, text)
    except DataError as error:
        raise DataError(f"{os.fspath(audio)}: {error}") from error


def read_text(path: str | os.PathLike[str]) -> str:
    """Read what is said in a recording from a file in UTF-8; line breaks count as spaces.

    Raises:
        DataError: there is no such file, or it holds something else.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(
            f"expected the text of a recording in {path}, got: {error.strerror}; write it there or give it"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"expected text in UTF-8 in {path}, got: {error}; save it in UTF-8") from error


def align_text(recognizer: Recognizer, samples: np.ndarray, text: str) -> Transcript:
    """Find when the words of a text are said.

    Args:
        recognizer: its model has a CTC head; how it searches does not matter.
        samples: (samples,) float32 at 16 kHz, of any length. Memory grows by 0.6 GB an hour; beside the encoder, time grows
            with the square of the length: 10 s for an hour of speech, four minutes for three (docs/alignment.md).
        text: every word of the recording in order, in the letters that the model knows; upper or lower case is tried
            where the text as it stands has others.
    Returns:
        The text with the times of its tokens and words. The log-probability of a token is its mean over the frames it
        was aligned with, so that a word which was not said has a low confidence; `score` is that of the whole path.
    Raises:
        DataError: no words, characters that the model does not know, or more of them than the recording has room for.
        ConfigError: the model has no CTC head.
    """
    if not recognizer.scorer.has_ctc:
        raise ConfigError("aligning needs a CTC head, but this model has none; use a model that was trained with one")
    tokenizer, duration_s = recognizer.tokenizer, len(samples) / SAMPLE_RATE_HZ
    ids = _encoded_text(tokenizer, text)
    features = recognizer.fbank(samples)
    try:
        alignment = ctc_align(_frame_log_probs(recognizer, features), ids, blank_id=tokenizer.blank_id)
    except ValueError as error:
        raise DataError(
            f"expected a text that is said in these {duration_s:.2f} s, got one that does not fit: {error}; "
            "is it the text of another recording?"
        ) from error
    spans = token_spans(ids, alignment, energy_db(features), tokenizer=tokenizer)
    tokens = tuple(
        Token(tokenizer.pieces[i], min(start * FRAME_S_25HZ, duration_s), min(end * FRAME_S_25HZ, duration_s), log_prob)
        for i, (start, end), log_prob in zip(ids, spans, alignment.log_probs, strict=True)
    )
    return Transcript(
        tokenizer.decode(ids),
        tokens=tokens,
        words=words_from_tokens(tokens, is_each_a_word=tokenizer.is_spaceless),
        duration_s=duration_s,
        score=alignment.score,
    )


def _encoded_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of the text as it stands, or else in upper or lower case."""
    if not text.split():
        raise DataError("expected the words that are said, got an empty text")
    spelling = tokenizer.spelling(text)
    unknown = tokenizer.unknown_characters(spelling)
    if unknown:
        raise DataError(
            f"expected characters that the model knows, got {' '.join(sorted(unknown))} in the text; "
            "leave them out or write them as they are spoken"
        )
    return tokenizer.encode(spelling)


def _frame_log_probs(recognizer: Recognizer, features: Tensor) -> np.ndarray:
    """Log-probabilities (T', V) of the CTC head for features (T, F); in windows that overlap, if they are many."""
    scorer, num_frames = recognizer.scorer, len(features)
    hop_frames = _WINDOW_FRAMES_25HZ - 2 * _MARGIN_FRAMES_25HZ
    pieces = [np.zeros((0, recognizer.tokenizer.vocab_size), np.float32)]
    first_frame, is_last = 0, False
    while not is_last:
        begin = first_frame * FEATURES_PER_FRAME_25HZ
        window = features[begin : begin + _WINDOW_FRAMES_25HZ * FEATURES_PER_FRAME_25HZ]
        is_last = begin + len(window) == num_frames
        if not scorer.output_length(len(window)):
            break
        encoded = recognizer.encode([window])
        with torch.inference_mode():
            log_probs_TV = scorer.ctc_log_probs(encoded.frames[:, : int(encoded.lens[0])])[0].float().cpu().numpy()
        left_out = _MARGIN_FRAMES_25HZ if first_frame else 0
        pieces.append(log_probs_TV[left_out:] if is_last else log_probs_TV[left_out : hop_frames + _MARGIN_FRAMES_25HZ])
        first_frame += hop_frames
    return np.concatenate(pieces)
