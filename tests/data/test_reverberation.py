"""Reverberation. Law: a response has the energy and the decay asked for; length and energy of the speech stay. Reference:
direct convolution. Contract: configuration. Run: the reader of batches puts utterances into rooms, cache or no cache."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from tests.train.tones import RATE_HZ, cut_of, say
from zipasr.data.batching import BatchConfig, BatchReader, Item
from zipasr.data.reverberation import ReverberationConfig, draw_room, reverberated, room_response
from zipasr.errors import ConfigError
from zipasr.features import FbankConfig
from zipasr.tokenizer import Tokenizer

ALWAYS = ReverberationConfig(prob=1.0)


@pytest.mark.parametrize("direct_db", [-3.0, 0.0, 12.0])
@pytest.mark.parametrize("decay_s", [0.1, 0.6])
def test_a_response_has_the_energy_and_the_decay_asked_for(decay_s: float, direct_db: float) -> None:
    response = room_response(decay_s, direct_db, np.random.default_rng(0)).astype(np.float64)
    assert response[0] == 1.0 and not response[1:39].any() and len(response) == round(decay_s * RATE_HZ)
    energy = np.square(response[1:])
    assert 10 * np.log10(1.0 / energy.sum()) == pytest.approx(direct_db, abs=0.01)
    quarters = energy[40 : len(energy) // 4 * 4].sum(), energy[len(energy) // 2 :].sum()
    assert 10 * np.log10(quarters[0] / quarters[1]) == pytest.approx(30.0, abs=2.0), "half of the time, half of 60 dB"


def test_speech_keeps_its_length_and_energy() -> None:
    speech, response = say(["LO", "HI"], np.random.default_rng(0)), room_response(0.3, 3.0, np.random.default_rng(1))
    heard = reverberated(speech, response)
    assert heard.shape == speech.shape and heard.dtype == np.float32
    assert np.sum(heard**2) == pytest.approx(np.sum(speech**2), rel=1e-4)
    direct = np.convolve(speech.astype(np.float64), response.astype(np.float64))[: len(speech)]
    np.testing.assert_allclose(heard, direct * np.sqrt(np.sum(speech**2) / np.sum(direct**2)), atol=1e-5)


@pytest.mark.parametrize("num_samples", [0, 1, 17])
def test_very_short_and_silent_audio(num_samples: int) -> None:
    response = room_response(0.3, 3.0, np.random.default_rng(1))
    assert not reverberated(np.zeros(num_samples, np.float32), response).any()
    assert reverberated(np.ones(num_samples, np.float32), response).shape == (num_samples,)


def test_draws_follow_from_the_generator_and_cover_the_ranges() -> None:
    """What one utterance gets does not depend on what another one got."""
    config = ReverberationConfig(prob=0.3)
    rng, always = np.random.default_rng(0), np.random.default_rng(0)
    rooms = [(draw_room(config, rng), draw_room(ALWAYS, always)) for _ in range(500)]
    drawn = [room for room, _ in rooms if room is not None]
    assert 110 < len(drawn) < 190
    for room, wanted in rooms:
        assert wanted is not None and (room is None or np.array_equal(room, wanted))
    decays_s = [len(room) / RATE_HZ for room in drawn]
    assert 0.15 <= min(decays_s) < 0.17 and 0.58 < max(decays_s) <= 0.6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prob": 1.5}, "prob must be within 0 and 1, but is 1.5"),
        ({"decay_s": (0.5, 0.1)}, r"decay_s must be the ends of a range within 0.01 and 5 s, but is \(0.5, 0.1\)"),
        ({"decay_s": (0.0, 0.1)}, "decay_s must be"),
        ({"decay_s": (0.1, float("nan"))}, "decay_s must be"),
        ({"direct_db": (3.0, 2.0)}, "direct_db must be the ends of a range within -40 and 60 dB"),
    ],
)
def test_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ReverberationConfig(**settings)


def test_batches_are_reverberated_anew_with_and_without_a_cache(tmp_path: Path) -> None:
    cuts: list[Any] = []
    for i, words in enumerate((["LO", "HI"], ["HI"])):
        soundfile.write(tmp_path / f"{i}.flac", say(words, np.random.default_rng(i)), RATE_HZ)
        cuts.append(cut_of(tmp_path / f"{i}.flac", " ".join(words)))
    tokenizer = Tokenizer.train(["LO HI"], kind="char", vocab_size=None)

    def features(epoch: int, reverberation: ReverberationConfig | None, cache_mb: int = 0, times: int = 1) -> torch.Tensor:
        config = BatchConfig(spec_augment=None, reverberation=reverberation, cache_mb=cache_mb)
        reader = BatchReader(cuts, tokenizer, FbankConfig(), config, seed=1)
        return [reader[epoch, 0, (Item((0,), 1.0), Item((1,), 1.0))] for _ in range(times)][-1].features

    clean, first, second = features(0, None), features(0, ALWAYS), features(1, ALWAYS)
    assert first.shape == clean.shape
    assert (first - clean).abs().mean() > 0.1 and (second - first).abs().mean() > 0.1
    assert torch.equal(features(0, ALWAYS, cache_mb=64, times=3), first)
    never = dataclasses.replace(ALWAYS, prob=0.0)
    assert torch.equal(features(0, never, cache_mb=64, times=2), clean)
