"""One Zipformer block as a picture, drawn from the list of its steps.

The list is a program: run on a real block it gives what the block gives (tests/test_pictures.py).
"""

from fractions import Fraction
from typing import Literal, NamedTuple

from torch import nn

from scripts.pictures.drawing import Box, Drawing, Kind
from zipasr.encoder.layer import LayerShape, ZipformerLayer
from zipasr.nn.feedforward import FeedForward

Wiring = Literal["weights", "add", "replace", "bypass"]
Attention = Literal["the first head", "all heads"]


class Step(NamedTuple):
    """One module of the block, in the order of computation."""

    module: str
    """Attribute of `ZipformerLayer`."""
    title: str
    wiring: Wiring
    """`weights`: attention weights of x. `add`: x + module(x). `replace`: module(x). `bypass`: module(input, x) with
    the input of the block."""
    kind: Kind
    attention: Attention | None = None
    """Which of the attention weights it applies."""
    detail: str = ""


_SPINE, _BEFORE, _WEIGHTS = 142.0, 44.0, 386.0
_LEFT, _WIDE, _ROW, _GAP = 178.0, 176.0, 42.0, 14.0


def steps() -> list[Step]:
    """The steps of a block."""
    shape = LayerShape(
        channels=8,
        feedforward=32,
        num_heads=2,
        kernel_size=3,
        query_head_dim=4,
        value_head_dim=4,
        pos_head_dim=2,
        pos_dim=4,
        is_causal=False,
    )
    block = ZipformerLayer(shape)

    def hidden(module: nn.Module) -> str:
        assert isinstance(module, FeedForward)
        ratio = Fraction(module.in_proj.out_features, shape.feedforward)
        return "hidden width F" if ratio == 1 else f"hidden width {ratio} F"

    return [
        Step("attention_weights", "Attention weights", "weights", "attention", detail="computed once"),
        Step("feed_forward1", "Feed-forward 1", "add", "feedforward", detail=hidden(block.feed_forward1)),
        Step("nonlin_attention", "Non-linear attention", "add", "attention", "the first head"),
        Step("self_attention1", "Self-attention 1", "add", "attention", "all heads"),
        Step("conv1", "Convolution 1", "add", "convolution"),
        Step("feed_forward2", "Feed-forward 2", "add", "feedforward", detail=hidden(block.feed_forward2)),
        Step("bypass_mid", "Bypass (mid)", "bypass", "bypass"),
        Step("self_attention2", "Self-attention 2", "add", "attention", "all heads"),
        Step("conv2", "Convolution 2", "add", "convolution"),
        Step("feed_forward3", "Feed-forward 3", "add", "feedforward", detail=hidden(block.feed_forward3)),
        Step("norm", "BiasNorm", "replace", "plain"),
        Step("bypass", "Bypass", "bypass", "bypass"),
    ]


def draw() -> Drawing:
    """Draw a block."""
    order = steps()
    names = ", ".join(step.title for step in order)
    users = ", ".join(step.title for step in order if step.attention)
    drawing = Drawing(
        "A Zipformer block",
        f"The modules in order: {names}. The attention weights are computed once from the input of the block and used by "
        f"{users}. Attention, feed-forward and convolution modules add their output to their input. Both Bypass modules mix "
        "the input of the block with what they receive.",
    )
    drawing.text((_SPINE, 28), "input of the block", anchor="middle")
    tap = 48.0
    y, last = tap + 14, 36.0
    drawing.dot((_SPINE, tap))
    before, weights = [tap], []
    for step in order:
        if step.wiring in ("weights", "add"):
            box = Box(_LEFT, y, _WIDE, _ROW)
            last = _draw_beside(drawing, box, step, last)
            if step.wiring == "weights" or step.attention:
                weights.append(box.center)
            if step.attention:
                drawing.arrow((_WEIGHTS, box.center), (box.right, box.center))
        else:
            box = Box(_SPINE - 58, y, 116, 28)
            drawing.arrow((_SPINE, last), (_SPINE, box.top))
            drawing.box(box, [step.title], step.kind)
            last = box.bottom
            if step.wiring == "bypass":
                before.append(box.center)
                drawing.arrow((_BEFORE, box.center), (box.left, box.center))
        y = box.bottom + _GAP
    drawing.line((_SPINE, tap), (_BEFORE, tap), (_BEFORE, before[-1]))
    drawing.line((_LEFT + _WIDE, weights[0]), (_WEIGHTS, weights[0]), (_WEIGHTS, weights[-1]))
    for branch in [*((_BEFORE, y) for y in before[1:-1]), *((_WEIGHTS, y) for y in weights[1:-1])]:
        drawing.dot(branch)
    drawing.arrow((_SPINE, last), (_SPINE, last + 24))
    drawing.text((_SPINE, last + 40), "output", anchor="middle")
    drawing.text((20, last + 66), "F: hidden width of Feed-forward 2, set for each stack", "small", is_soft=True)
    drawing.height = last + 80
    return drawing


def _draw_beside(drawing: Drawing, box: Box, step: Step, last: float) -> float:
    """Draw a module at the right of the stream, which is drawn down to `last`; return down to where it is drawn then."""
    detail = f"weights of {step.attention}" if step.attention else step.detail
    lines = [step.title, detail] if detail else [step.title]
    drawing.box(box, lines, step.kind)
    if step.wiring == "weights":
        drawing.line((_SPINE, last), (_SPINE, box.center))
        drawing.dot((_SPINE, box.center))
        drawing.arrow((_SPINE, box.center), (box.left, box.center))
        return box.center
    leaves, joins = box.top + 9, box.bottom - 9
    plus = drawing.operator((_SPINE, joins), "+")
    drawing.line((_SPINE, last), (_SPINE, plus.top - 6))
    drawing.arrow((_SPINE, plus.top - 8), (_SPINE, plus.top))
    drawing.dot((_SPINE, leaves))
    drawing.arrow((_SPINE, leaves), (box.left, leaves))
    drawing.arrow((box.left, joins), (plus.right, joins))
    return plus.bottom
