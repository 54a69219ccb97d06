"""Neural language models of tokens: `NeuralLm` (LSTM or Transformer), its folder on disk, and `NeuralPrior` for searches.

Input are label ids (N, U) that start with sos; output are logits (N, U, V) of the next label. sos and eos share the id 1,
and the embedding is also the output layer, both as published. A network processes whole sequences (`forward`) or one more
label (`step`) from its state; both give the same logits.
Source: Press and Wolf 2017, arXiv:1608.05859 (tied weights); Press et al. 2022, arXiv:2108.12409 (ALiBi).
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from zipasr import checkpoint
from zipasr.config import require_fields, to_json
from zipasr.errors import CheckpointError, ConfigError
from zipasr.nn.lora import merged_state_dict
from zipasr.tokenizer import MODEL_FILE, Tokenizer

CONFIG_FILE = "language_model.json"
"""Not config.json, to distinguish the folder of a language model from that of a recognizer."""
WEIGHTS_FILE = "language_model.safetensors"
MODEL_SUBFOLDER = "model"
"""Folder of the model inside the folder of a training run."""

_RESCORE_LABELS = 8192  # per batch, including padding; more is not faster on a CPU, and memory grows with V


@dataclass(frozen=True, kw_only=True)
class LstmConfig:
    """LSTM layers. The defaults suit two CPU cores; published for LibriSpeech: 3 layers of dim 2048, 500 pieces."""

    kind: ClassVar[str] = "lstm"
    dim: int = 256
    """Width of the embedding and of every layer."""
    num_layers: int = 2
    """Layers."""
    dropout: float = 0.3
    """Dropout of the embedding, between layers and before the output."""

    def __post_init__(self) -> None:
        _check_sizes(self, "dim", "num_layers")


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Transformer layers. The defaults suit two CPU cores; published for LibriSpeech: 16 layers of dim 768, 8 heads,
    feed-forward 2048, 500 pieces."""

    kind: ClassVar[str] = "transformer"
    dim: int = 128
    """Width of the embedding and of every layer."""
    num_layers: int = 4
    """Layers."""
    num_heads: int = 4
    """Attention heads."""
    feedforward: int = 512
    """Hidden width of the feed-forward modules."""
    context_labels: int = 64
    """Number of labels that a layer attends to, including the current one; bounds the state of a hypothesis."""
    dropout: float = 0.3
    """Dropout of the embedding, of every residual branch and before the output."""

    def __post_init__(self) -> None:
        _check_sizes(self, "dim", "num_layers", "num_heads", "feedforward")
        if self.context_labels < 2:
            raise ConfigError(f"context_labels must be at least 2, but is {self.context_labels}")
        if self.dim % self.num_heads:
            raise ConfigError(f"dim must be a multiple of num_heads, {self.num_heads}, but is {self.dim}")


def _check_sizes(config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} must be at least 1, but is {getattr(config, name)}")
    require_fields(config, "at most 1000", "num_layers")  # built one by one: a billion without end
    if not 0.0 <= config.dropout < 1.0:
        raise ConfigError(f"dropout must be at least 0 and below 1, but is {config.dropout}")


@dataclass(frozen=True, kw_only=True)
class LmConfig:
    """Complete shape of a neural language model."""

    vocab_size: int = 500
    """Vocabulary size V, including the blank."""
    sos_eos_id: int = 1
    """Id of the start and the end of a sentence."""
    network: LstmConfig | TransformerConfig = field(default_factory=LstmConfig)
    """The network between the embedding and the output layer."""


