"""The `Recognizer`: recordings in, transcripts out.

Audio becomes features (T, F) at 100 Hz, those become encoder frames at 25 Hz in batches of similar length, a search finds
hypotheses for each, and the tokenizer turns them into a `Transcript`. Recordings longer than a piece are cut into pieces
first (`long_recording.py`). What is loaded is in `Recognizer.engine`; this file resolves the settings of a call.
"""

# Differs: more than 400 lines, most of them docstrings of the one class that every user calls.

import dataclasses
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from zipasr.device import Precision
from zipasr.errors import ConfigError
from zipasr.features import Fbank, FbankConfig
from zipasr.lm.ngram_file import NGRAM_FILE
from zipasr.recognizer.batches import transcribe_batches
from zipasr.recognizer.chunks import ChunkConfig, ChunkSizes, recording_sizes, sizes_of
from zipasr.recognizer.endpoint import EndpointConfig
from zipasr.recognizer.engine import TAIL_PADDING_FRAMES, Engine
from zipasr.recognizer.files import AudioSource, FileResult, ReadChannel, read_channels, transcribe_in_batches
from zipasr.recognizer.incoming import IncomingAudio, decode_streams
from zipasr.recognizer.long_recording import LongRecordingConfig, transcribe_blocks
from zipasr.recognizer.opening import open_language_models, open_model
from zipasr.recognizer.spotter import KeywordSpotter
from zipasr.recognizer.stream import Stream
from zipasr.search.confidence import Calibration, read_calibrations
from zipasr.search.default_search import read_default_search
from zipasr.search.graph import LoadedGraph, load_graph
from zipasr.search.graph.rejection import rejection_threshold
from zipasr.search.hotwords import Hotword, HotwordGraph, encode_hotwords
from zipasr.search.keywords import DEFAULT_BOOST, DEFAULT_THRESHOLD, Keyword, SpotterConfig, encode_keywords
from zipasr.search.scorer import Scorer
from zipasr.search.strategy import NO_LANGUAGE_MODELS, LanguageModels, Method, SearchConfig, resolve_search
from zipasr.tokenizer import Tokenizer
from zipasr.transcript import Transcript
from zipasr.vad import Detector

__all__ = ["AudioSource", "Hotword", "Keyword", "Recognizer", "SearchConfig", "SpotterConfig", "load"]

logger = logging.getLogger(__name__)

_MAX_HOTWORD_GRAPHS = 32
"""Sets of hotwords whose graphs are kept, for calls that name the same ones."""


