"""The graphs of a non-streaming model: modules with the inputs and outputs that sherpa-onnx expects.

Features (N, T, 80) at 100 Hz and their lengths go in, frames at 25 Hz come out; N and T are dynamic. The contracts are those
of sherpa-onnx 2.0, which passes tensors by position.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zipasr.encoder import rates
from zipasr.encoder.zipformer import Zipformer
from zipasr.errors import ConfigError
from zipasr.export.graph import for_tracing
from zipasr.export.trace import Axes, Graph
from zipasr.features import PADDING_VALUE, FbankConfig
from zipasr.model import AsrConfig, AsrModel
from zipasr.onnx_runtime import HIDDEN_FRAMES

_CASE_FRAMES = ((57,), (9,), (16, 23), (333, 200, 10), (801,))
"""Lengths of the utterances in each batch that is compared; the first batch is traced."""


class OfflineModel(nn.Module):
    """Features and lengths -> output of `head` for the frames, and their lengths."""

    def __init__(self, encoder: Zipformer, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, T, F) and (N,) to (N, T', J or V) and (N,).

        `Zipformer.forward` without its checks, which tracing cannot follow.
        """
        frames, lens = self.encoder.encode_frames(self.encoder.frontend(x), rates.embed_lengths(x_lens))
        return self.head(frames), lens


class CtcOutput(nn.Module):
    """The CTC head without the encoder: frames -> log-probabilities."""

    def __init__(self, output: nn.Linear) -> None:
        super().__init__()
        self.output = output

    def forward(self, frames: Tensor) -> Tensor:
        """Map (N, T, D) to (N, T, V)."""
        return self.output(frames).log_softmax(-1)


class Decoder(nn.Module):
    """Label contexts -> predictor outputs projected for the joiner."""

    def __init__(self, predictor: nn.Module, projection: nn.Linear) -> None:
        super().__init__()
        self.predictor, self.projection = predictor, projection

    def forward(self, y: Tensor) -> Tensor:
        """Map ids (N, C), -1 for none, to (N, J)."""
        return self.projection(self.predictor(y)).squeeze(1)


class JoinerOutput(nn.Module):
    """The joiner without its projections: projected frames and contexts -> logits."""

    def __init__(self, output: nn.Linear) -> None:
        super().__init__()
        self.output = output

    def forward(self, encoder_out: Tensor, decoder_out: Tensor) -> Tensor:
        """Map (N, J) and (N, J) to (N, V)."""
        return self.output((encoder_out + decoder_out).tanh())


class Head(NamedTuple):
    """A head whose graph begins with the encoder."""

    name: str
    """Name of the graph in messages."""
    model_type: str
    """What the metadata of a graph of utterances say."""
    module: nn.Module
    """Frames -> output of the graph; to be copied."""
    of_frames: Callable[[Tensor], Tensor]
    """The same in the model."""
    output: str
    """Name of the output."""
    output_lens: str
    """Name of its lengths in a graph of utterances."""