class _Lstm(nn.Module):
    """LSTM layers; the state is (2, layers, D), hidden and cell vectors."""

    def __init__(self, config: LstmConfig) -> None:
        super().__init__()
        between = config.dropout if config.num_layers > 1 else 0.0
        self.layers = nn.LSTM(config.dim, config.dim, config.num_layers, batch_first=True, dropout=between)

    def initial(self, like: Tensor) -> Tensor:
        """State of the empty sequence."""
        return like.new_zeros(2, self.layers.num_layers, self.layers.hidden_size)

    def forward(self, x_NUD: Tensor) -> Tensor:
        return self.layers(x_NUD)[0]

    def step(self, x_ND: Tensor, memories: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Process one more label for each state."""
        hidden_LND, cell_LND = (rows.contiguous() for rows in torch.stack(list(memories), dim=2))
        y_N1D, after = self.layers(x_ND.unsqueeze(1), (hidden_LND, cell_LND))
        rows_N2LD = torch.stack(after).permute(2, 0, 1, 3)
        return y_N1D.squeeze(1), [row.clone() for row in rows_N2LD]  # a view would keep the whole batch alive


class _TransformerLayer(nn.Module):
    """Self-attention and feed-forward, each normalized before and added to its input."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.attention_norm, self.feedforward_norm = nn.LayerNorm(config.dim), nn.LayerNorm(config.dim)
        self.query_key_value = nn.Linear(config.dim, 3 * config.dim)
        self.attention_out = nn.Linear(config.dim, config.dim)
        self.feedforward = nn.Sequential(
            nn.Linear(config.dim, config.feedforward), nn.GELU(), nn.Linear(config.feedforward, config.dim)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_NUD: Tensor, bias_HUT: Tensor, past_N2TD: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (N, U, D), and keys and values (N, 2, U, D) of these positions; T counts past and current positions."""
        query_NUD, key_NUD, value_NUD = self.query_key_value(self.attention_norm(x_NUD)).chunk(3, dim=-1)
        new_N2UD = torch.stack([key_NUD, value_NUD], dim=1)
        keys_NTD, values_NTD = torch.cat([past_N2TD, new_N2UD], dim=2).unbind(1)
        found_NHUE = functional.scaled_dot_product_attention(
            self._heads(query_NUD), self._heads(keys_NTD), self._heads(values_NTD), attn_mask=bias_HUT
        )
        x_NUD = x_NUD + self.dropout(self.attention_out(found_NHUE.transpose(1, 2).flatten(2)))
        return x_NUD + self.dropout(self.feedforward(self.feedforward_norm(x_NUD))), new_N2UD

    def _heads(self, x_NTD: Tensor) -> Tensor:
        return x_NTD.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class _Transformer(nn.Module):
    """Layers that attend to `context_labels` labels; the state has a row (layers, 2, D), keys and values, for each of them.

    Scores decrease with distance by a fixed slope per head (ALiBi), so no position is unseen in training.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.context_labels, self.dim = config.context_labels, config.dim
        self.layers = nn.ModuleList(_TransformerLayer(config) for _ in range(config.num_layers))
        # The residual stream contains the input: without this projection tied weights would initially predict it again.
        self.output = nn.Sequential(nn.LayerNorm(config.dim), nn.Linear(config.dim, config.dim))
        slopes_H = 2.0 ** (-8.0 * torch.arange(1, config.num_heads + 1) / config.num_heads)  # arXiv:2108.12409
        self.register_buffer("slopes_H", slopes_H, persistent=False)

    def initial(self, like: Tensor) -> tuple[Tensor, ...]:
        """State of the empty sequence."""
        return ()

    def forward(self, x_NUD: Tensor) -> Tensor:
        place_U = torch.arange(x_NUD.shape[1], device=x_NUD.device)
        bias_HUT = self._bias(place_U.unsqueeze(1) - place_U)
        for layer in self.layers:
            x_NUD, _ = layer(x_NUD, bias_HUT, x_NUD.new_zeros(x_NUD.shape[0], 2, 0, self.dim))
        return self.output(x_NUD)

    def step(self, x_ND: Tensor, memories: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        """Process one more label for each state."""
        lens_N = torch.tensor([len(memory) for memory in memories], device=x_ND.device)
        longest = max(map(len, memories))
        past_NTL2D = x_ND.new_zeros(len(memories), longest, len(self.layers), 2, self.dim)
        back_T = torch.arange(longest, 0, -1, device=x_ND.device)
        is_there_NT = back_T <= lens_N.unsqueeze(1)  # right-aligned, so the distance is the same in all rows
        if longest:
            past_NTL2D[is_there_NT] = torch.stack([row for memory in memories for row in memory])
        bias_H1T = self._bias(torch.cat([back_T, back_T.new_zeros(1)]).unsqueeze(0))
        is_there_NT = torch.cat([is_there_NT, is_there_NT.new_ones(len(memories), 1)], dim=1)
        bias_NH1T = bias_H1T.unsqueeze(0).masked_fill(~is_there_NT[:, None, None], -math.inf)
        x_N1D, rows = x_ND.unsqueeze(1), []
        for i, layer in enumerate(self.layers):
            x_N1D, new_N21D = layer(x_N1D, bias_NH1T, past_NTL2D[:, :, i].transpose(1, 2))
            rows.append(new_N21D.squeeze(2))
        kept = self.context_labels - 1
        after = [(*memory, row.clone())[-kept:] for memory, row in zip(memories, torch.stack(rows, dim=1), strict=True)]
        return self.output(x_N1D).squeeze(1), after

    def _bias(self, distance_UT: Tensor) -> Tensor:
        """Attention bias (H, U, T): the slope times the distance back to each position, -inf where masked."""
        bias_HUT = -self.get_buffer("slopes_H")[:, None, None] * distance_UT
        return bias_HUT.masked_fill((distance_UT < 0) | (distance_UT >= self.context_labels), -math.inf)


class NeuralLm(nn.Module):
    """Neural language model: embedding, network, and the embedding again as the output layer."""

    def __init__(self, config: LmConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.network.dim
        self.embedding = nn.Embedding(config.vocab_size, dim)
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)  # of size 1 as input once scaled, and logits of size 1
        self.output_bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.dropout = nn.Dropout(config.network.dropout)
        is_lstm = isinstance(config.network, LstmConfig)
        self.network: Any = _Lstm(config.network) if is_lstm else _Transformer(config.network)  # type: ignore[arg-type]

    def forward(self, inputs_NU: Tensor) -> Tensor:
        """Logits (N, U, V) of the label after each of `inputs_NU`, of which the first is sos."""
        return self._logits(self.network(self._embed(inputs_NU)))

    def step(self, inputs_N: Tensor, memories: Sequence[Any]) -> tuple[Tensor, list[Any]]:
        """Logits (N, V) of the label after `inputs_N`, and the next states, from the states before."""
        y_ND, after = self.network.step(self._embed(inputs_N), memories)
        return self._logits(y_ND), after

    def initial_memory(self) -> Any:
        """State before sos."""
        return self.network.initial(self.output_bias)

    def nll(self, labels_NS: Tensor, label_lens: Tensor) -> Tensor:
        """Negative log-likelihood (N,) in nats of [labels, eos] given [sos, labels].

        Args:
            labels_NS: ids, int64; padding ignored.
            label_lens: (N,) valid labels, 0 allowed.
        """
        num, length = labels_NS.shape
        sos_eos = self.config.sos_eos_id
        ends_N1 = labels_NS.new_full((num, 1), sos_eos)
        is_end_NU = torch.arange(length + 1, device=labels_NS.device) == label_lens.unsqueeze(1)
        targets_NU = torch.cat([labels_NS, ends_N1], dim=1).masked_fill(is_end_NU, sos_eos)
        logits_NUV = self(torch.cat([ends_N1, labels_NS], dim=1)).float()
        nll_NU = functional.cross_entropy(logits_NUV.transpose(1, 2), targets_NU, reduction="none")
        is_counted_NU = torch.arange(length + 1, device=labels_NS.device) <= label_lens.unsqueeze(1)
        return nll_NU.masked_fill(~is_counted_NU, 0.0).sum(1)

    def _embed(self, ids: Tensor) -> Tensor:
        return self.dropout(self.embedding(ids) * math.sqrt(self.config.network.dim))

    def _logits(self, y: Tensor) -> Tensor:
        return functional.linear(self.dropout(y), self.embedding.weight, self.output_bias)

    def to_files(self, tokenizer: Tokenizer) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]], dict[str, bytes]]:
        """The documents, tensors and blobs of its folder, for `checkpoint.write_folder`."""
        own = (self.config.vocab_size, self.config.sos_eos_id)
        if own != (tokenizer.vocab_size, tokenizer.sos_eos_id):
            raise ConfigError(
                f"the tokenizer must have the model's {own[0]} entries, but has {tokenizer.vocab_size}; the id of its "
                f"sos/eos must be {own[1]} and is {tokenizer.sos_eos_id}"
            )
        return {CONFIG_FILE: to_json(self.config)}, {WEIGHTS_FILE: merged_state_dict(self)}, tokenizer.to_files()

    def save(self, folder: str | os.PathLike[str], tokenizer: Tokenizer) -> Path:
        """Write configuration, weights and tokenizer into a checkpoint folder, atomically."""
        documents, tensors, blobs = self.to_files(tokenizer)
        return checkpoint.write_folder(folder, documents=documents, tensors=tensors, blobs=blobs)

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> tuple["NeuralLm", Tokenizer]:
        """Read a model folder, or `model/` of a training run: the model, in eval mode on the CPU, and its tokenizer.

        Raises:
            CheckpointError: the folder is missing, incomplete, damaged, or holds another kind of model.
        """
        folder = Path(folder)
        inner = folder / MODEL_SUBFOLDER
        files = checkpoint.CheckpointFolder(inner if (inner / CONFIG_FILE).is_file() else folder)
        if CONFIG_FILE not in files.names():
            raise CheckpointError(
                f"{folder} must hold a language model ({CONFIG_FILE}), but holds {', '.join(files.names())}; train one "
                "with: zipasr train-lm TEXT --model DIR --out OUT"
            )
        model = checkpoint.build(NeuralLm, files.config(LmConfig, CONFIG_FILE), source=str(files.path / CONFIG_FILE))
        checkpoint.load_weights(model, files.tensors(WEIGHTS_FILE), source=str(files.path / WEIGHTS_FILE))
        return model.eval(), Tokenizer.from_bytes(files.blob(MODEL_FILE))


