"""The Zipformer encoder: features (N, T, F) at 100 Hz -> `Encoded` frames (N, T'', D) at 25 Hz.

Conv-Embed to 50 Hz, six stacks that work at 50, 25, 12.5, 6.25, 12.5 and 25 Hz, and a final Downsample by 2.
D is the widest stack; lengths are T' = (T - 7) // 2 and T'' = (T' + 1) // 2.
Source: Yao et al. 2024, arXiv:2310.11230, figure 1; the defaults are Zipformer-M.
"""

# Differs: longer than 400 lines, so that the encoder, offline and streaming, is read in one place.

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from zipasr.encoder import frontend, rates
from zipasr.encoder.ablation import AblationConfig
from zipasr.encoder.layer import LayerPast, LayerShape
from zipasr.encoder.stack import Downsample, ZipformerStack
from zipasr.encoder.state import StreamState, layer_shapes
from zipasr.errors import ConfigError
from zipasr.nn.dropout import DROPOUT
from zipasr.nn.encoded import Encoded, check_input, padding_mask
from zipasr.nn.schedule import Schedule

_WARMUP_STEPS = 4000.0
_FEATURE_MASK_RATE = 0.125
_UNLIMITED_CHUNKS = 1_000_000
_MAX_LAYERS = 1000  # far more than is of use; each is built one by one, and a billion without end


