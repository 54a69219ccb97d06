"""The `Recognizer`: recordings in, transcripts out.

Sound becomes features (T, F) at 100 Hz, those become encoder frames at 25 Hz in batches of similar length, a search
gives a hypothesis for each, and the tokenizer turns that into a `Transcript`. After every utterance, the longest of a
batch included, come a few frames of padding, so that the result does not depend on what else is in the batch. What is
longer than a piece is cut into pieces first (`long_recording.py`).
"""

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from zipasr.audio import SAMPLE_RATE_HZ, num_channels, read_blocks, rereadable
from zipasr.device import Precision, arithmetic
from zipasr.encoder.rates import FEATURE_RATE_HZ, window_length
from zipasr.features import PADDING_VALUE, Fbank, FbankConfig
from zipasr.nn.encoded import Encoded
from zipasr.onnx_runtime import OnnxStreamingModel
from zipasr.recognizer.chunks import STREAM_TAIL_FRAMES, ChunkConfig, ChunkSizes, sizes_of
from zipasr.recognizer.files import FileResult, ReadChannel, in_batches
from zipasr.recognizer.long_recording import LongRecordingConfig, transcribe_blocks
from zipasr.recognizer.opening import open_language_models, open_model
from zipasr.recognizer.precision import checked_frames, checked_precision
from zipasr.recognizer.reading import to_transcript
from zipasr.recognizer.stream import Stream, decode_streams
from zipasr.search.confidence import Calibration, read_calibrations
from zipasr.search.default_search import read_default_search
from zipasr.search.endpoint import EndpointConfig
from zipasr.search.hotwords import Hotword, HotwordGraph, encode_hotwords
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.scorer import Scorer
from zipasr.search.strategy import (
    NO_LANGUAGE_MODELS,
    LanguageModels,
    SearchConfig,
    find_hypotheses,
    settled,
    settled_for_streams,
)
from zipasr.search.word_times import TokenSpan, align_hypotheses
from zipasr.tokenizer import Tokenizer
from zipasr.transcript import Transcript
from zipasr.vad import Detector

__all__ = [
    "TAIL_PADDING_FRAMES",
    "AudioSource",
    "FileResult",
    "Hotword",
    "Recognizer",
    "SearchConfig",
    "load",
]

