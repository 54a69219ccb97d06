"""`Engine`: everything that a recognizer has loaded, shared by whole recordings and streams.

Features (T, F) at 100 Hz in, encoder frames (N, T', D) at 25 Hz and ranked hypotheses out. Every utterance, the longest of a
batch included, is followed by a few frames of padding, so that its result does not depend on what else is in the batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from zipasr.device import Precision, arithmetic, check_precision
from zipasr.encoder.rates import window_length
from zipasr.errors import ConfigError
from zipasr.features import PADDING_VALUE, Fbank
from zipasr.nn.encoded import Encoded
from zipasr.nn.products import is_onednn_faster, use_onednn
from zipasr.recognizer.chunks import (
    STREAM_TAIL_FRAMES,
    ChunkSizes,
    initial_state,
    masks_padding,
    streaming_model,
    window_buffer,
)
from zipasr.recognizer.slots import BatchedState, Slots
from zipasr.search.confidence import Calibration
from zipasr.search.finding import find_with_each
from zipasr.search.graph import TokenGraph
from zipasr.search.hotwords import HotwordGraph
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.keywords import KeywordSearch, SpotterConfig
from zipasr.search.resumable import AnySearch
from zipasr.search.scorer import Scorer
from zipasr.search.strategy import LanguageModels, SearchConfig
from zipasr.search.two_pass import make_stream_search
from zipasr.tokenizer import Tokenizer

TAIL_PADDING_FRAMES = 32
"""Features of padding after every utterance. With 24 or more, results alone and in a batch agree within 6e-6."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Engine:
    """A model with all that it takes to recognize with it. Raises ConfigError if it cannot compute in the precision."""

    scorer: Scorer
    """The model, on `device` and in eval mode. Its linear layers are switched to oneDNN on a CPU where that is faster."""
    tokenizer: Tokenizer
    """The tokenizer that the model was trained with."""
    fbank: Fbank
    """The filterbank that computes the model's features."""
    device: torch.device
    """Device of the model and its features."""
    precision: Precision
    """Precision of the encoder; heads and searches always compute in float32."""
    language_models: LanguageModels
    """Language models for the beam searches."""
    calibrations: dict[str, Calibration]
    """Calibrations of word confidences, by search method."""
    tail_padding_frames: int
    """Features of padding after every utterance at 100 Hz."""
    chunk_sizes: ChunkSizes | None
    """Chunks in which whole recordings are encoded; None: each as a whole."""
    use_true_times: bool
    """Whether tokens get the times at which they were said, found with the CTC head, rather than when they were emitted."""

    slots: Slots[BatchedState] = field(default_factory=Slots, init=False)
    """The encoder's states of all streams."""
    _searches: dict[SearchConfig, AnySearch] = field(default_factory=dict, init=False)
    _keyword_searches: dict[SpotterConfig, KeywordSearch] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        check_precision(self.precision, self.device)
        if self.precision != "float32" and not isinstance(self.scorer, nn.Module):
            raise ConfigError(
                f"exported graphs compute in the precision of their export, but {self.precision} was asked for; "
                "leave precision out, or use the PyTorch model"
            )
        is_float32_on_cpu = self.device.type == "cpu" and self.precision == "float32"
        if isinstance(self.scorer, nn.Module) and is_float32_on_cpu and is_onednn_faster():
            use_onednn(self.scorer)

    def encode(self, features: Sequence[Tensor]) -> Encoded:
        """Encoder frames at 25 Hz of a batch of features, each (T, F) at 100 Hz, with padding after each.

        Where streaming is simulated, some of the padding counts as audio, as at the end of a stream.
        """
        chunk, left_context = self.chunk_sizes or (None, None)
        if self.chunk_sizes is not None and self.fbank.is_windowed:
            return self._encode_as_streams(features, self.chunk_sizes)
        lens = [len(frames) + (STREAM_TAIL_FRAMES if chunk is not None else 0) for frames in features]
        longest = max(lens) + self.tail_padding_frames
        if chunk is not None:  # the encoder would take a batch shorter than a chunk for a chunk of its own length
            longest = max(longest, window_length(chunk))
        padded_NTF = torch.full((len(features), longest, features[0].shape[1]), PADDING_VALUE)
        for row, frames in zip(padded_NTF, features, strict=True):
            row[: len(frames)] = self.fbank.normalized(frames)
        with torch.inference_mode(), arithmetic(self.precision, self.device):
            encoded = self.scorer.encode(
                padded_NTF.to(self.device),
                torch.tensor(lens, device=self.device),
                chunk_frames_50hz=chunk,
                left_context_frames_50hz=left_context,
            )
        return self.to_float32(encoded)

    def encode_windows(self, windows: Sequence[tuple[Tensor, int]], state: BatchedState) -> tuple[Encoded, BatchedState]:
        """Encoder frames at 25 Hz of the next window of every stream, and the state for the windows after it.

        Args:
            windows: features of each stream with the number of valid ones, from `WindowBuffer.pop`.
            state: of these streams, from this method or `initial_state`.
        """
        model: Any = streaming_model(self.scorer)  # it takes back the states that it returned
        features = torch.stack([self._normalized(*window) for window in windows]).to(self.device)
        lens_N = torch.tensor([valid for _, valid in windows], device=self.device)
        with torch.inference_mode(), arithmetic(self.precision, self.device):
            encoded, after = model.encode_chunk(features, lens_N, state)
        return self.to_float32(encoded), after

    def _normalized(self, window: Tensor, num_valid: int) -> Tensor:
        if num_valid == len(window) or not masks_padding(self.scorer):
            return self.fbank.normalized(window)
        return torch.cat([self.fbank.normalized(window[:num_valid]), window[num_valid:]])

    def _encode_as_streams(self, features: Sequence[Tensor], sizes: ChunkSizes) -> Encoded:
        """`encode` window by window, for features that depend on the window."""
        frames = []
        for own in features:
            buffer = window_buffer(self.scorer, sizes)
            buffer.push(torch.nn.functional.pad(own, (0, 0, 0, STREAM_TAIL_FRAMES), value=PADDING_VALUE))
            buffer.finish()
            state, pieces = initial_state(self.scorer, sizes), []
            while (window := buffer.pop()) is not None:
                encoded, state = self.encode_windows([window], state)
                pieces.append(encoded.frames[0, : encoded.lens[0]])
            frames.append(torch.cat(pieces))
        return Encoded(pad_sequence(frames, batch_first=True), torch.tensor(list(map(len, frames)), device=self.device))

    def stream_search(self, config: SearchConfig) -> AnySearch:
        """The search of all streams with the same settings, which `resolve_search` has checked."""
        if config not in self._searches:
            search = make_stream_search(
                self.scorer, config, unk_id=self.tokenizer.unk_id, language_models=self.language_models
            )
            self._searches.setdefault(config, search)  # another thread may have been faster
        return self._searches[config]

    def keyword_search(self, config: SpotterConfig) -> KeywordSearch:
        """The search for keywords of all streams with the same settings, whichever near misses each of them tells.

        Raises:
            ConfigError: the model has no transducer head.
        """
        shared = replace(config, near=None)
        if shared not in self._keyword_searches:
            self._keyword_searches.setdefault(shared, KeywordSearch(self.scorer, shared, unk_id=self.tokenizer.unk_id))
        return self._keyword_searches[shared]

    def to_float32(self, encoded: Encoded) -> Encoded:
        """Encoder frames in float32, which heads and searches compute in.

        Raises:
            ConfigError: activations exceed the range of float16.
        """
        if self.precision == "float16" and not bool(encoded.frames.isfinite().all()):
            raise ConfigError(
                "activations of this model leave the range of float16 (65504); use precision bfloat16 or float32"
            )
        return encoded if encoded.frames.dtype == torch.float32 else encoded._replace(frames=encoded.frames.float())

    def find(
        self,
        encoded: Encoded,
        search: SearchConfig,
        *,
        hotwords: HotwordGraph | None = None,
        graphs: Sequence[TokenGraph] = (),
    ) -> list[list[Hypothesis]]:
        """The n-best hypotheses of each utterance of a batch, by a search that `resolve_search` has checked."""
        (found,) = self.find_with_each(encoded, [search], hotwords=hotwords, graphs=graphs)
        return found

    def find_with_each(
        self,
        encoded: Encoded,
        searches: Sequence[SearchConfig],
        *,
        hotwords: HotwordGraph | None = None,
        graphs: Sequence[TokenGraph] = (),
    ) -> Iterator[list[list[Hypothesis]]]:
        """Yield `find` for each of several searches; weights of the attention decoder share the hypotheses."""
        return find_with_each(
            self.scorer,
            encoded,
            searches,
            unk_id=self.tokenizer.unk_id,
            language_models=self.language_models,
            hotwords=hotwords,
            graphs=graphs,
        )