@dataclass(frozen=True, kw_only=True)
class ZipformerConfig:
    """Shape of the encoder, one entry per stack. The defaults are the published medium model."""

    kind: ClassVar[str] = "zipformer"
    """Identifies the encoder in JSON."""

    num_features: int = 80
    """Mel bins F of the input."""
    conv_channels: tuple[int, int, int] = (8, 32, 128)
    """Channels of the three convolutions of Conv-Embed."""
    conv_embed_rate: Literal[2, 4] = 2
    """Time reduction of Conv-Embed. 4 is an ablation: the stacks run at 25 Hz, and no final Downsample follows."""
    channels: tuple[int, ...] = (192, 256, 384, 512, 384, 256)
    """Embedding width D of each stack."""
    unmasked_channels: tuple[int, ...] = (192, 192, 256, 256, 256, 192)
    """Channels of each stack that the random feature masks of training never mask."""
    num_layers: tuple[int, ...] = (2, 2, 3, 4, 3, 2)
    """Blocks in each stack."""
    downsample: tuple[int, ...] = (1, 2, 4, 8, 4, 2)
    """Time reduction of each stack relative to 50 Hz."""
    feedforward: tuple[int, ...] = (512, 768, 1024, 1536, 1024, 768)
    """Hidden width of the middle feed-forward module; the first has 3/4, the third 5/4 of it."""
    num_heads: tuple[int, ...] = (4, 4, 4, 8, 4, 4)
    """Attention heads H."""
    kernel_sizes: tuple[int, ...] = (31, 31, 15, 15, 15, 31)
    """Odd kernel sizes of the depthwise convolutions, in frames of the stack."""
    query_head_dim: int | tuple[int, ...] = 32
    """Width of a query and a key of one head; one for all stacks, or one entry per stack."""
    value_head_dim: int | tuple[int, ...] = 12
    """Width of a value of one head, likewise."""
    pos_head_dim: int | tuple[int, ...] = 4
    """Width of a positional query of one head, likewise."""
    pos_dim: int = 48
    """Width of the relative position encoding."""
    pos_dropout: float = 0.15
    """Dropout of the relative position encoding."""
    dropout: Schedule = DROPOUT
    """Dropout of Conv-Embed and the feed-forward modules over training."""
    is_causal: bool = False
    """Whether the model can stream; if so, it has chunk-causal convolutions and trains with chunk masks."""
    chunk_frames_50hz: tuple[int, ...] = (16, 32, 64, -1)
    """Chunk sizes drawn while training a causal model; -1 is the whole utterance."""
    left_context_frames_50hz: tuple[int, ...] = (64, 128, 256, -1)
    """Left contexts drawn while training a causal model; -1 is everything."""
    ablation: AblationConfig = field(default_factory=AblationConfig)
    """Components to remove or replace, for comparison."""

    def __post_init__(self) -> None:
        num_stacks = len(self.channels)
        if num_stacks == 0:
            raise ConfigError("channels must have one entry for each stack, but is empty")
        if self.conv_embed_rate not in (2, 4):
            raise ConfigError(f"conv_embed_rate must be 2, or 4 for the ablation, but is {self.conv_embed_rate}")
        if self.num_features < 7 or min(self.conv_channels) < 1:
            raise ConfigError(
                "num_features must be 7 or more and conv_channels 1 or more, but they are "
                f"{self.num_features} and {self.conv_channels}"
            )
        sizes = ("unmasked_channels", "num_layers", "downsample", "feedforward", "num_heads", "kernel_sizes")
        for name in (*sizes, "query_head_dim", "value_head_dim", "pos_head_dim"):
            if not isinstance(getattr(self, name), int) and len(getattr(self, name)) != num_stacks:
                raise ConfigError(
                    f"{name} must have one entry per stack, {num_stacks} as channels has, but has "
                    f"{len(getattr(self, name))}: {getattr(self, name)}"
                )
        for i in range(num_stacks):
            self._check_stack(i)
        if self.downsample[0] != 1:
            raise ConfigError(f"the first entry of downsample must be 1, but is {self.downsample[0]}")
        if self.pos_dim % 2 or self.pos_dim < 2:
            raise ConfigError(f"pos_dim must be even and 2 or more, half sines and half cosines, but is {self.pos_dim}")
        shares = {
            "pos_dropout": (self.pos_dropout,),
            "dropout": (self.dropout.default, *(v for _, v in self.dropout.points)),
        }
        for name, values in shares.items():
            for value in values:
                if not 0.0 <= value < 1.0:
                    raise ConfigError(f"{name} must be at least 0 and below 1, but is {value}")
        if not self.chunk_frames_50hz or not self.left_context_frames_50hz:
            raise ConfigError(
                "chunk_frames_50hz and left_context_frames_50hz must have at least one size each, but are "
                f"{self.chunk_frames_50hz} and {self.left_context_frames_50hz}; -1 stands for the whole utterance"
            )
        if self.is_causal and self.conv_embed_rate != 2:
            raise ConfigError(f"conv_embed_rate must be 2 for a causal model, but is {self.conv_embed_rate}")
        if self.is_causal:
            for chunk in self.chunk_frames_50hz:
                for left in self.left_context_frames_50hz:
                    check_chunk(self, chunk, left)

    def _check_stack(self, i: int) -> None:
        if self.kernel_sizes[i] % 2 == 0 or self.kernel_sizes[i] < 1:
            raise ConfigError(f"kernel_sizes must be odd, but stack {i} has {self.kernel_sizes[i]}; 31 and 15 are published")
        if self.unmasked_channels[i] > self.channels[i]:
            raise ConfigError(
                f"unmasked_channels must not exceed channels, but stack {i} has {self.unmasked_channels[i]} "
                f"of {self.channels[i]}; lower it, or widen the stack"
            )
        if self.unmasked_channels[i] < 1:
            raise ConfigError(f"unmasked_channels must be 1 or more, but stack {i} has {self.unmasked_channels[i]}")
        if self.channels[i] % 4 or self.feedforward[i] % 4 or self.feedforward[i] < 4:
            raise ConfigError(
                f"channels and feedforward must be multiples of 4, but stack {i} has {self.channels[i]} and "
                f"{self.feedforward[i]}"
            )
        if self.num_layers[i] > _MAX_LAYERS:
            raise ConfigError(f"num_layers must be at most {_MAX_LAYERS}, but stack {i} has {self.num_layers[i]}")
        head_dims = self.head_dims(i)
        if min(self.num_layers[i], self.num_heads[i], self.downsample[i], self.channels[i], *head_dims) < 1:
            raise ConfigError(
                f"stack {i} must have at least one layer, head and channel, head widths and a downsampling >= 1, but has "
                f"{self.num_layers[i]}, {self.num_heads[i]}, {self.channels[i]}, {head_dims} and {self.downsample[i]}"
            )

    def head_dims(self, i: int) -> tuple[int, int, int]:
        """Widths of a query, a value and a positional query of one head of stack i."""
        query, value, pos = (
            dim if isinstance(dim, int) else dim[i] for dim in (self.query_head_dim, self.value_head_dim, self.pos_head_dim)
        )
        return query, value, pos


