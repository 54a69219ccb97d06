"""What every loss asks of its arguments, in one place: float scores, (N,) lengths within their axis, labels within V.

The values of lengths and labels are looked at in one copy to the host, so a call on CUDA waits for the device once.
"""

import torch
from torch import Tensor


def require_float32(name: str, scores: Tensor, num_dims: int) -> None:
    """Raise ValueError unless `scores` is float32 (or float64) with `num_dims` axes."""
    if scores.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name} must be float32 or float64, but is {scores.dtype}; cast it with .float() first")
    if scores.dim() != num_dims:
        raise ValueError(f"{name} must have {num_dims} axes, but its shape is {tuple(scores.shape)}")


def require_shape(name: str, tensor: Tensor, expected: tuple[int, ...], axes: str) -> None:
    """Raise ValueError unless `tensor` has the `expected` shape, called `axes` in the message."""
    if tuple(tensor.shape) != expected:
        raise ValueError(f"{name} must be {axes} = {expected}, but its shape is {tuple(tensor.shape)}")


def require_blank(blank: int, vocab_size: int) -> None:
    """Raise ValueError unless 0 <= blank < V."""
    if not 0 <= blank < vocab_size:
        raise ValueError(f"blank must be in [0, {vocab_size}), the vocabulary of the scores, but is {blank}")


def require_lens(frame_lens: Tensor, label_lens: Tensor, num_frames: int, num_labels: int) -> None:
    """Raise ValueError unless the (N,) frame lengths are in [1, T] and the label lengths in [0, S]."""
    _require_integers(frame_lens=frame_lens, label_lens=label_lens)
    require_shape("label_lens", label_lens, tuple(frame_lens.shape), "(N,)")
    lowest_T, highest_T, lowest_S, highest_S = torch.stack(
        [x.long() for x in (frame_lens.min(), frame_lens.max(), label_lens.min(), label_lens.max())]
    ).tolist()
    _require_span("frame_lens", lowest_T, highest_T, 1, num_frames, "frames")
    _require_span("label_lens", lowest_S, highest_S, 0, num_labels, "labels")


def checked_labels(
    labels_NS: Tensor,
    frame_lens: Tensor,
    label_lens: Tensor,
    *,
    batch_size: int,
    num_frames: int,
    vocab_size: int,
    blank: int,
    first_label_NT: Tensor | None = None,
) -> Tensor:
    """Check lengths and labels, and return the labels with blank for padding.

    Args:
        labels_NS: integer ids; what stands beyond `label_lens` is not looked at.
        frame_lens: (N,) integers in [1, num_frames].     label_lens: (N,) integers in [0, S].
        batch_size: N.     num_frames: T.     vocab_size: V.     blank: id that no label may have.
        first_label_NT: start of the band in every frame, in [0, S], where there is a band.
    Returns:
        (N, S) int64.
    Raises:
        ValueError: naming the first argument that is wrong.
    """
    _require_integers(labels=labels_NS, frame_lens=frame_lens, label_lens=label_lens)
    if first_label_NT is not None:
        _require_integers(first_label=first_label_NT)
    require_blank(blank, vocab_size)
    if labels_NS.dim() != 2 or labels_NS.shape[0] != batch_size:
        raise ValueError(f"labels must be (N, S) with N = {batch_size}, but the shape is {tuple(labels_NS.shape)}")
    require_shape("frame_lens", frame_lens, (batch_size,), "(N,)")
    require_shape("label_lens", label_lens, (batch_size,), "(N,)")
    if batch_size == 0:
        raise ValueError("the batch must hold at least one utterance, but N = 0")

    num_labels = labels_NS.shape[1]
    is_label_NS = torch.arange(num_labels, device=labels_NS.device) < label_lens[:, None]
    is_wrong_NS = (labels_NS < 0) | (labels_NS >= vocab_size) | (labels_NS == blank)
    seen = [frame_lens.min(), frame_lens.max(), label_lens.min(), label_lens.max(), (is_wrong_NS & is_label_NS).sum()]
    if first_label_NT is not None:
        seen += [first_label_NT.min(), first_label_NT.max()]
    lowest_T, highest_T, lowest_S, highest_S, num_wrong, *band = torch.stack([x.long() for x in seen]).tolist()
    _require_span("frame_lens", lowest_T, highest_T, 1, num_frames, "frames")
    _require_span("label_lens", lowest_S, highest_S, 0, num_labels, "labels")
    if num_wrong:
        raise ValueError(
            f"labels must be in [0, {vocab_size}) and not blank ({blank}) up to label_lens, "
            f"but {num_wrong} are; check the tokenizer against the vocabulary of the model"
        )
    if band:
        _require_span("first_label", band[0], band[1], 0, num_labels, "labels")
    return labels_NS.long().masked_fill(~is_label_NS, blank)


def _require_integers(**tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype.is_floating_point or tensor.dtype.is_complex or tensor.dtype == torch.bool:
            raise ValueError(f"{name} must be integers, but is {tensor.dtype}; cast it with .long()")


def _require_span(name: str, lowest: int, highest: int, minimum: int, maximum: int, what: str) -> None:
    if lowest < minimum or highest > maximum:
        raise ValueError(
            f"{name} must be in [{minimum}, {maximum}], as {maximum} {what} are given, but spans {lowest} to {highest}"
        )
