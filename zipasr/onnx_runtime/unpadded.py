"""Graphs of whole utterances that take no padding, as a `Scorer`: `UnpaddedModel`."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from zipasr.encoder.rates import output_length
from zipasr.errors import CheckpointError
from zipasr.features import PADDING_VALUE
from zipasr.nn.encoded import Encoded
from zipasr.onnx_runtime.model import OnnxModel, run_tensors

_SAFE_STEP, _SAFE_REST = 16, 7
"""T = 16 k + 7 features are a multiple of 8 frames at 50 Hz, which every export of a model with stacks at 1/8 takes."""


class UnpaddedModel(OnnxModel):
    """A `Scorer` that runs the graphs of icefall's export.

    Utterances are encoded together only with others of the same length: the masks of these graphs are as long as the longest
    utterance, so that they take no more padding than a batch needs, and frames near the end depend on the padding. Some take
    no lengths at all.
    """

    _takes_any_length = True

    def _encode_batch(self, features: Tensor, lens: Tensor) -> Encoded:
        lens_N, groups = lens.cpu(), []
        for length in lens_N.unique().tolist():
            rows = (lens_N == length).nonzero().squeeze(1)
            groups.append((rows, self._encode_equally_long(features[rows, :length])))
        frames_NTD = torch.zeros(len(lens_N), output_length(int(lens_N.max())), groups[0][1].shape[2])
        for rows, frames in groups:
            frames_NTD[rows, : frames.shape[1]] = frames
        return Encoded(frames_NTD, torch.tensor([output_length(length) for length in lens_N.tolist()]))

    def _encode_equally_long(self, features: Tensor) -> Tensor:
        """Frames (N, T', D) of features (N, T, F); padded where the graph does not take T frames."""
        length = features.shape[1]
        missing = (_SAFE_REST - length) % _SAFE_STEP
        if self._takes_any_length or not missing:
            try:
                return self._run_encoder(features)
            except CheckpointError:
                if not missing:
                    raise
        frames = self._run_encoder(pad(features, (0, 0, 0, missing), value=PADDING_VALUE))
        self._takes_any_length = False
        return frames[:, : output_length(length)]

    def _run_encoder(self, features: Tensor) -> Tensor:
        lens_N = torch.full((len(features),), features.shape[1])
        frames_NTD, *_ = run_tensors(self._encoder, *(features, lens_N)[: len(self._encoder.inputs)])
        return frames_NTD
