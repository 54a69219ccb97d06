"""Recordings aligned with their texts: `align_file` for a file, `align_text` for samples (samples,) float32 at 16 kHz.

Both return a `Transcript` with the times of the words of a known text. The alignment itself is in `alignment.known_text`;
this file reads the audio and computes and encodes the features with a `Recognizer`.
"""

import os

import numpy as np

from zipasr.alignment.known_text import align_features
from zipasr.audio import SAMPLE_RATE_HZ, load_audio
from zipasr.errors import DataError
from zipasr.lfs import refuse_pointer
from zipasr.lines import decode_text, read_whole
from zipasr.recognizer.recognizer import Recognizer
from zipasr.recognizer.transcripts import to_transcript
from zipasr.transcript import Transcript


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
        text: what is said; None: read it from the file beside the recording with the ending .txt.
        audio_track: index of the audio track of a file with several, from 0; None: the default track.
        allow_damaged: whether to accept a damaged or truncated file, with silence for what cannot be decoded.
    Raises:
        AudioError: the recording cannot be read.
        DataError: there is no text file, or the text cannot be that of the recording; the message names the recording.
        ConfigError: the model has no CTC head.
    """
    if text is None:
        text = read_text(os.path.splitext(os.fspath(audio))[0] + ".txt")
    samples = load_audio(audio, audio_track=audio_track, allow_damaged=allow_damaged)
    try:
        return align_text(recognizer, samples, text)
    except DataError as error:
        raise DataError(f"{os.fspath(audio)}: {error}") from error


def align_text(recognizer: Recognizer, samples: np.ndarray, text: str) -> Transcript:
    """Find when the words of a text are said in a recording.

    Args:
        recognizer: its model has a CTC head; its search does not matter.
        samples: (samples,) float32 at 16 kHz, of any length. Memory grows by 0.6 GB per hour. The time of the alignment,
            not of the encoder, grows with the square of the length: 10 s for an hour of speech, four minutes for three
            (docs/alignment.md).
        text: every word of the recording in order, in the model's letters; upper and lower case are tried if the text has
            other letters as it stands.
    Returns:
        The text with the times of its tokens and words. A word that was not said has a low confidence; see
        `alignment.known_text.align_features`.
    Raises:
        DataError: the text is empty, has characters that the model does not know, or is too long for the recording.
        ConfigError: the model has no CTC head.
    """
    engine, duration_s = recognizer.engine, len(samples) / SAMPLE_RATE_HZ
    hypothesis, spans = align_features(
        engine.fbank(samples),
        text,
        scorer=engine.scorer,
        tokenizer=engine.tokenizer,
        encode=lambda window: engine.encode([window]),
        duration_s=duration_s,
    )
    return to_transcript(hypothesis, duration_s, tokenizer=engine.tokenizer, spans=spans)


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a recording, from a file in UTF-8 or UTF-16; line breaks count as spaces.

    Raises:
        DataError: the file does not exist or is not such text.
    """
    try:
        content = read_whole(path)
        refuse_pointer(content, path, DataError)
        return decode_text(content)
    except OSError as error:
        raise DataError(
            f"{path} must hold the text of a recording, but cannot be read: {error.strerror}; write it there or give it"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} must be text in UTF-8 or UTF-16, but is not: {error}; save it in UTF-8") from error