TAIL_PADDING_FRAMES = 32
"""Features of padding after every utterance. With 24 or more, results alone and in a batch agree within 6e-6."""
_CPU_BATCH_S, _ACCELERATOR_BATCH_S = 60.0, 600.0
# On two CPU cores the encoder's time per second of sound is flat from 8 to 60 s in a batch and a third higher at 240 s,
# which no longer fits the caches (`small`, sentences of 4 s and of 30 s); an accelerator wants many at once.
_CPU_SHORTEST_SHARE = 0.6
"""On a CPU nothing shorter than this share of the longest goes into its batch: padding costs as much as sound. Eight prompts
of any length at once are transcribed 1.2 times as fast as all in one batch (`tiny`, one core); 0.5 to 0.8 are alike."""
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
        precision: Precision = "float32",
        search: SearchConfig | None = None,
        default_search: SearchConfig | None = None,
        tail_padding_frames: int = TAIL_PADDING_FRAMES,
        language_models: LanguageModels = NO_LANGUAGE_MODELS,
        hotwords: Sequence[str | Hotword] = (),
        calibrations: Mapping[str, Calibration] | None = None,
        long_recordings: LongRecordingConfig | None = None,
        chunks: ChunkConfig | None = None,
        use_true_times: bool = True,
    ) -> None:
        """Put the parts together.

        Args:
            scorer: the model, on `device` and in eval mode.
            tokenizer: the one it was trained with.
            features: what the model listens to; None: the published filterbank.
            device: where the features go.
            precision: what the encoder computes in; heads and searches are float32 always.
            search: how to search; None: `auto`, see `SearchConfig.method`.
            default_search: what `auto` follows, if the model can do it; None: the best that its heads allow.
            tail_padding_frames: padding after every utterance at 100 Hz; 0 is what the original system does, whose
                results depend on the batch.
            language_models: what the beam searches know of language beside the model.
            hotwords: phrases to prefer wherever a call does not name its own.
            calibrations: of the confidences of words, by the method of search that they were measured with.
            long_recordings: how to cut what is too long to transcribe at once; None: the defaults.
            chunks: in which chunks a causal model hears streams, and whole recordings if it is to simulate streaming.
            use_true_times: whether times are where the sound is, found by aligning the text with the CTC head; without
                such a head, and without this, they are when the search emitted the tokens.
        Raises:
            ConfigError: the model lacks the head that the search needs, the search cannot use language models or
                hotwords, a phrase cannot be written in the model's vocabulary, it cannot hear such chunks, or it or the
                device cannot compute in such a precision.
            ValueError: `tail_padding_frames` is negative.
        """
        if tail_padding_frames < 0:
            raise ValueError(f"tail_padding_frames must be 0 or more, but is {tail_padding_frames}")
        self.scorer, self.tokenizer, self.device = scorer, tokenizer, torch.device(device)
        self.precision = checked_precision(precision, scorer, self.device)
        self.fbank = Fbank(features)
        self.tail_padding_frames = tail_padding_frames
        self.language_models = language_models
        self._asked_search = search or SearchConfig()
        self._default_search = default_search
        self._graphs: dict[tuple[str | Hotword, ...], HotwordGraph] = {}
        self.hotwords = tuple(hotwords)
        self.search = self._settled(self._graph(self.hotwords))
        self.calibrations = dict(calibrations or {})
        self.long_recordings = long_recordings or LongRecordingConfig()
        self.use_true_times = use_true_times and scorer.has_ctc
        self._chunks = chunks or ChunkConfig()
        self.chunk_sizes: ChunkSizes | None = None
        """In which chunks whole recordings are heard; None: as a whole."""
        if chunks is not None or isinstance(scorer, OnnxStreamingModel):
            sizes = sizes_of(scorer, self._chunks.chunk_frames_50hz, self._chunks.left_context_frames_50hz)
            if self._chunks.simulate_streaming or isinstance(scorer, OnnxStreamingModel):
                self.chunk_sizes = sizes
        self._detector: tuple[Detector | None] | None = None  # None: not looked for yet

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        *,
        device: str = "auto",
        precision: Precision = "float32",
        search: SearchConfig | None = None,
        explicit: Iterable[str] = (),
        lm: str | os.PathLike[str] | None = None,
        lodr: str | os.PathLike[str] | None = None,
        hotwords: Sequence[str | Hotword] = (),
        long_recordings: LongRecordingConfig | None = None,
        chunks: ChunkConfig | None = None,
    ) -> "Recognizer":
        """Open a model folder, the folder of a training run, or one of exported graphs.

        Args:
            folder: what `zipasr train --out` wrote, or a checkpoint of it, or what `zipasr export` wrote.
            device: cpu, cuda, cuda:N, mps or auto.
            precision: what the encoder computes in: float32, tf32 (CUDA), bfloat16 or float16.
            search: how to search; None: the default of the folder, see `SearchConfig.method`.
            explicit: fields of `search` that hold although they are as usual, such as a beam of 4 where the folder has 8.
            lm: a language model: a folder of `zipasr train-lm`, or an ARPA file of tokens or words.
            lodr: an ARPA file of tokens, to take off what the transducer has learnt of language (LODR); needs `lm`.
            hotwords: phrases to prefer, in plain words.
            long_recordings: how to cut what is too long to transcribe at once; None: the defaults.
            chunks: in which chunks a causal model hears streams, and whole recordings if it is to simulate streaming.
        Raises:
            CheckpointError: a folder is missing, incomplete or damaged.
            DataError: an ARPA file is missing or damaged.
            ConfigError: this machine has no such device or precision, the model lacks the head that the search needs, a
                language model is of another vocabulary or of no use to the search, a phrase cannot be written, or the
                model cannot hear such chunks.
        """
        scorer, tokenizer, features, chosen, path = open_model(folder, device)
        default = read_default_search(path)
        return cls(
            scorer,
            tokenizer,
            features=features,
            device=chosen,
            precision=precision,
            search=search,
            default_search=default.search.reset(explicit) if default is not None else None,
            language_models=open_language_models(lm, lodr, tokenizer, chosen),
            hotwords=hotwords,
            calibrations=read_calibrations(path),
            long_recordings=long_recordings,
            chunks=chunks,
        )

    def transcribe(
        self,
        audio: AudioSource,
        *,
        sample_rate_hz: int | None = None,
        format: str | None = None,
        channel: int | None = None,
        audio_track: int | None = None,
        allow_damaged: bool = False,
        hotwords: Sequence[str | Hotword] | None = None,
        on_progress: Callable[[float], None] | None = None,
    ) -> Transcript:
        """Transcribe one recording of any length: a path, the bytes of a file, a file object or an array.

        See `audio.load_audio` for what can be read. Recordings of more than `long_recordings.max_piece_s` are read and
        transcribed piece by piece, in memory that does not grow with them; they have no alternatives.

        Args:
            audio: the recording.
            sample_rate_hz: of an array or of raw samples.
            format: of samples without a header.
            channel: the one to transcribe, from 0; None: all, mixed.
            audio_track: the one to transcribe of a file with several, from 0; None: its default one.
            allow_damaged: whether to transcribe a damaged or cut file, with silence for what cannot be decoded.
            hotwords: phrases to prefer, instead of the recogniser's own; empty: none.
            on_progress: called with the seconds that are done of a recording that takes several pieces.
        Returns:
            The transcript; empty for sound without words or too short to hold any (below 90 ms).
        Raises:
            AudioError: the recording is missing, empty, damaged or of an unknown kind.
            ConfigError: a phrase cannot be written in the model's vocabulary, or speech cannot be looked for.
        """
        blocks = read_blocks(
            audio,
            sample_rate_hz=sample_rate_hz,
            format=format,
            channel=channel,
            audio_track=audio_track,
            allow_damaged=allow_damaged,
        )
        samples, rest = self._short_or_rest(blocks)
        if samples is not None:
            (transcript,) = self.transcribe_many([samples], hotwords=hotwords)
        else:
            transcript = self._transcribe_long(rest, hotwords, on_progress)
        return dataclasses.replace(transcript, channel=channel)

    def transcribe_channels(
        self,
        audio: AudioSource,
        *,
        sample_rate_hz: int | None = None,
        format: str | None = None,
        audio_track: int | None = None,
        allow_damaged: bool = False,
        hotwords: Sequence[str | Hotword] | None = None,
    ) -> list[Transcript]:
        """Transcribe each channel of a recording by itself, as of a call with one speaker on each; see `transcribe`."""
        if not isinstance(audio, (str, os.PathLike, bytes, np.ndarray, Tensor)):
            audio = audio.read()  # once for all channels
        with rereadable(audio) as again:
            number = num_channels(
                again,
                sample_rate_hz=sample_rate_hz,
                format=format,
                audio_track=audio_track,
                allow_damaged=allow_damaged,
            )
            transcripts = []
            for channel in range(number):
                _rewind(again)
                transcripts.append(
                    self.transcribe(
                        again,
                        sample_rate_hz=sample_rate_hz,
                        format=format,
                        channel=channel,
                        audio_track=audio_track,
                        allow_damaged=allow_damaged,
                        hotwords=hotwords,
                    )
                )
            return transcripts

    def transcribe_files(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        channel: int | None = None,
        is_per_channel: bool = False,
        audio_track: int | None = None,
        allow_damaged: bool = False,
        hotwords: Sequence[str | Hotword] | None = None,
        on_progress: Callable[[float], None] | None = None,
    ) -> Iterator[FileResult]:
        """Transcribe files one after the other, short ones that follow each other in batches.

        Args:
            paths: files and pipes; read as they are needed.
            channel: see `transcribe`.
            is_per_channel: whether every channel is transcribed by itself.
            audio_track: see `transcribe`.
            allow_damaged: see `transcribe`.
            hotwords: see `transcribe`.
            on_progress: see `transcribe`.
        Yields:
            A result for each file, or each channel, in order. A file that cannot be read has its error and stops nothing.
        """

        def read_channels(path: str) -> Iterator[ReadChannel]:
            """What is to be transcribed of a file, each channel as soon as it is read."""
            with rereadable(path) if is_per_channel else nullcontext(path) as again:
                channels: Iterable[int | None] = [channel]
                if is_per_channel:
                    channels = range(num_channels(again, audio_track=audio_track, allow_damaged=allow_damaged))
                for one in channels:
                    _rewind(again)
                    blocks = read_blocks(again, channel=one, audio_track=audio_track, allow_damaged=allow_damaged)
                    yield ReadChannel(one, *self._short_or_rest(blocks))

        return in_batches(
            paths,
            read_channels=read_channels,
            transcribe_many=lambda recordings: self.transcribe_many(recordings, hotwords=hotwords),
            transcribe_long=lambda blocks: self._transcribe_long(blocks, hotwords, on_progress),
        )

    def _short_or_rest(self, blocks: Iterator[np.ndarray]) -> tuple[np.ndarray | None, Iterator[np.ndarray]]:
        """All samples of a recording that is transcribed whole; otherwise None and its blocks, from the first on."""
        read: list[np.ndarray] = []
        num_samples = 0
        for block in blocks:
            read.append(block)
            num_samples += len(block)
            if num_samples > self.long_recordings.max_piece_s * SAMPLE_RATE_HZ:
                return None, itertools.chain(read, blocks)
        return np.concatenate(read) if read else np.zeros(0, np.float32), iter(())

    def _transcribe_long(
        self,
        blocks: Iterator[np.ndarray],
        hotwords: Sequence[str | Hotword] | None,
        on_progress: Callable[[float], None] | None,
    ) -> Transcript:
        if self._detector is None:
            self._detector = (self.long_recordings.detector(),)
        return transcribe_blocks(
            blocks,
            lambda pieces: self.transcribe_many(pieces, hotwords=hotwords),
            self.long_recordings,
            detector=self._detector[0],
            joiner="" if self.tokenizer.is_spaceless else " ",
            on_progress=on_progress,
        )

    def stream(
        self,
        *,
        chunk_frames_50hz: int | None = None,
        left_context_frames_50hz: int | None = None,
        hotwords: Sequence[str | Hotword] | None = None,
        endpoint: EndpointConfig | None = None,
    ) -> Stream:
        """Begin to transcribe sound that is still coming in; see `Stream`. Needs a model that was trained to be causal.

        Args:
            chunk_frames_50hz: frames that are encoded at once, instead of the recogniser's `ChunkConfig`; see there.
            left_context_frames_50hz: frames before a chunk that attention sees, likewise.
            hotwords: phrases to prefer, instead of the recogniser's own; empty: none.
            endpoint: what ends an utterance; None: the published rules.
        Raises:
            ConfigError: the model cannot stream, or not with this chunk or left context; the search is
                attention_rescoring; or a phrase cannot be written in the model's vocabulary.
        """
        graph = self.hotword_graph(hotwords)
        search = settled_for_streams(
            self._asked_search,
            self.scorer,
            language_models=self.language_models,
            has_hotwords=graph is not None,
            default=self._default_search,
        )
        return Stream(
            self,
            search,
            chunk_frames_50hz=chunk_frames_50hz or self._chunks.chunk_frames_50hz,
            left_context_frames_50hz=left_context_frames_50hz or self._chunks.left_context_frames_50hz,
            hotwords=graph,
            endpoint=endpoint or EndpointConfig(),
        )

    def decode_streams(self, streams: Iterable[Stream]) -> int:
        """Take all streams that are ready one chunk further, in one batch, wherever they are; return how many they were.

        Raises:
            ValueError: a stream is of another recogniser.
        """
        streams = list(streams)
        if any(stream.recognizer is not self for stream in streams):
            raise ValueError("streams must be those of this recogniser, but one is another's; decode them separately")
        return decode_streams(streams)

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
        durations_s = [length / FEATURE_RATE_HZ for length in lens]
        return self._transcribe_all(durations_s, lens, features.__getitem__, max_batch_s, None)

    def encode(self, features: Sequence[Tensor]) -> Encoded:
        """Encoder frames at 25 Hz of a batch of features, each (T, F) at 100 Hz, with the padding after each.

        Where streaming is simulated, some of the padding counts as sound, as it does at the end of a stream.
        """
        chunk, left_context = self.chunk_sizes or (None, None)
        lens = [len(frames) + (STREAM_TAIL_FRAMES if chunk is not None else 0) for frames in features]
        longest = max(lens) + self.tail_padding_frames
        if chunk is not None:
            longest = max(longest, window_length(chunk))  # what is shorter than a chunk would be one of its own length
        padded_NTF = torch.full((len(features), longest, features[0].shape[1]), PADDING_VALUE)
        for row, frames in zip(padded_NTF, features, strict=True):
            row[: len(frames)] = frames
        with torch.inference_mode(), arithmetic(self.precision, self.device):
            encoded = self.scorer.encode(
                padded_NTF.to(self.device),
                torch.tensor(lens, device=self.device),
                chunk_frames_50hz=chunk,
                left_context_frames_50hz=left_context,
            )
        return checked_frames(encoded, self.precision)

    def _transcribe_all(
        self,
        durations_s: Sequence[float],
        lens: Sequence[int],
        features_of: Callable[[int], Tensor],
        max_batch_s: float | None,
        hotwords: Sequence[str | Hotword] | None,
    ) -> list[Transcript]:
        graph = self.hotword_graph(hotwords)
        search = self._settled(graph)
        transcripts = [Transcript("", duration_s=duration_s) for duration_s in durations_s]
        for batch in self.batches(lens, max_batch_s=max_batch_s):
            features = [features_of(i) for i in batch]
            encoded = self.encode(features)
            ranked = self.find(encoded, search, hotwords=graph)
            calibration = self.calibrations.get(search.method)
            made = self._to_transcripts(encoded, features, ranked, [durations_s[i] for i in batch], calibration)
            for i, transcript in zip(batch, made, strict=True):
                transcripts[i] = transcript
        return transcripts

    def hotword_graph(self, hotwords: Sequence[str | Hotword] | None = None) -> HotwordGraph | None:
        """Phrases as `find` takes them, None without any; those of the recogniser if none are named.

        Raises:
            ConfigError: a phrase cannot be written in the model's vocabulary, or a boost is out of range.
        """
        return self._graph(self.hotwords if hotwords is None else tuple(hotwords))

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
            default=self._default_search,
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
        shortest_share = _CPU_SHORTEST_SHARE if self.device.type == "cpu" else 0.0
        batch: list[int] = []
        for i in sorted(long_enough, key=lambda i: -lens[i]):
            longest, own = (lens[j] + self.tail_padding_frames for j in (batch[0] if batch else i, i))
            is_full = longest * (len(batch) + 1) > max_batch_s * FEATURE_RATE_HZ
            if batch and (is_full or own < shortest_share * longest):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _to_transcripts(
        self,
        encoded: Encoded,
        features: Sequence[Tensor],
        ranked: Sequence[Sequence[Hypothesis]],
        durations_s: Sequence[float],
        calibration: Calibration | None,
    ) -> list[Transcript]:
        """The best reading of every utterance of a batch, with the others as its alternatives."""
        readings: list[list[Transcript]] = [[] for _ in ranked]
        for rank in range(max(map(len, ranked), default=0)):
            hypotheses = [hypotheses[min(rank, len(hypotheses) - 1)] for hypotheses in ranked]
            spans: Sequence[Sequence[TokenSpan] | None] = [None] * len(hypotheses)
            if self.use_true_times:
                spans = align_hypotheses(self.scorer, encoded, features, hypotheses, tokenizer=self.tokenizer)
            for n, hypothesis in enumerate(hypotheses):
                if rank < len(ranked[n]):
                    readings[n].append(
                        to_transcript(
                            hypothesis,
                            durations_s[n],
                            tokenizer=self.tokenizer,
                            spans=spans[n],
                            calibration=calibration,
                        )
                    )
        return [dataclasses.replace(best, alternatives=tuple(others)) for best, *others in readings]


def _rewind(source: AudioSource) -> None:
    """Go back to the start of a copy, which has been read before."""
    if hasattr(source, "seek"):
        source.seek(0)


def load(
    folder: str | os.PathLike[str],
    *,
    device: str = "auto",
    precision: Precision = "float32",
    search: SearchConfig | None = None,
    lm: str | os.PathLike[str] | None = None,
    lodr: str | os.PathLike[str] | None = None,
    hotwords: Sequence[str | Hotword] = (),
    long_recordings: LongRecordingConfig | None = None,
    chunks: ChunkConfig | None = None,
) -> Recognizer:
    """Open a model folder or the folder of a training run; see `Recognizer.load`."""
    return Recognizer.load(
        folder,
        device=device,
        precision=precision,
        search=search,
        lm=lm,
        lodr=lodr,
        hotwords=hotwords,
        long_recordings=long_recordings,
        chunks=chunks,
    )