def check_chunk(config: ZipformerConfig, chunk: int, left: int) -> None:
    """Raise ConfigError unless the chunk and left context (50 Hz frames, -1 unlimited) fit every stack."""
    if left < -1:
        raise ConfigError(f"left_context_frames_50hz must be -1 (everything) or more, but is {left}")
    if chunk == -1:
        return
    for i, (factor, kernel) in enumerate(zip(config.downsample, config.kernel_sizes, strict=True)):
        if chunk < 1 or chunk % factor:
            raise ConfigError(
                f"chunk_frames_50hz must be -1 or a positive multiple of every downsampling factor, but {chunk} is "
                f"not a multiple of {factor} (stack {i}); the published models use 16, 32 and 64"
            )
        seen = min(left, max(1, left // chunk) * chunk)
        if left != -1 and seen < kernel // 2 * factor:
            raise ConfigError(
                f"left_context_frames_50hz must cover half the kernel of stack {i}, {kernel // 2 * factor} "
                f"frames, but {left} frames give {seen} in whole chunks of {chunk}; published models use 64, 128 and 256"
            )


class Zipformer(nn.Module):
    """The Zipformer encoder: features (N, T, F) at 100 Hz -> `Encoded` at 25 Hz; the file's docstring gives the lengths."""

    def __init__(self, config: ZipformerConfig) -> None:
        super().__init__()
        self.config = config
        self.output_channels = max(config.channels)
        self.frontend = frontend.ConvEmbed(
            config.num_features,
            config.channels[0],
            conv_channels=config.conv_channels,
            dropout=config.dropout,
            rate=config.conv_embed_rate,
            ablation=config.ablation,
        )
        num_stacks = len(config.channels)
        self.stacks = nn.ModuleList(
            ZipformerStack(
                self._layer_shape(i),
                num_layers=config.num_layers[i],
                downsample_factor=config.downsample[i],
                pos_dropout=config.pos_dropout,
                warmup=(_WARMUP_STEPS * (i + 1) / (num_stacks + 1), _WARMUP_STEPS * (i + 2) / (num_stacks + 1)),
            )
            for i in range(num_stacks)
        )
        self.output_downsample = Downsample(4 // config.conv_embed_rate)
        config.ablation.switch_constraints(self)

    def _layer_shape(self, i: int) -> LayerShape:
        config = self.config
        query_head_dim, value_head_dim, pos_head_dim = config.head_dims(i)
        return LayerShape(
            channels=config.channels[i],
            feedforward=config.feedforward[i],
            num_heads=config.num_heads[i],
            kernel_size=config.kernel_sizes[i],
            query_head_dim=query_head_dim,
            value_head_dim=value_head_dim,
            pos_head_dim=pos_head_dim,
            pos_dim=config.pos_dim,
            is_causal=config.is_causal,
            dropout=config.dropout,
            ablation=config.ablation,
        )

    def output_length(self, num_frames: int) -> int:
        """Number of output frames at 25 Hz for `num_frames` features at 100 Hz."""
        factor = self.output_downsample.factor
        return (rates.embed_length(num_frames, self.config.conv_embed_rate) + factor - 1) // factor

    def forward(
        self,
        features: Tensor,
        lens: Tensor,
        *,
        chunk_frames_50hz: int | None = None,
        left_context_frames_50hz: int | None = None,
    ) -> Encoded:
        """Encode a padded batch.

        Args:
            features: (N, T, F) log-mel features at 100 Hz, T >= 9.
            lens: (N,) valid frames of each, int64; checked only if on the CPU. The lengths returned are on the same device.
            chunk_frames_50hz: frames of a chunk at 50 Hz; -1 or None: no chunks. Causal models only.
            left_context_frames_50hz: left context of a chunk in frames, in whole chunks (rounded down, one at least, as
                published); -1 or None: unlimited.
        Returns:
            Frames (N, ((T - 7) // 2 + 1) // 2, D) at 25 Hz and their lengths.
        Raises:
            ValueError: shapes or lengths disagree, or a chunk is given to a model that is not causal.
        """
        self._check_input(features, lens, chunk_frames_50hz)
        return self.encode_frames(
            self.frontend(features),
            rates.embed_lengths(lens, self.config.conv_embed_rate),
            chunk_frames_50hz=chunk_frames_50hz,
            left_context_frames_50hz=left_context_frames_50hz,
        )

    def encode_frames(
        self,
        frames: Tensor,
        lens: Tensor,
        *,
        chunk_frames_50hz: int | None = None,
        left_context_frames_50hz: int | None = None,
    ) -> Encoded:
        """Run the stacks on the output of Conv-Embed: (N, T', D0) at 50 Hz with `lens` (N,) -> 25 Hz; see `forward`."""
        chunk, left = self._chunk(chunk_frames_50hz, left_context_frames_50hz)
        attention_mask = _chunk_mask(frames.shape[1], chunk, left, frames.device)
        return Encoded(self._run_stacks(frames, padding_mask(lens, frames), attention_mask, chunk), self._halve(lens))

    def _run_stacks(
        self,
        x: Tensor,
        padding_mask: Tensor,
        attention_mask: Tensor | None,
        chunk: int,
        pasts: Sequence[LayerPast] | None = None,
    ) -> Tensor:
        """Run all stacks and the final Downsample; arguments as in `ZipformerStack.forward`, `pasts` of all blocks."""
        outputs, first, config = [], 0, self.config
        stacks = zip(self.stacks, config.channels, config.num_layers, self._feature_masks(x), strict=True)
        for stack, channels, num_layers, feature_mask in stacks:
            own = None if pasts is None else pasts[first : first + num_layers]
            x = stack(to_width(x, channels), feature_mask, attention_mask, padding_mask, chunk, own)
            outputs.append(x)
            first += num_layers
        return self.output_downsample(join_outputs(outputs))

    def _halve(self, lens: Tensor) -> Tensor:
        """Lengths after the final Downsample."""
        factor = self.output_downsample.factor
        return (lens + factor - 1) // factor

    def initial_state(self, batch_size: int, *, chunk_frames_50hz: int, left_context_frames_50hz: int) -> StreamState:
        """The state of `batch_size` new streams, on the device and in the dtype of the weights.

        Args:
            batch_size: number of streams N.
            chunk_frames_50hz: frames of a chunk at 50 Hz.
            left_context_frames_50hz: left context of a chunk in frames, a multiple of the chunk.
        Raises:
            ValueError: the model is not causal or has other blocks, or the chunk or left context do not fit it.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, but is {batch_size}")
        self._check_streaming(chunk_frames_50hz, left_context_frames_50hz)
        like, shapes = self.output_downsample.bias, self._state_shapes(left_context_frames_50hz)
        tensors = [like.new_zeros((batch_size, *shape)) for shape in shapes[:-1]]
        processed_frames = torch.zeros(batch_size, dtype=torch.int64, device=like.device)
        return StreamState.from_flat([*tensors, processed_frames], chunk_frames_50hz=chunk_frames_50hz)

    def encode_chunk(self, features: Tensor, lens: Tensor, state: StreamState) -> tuple[Encoded, StreamState]:
        """Encode the next chunk of N streams; `encoder.window.WindowBuffer` cuts features into the windows it takes.

        The valid frames of a stream, over all chunks, equal those of `forward` with the same chunk and left context on all
        its features followed by 32 or more frames of the same padding. (`forward` treats a batch shorter than one chunk as
        a chunk of its own length, as the original does; this method does not: pad to a chunk to compare.)

        Args:
            features: (N, 2 C + 13, F) window at 100 Hz for the C frames of the chunk; the next starts 2 C features later.
                A window that reaches beyond the end of a stream is filled with padding.
            lens: (N,) valid features of each window, int64; fewer than all only in the last windows of a stream, whose
                state is undefined afterwards.
            state: state after the previous chunk; it is not modified.
        Returns:
            Frames (N, C // 2, D) at 25 Hz with their lengths, and the state for the next chunk, without gradients.
        Raises:
            ValueError: the model is in training mode, or shapes, window and state do not match each other or the model.
        """
        self._check_window(features, lens, state)
        num_valid = rates.embed_lengths(lens).clamp(max=state.chunk_frames_50hz)
        embed_past, layer_pasts = state.pasts()
        frames = self.frontend(features, embed_past)
        frames = self._run_stacks(frames, state.padding_mask(num_valid), None, state.chunk_frames_50hz, layer_pasts)
        return Encoded(frames, self._halve(num_valid)), state.after(embed_past, layer_pasts, num_valid)

    def _state_shapes(self, left: int) -> list[tuple[int, ...]]:
        """Expected `StreamState.shapes` for a left context in frames at 50 Hz."""
        config = self.config
        shapes = []
        for i, (num_layers, factor) in enumerate(zip(config.num_layers, config.downsample, strict=True)):
            shapes += layer_shapes(self._layer_shape(i), left // factor) * num_layers
        image = (rates.FRAMES_AHEAD, frontend.image_width(config.num_features), config.conv_channels[2])
        return [*shapes, image, ()]

    def _check_streaming(self, chunk: int, left: int) -> None:
        config, factor = self.config, self.output_downsample.factor
        if not config.is_causal:
            raise ValueError("only a model trained with is_causal=True can stream, and this one was not")
        ablation = config.ablation
        if ablation.block != "zipformer" or not (ablation.has_nonlin_attention and ablation.has_shared_attention_weights):
            raise ValueError(f"StreamState holds the memory of the Zipformer block only, which this model lacks: {ablation}")
        if chunk < 1 or chunk % factor:
            raise ValueError(f"chunk_frames_50hz must be a positive multiple of {factor} in a stream, but is {chunk}")
        if left < 1 or left % chunk:
            raise ValueError(
                f"left_context_frames_50hz must be a positive multiple of the chunk, {chunk}, in a stream, but is {left}; "
                "the state of a stream is bounded, so -1 (unlimited) is not possible"
            )
        check_chunk(config, chunk, left)

    def _check_window(self, features: Tensor, lens: Tensor, state: StreamState) -> None:
        if self.training:
            raise ValueError("streams need the model in eval mode, but it is in training mode; call model.eval()")
        self._check_input(features, lens, None)
        chunk, left = state.chunk_frames_50hz, state.left_context_frames_50hz
        self._check_streaming(chunk, left)
        window_frames = rates.window_length(chunk)
        if features.shape[1] != window_frames:
            raise ValueError(
                f"a window of a stream with chunk_frames_50hz = {chunk} must have {window_frames} features, but has "
                f"{features.shape[1]}; fill the last one with padding"
            )
        if state.batch_size != features.shape[0]:
            raise ValueError(
                f"features and state must have the same number of streams, but have "
                f"{features.shape[0]} and {state.batch_size}"
            )
        if state.shapes() != self._state_shapes(left):
            raise ValueError(
                "the state must come from a model of the same shape, but its tensors have other shapes; create it with "
                "initial_state of this model"
            )

    def _check_input(self, features: Tensor, lens: Tensor, chunk: int | None) -> None:
        check_input(features, lens, num_features=self.config.num_features, min_frames=rates.MIN_FEATURES)
        if chunk is not None and chunk != -1 and not self.config.is_causal:
            raise ValueError(
                f"chunk_frames_50hz must be -1 for this model, but is {chunk}; only a model trained with "
                "is_causal=True can encode in chunks"
            )

    def _chunk(self, chunk: int | None, left: int | None) -> tuple[int, int]:
        """The chunk and left context to use: as given, or drawn at random when training a causal model."""
        config = self.config
        if chunk in (None, -1) and left not in (None, -1):
            raise ValueError(
                f"left_context_frames_50hz has an effect only in chunks, but is {left} with chunk_frames_50hz = {chunk}; "
                "give both or neither"
            )
        if chunk is None and self.training and config.is_causal:
            chunk = _draw(config.chunk_frames_50hz)
            left = _draw(config.left_context_frames_50hz) if chunk != -1 else -1
        chunk, left = -1 if chunk is None else chunk, -1 if left is None else left
        check_chunk(config, chunk, left)
        return chunk, left

    def _feature_masks(self, x: Tensor) -> list[Tensor | None]:
        """One (N, 1, D) mask per stack: 1/8 of the sequences mask the upper channels, another 1/8 the topmost ones."""
        if not self.training:
            return [None] * len(self.stacks)
        keep1 = (torch.rand(x.shape[0], 1, 1, device=x.device) > _FEATURE_MASK_RATE).to(x.dtype)
        keep2 = keep1 * (torch.rand(x.shape[0], 1, 1, device=x.device) > _FEATURE_MASK_RATE).to(x.dtype)
        masks: list[Tensor | None] = []
        for channels, unmasked in zip(self.config.channels, self.config.unmasked_channels, strict=True):
            middle = unmasked + (channels - unmasked) // 2
            mask = x.new_ones(x.shape[0], 1, channels)
            mask[:, :, unmasked:middle] = keep1
            mask[:, :, middle:] = keep2
            masks.append(mask)
        return masks


def _draw(choices: tuple[int, ...]) -> int:
    return choices[int(torch.randint(len(choices), ()).item())]


def _chunk_mask(num_frames: int, chunk: int, left: int, device: torch.device) -> Tensor | None:
    """Bool (T, T), True where the target row must not attend to the source column; None if nothing is masked."""
    if chunk == -1:
        return None
    left_chunks = _UNLIMITED_CHUNKS if left == -1 else max(1, left // chunk)
    index = torch.arange(num_frames, device=device) // chunk
    source, target = index.unsqueeze(0), index.unsqueeze(1)
    return (source > target) | (source < target - left_chunks)


def to_width(x: Tensor, channels: int) -> Tensor:
    """(N, T, D) truncated to `channels`, or with zero channels appended."""
    if x.shape[2] >= channels:
        return x[:, :, :channels]
    return nn.functional.pad(x, (0, channels - x.shape[2]))


def join_outputs(outputs: list[Tensor]) -> Tensor:
    """Concatenate the stacks' outputs: each channel comes from the last stack that is wide enough."""
    pieces, width = [outputs[-1]], outputs[-1].shape[2]
    for output in reversed(outputs[:-1]):
        if output.shape[2] > width:
            pieces.append(output[:, :, width:])
            width = output.shape[2]
    return torch.cat(pieces, dim=2)
