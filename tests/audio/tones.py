"""Synthetic recordings in every format: tones, whose frequency, level and length can be measured after lossy codecs."""

import io
from collections.abc import Callable

import av
import numpy as np
import soundfile

DURATION_S = 1.5
TONE_HZ = 440.0
LEVEL = 0.3


def tone(rate_hz: int, duration_s: float = DURATION_S, freq_hz: float = TONE_HZ) -> np.ndarray:
    """A sine (samples,) in float32 with amplitude LEVEL."""
    times_s = np.arange(round(rate_hz * duration_s)) / rate_hz
    return (LEVEL * np.sin(2 * np.pi * freq_hz * times_s)).astype(np.float32)


def encode_by_soundfile(samples: np.ndarray, rate_hz: int, container: str, subtype: str | None = None) -> bytes:
    """The bytes of a file with (samples,) or (samples, channels)."""
    out = io.BytesIO()
    soundfile.write(out, samples, rate_hz, format=container, subtype=subtype)
    return out.getvalue()


def encode_by_av(
    codec: str, container: str, rate_hz: int, samples: np.ndarray | None = None, options: dict[str, str] | None = None
) -> bytes:
    """The bytes of a file encoded by FFmpeg from mono samples at `rate_hz`."""
    samples = tone(rate_hz) if samples is None else samples
    out = io.BytesIO()
    with av.open(out, "w", format=container, options=options or {}) as target:
        stream = target.add_stream(codec, rate=rate_hz, layout="mono")
        context = stream.codec_context
        frame = av.AudioFrame.from_ndarray(np.rint(samples * 32767).astype(np.int16)[None], "s16", "mono")
        frame.sample_rate, frame.pts = rate_hz, 0
        resampler = av.AudioResampler(context.format, "mono", rate_hz, frame_size=context.frame_size or None)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            target.mux(stream.encode(piece))
        target.mux(stream.encode(None))
    return out.getvalue()


ENCODED: dict[str, Callable[[], bytes]] = {
    "wav": lambda: encode_by_soundfile(tone(16000), 16000, "WAV"),
    "wav_g722": lambda: encode_by_av("g722", "wav", 16000),
    "flac": lambda: encode_by_soundfile(tone(44100), 44100, "FLAC"),
    "flac_of_unknown_length": lambda: without_flac_length(encode_by_soundfile(tone(16000), 16000, "FLAC")),
    "aiff": lambda: encode_by_soundfile(tone(22050), 22050, "AIFF"),
    "mp3": lambda: encode_by_av("libmp3lame", "mp3", 44100),
    "mp3_without_xing": lambda: encode_by_av("libmp3lame", "mp3", 24000, options={"write_xing": "0"}),
    "mp3_with_junk": lambda: encode_by_av("libmp3lame", "mp3", 24000) + b"TAG" + b"junk" * 200,
    "vorbis": lambda: encode_by_soundfile(tone(32000), 32000, "OGG", "VORBIS"),
    "opus": lambda: encode_by_av("libopus", "ogg", 48000),
    "opus_16k": lambda: encode_by_soundfile(tone(16000), 16000, "OGG", "OPUS"),
    "m4a": lambda: encode_by_av("aac", "ipod", 44100),
    "alac": lambda: encode_by_av("alac", "ipod", 44100),
    "aac": lambda: encode_by_av("aac", "adts", 16000),
    "webm": lambda: encode_by_av("libopus", "webm", 48000),
    "sph": lambda: encode_by_soundfile(tone(16000), 16000, "NIST", "PCM_16"),
    "w64": lambda: encode_by_soundfile(tone(16000), 16000, "W64", "PCM_16"),
    "caf": lambda: encode_by_av("pcm_s16be", "caf", 16000),
    "voc": lambda: encode_by_soundfile(tone(16000), 16000, "VOC", "PCM_16"),
    "avi": lambda: encode_by_av("pcm_s16le", "avi", 16000),
    "wavpack": lambda: encode_by_av("wavpack", "wv", 16000),
    "tta": lambda: encode_by_av("tta", "tta", 16000),
    "webm_live": lambda: encode_by_av("libopus", "webm", 48000, options={"live": "1"}),
}


def without_flac_length(data: bytes) -> bytes:
    """A FLAC file as a program writes it into a pipe: the number of samples is 0, which means unknown."""
    return data[:21] + bytes([data[21] & 0xF0]) + bytes(4) + data[26:]