class LmState:
    """State of a `NeuralPrior` after a label sequence; the scores after its last label are computed when first needed."""

    __slots__ = ("label", "log_probs_V", "memory", "parent")

    def __init__(self, label: int, parent: "LmState | None") -> None:
        self.label, self.parent = label, parent
        self.memory: Any = None
        self.log_probs_V: NDArray[np.float32] | None = None


class NeuralPrior:
    """Prior of label sequences: a neural language model.

    A hypothesis that is pruned in its first frame costs nothing, because the network has not processed its last label yet.
    """

    def __init__(self, model: NeuralLm, tokenizer: Tokenizer, *, use_end_score: bool = False) -> None:
        """Create the prior of a model in eval mode and its tokenizer.

        Args:
            use_end_score: whether the end of the utterance adds log P(eos); published shallow fusion does not.
        """
        if model.training:
            raise ValueError("the language model must be in eval mode, but is in training mode; call eval()")
        self.model, self.tokenizer, self.use_end_score = model, tokenizer, use_end_score
        self._start = LmState(model.config.sos_eos_id, None)

    def start(self) -> LmState:
        """State of the empty sequence."""
        return self._start

    def extend(self, states: Sequence[LmState], labels: Sequence[int]) -> tuple[list[LmState], list[float]]:
        """For each pair of a state and a label: the state after the label, and the label's log-probability in nats."""
        rows = self._evaluated(states)
        new_states = [LmState(label, state) for state, label in zip(states, labels, strict=True)]
        return new_states, [float(row[label]) for row, label in zip(rows, labels, strict=True)]

    def finish(self, states: Sequence[LmState]) -> list[float]:
        """Zeros, or log P(eos) of each state, in nats, if `use_end_score`."""
        if not self.use_end_score:
            return [0.0] * len(states)
        return [float(row[self.model.config.sos_eos_id]) for row in self._evaluated(states)]

    def rescore(self, ids_lists: Sequence[Sequence[int]]) -> list[float]:
        """Log-probability, in nats, of [ids, eos] given [sos, ids] for complete hypotheses of an n-best list."""
        totals = [0.0] * len(ids_lists)
        device = self.model.output_bias.device
        by_length = sorted(range(len(ids_lists)), key=lambda i: -len(ids_lists[i]))
        with torch.inference_mode():
            while by_length:
                longest = len(ids_lists[by_length[0]])
                size = max(1, _RESCORE_LABELS // (longest + 1))
                batch, by_length = by_length[:size], by_length[size:]
                rows = [list(ids_lists[i]) + [self.model.config.sos_eos_id] * (longest - len(ids_lists[i])) for i in batch]
                labels_NS = torch.tensor(rows, dtype=torch.int64, device=device).reshape(len(batch), longest)
                lens = torch.tensor([len(ids_lists[i]) for i in batch], device=device)
                for i, nll in zip(batch, self.model.nll(labels_NS, lens).tolist(), strict=True):
                    totals[i] = -nll
        return totals

    def check_same_vocabulary(self, tokenizer: Tokenizer) -> None:
        """Raise unless the recognizer's tokenizer has the same pieces.

        Raises:
            ConfigError: the tokenizers differ.
        """
        own, other = self.tokenizer.pieces, tokenizer.pieces
        if own == other:
            return
        place = next((i for i, (a, b) in enumerate(zip(own, other, strict=False)) if a != b), min(len(own), len(other)))
        pieces = [repr(pieces[place]) if place < len(pieces) else "none" for pieces in (own, other)]
        raise ConfigError(
            f"the language model must have the recognizer's vocabulary, but has another: of {len(own)} pieces where the "
            f"recognizer has {len(other)}, and id {place} is {pieces[0]} where the recognizer has {pieces[1]}; train one "
            "for this recognizer with: zipasr train-lm TEXT --model DIR --out OUT"
        )

    def _evaluated(self, states: Sequence[LmState]) -> list[NDArray[np.float32]]:
        """The log-probabilities (V,) after each state, computing those that are missing in one batch."""
        pending = list({id(state): state for state in states if state.log_probs_V is None}.values())
        if pending:
            initial = self.model.initial_memory()
            memories = [initial if state.parent is None else state.parent.memory for state in pending]
            with torch.inference_mode():
                inputs_N = torch.tensor([state.label for state in pending], device=self.model.output_bias.device)
                logits_NV, after = self.model.step(inputs_N, memories)
                log_probs_NV = logits_NV.float().log_softmax(-1).cpu().numpy()
            for state, memory, log_probs_V in zip(pending, after, log_probs_NV, strict=True):
                state.memory, state.log_probs_V, state.parent = memory, log_probs_V.copy(), None
        return [state.log_probs_V for state in states if state.log_probs_V is not None]
