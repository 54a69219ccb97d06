"""`Recognizer`: recordings in, transcripts out; all that an application needs.

Sound becomes features (T, F) at 100 Hz, those become encoder frames at 25 Hz in batches of similar length, a search
gives a hypothesis for each, and the tokenizer turns that into a `Transcript`. After every utterance, the longest of a
batch included, come a few frames of padding, so that the result does not depend on what else is in the batch.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from zipasr.audio import SAMPLE_RATE_HZ, load_audio, num_channels
from zipasr.device import select_device
from zipasr.features import PADDING_VALUE, Fbank, FbankConfig
from zipasr.model import AsrModel, resolve_model_folder
from zipasr.nn.encoded import Encoded
from zipasr.search.hotwords import Hotword, HotwordGraph, encode_hotwords
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.scorer import Scorer
from zipasr.search.strategy import NO_LANGUAGE_MODELS, LanguageModels, SearchConfig, find_hypotheses, settled
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
_MAX_KEPT_GRAPHS = 32
AudioSource = str | os.PathLike[str] | bytes | BinaryIO | np.ndarray | Tensor


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
        language_models: LanguageModels = NO_LANGUAGE_MODELS,
        hotwords: Sequence[str | Hotword] = (),
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
            language_models: what the beam searches know of language beside the model.
            hotwords: phrases to prefer wherever a call does not name its own.
        Raises:
            ConfigError: the model lacks the head that the search needs, the search cannot use language models or
                hotwords, or a phrase cannot be written in the model's vocabulary.
            ValueError: `tail_padding_frames` is negative.
        """
        if tail_padding_frames < 0:
            raise ValueError(f"tail_padding_frames must be 0 or more, but is {tail_padding_frames}")
        self.scorer, self.tokenizer, self.device = scorer, tokenizer, torch.device(device)
        self.fbank = Fbank(features)
        self.tail_padding_frames = tail_padding_frames
        self.language_models = language_models
        self._asked_search = search or SearchConfig()
        self._graphs: dict[tuple[str | Hotword, ...], HotwordGraph] = {}
        self.hotwords = tuple(hotwords)
        self.search = self._settled(self._graph(self.hotwords))

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        *,
        device: str = "auto",
        search: SearchConfig | None = None,
        lm: str | os.PathLike[str] | None = None,
        lodr: str | os.PathLike[str] | None = None,
        hotwords: Sequence[str | Hotword] = (),
    ) -> "Recognizer":
        """Open a model folder or the folder of a training run.

        Args:
            folder: what `zipasr train --out` wrote, or a checkpoint of it.
            device: cpu, cuda, cuda:N, mps or auto.
            search: how to search; None: the best that the model's heads allow, see `SearchConfig.method`.
            lm: a language model: a folder of `zipasr train-lm`, or an ARPA file of tokens or words.
            lodr: an ARPA file of tokens, to take off what the transducer has learnt of language (LODR); needs `lm`.
            hotwords: phrases to prefer, in plain words.
        Raises:
            CheckpointError: a folder is missing, incomplete or damaged.
            DataError: an ARPA file is missing or damaged.
            ConfigError: this machine has no such device, the model lacks the head that the search needs, a language model
                is of another vocabulary or of no use to the search, or a phrase cannot be written.
        """
        chosen = select_device(device)
        model, tokenizer = AsrModel.load(resolve_model_folder(folder))
        language_models = _open_language_models(lm, lodr, tokenizer, chosen)
        return cls(
            model.to(chosen),
            tokenizer,
            features=model.config.features,
            device=chosen,
            search=search,
            language_models=language_models,
            hotwords=hotwords,
        )

    def transcribe(
        self,
        audio: AudioSource,
        *,
        sample_rate_hz: int | None = None,
        format: str | None = None,
        channel: int | None = None,
        hotwords: Sequence[str | Hotword] | None = None,
    ) -> Transcript:
        """Transcribe one recording: a path, the bytes of a file, a file object or an array; see `audio.load_audio`.

        Args:
            audio: the recording.
            sample_rate_hz: of an array or of raw samples.
            format: of samples without a header.
            channel: the one to listen to, from 0; None: all, mixed.
            hotwords: phrases to prefer, instead of the recogniser's own; empty: none.
        Returns:
            The transcript; empty for sound without words or too short to hold any (below 90 ms).
        Raises:
            AudioError: the recording is missing, empty, damaged or of an unknown kind.
            ConfigError: a phrase cannot be written in the model's vocabulary.
        """
        samples = load_audio(audio, sample_rate_hz=sample_rate_hz, format=format, channel=channel)
        (transcript,) = self.transcribe_many([samples], hotwords=hotwords)
        return dataclasses.replace(transcript, channel=channel)

    def transcribe_channels(
        self,
        audio: AudioSource,
        *,
        sample_rate_hz: int | None = None,
        format: str | None = None,
        hotwords: Sequence[str | Hotword] | None = None,
    ) -> list[Transcript]:
        """Transcribe each channel of a recording by itself, as of a call with one speaker on each; see `transcribe`."""
        if not isinstance(audio, (str, os.PathLike, bytes, np.ndarray, Tensor)):
            audio = audio.read()  # once for all channels
        number = num_channels(audio, sample_rate_hz=sample_rate_hz, format=format)
        return [
            self.transcribe(audio, sample_rate_hz=sample_rate_hz, format=format, channel=channel, hotwords=hotwords)
            for channel in range(number)
        ]

    def transcribe_many(
        self,
        recordings: Sequence[np.ndarray],
        *,
        max_batch_s: float | None = None,
        hotwords: Sequence[str | Hotword] | None = None,
    ) -> list[Transcript]:
        """Transcribe many recordings, those of similar length together.

        Args:
            recordings: each (samples,) float32 at 16 kHz.
            max_batch_s: seconds of sound in a batch, padding included; a longer recording is a batch of its own. None: 60
                on a CPU, 600 elsewhere.
            hotwords: phrases to prefer, instead of the recogniser's own; empty: none.
        Returns:
            A transcript for each, in the order given; they do not depend on what else was given.
        """
        durations_s = [len(samples) / SAMPLE_RATE_HZ for samples in recordings]
        lens = [self.fbank.num_frames(len(samples)) for samples in recordings]
        return self._transcribe_all(durations_s, lens, lambda i: self.fbank(recordings[i]), max_batch_s, hotwords)

    def transcribe_features(self, features: Sequence[Tensor], *, max_batch_s: float | None = None) -> list[Transcript]:
        """Transcribe features, each (T, F) at 100 Hz as this model's `fbank` makes them; see `transcribe_many`."""
        lens = [len(frames) for frames in features]
        durations_s = [length / _FEATURES_PER_S for length in lens]
        return self._transcribe_all(durations_s, lens, features.__getitem__, max_batch_s, None)

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
        hotwords: Sequence[str | Hotword] | None,
    ) -> list[Transcript]:
        graph = self._graph(self.hotwords if hotwords is None else tuple(hotwords))
        search = self._settled(graph)
        transcripts = [Transcript("", duration_s=duration_s) for duration_s in durations_s]
        for batch in self.batches(lens, max_batch_s=max_batch_s):
            encoded = self.encode([features_of(i) for i in batch])
            ranked = self.find(encoded, search, hotwords=graph)
            for i, transcript in zip(batch, self.to_transcripts(ranked, [durations_s[i] for i in batch]), strict=True):
                transcripts[i] = transcript
        return transcripts

    def _graph(self, hotwords: tuple[str | Hotword, ...]) -> HotwordGraph | None:
        """The phrases as the searches take them; the last few sets are kept."""
        if not hotwords:
            return None
        graph = self._graphs.get(hotwords)
        if graph is None:
            graph = encode_hotwords(hotwords, self.tokenizer, default_boost=self._asked_search.hotword_boost)
            if len(self._graphs) >= _MAX_KEPT_GRAPHS:
                del self._graphs[next(iter(self._graphs))]
            self._graphs[hotwords] = graph
        return graph

    def _settled(self, graph: HotwordGraph | None) -> SearchConfig:
        return settled(
            self._asked_search,
            self.scorer,
            language_models=self.language_models,
            has_hotwords=graph is not None,
        )

    def find(
        self, encoded: Encoded, search: SearchConfig | None = None, *, hotwords: HotwordGraph | None = None
    ) -> list[list[Hypothesis]]:
        """The best readings of a batch of encoder frames, by this search or another that `search.settled` has checked."""
        return find_hypotheses(
            self.scorer,
            encoded,
            self.search if search is None else search,
            unk_id=self.tokenizer.unk_id,
            language_models=self.language_models,
            hotwords=hotwords,
        )

    def batches(self, lens: Sequence[int], *, max_batch_s: float | None = None) -> Iterator[list[int]]:
        """Indices of recordings that go together, longest first; those too short for a single frame are left out.

        Args:
            lens: features of each recording, at 100 Hz.
            max_batch_s: see `transcribe_many`.
        """
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

    def to_transcripts(self, ranked: Sequence[Sequence[Hypothesis]], durations_s: Sequence[float]) -> list[Transcript]:
        """The transcripts of a batch of utterances from their readings, the best first."""
        transcripts = []
        for hypotheses, duration_s in zip(ranked, durations_s, strict=True):
            best, *others = [self._to_transcript(hypothesis, duration_s) for hypothesis in hypotheses]
            transcripts.append(dataclasses.replace(best, alternatives=tuple(others)) if others else best)
        return transcripts

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


def _open_language_models(
    lm: str | os.PathLike[str] | None, lodr: str | os.PathLike[str] | None, tokenizer: Tokenizer, device: torch.device
) -> LanguageModels:
    if lm is None and lodr is None:
        return NO_LANGUAGE_MODELS
    from zipasr.lm import load_language_model, load_token_ngram  # most uses need none; reading ARPA takes a package

    return LanguageModels(
        load_language_model(lm, tokenizer, device=device) if lm is not None else None,
        load_token_ngram(lodr, tokenizer) if lodr is not None else None,
    )


def load(
    folder: str | os.PathLike[str],
    *,
    device: str = "auto",
    search: SearchConfig | None = None,
    lm: str | os.PathLike[str] | None = None,
    lodr: str | os.PathLike[str] | None = None,
    hotwords: Sequence[str | Hotword] = (),
) -> Recognizer:
    """Open a model folder or the folder of a training run; see `Recognizer.load`."""
    return Recognizer.load(folder, device=device, search=search, lm=lm, lodr=lodr, hotwords=hotwords)