class Recognizer:
    """A model, its tokenizer and a search. Use `load` for a model that was trained here."""

    # Differs: fifteen parameters, keyword-only settings that callers combine as they need; a class for them would be a
    # second way to set what `Engine`, `SearchConfig`, `ChunkConfig` and `LongRecordingConfig` hold.
    def __init__(
        self,
        scorer: Scorer,
        tokenizer: Tokenizer,
        *,
        features: FbankConfig | None = None,
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
        search: SearchConfig | Method | None = None,
        default_search: SearchConfig | None = None,
        explicit: Iterable[str] = (),
        tail_padding_frames: int = TAIL_PADDING_FRAMES,
        language_models: LanguageModels = NO_LANGUAGE_MODELS,
        hotwords: Sequence[str | Hotword] = (),
        graph: LoadedGraph | None = None,
        calibrations: Mapping[str, Calibration] | None = None,
        long_recordings: LongRecordingConfig | None = None,
        chunks: ChunkConfig | None = None,
        use_true_times: bool = True,
    ) -> None:
        """A recognizer of these parts. Settings that are not explained here are those of `load` and fields of `Engine`.

        Args:
            features: configuration of the model's features; None: the published filterbank.
            graph: what may be said, in calls that name no graph; None: anything.
            default_search: what `auto` stands for, if the model has its heads; None: the best that they allow.
            tail_padding_frames: padding after every utterance at 100 Hz; 0 as in the original, where the batch matters.
            use_true_times: no effect without a CTC head.
        Raises:
            ConfigError: as `load`.
            ValueError: `tail_padding_frames` is negative.
        """
        if tail_padding_frames < 0:
            raise ValueError(f"tail_padding_frames must be 0 or more, but is {tail_padding_frames}")
        self._chunks = chunks or ChunkConfig()
        self.engine = Engine(
            scorer=scorer,
            tokenizer=tokenizer,
            fbank=Fbank(features),
            device=torch.device(device),
            precision=precision,
            language_models=language_models,
            calibrations=dict(calibrations or {}),
            tail_padding_frames=tail_padding_frames,
            chunk_sizes=recording_sizes(scorer, chunks),
            use_true_times=use_true_times and scorer.has_ctc,
        )
        self.hotwords = _phrases(hotwords)
        self._requested = SearchConfig(method=search) if isinstance(search, str) else search or SearchConfig()
        self._default_search, self._explicit = default_search, frozenset(explicit)
        self.graph = graph
        self.search = self._resolved_for(self._requested, graph, has_hotwords=bool(self.hotwords))
        self._encode_hotwords = lru_cache(_MAX_HOTWORD_GRAPHS)(
            partial(encode_hotwords, tokenizer=tokenizer, default_boost=self.search.hotword_boost)
        )
        self.hotword_graph()  # to find at once what cannot be written
        self.long_recordings = long_recordings or LongRecordingConfig()

    # Differs: twelve parameters, for the same reason.
    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        *,
        device: str = "auto",
        precision: Precision = "float32",
        search: SearchConfig | Method | None = None,
        explicit: Iterable[str] = (),
        lm: str | os.PathLike[str] | None = None,
        lodr: str | os.PathLike[str] | None = None,
        hotwords: Sequence[str | Hotword] = (),
        graph: str | os.PathLike[str] | None = None,
        long_recordings: LongRecordingConfig | None = None,
        chunks: ChunkConfig | None = None,
    ) -> "Recognizer":
        """The recognizer of a model folder, the folder of a training run or of ONNX graphs, or a model on the hub.

        Args:
            folder: what `zipasr train --out` or `zipasr export` wrote, a checkpoint, or ONNX graphs of another project; or
                `hf:OWNER/NAME[@REVISION][#SUBFOLDER]`, which is fetched once (`zipasr.hub.local_model`).
            device: cpu, cuda, cuda:N, mps or auto.
            precision: precision of the encoder: float32, tf32 (CUDA), bfloat16 or float16.
            search: how to search, or the name of a method; None: the default of the folder, see `SearchConfig.method`.
            explicit: fields of `search` that apply although they have their default value, such as a beam of 4 where the
                folder has 8.
            lm: a language model: a folder of `zipasr train-lm`, an ARPA file of tokens or words, or an `ngram.safetensors`.
            lodr: an n-gram of tokens, to subtract the language model that the transducer has learned (LODR); needs `lm`.
            hotwords: phrases to prefer in calls that name none, in plain words.
            graph: folder of `zipasr compile-graph`: what may be said, in calls that name no graph.
            long_recordings: how to cut recordings that are too long to transcribe at once; None: the defaults.
            chunks: chunks in which a causal model encodes streams, and whole recordings if it simulates streaming.
        Raises:
            CheckpointError: a folder is missing, incomplete or damaged.
            DataError: an ARPA file or the folder of a graph is missing or damaged.
            ConfigError: this machine has no such device or precision, the model lacks the head that the search needs, a
                language model or a graph has another vocabulary or the search cannot use it, a phrase cannot be written, or
                the model does not support these chunks.
        """
        scorer, tokenizer, features, chosen, path = open_model(folder, device)
        default = read_default_search(path)
        models = open_language_models(lm, lodr, tokenizer, chosen, path)
        if default is not None and default.search.ngram_scale and models.own is None:
            logger.warning("%s lacks %s, which its default search uses; it searches without it", path, NGRAM_FILE)
        return cls(
            scorer,
            tokenizer,
            features=features,
            device=chosen,
            precision=precision,
            search=search,
            default_search=None if default is None else default.search,
            explicit=explicit,
            language_models=models,
            hotwords=hotwords,
            graph=None if graph is None else load_graph(graph, tokenizer),
            calibrations=read_calibrations(path),
            long_recordings=long_recordings,
            chunks=chunks,
        )

    # Differs: nine parameters, since a call may differ from others in each.
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
        graph: LoadedGraph | None = None,
        on_progress: Callable[[float], None] | None = None,
    ) -> Transcript:
        """The transcript of one recording of any length: a path, the bytes of a file, a file object or an array.

        See `audio.load_audio` for the formats. Recordings of more than `long_recordings.max_piece_s` are read and
        transcribed piece by piece, in memory that does not grow with them; they have no alternatives.

        Args:
            audio: the recording.
            sample_rate_hz: sampling rate of an array or of raw samples.
            format: format of samples without a header.
            channel: index of the channel to transcribe, from 0; None: all, mixed.
            audio_track: index of the audio track of a file with several, from 0; None: the default track.
            allow_damaged: whether to accept a damaged or truncated file, with silence for what cannot be decoded.
            hotwords: phrases to prefer, instead of the recognizer's own; empty: none.
            graph: what may be said, from `load_graph`, instead of the recognizer's graph and hotwords.
            on_progress: called with the seconds that are done of a recording in several pieces.
        Returns:
            The transcript; empty for audio without words or too short to hold any (below 90 ms).
        Raises:
            AudioError: the recording is missing, empty, damaged or of an unknown kind.
            ConfigError: a phrase cannot be written in the model's vocabulary, or speech detection is not installed.
        """
        channels = read_channels(
            audio,
            sample_rate_hz=sample_rate_hz,
            format=format,
            channel=channel,
            audio_track=audio_track,
            allow_damaged=allow_damaged,
            max_s=self.long_recordings.max_piece_s,
        )
        (transcript,) = self._transcribe_read(channels, hotwords, graph, on_progress)
        return transcript

    def transcribe_channels(
        self,
        audio: AudioSource,
        *,
        sample_rate_hz: int | None = None,
        format: str | None = None,
        audio_track: int | None = None,
        allow_damaged: bool = False,
        hotwords: Sequence[str | Hotword] | None = None,
        graph: LoadedGraph | None = None,
    ) -> list[Transcript]:
        """The transcript of each channel of a recording, such as a call with one speaker per channel; see `transcribe`."""
        if not isinstance(audio, (str, os.PathLike, bytes, np.ndarray, Tensor)):
            audio = audio.read()  # once for all channels
        channels = read_channels(
            audio,
            is_per_channel=True,
            sample_rate_hz=sample_rate_hz,
            format=format,
            audio_track=audio_track,
            allow_damaged=allow_damaged,
            max_s=self.long_recordings.max_piece_s,
        )
        return list(self._transcribe_read(channels, hotwords, graph))

    def transcribe_files(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        channel: int | None = None,
        is_per_channel: bool = False,
        audio_track: int | None = None,
        allow_damaged: bool = False,
        hotwords: Sequence[str | Hotword] | None = None,
        graph: LoadedGraph | None = None,
        on_progress: Callable[[float], None] | None = None,
    ) -> Iterator[FileResult]:
        """The results of files in their order; short ones that follow each other are transcribed in batches.

        Args:
            paths: files and pipes; each is read when its turn comes.
            is_per_channel: whether to transcribe every channel separately.
            channel, audio_track, allow_damaged, hotwords, graph, on_progress: see `transcribe`.
        Yields:
            A result for each file, or each channel, in order. A file that cannot be read gives its error.
        """
        channels_of = partial(
            read_channels,
            channel=channel,
            is_per_channel=is_per_channel,
            audio_track=audio_track,
            allow_damaged=allow_damaged,
            max_s=self.long_recordings.max_piece_s,
        )
        return transcribe_in_batches(
            paths,
            channels_of=channels_of,
            transcribe_many=lambda recordings: self.transcribe_many(recordings, hotwords=hotwords, graph=graph),
            transcribe_long=lambda blocks: self._transcribe_long(blocks, hotwords, graph, on_progress),
        )

    def _transcribe_read(
        self,
        channels: Iterable[ReadChannel],
        hotwords: Sequence[str | Hotword] | None,
        graph: LoadedGraph | None,
        on_progress: Callable[[float], None] | None = None,
    ) -> Iterator[Transcript]:
        """The transcript of each channel of a recording, one by one."""
        for channel, samples, blocks in channels:
            if samples is not None:
                (transcript,) = self.transcribe_many([samples], hotwords=hotwords, graph=graph)
            else:
                transcript = self._transcribe_long(blocks, hotwords, graph, on_progress)
            yield dataclasses.replace(transcript, channel=channel)

    def _transcribe_long(
        self,
        blocks: Iterator[np.ndarray],
        hotwords: Sequence[str | Hotword] | None,
        graph: LoadedGraph | None,
        on_progress: Callable[[float], None] | None,
    ) -> Transcript:
        return transcribe_blocks(
            blocks,
            lambda pieces: self.transcribe_many(pieces, hotwords=hotwords, graph=graph),
            self.long_recordings,
            detector=self.detector,
            joiner=self.engine.tokenizer.word_joiner,
            on_progress=on_progress,
        )

    @cached_property
    def detector(self) -> Detector | None:
        """The detector of speech, created for the first long recording; None: long recordings are cut into windows."""
        return self.long_recordings.detector()

    def stream(
        self,
        *,
        chunk_frames_50hz: int | None = None,
        left_context_frames_50hz: int | None = None,
        hotwords: Sequence[str | Hotword] | None = None,
        graph: LoadedGraph | None = None,
        endpoint: EndpointConfig | None = None,
    ) -> Stream:
        """A new stream, for audio that is still coming in; see `Stream`. Needs a model that was trained to be causal.

        Args:
            chunk_frames_50hz: frames that are encoded at once, instead of those of the recognizer's `ChunkConfig`.
            left_context_frames_50hz: frames before a chunk that attention sees, likewise.
            hotwords, graph: see `transcribe`.
            endpoint: when an utterance ends; None: the published rules.
        Raises:
            ConfigError: the model cannot stream, or not with this chunk or left context, or a phrase cannot be written in
                the model's vocabulary.
        """
        graph = self.graph if graph is None else graph
        phrases = self._phrases_beside(hotwords, graph)
        return Stream(
            self.engine,
            self._resolved_for(self._requested, graph, has_hotwords=phrases is not None),
            self._sizes(chunk_frames_50hz, left_context_frames_50hz),
            hotwords=phrases,
            graph=graph,
            endpoint=endpoint or EndpointConfig(),
        )

    def spotter(
        self,
        keywords: Sequence[str | Keyword],
        *,
        boost: float = DEFAULT_BOOST,
        threshold: float = DEFAULT_THRESHOLD,
        config: SpotterConfig | None = None,
    ) -> KeywordSpotter:
        """A spotter of keywords in audio that is still coming in; see `KeywordSpotter`. Needs a causal transducer.

        Args:
            keywords: phrases in plain words or in the model's tokens, with or without marks (`search.keywords`).
            boost: nats for each token of a keyword without a boost of its own.
            threshold: mean probability of the tokens from which a keyword counts, for those without one of their own.
            config: how to search; None: the defaults.
        Raises:
            ConfigError: the model cannot stream or has no transducer head, a keyword cannot be written in its vocabulary, or
                a value is out of range.
        """
        config = config or SpotterConfig()
        if config.max_symbols_per_frame is None:
            config = dataclasses.replace(config, max_symbols_per_frame=self.search.max_symbols_per_frame)
        found = encode_keywords(_phrases(keywords), self.engine.tokenizer, default_boost=boost, default_threshold=threshold)
        spotter = KeywordSpotter(self.engine, found, config, self._sizes())
        spotter.stream()  # to find at once that it cannot
        return spotter

    def _sizes(self, chunk_frames_50hz: int | None = None, left_context_frames_50hz: int | None = None) -> ChunkSizes:
        """The chunk and left context of a stream: as given, or else as configured."""
        usual = self._chunks
        return sizes_of(
            self.engine.scorer,
            usual.chunk_frames_50hz if chunk_frames_50hz is None else chunk_frames_50hz,
            usual.left_context_frames_50hz if left_context_frames_50hz is None else left_context_frames_50hz,
        )

    def decode_streams(self, streams: Iterable[IncomingAudio]) -> int:
        """Decode one chunk of every stream that is ready, in one batch; return the number of streams that were ready.

        Raises:
            ValueError: a stream belongs to another recognizer.
        """
        streams = list(streams)
        if any(stream.engine is not self.engine for stream in streams):
            raise ValueError("streams must be those of this recognizer, but one is another's; decode them separately")
        return decode_streams(streams)

    def transcribe_many(
        self,
        recordings: Sequence[np.ndarray],
        *,
        max_batch_s: float | None = None,
        hotwords: Sequence[str | Hotword] | None = None,
        graph: LoadedGraph | Sequence[LoadedGraph] | None = None,
        num_best: int | None = None,
        use_true_times: bool = True,
    ) -> list[Transcript]:
        """The transcripts of many recordings; those of similar length are transcribed together.

        Args:
            recordings: each (samples,) float32 at 16 kHz.
            max_batch_s: see `plan_batches`.
            hotwords: see `transcribe`.
            graph: see `transcribe`; also one for each recording.
            num_best: size of the n-best lists; None: that of the recognizer's search.
            use_true_times: whether to find the times at which tokens were said, which takes 6 % of the time of short
                recordings; otherwise they are the times when the search emitted them. No effect if the recognizer was
                made without true times.
        Returns:
            A transcript for each, in the order given; they do not depend on what else was given.
        Raises:
            ConfigError: a phrase cannot be written in the model's vocabulary, or the search has no n-best list.
            ValueError: there are several graphs, but not one for each recording.
        """
        graphs = self._graphs_of(graph, len(recordings))
        phrases = self._phrases_beside(hotwords, graphs[0] if graphs else None)
        requested = self._requested
        if num_best is not None:
            beam = max(num_best, self.search.beam) if num_best > requested.beam else requested.beam
            requested = dataclasses.replace(requested, num_best=num_best, beam=beam)
        if not graphs:
            groups = {self._resolved_for(requested, has_hotwords=phrases is not None): list(range(len(recordings)))}
        else:  # graphs for CTC and others may need different searches, whatever else is in the batch
            groups = {}
            for i, one in enumerate(graphs):
                groups.setdefault(self._resolved_for(requested, one, has_hotwords=phrases is not None), []).append(i)
        found: dict[int, Transcript] = {}
        for search, chosen in groups.items():
            transcripts = transcribe_batches(
                self.engine,
                [recordings[i] for i in chosen],
                search,
                hotwords=phrases,
                graphs=[graphs[i] for i in chosen] if graphs else (),
                max_batch_s=max_batch_s,
                use_true_times=use_true_times,
            )
            found |= zip(chosen, transcripts, strict=True)
        return [found[i] for i in range(len(recordings))]

    def check_graph(self, graph: LoadedGraph) -> None:
        """Raise ConfigError if calls cannot name this graph, since the model or the search does not go with it."""
        self._resolved_for(self._requested, graph, has_hotwords=False)

    def _graphs_of(self, graph: LoadedGraph | Sequence[LoadedGraph] | None, num: int) -> Sequence[LoadedGraph]:
        """The graph of each of some recordings; empty: they have none."""
        graph = self.graph if graph is None else graph
        if graph is None:
            return ()
        is_one = isinstance(graph, LoadedGraph) or not isinstance(graph, list | tuple)
        graphs = cast(Sequence[LoadedGraph], [graph] * num if is_one else graph)
        if graphs and len(graphs) != num:
            raise ValueError(f"graph must be one, or one for each of {num} recordings, but there are {len(graphs)}")
        return graphs

    def _phrases_beside(self, hotwords: Sequence[str | Hotword] | None, graph: LoadedGraph | None) -> HotwordGraph | None:
        """The hotwords of a call; without a word about them, a graph that is not the recognizer's replaces its own."""
        is_replaced = hotwords is None and graph is not None and graph is not self.graph
        return self.hotword_graph(() if is_replaced else hotwords)

    def _resolved_for(
        self,
        requested: SearchConfig,
        graph: LoadedGraph | None = None,
        *,
        has_hotwords: bool,
    ) -> SearchConfig:
        """The search of a call, checked; so are the settings of its graph."""
        if graph is not None:
            _check_kind(graph)
            rejection_threshold(graph)
        return resolve_search(
            requested,
            self.engine.scorer,
            language_models=self.engine.language_models,
            default=self._default_search,
            explicit=self._explicit,
            has_hotwords=has_hotwords,
            graph=None if graph is None else graph.graph,
        )

    @property
    def can_use_hotwords(self) -> bool:
        """Whether the search can prefer phrases and the vocabulary can encode them."""
        if not self.engine.tokenizer.can_encode or self.graph is not None:
            return False
        try:
            self._resolved_for(self._requested, has_hotwords=True)
        except ConfigError:
            return False
        return True

    def hotword_graph(self, hotwords: Sequence[str | Hotword] | None = None) -> HotwordGraph | None:
        """Phrases as `find` takes them, None without any; None: those of the recognizer. The last few sets are kept.

        Raises:
            ConfigError: a phrase cannot be written in the model's vocabulary, or a boost is out of range.
            ValueError: there is one string instead of a list of phrases.
        """
        phrases = self.hotwords if hotwords is None else _phrases(hotwords)
        return self._encode_hotwords(phrases) if phrases else None


Phrase = TypeVar("Phrase")


def _phrases(given: Sequence[str | Phrase]) -> tuple[str | Phrase, ...]:
    """Phrases as a tuple; raise ValueError for one string, which would be taken for a list of letters."""
    if isinstance(given, str):
        raise ValueError(f"phrases must be a list, but are one string; write [{given!r}]")
    return tuple(given)


def _check_kind(graph: object) -> None:
    """Raise ValueError for what is no graph with its settings, such as the path of one."""
    if not isinstance(graph, LoadedGraph):
        raise ValueError(
            f"graph must be from zipasr.search.graph.load_graph, but is {type(graph).__name__}; write "
            "load_graph(FOLDER, recognizer.engine.tokenizer)"
        )


load = Recognizer.load
"""The recognizer of a model folder, a training run or an exported folder; the arguments are those of `Recognizer.load`."""
