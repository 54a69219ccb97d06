"""Synthetic audio with the structure of speech."""

import math

import numpy as np

from zipasr.audio import SAMPLE_RATE_HZ


def speech_like(duration_s: float, seed: int = 0) -> np.ndarray:
    """A gliding voice with three formants in syllables, pauses and a little noise: (samples,) float32."""
    generator = np.random.default_rng(seed)
    times_s = np.arange(round(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    pitch_hz = 120 + 30 * np.sin(2 * np.pi * 0.7 * times_s)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE_HZ
    voice = np.zeros_like(times_s)
    for harmonic in range(1, 40):
        freq_hz = harmonic * 120
        gain = sum(math.exp(-(((freq_hz - formant_hz) / 200) ** 2)) for formant_hz in (600, 1300, 2600))
        voice += (gain + 0.01) * np.sin(harmonic * phase)
    syllables = np.clip(np.sin(2 * np.pi * 3 * times_s), 0, None) ** 0.5
    samples = 0.1 * syllables * voice + 0.002 * generator.standard_normal(times_s.size)
    return samples.astype(np.float32)
