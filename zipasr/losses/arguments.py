"""Argument checks shared by all losses: float scores, (N,) lengths within their axis, labels within V.

Types and shapes are always checked. The values of lengths and labels are checked only on the CPU, where a data loader's
batches are: reading them from an accelerator would make the host wait for all pending work.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from zipasr.nn.encoded import padding_mask
from zipasr.nn.placement import moved


def require_float32(name: str, scores: Tensor, num_dims: int) -> None:
    """Raise ValueError unless `scores` is float32 (or float64) with `num_dims` axes."""
    if scores.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name} must be float32 or float64, but is {scores.dtype}; cast it with .float() first")
    if scores.dim() != num_dims:
        raise ValueError(f"{name} must have {num_dims} axes, but its shape is {tuple(scores.shape)}")


def require_shape(name: str, tensor: Tensor, expected: tuple[int, ...], axes: str) -> None:
    """Raise ValueError unless `tensor` has the `expected` shape; `axes` names it in the message."""
    if tuple(tensor.shape) != expected:
        raise ValueError(f"{name} must be {axes} = {expected}, but its shape is {tuple(tensor.shape)}")


def require_lens(frame_lens: Tensor, label_lens: Tensor, num_frames: int, num_labels: int) -> None:
    """Raise ValueError unless the (N,) frame lengths are in [1, T] and the label lengths in [0, S]."""
    require_integers(frame_lens=frame_lens, label_lens=label_lens)
    require_shape("label_lens", label_lens, tuple(frame_lens.shape), "(N,)")
    require_span("frame_lens", frame_lens, 1, num_frames, "frames")
    require_span("label_lens", label_lens, 0, num_labels, "labels")


class Targets(NamedTuple):
    """Checked labels and lengths, on the device of the scores."""

    labels_NS: Tensor
    """int64; blank for padding."""
    frame_lens: Tensor
    """(N,), int64."""
    label_lens: Tensor
    """(N,), int64."""


def checked_targets(labels_NS: Tensor, frame_lens: Tensor, label_lens: Tensor, *, scores: Tensor, blank: int) -> Targets:
    """Check lengths and labels, and move them to the device of the scores.

    Args:
        labels_NS: integer ids; padding beyond `label_lens` is ignored.
        frame_lens: (N,) integers in [1, T].     label_lens: (N,) integers in [0, S].
        scores: (N, T, ..., V).
        blank: id that no label may have.
    Raises:
        ValueError: an argument is invalid; the message names the first. Values are checked on the CPU only.
    """
    batch_size, num_frames, vocab_size = scores.shape[0], scores.shape[1], scores.shape[-1]
    require_integers(labels=labels_NS)
    if not 0 <= blank < vocab_size:
        raise ValueError(f"blank must be in [0, {vocab_size}), the vocabulary of the scores, but is {blank}")
    if labels_NS.dim() != 2 or labels_NS.shape[0] != batch_size:
        raise ValueError(f"labels must be (N, S) with N = {batch_size}, but the shape is {tuple(labels_NS.shape)}")
    require_shape("frame_lens", frame_lens, (batch_size,), "(N,)")
    if batch_size == 0:
        raise ValueError("the batch must hold at least one utterance, but N = 0")

    require_lens(frame_lens, label_lens, num_frames, labels_NS.shape[1])
    require_vocabulary("labels", labels_NS, label_lens, vocab_size, blank=blank)
    # As int64: small types overflow in sums of lengths, and one of them, uint8, is a mask where it indexes.
    labels_NS, frame_lens, label_lens = (moved(x, scores.device).long() for x in (labels_NS, frame_lens, label_lens))
    return Targets(labels_NS.masked_fill(padding_mask(label_lens, labels_NS), blank), frame_lens, label_lens)


def require_vocabulary(name: str, labels: Tensor, label_lens: Tensor, vocab_size: int, *, blank: int | None = None) -> None:
    """Raise ValueError unless labels (..., S), if on the CPU, are in [0, V) and not `blank` up to `label_lens` (...)."""
    if not is_readable(labels, label_lens):
        return
    is_label = torch.arange(labels.shape[-1]) < label_lens.unsqueeze(-1)
    is_wrong = (labels < 0) | (labels >= vocab_size)
    if blank is not None:
        is_wrong |= labels == blank
    num_wrong = int((is_wrong & is_label).sum())
    if num_wrong:
        allowed = f"[0, {vocab_size})" if blank is None else f"[0, {vocab_size}) and not blank ({blank})"
        raise ValueError(
            f"{name} must be in {allowed} up to the length of each sequence, but {num_wrong} are not; "
            "check the tokenizer against the vocabulary of the model"
        )


def is_readable(*tensors: Tensor) -> bool:
    """Whether the host can read the values of all of these tensors without waiting for an accelerator."""
    return all(tensor.device.type == "cpu" for tensor in tensors)


def require_integers(**tensors: Tensor) -> None:
    """Raise ValueError unless the named tensors are integers."""
    for name, tensor in tensors.items():
        if tensor.dtype.is_floating_point or tensor.dtype.is_complex or tensor.dtype == torch.bool:
            raise ValueError(f"{name} must be integers, but is {tensor.dtype}; cast it with .long()")


def require_span(name: str, values: Tensor, minimum: int, maximum: int, what: str) -> None:
    """Raise ValueError unless all `values`, if on the CPU, are in [minimum, maximum]."""
    if not is_readable(values) or values.numel() == 0:
        return
    lowest, highest = int(values.min()), int(values.max())
    if lowest < minimum or highest > maximum:
        raise ValueError(
            f"{name} must be in [{minimum}, {maximum}], as {maximum} {what} are given, but spans {lowest} to {highest}"
        )