def offline_graphs(model: AsrModel, *, is_streaming: bool = False) -> dict[str, Graph]:
    """The graphs to trace of a model, by the field of `ExportedFiles`; the module of every graph is a copy.

    Args:
        model: the model.
        is_streaming: whether graphs of chunks are exported, and these only stand for them in measurements.
    Raises:
        ConfigError: the model cannot be exported.
    """
    traced = for_tracing(check_exportable(model, is_streaming=is_streaming))

    def with_encoder(head: Head) -> Graph:
        def expected(x: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
            encoded = model.encode(x, lens)
            return head.of_frames(encoded.frames), encoded.lens

        return Graph(
            name=head.name,
            module=OfflineModel(traced, copy.deepcopy(head.module)),
            inputs=(Axes("x", {0: "N", 1: "T"}), Axes("x_lens", {0: "N"})),
            outputs=(Axes(head.output, {0: "N", 1: "T_out"}), Axes(head.output_lens, {0: "N"})),
            metadata={
                "model_type": head.model_type,
                "version": "1",
                "model_author": "k2-fsa",
                "comment": f"non-streaming {head.model_type.replace('_ctc', ' CTC')}",
            },
            cases=_feature_cases(model.config.features.num_mel_bins),
            expected=expected,
            has_lens=True,
        )

    return all_graphs(model, with_encoder)


def all_graphs(model: AsrModel, with_encoder: Callable[[Head], Graph]) -> dict[str, Graph]:
    """The graphs to trace of a model, by the field of `ExportedFiles`; `with_encoder` makes those that have the encoder."""
    graphs: dict[str, Graph] = {}
    if model.transducer is not None:
        joiner = model.transducer.joiner
        head = Head("encoder", "zipformer2", joiner.encoder_proj, model.project_frames, "encoder_out", "encoder_out_lens")
        graphs["encoder"] = with_encoder(head)
        graphs |= _label_graphs(model)
    if model.ctc is not None:
        output = CtcOutput(model.ctc.output)
        head = Head("CTC model", "zipformer2_ctc", output, model.ctc_log_probs, "log_probs", "log_probs_len")
        graphs["ctc"] = with_encoder(head)
    return graphs | _ctc_head_graph(model)


def check_exportable(model: AsrModel, *, is_streaming: bool) -> Zipformer:
    """The encoder of a model, checked for export.

    sherpa-onnx computes the features itself: Kaldi's filterbank, or Whisper's where the metadata of streaming graphs say so.

    Raises:
        ConfigError: the model cannot be exported.
    """
    encoder, config = model.encoder, model.config
    if not isinstance(encoder, Zipformer):
        raise ConfigError(f"export supports Zipformer, but this encoder is a {type(encoder).__name__}; train a Zipformer")
    if config.features.kind == "whisper" and not is_streaming:
        raise ConfigError(
            "graphs of whole utterances need Kaldi's filterbank, since sherpa-onnx computes no other for them, but this "
            "model has Whisper's; export graphs of chunks with --chunk-ms"
        )
    published = FbankConfig(kind=config.features.kind)
    if config.features != published:
        raise ConfigError(
            f"export needs the published filterbank, {published}, since sherpa-onnx computes it itself, but the model "
            f"has {config.features}; train with the default features"
        )
    return encoder


def _label_graphs(model: AsrModel) -> dict[str, Graph]:
    """The graphs of the decoder and the joiner of a transducer."""
    head, config = model.transducer, model.config
    assert head is not None
    own = head.config
    decoder = Graph(
        name="decoder",
        module=Decoder(copy.deepcopy(head.predictor), copy.deepcopy(head.joiner.predictor_proj)),
        inputs=(Axes("y", {0: "N"}),),
        outputs=(Axes("decoder_out", {0: "N"}),),
        metadata={"context_size": own.context_size, "vocab_size": config.vocab_size},
        cases=[(_contexts(size, own.context_size, config),) for size in (3, 1, 8)],
        expected=lambda ids: [model.predict(ids)],
    )
    joiner = Graph(
        name="joiner",
        module=JoinerOutput(copy.deepcopy(head.joiner.output)),
        inputs=(Axes("encoder_out", {0: "N"}), Axes("decoder_out", {0: "N"})),
        outputs=(Axes("logit", {0: "N"}),),
        metadata={"joiner_dim": own.joiner_dim},
        cases=[(normal(size, own.joiner_dim), normal(size, own.joiner_dim)) for size in (3, 1, 8)],
        expected=lambda frames, contexts: [model.join(frames, contexts)],
    )
    return {"decoder": decoder, "joiner": joiner}


def _ctc_head_graph(model: AsrModel) -> dict[str, Graph]:
    """The graph of the CTC head on frames of the transducer's encoder graph; empty unless the model has both heads."""
    head = model.ctc
    if head is None or model.transducer is None:
        return {}
    channels = model.encoder.output_channels
    graph = Graph(
        name="CTC head",
        module=CtcOutput(copy.deepcopy(head.output)),
        inputs=(Axes(HIDDEN_FRAMES, {0: "N", 1: "T"}),),
        outputs=(Axes("log_probs", {0: "N", 1: "T"}),),
        cases=[(normal(size, 5 * size, channels),) for size in (2, 1)],
        expected=lambda frames: [model.ctc_log_probs(frames)],
    )
    return {"ctc_head": graph}


def _feature_cases(num_features: int) -> list[tuple[Tensor, Tensor]]:
    """Padded batches (N, T, F) of noise at the level of log-mel features of speech, with their lengths."""
    cases = []
    for lens in _CASE_FRAMES:
        x = 3.0 * normal(len(lens), max(lens), num_features) - 8.0
        for row, length in zip(x, lens, strict=True):
            row[length:] = PADDING_VALUE
        cases.append((x, torch.tensor(lens)))
    return cases


def _contexts(size: int, context_size: int, config: AsrConfig) -> Tensor:
    """Random label contexts (N, C); the first is that of the start of an utterance."""
    generator = torch.Generator().manual_seed(size)
    ids = torch.randint(-1, config.vocab_size, (size, context_size), generator=generator)
    ids[0] = -1
    ids[0, -1] = config.blank_id
    return ids


def normal(*shape: int) -> Tensor:
    """Normal noise of a shape, the same at every call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))
