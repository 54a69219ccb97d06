"""`Recognizer`: recordings in, transcripts out; all that an application needs.

Sound becomes features (T, F) at 100 Hz, those become encoder frames at 25 Hz in batches of similar length, a search
gives a hypothesis for each, and the tokenizer turns that into a `Transcript`. After every utterance, the longest of a
batch included, come a few frames of padding, so that the result does not depend on what else is in the batch.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Literal

import numpy as np
import torch
from torch import Tensor

from zipasr.audio import SAMPLE_RATE_HZ, load_audio
from zipasr.device import select_device
from zipasr.errors import ConfigError
from zipasr.features import PADDING_VALUE, Fbank, FbankConfig
from zipasr.model import AsrModel, resolve_model_folder
from zipasr.nn.encoded import Encoded
from zipasr.search.beam import modified_beam_search
from zipasr.search.greedy import ctc_greedy_search, greedy_search
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.prefix import ctc_prefix_search
from zipasr.search.rescoring import attention_rescoring
from zipasr.search.scorer import Scorer
from zipasr.tokenizer import Tokenizer
from zipasr.transcript import Token, Transcript, words_from_tokens

FRAME_S = 0.04
"""Seconds between encoder frames, 25 Hz."""
TAIL_PADDING_FRAMES = 32
"""Features of padding after every utterance. With 24 or more, results alone and in a batch agree within 6e-6."""
_CPU_BATCH_S, _ACCELERATOR_BATCH_S = 60.0, 600.0
# On two CPU cores the encoder's time per second of sound is flat from 8 to 60 s in a batch and a third higher at 240 s,
# which no longer fits the caches (`small`, sentences of 4 s and of 30 s); an accelerator wants many at once.
_FEATURES_PER_S = 100
_DEFAULT_BEAM = 4
_DEFAULT_ATTENTION_SCALE = 1.0
_BEAM_METHODS = ("auto", "beam", "ctc_beam", "attention_rescoring")


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How to search for the best tokens."""

    method: Literal["auto", "beam", "greedy", "ctc_greedy", "ctc_beam", "attention_rescoring"] = "auto"
    """`beam` and `greedy` use the transducer head, `ctc_greedy` and `ctc_beam` the CTC head; `attention_rescoring` lets
    the attention decoder choose among what `ctc_beam` finds. `auto` is `beam` where there is a transducer head, else
    `attention_rescoring` where there is an attention decoder (published results are of these), else `ctc_greedy`."""
    beam: int = _DEFAULT_BEAM
    """Continuations that a beam search keeps, and hypotheses to choose from in rescoring."""
    attention_scale: float = _DEFAULT_ATTENTION_SCALE
    """Weight of the attention decoder's log-probability in rescoring, beside 1 for that of CTC; tune it on a dev set."""
    blank_penalty: float = 0.0
    """Taken off the score of blank; positive values delete fewer words."""
    temperature: float = 1.0
    """Divides the scores before they become probabilities; the greedy searches find the same tokens at any."""

    def __post_init__(self) -> None:
        if self.beam < 1:
            raise ConfigError(f"beam must be at least 1, but is {self.beam}")
        if self.beam != _DEFAULT_BEAM and self.method not in _BEAM_METHODS:
            raise ConfigError(f"beam has no effect on the search {self.method}; leave it out or use a beam search")
        if not self.attention_scale > 0:
            raise ConfigError(f"attention_scale must be positive, but is {self.attention_scale}; without it use ctc_beam")
        if self.attention_scale != _DEFAULT_ATTENTION_SCALE and self.method not in ("auto", "attention_rescoring"):
            raise ConfigError(
                f"attention_scale has no effect on the search {self.method}; leave it out or use attention_rescoring"
            )
        if not self.temperature > 0:
            raise ConfigError(f"temperature must be positive, but is {self.temperature}")


