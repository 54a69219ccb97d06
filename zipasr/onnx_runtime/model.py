"""Graphs of whole utterances as a `Scorer`: `OnnxModel`."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from zipasr.encoder.rates import MIN_FEATURES, output_length
from zipasr.errors import CheckpointError
from zipasr.nn.encoded import Encoded, check_input
from zipasr.onnx_runtime.graph import Graph
from zipasr.onnx_runtime.layout import EXPORT_FILE, ExportedConfig
from zipasr.onnx_runtime.session import with_hidden_frames

_MAX_KNOWN_CONTEXTS = 4096
"""Label contexts whose projections are kept, 8 MB with 512 channels; the same ones come again and again."""


class OnnxModel:
    """A `Scorer` that runs graphs of whole utterances in onnxruntime. The attention decoder is not exported."""

    def __init__(
        self, config: ExportedConfig, graphs: Mapping[str, bytes | Path | Graph], *, num_threads: int | None = None
    ) -> None:
        """Load the graphs.

        Args:
            config: description of the graphs.
            graphs: by file name, their bytes, the files, or what is already open; with an encoder the combined CTC graph is
                not needed.
            num_threads: see `load`.
        Raises:
            CheckpointError: there are neither an encoder, a decoder and a joiner nor a CTC graph, or one is damaged.
            ConfigError: onnxruntime is not installed.
        """
        self.config = config
        named, threads = config.files.named(), torch.get_num_threads() if num_threads is None else num_threads
        has_parts = named.keys() >= {"encoder", "decoder", "joiner"}
        if not has_parts and ("ctc" not in named or "encoder" in named):
            raise CheckpointError(
                f"{EXPORT_FILE} must name an encoder, a decoder and a joiner, or a CTC graph, but names {config.files}"
            )
        self._graphs: dict[str, Graph] = {}
        wanted = ("encoder", "decoder", "joiner", "ctc_head") if has_parts else ("ctc",)
        for part in wanted:
            if part not in named:
                continue
            name = named[part]
            graph = graphs[name]
            if part == "encoder" and "ctc_head" in named and isinstance(graph, bytes):
                graph = with_hidden_frames(graph, name)
            self._graphs[part] = graph if isinstance(graph, Graph) else Graph(graph, name=name, num_threads=threads)
        self._encoder = self._graphs["encoder" if has_parts else "ctc"]
        self._known_contexts: dict[tuple[int, ...], Tensor] = {}

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the encoder's graph, or that of CTC, says of itself."""
        return self._encoder.metadata

    @property
    def blank_id(self) -> int:
        """Id of the blank."""
        return self.config.blank_id

    @property
    def context_size(self) -> int:
        """Number of previous labels that the decoder takes; 0 without a transducer."""
        return self.config.context_size

    @property
    def has_transducer(self) -> bool:
        """Whether `project_frames`, `predict` and `join` work."""
        return "joiner" in self._graphs

    @property
    def has_ctc(self) -> bool:
        """Whether `ctc_log_probs` works."""
        return "ctc" in self._graphs or "ctc_head" in self._graphs

    @property
    def has_attention(self) -> bool:
        """False: the attention decoder is not exported."""
        return False

    def output_length(self, num_frames: int) -> int:
        """Number of frames at 25 Hz for `num_frames` features at 100 Hz; 0 if there are too few."""
        return output_length(num_frames)

    def encode(
        self,
        features: Tensor,
        lens: Tensor,
        *,
        chunk_frames_50hz: int | None = None,
        left_context_frames_50hz: int | None = None,
    ) -> Encoded:
        """Encode a padded batch of features (N, T, F); see `AsrModel.encode`.

        Returns:
            Outputs of the graphs as frames, to be used only with the other methods, and their lengths.
        Raises:
            ValueError: shapes disagree, or the graphs have another chunk or left context.
        """
        self._check_chunks(chunk_frames_50hz, left_context_frames_50hz)
        check_input(features, lens, num_features=self.config.features.num_mel_bins, min_frames=MIN_FEATURES)
        return self._encode_batch(features, lens)

    def _check_chunks(self, chunk: int | None, left_context: int | None) -> None:
        """Check that the graphs have the chunk and the left context that are asked for; None: any."""
        for name, frames in (("chunk", chunk), ("left_context", left_context)):
            if frames not in (None, -1):
                raise ValueError(f"{name}_frames_50hz must be -1 for a graph without chunks, but is {frames}")

    def _encode_batch(self, features: Tensor, lens: Tensor) -> Encoded:
        """The frames of a batch that is known to be one."""
        frames_NTD, lens_N, *hidden = run_tensors(self._encoder, features, lens)
        return Encoded(torch.cat([frames_NTD, *hidden], dim=-1), lens_N)

    def project_frames(self, frames_NTD: Tensor) -> Tensor:
        """Frames of `encode` projected for the joiner, (N, T, J)."""
        self._check_transducer()
        return frames_NTD[..., : self.config.joiner_dim]

    def predict(self, contexts_MC: Tensor) -> Tensor:
        """Projected contexts (M, J) of the last `context_size` ids (M, C); -1 means no label."""
        self._check_transducer()
        if not len(contexts_MC):
            return torch.zeros(0, self.config.joiner_dim)
        contexts = [tuple(context) for context in contexts_MC.tolist()]
        known = self._known_contexts
        if new := [context for context in dict.fromkeys(contexts) if context not in known]:
            (new_MJ,) = run_tensors(self._graphs["decoder"], torch.tensor(new))
            if len(known) + len(new) > _MAX_KNOWN_CONTEXTS:  # another thread may still read the old ones
                known = self._known_contexts = {context: known[context] for context in contexts if context in known}
            known.update(zip(new, new_MJ, strict=True))
        return torch.stack([known[context] for context in contexts])

    def join(self, frames_MJ: Tensor, contexts_MJ: Tensor) -> Tensor:
        """Logits (..., V) of projected frames and contexts that broadcast against each other."""
        self._check_transducer()
        frames, contexts = torch.broadcast_tensors(frames_MJ, contexts_MJ)
        width = self.config.joiner_dim
        (logits,) = run_tensors(self._graphs["joiner"], frames.reshape(-1, width), contexts.reshape(-1, width))
        return logits.view(*frames.shape[:-1], -1)

    def ctc_log_probs(self, frames_NTD: Tensor) -> Tensor:
        """Log-probabilities (N, T, V) of the CTC head for frames of `encode`."""
        if not self.has_ctc:
            raise ValueError("this model has no CTC head; use a transducer search")
        if "ctc" in self._graphs:
            return frames_NTD
        (log_probs,) = run_tensors(self._graphs["ctc_head"], frames_NTD[..., self.config.joiner_dim :])
        return log_probs

    def attention_log_probs(self, encoded: Encoded, labels_NKS: Tensor, label_lens_NK: Tensor) -> Tensor:
        """Raises ValueError: the attention decoder is not exported."""
        raise ValueError("exported models have no attention decoder; use a search without rescoring")

    def _check_transducer(self) -> None:
        if not self.has_transducer:
            raise ValueError("this model has no transducer head; use a CTC search")


def run_tensors(graph: Graph, *inputs: Tensor) -> list[Tensor]:
    """The outputs of a graph, numbers with a fraction in float32; inputs and outputs are by position."""
    outputs = map(torch.from_numpy, graph.run(*(tensor.detach().cpu().numpy() for tensor in inputs)))
    return [output.float() if output.is_floating_point() else output.long() for output in outputs]