class Recognizer:
    """A model, its tokenizer and a search. Use `load` for a model that was trained here."""

    def __init__(
        self,
        scorer: Scorer,
        tokenizer: Tokenizer,
        *,
        features: FbankConfig | None = None,
        device: torch.device | str = "cpu",
        search: SearchConfig | None = None,
        tail_padding_frames: int = TAIL_PADDING_FRAMES,
    ) -> None:
        """Put the parts together.

        Args:
            scorer: the model, on `device` and in eval mode.
            tokenizer: the one it was trained with.
            features: what the model listens to; None: the published filterbank.
            device: where the features go.
            search: how to search; None: the best that the model's heads allow, see `SearchConfig.method`.
            tail_padding_frames: padding after every utterance at 100 Hz; 0 is what the original system does, whose
                results depend on the batch.
        Raises:
            ConfigError: the model lacks the head that the search needs.
            ValueError: `tail_padding_frames` is negative.
        """
        if tail_padding_frames < 0:
            raise ValueError(f"tail_padding_frames must be 0 or more, but is {tail_padding_frames}")
        self.scorer, self.tokenizer, self.device = scorer, tokenizer, torch.device(device)
        self.fbank = Fbank(features)
        self.search = _resolve_search(search or SearchConfig(), scorer)
        self.tail_padding_frames = tail_padding_frames

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], *, device: str = "auto", search: SearchConfig | None = None
    ) -> "Recognizer":
        """Open a model folder or the folder of a training run.

        Args:
            folder: what `zipasr train --out` wrote, or a checkpoint of it.
            device: cpu, cuda, cuda:N, mps or auto.
            search: how to search; None: the best that the model's heads allow, see `SearchConfig.method`.
        Raises:
            CheckpointError: the folder is missing, incomplete or damaged.
            ConfigError: this machine has no such device, or the model lacks the head that the search needs.
        """
        chosen = select_device(device)
        model, tokenizer = AsrModel.load(resolve_model_folder(folder))
        return cls(model.to(chosen), tokenizer, features=model.config.features, device=chosen, search=search)

    def transcribe(
        self,
        audio: "str | os.PathLike[str] | bytes | BinaryIO | np.ndarray | Tensor",
        *,
        sample_rate_hz: int | None = None,
        format: str | None = None,
        channel: int | None = None,
    ) -> Transcript:
        """Transcribe one recording: a path, the bytes of a file, a file object or an array; see `audio.load_audio`.

        Returns:
            The transcript; empty for sound without words or too short to hold any (below 90 ms).
        Raises:
            AudioError: the recording is missing, empty, damaged or of an unknown kind.
        """
        samples = load_audio(audio, sample_rate_hz=sample_rate_hz, format=format, channel=channel)
        return self.transcribe_many([samples])[0]

    def transcribe_many(self, recordings: Sequence[np.ndarray], *, max_batch_s: float | None = None) -> list[Transcript]:
        """Transcribe many recordings, those of similar length together.

        Args:
            recordings: each (samples,) float32 at 16 kHz.
            max_batch_s: seconds of sound in a batch, padding included; a longer recording is a batch of its own. None: 60
                on a CPU, 600 elsewhere.
        Returns:
            A transcript for each, in the order given; they do not depend on what else was given.
        """
        durations_s = [len(samples) / SAMPLE_RATE_HZ for samples in recordings]
        lens = [self.fbank.num_frames(len(samples)) for samples in recordings]
        return self._transcribe_all(durations_s, lens, lambda i: self.fbank(recordings[i]), max_batch_s)

    def transcribe_features(self, features: Sequence[Tensor], *, max_batch_s: float | None = None) -> list[Transcript]:
        """Transcribe features, each (T, F) at 100 Hz as this model's `fbank` makes them; see `transcribe_many`."""
        lens = [len(frames) for frames in features]
        durations_s = [length / _FEATURES_PER_S for length in lens]
        return self._transcribe_all(durations_s, lens, features.__getitem__, max_batch_s)

    def encode(self, features: Sequence[Tensor]) -> Encoded:
        """Encoder frames at 25 Hz of a batch of features, each (T, F) at 100 Hz, with the padding after each."""
        lens = [len(frames) for frames in features]
        longest, num_bins = max(lens) + self.tail_padding_frames, features[0].shape[1]
        padded_NTF = torch.full((len(features), longest, num_bins), PADDING_VALUE)
        for row, frames in zip(padded_NTF, features, strict=True):
            row[: len(frames)] = frames
        with torch.inference_mode():
            return self.scorer.encode(padded_NTF.to(self.device), torch.tensor(lens, device=self.device))

    def _transcribe_all(
        self,
        durations_s: Sequence[float],
        lens: Sequence[int],
        features_of: Callable[[int], Tensor],
        max_batch_s: float | None,
    ) -> list[Transcript]:
        transcripts = [Transcript("", duration_s=duration_s) for duration_s in durations_s]
        for batch in self._batches(lens, max_batch_s):
            for i, hypothesis in zip(batch, self._recognize([features_of(i) for i in batch]), strict=True):
                transcripts[i] = self._to_transcript(hypothesis, durations_s[i])
        return transcripts

    def _batches(self, lens: Sequence[int], max_batch_s: float | None) -> Iterator[list[int]]:
        """Indices of recordings that go together, longest first; those too short for a single frame are left out."""
        if max_batch_s is None:
            max_batch_s = _CPU_BATCH_S if self.device.type == "cpu" else _ACCELERATOR_BATCH_S
        if not max_batch_s > 0:
            raise ValueError(f"max_batch_s must be positive, but is {max_batch_s}")
        long_enough = [i for i, length in enumerate(lens) if self.scorer.output_length(length) > 0]
        batch: list[int] = []
        for i in sorted(long_enough, key=lambda i: -lens[i]):
            padded_frames = lens[batch[0] if batch else i] + self.tail_padding_frames
            if batch and padded_frames * (len(batch) + 1) > max_batch_s * _FEATURES_PER_S:
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _recognize(self, features: Sequence[Tensor]) -> list[Hypothesis]:
        search, encoded = self.search, self.encode(features)
        penalty, temperature = search.blank_penalty, search.temperature
        if search.method == "ctc_greedy":
            return ctc_greedy_search(self.scorer, encoded, blank_penalty=penalty, temperature=temperature)
        if search.method in ("ctc_beam", "attention_rescoring"):
            ranked = ctc_prefix_search(
                self.scorer, encoded, beam=search.beam, blank_penalty=penalty, temperature=temperature
            )
            if search.method == "attention_rescoring":
                ranked = attention_rescoring(self.scorer, encoded, ranked, scale=search.attention_scale)
            return [hypotheses[0] for hypotheses in ranked]
        unk_id = self.tokenizer.unk_id
        if search.method == "greedy":
            return greedy_search(self.scorer, encoded, blank_penalty=penalty, temperature=temperature, unk_id=unk_id)
        ranked = modified_beam_search(
            self.scorer, encoded, beam=search.beam, blank_penalty=penalty, temperature=temperature, unk_id=unk_id
        )
        return [hypotheses[0] for hypotheses in ranked]

    def _to_transcript(self, hypothesis: Hypothesis, duration_s: float) -> Transcript:
        tokens = tuple(
            Token(self.tokenizer.pieces[i], frame * FRAME_S, (frame + 1) * FRAME_S, log_prob)
            for i, frame, log_prob in zip(hypothesis.ids, hypothesis.frames, hypothesis.log_probs, strict=True)
            if i != self.tokenizer.sos_eos_id  # a barely trained model may emit it; it is no word
        )
        return Transcript(
            self.tokenizer.decode(hypothesis.ids),
            tokens=tokens,
            words=words_from_tokens(tokens, is_each_a_word=self.tokenizer.is_spaceless),
            duration_s=duration_s,
            score=hypothesis.score,
        )


def load(folder: str | os.PathLike[str], *, device: str = "auto", search: SearchConfig | None = None) -> Recognizer:
    """Open a model folder or the folder of a training run; see `Recognizer.load`."""
    return Recognizer.load(folder, device=device, search=search)


def _resolve_search(search: SearchConfig, scorer: Scorer) -> SearchConfig:
    """The search with its method settled, checked against the heads that the model has."""
    if search.method == "auto":
        if scorer.has_transducer:
            search = dataclasses.replace(search, method="beam")
        else:
            search = dataclasses.replace(search, method="attention_rescoring" if scorer.has_attention else "ctc_greedy")
    if search.method in ("ctc_greedy", "ctc_beam", "attention_rescoring") and not scorer.has_ctc:
        raise ConfigError(f"the search {search.method} needs a CTC head, but this model has none; use beam or greedy")
    if search.method == "attention_rescoring" and not scorer.has_attention:
        raise ConfigError("the search attention_rescoring needs an attention decoder, but this model has none; use ctc_beam")
    if search.method in ("beam", "greedy") and not scorer.has_transducer:
        raise ConfigError(f"the search {search.method} needs a transducer head, but this model has none; use ctc_greedy")
    return search
