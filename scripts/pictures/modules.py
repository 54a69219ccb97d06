"""The modules of a Zipformer block as a picture: what each computes, from its input at the top to its output at the bottom.

Every box stands for one function. `operations` returns those that are drawn, and tests/test_pictures.py compares them with
the functions that the modules call.
"""

import itertools
from collections.abc import Sequence

from scripts.pictures.drawing import WIDTH, Box, Drawing, Kind
from scripts.pictures.encoder import preset_encoder

_MARGIN, _PAD, _HEADING, _ROW, _GAP = 10.0, 12.0, 52.0, 26.0, 20.0
_STEP = _ROW + _GAP


class _Panel:
    """A frame for one module, in which boxes stand on rows."""

    def __init__(self, drawing: Drawing, frame: Box, module: str, heading: str, kind: Kind) -> None:
        self.drawing, self.frame, self.kind = drawing, drawing.frame(frame, heading), kind
        self.module = module
        """Name of the class that is drawn."""
        self.operations: list[str] = []
        """Functions that are drawn, in the order in which the module calls them."""

    def box(self, operation: str, row: float, sides: tuple[float, float], *lines: str) -> Box:
        """Draw a function as a box on a row, from left to right side; a second line makes it taller."""
        self.operations.append(operation)
        (left, right), top = sides, self.frame.top + _HEADING + row * _STEP
        place = Box(left, top, right - left, _ROW + 14 * (len(lines) - 1))
        return self.drawing.box(place, lines, self.kind, styles=["plain", *["small"] * (len(lines) - 1)])

    def circle(self, operation: str, row: float, x: float) -> Box:
        """Draw a sum or a product on a row."""
        self.operations.append(operation)
        return self.drawing.operator(
            (x, self.frame.top + _HEADING + row * _STEP + _ROW / 2), "+" if operation == "add" else "×"
        )

    def down(self, x: float, above: Box, below: Box, name: str = "") -> None:
        """Draw an arrow from a box to one below it, with the name of what it carries."""
        self.drawing.arrow((x, above.bottom), (x, below.top))
        for i, line in enumerate(name.splitlines()):
            self.drawing.text((x + 6, above.bottom + 14 + 13 * i), line, "small", is_soft=True)

    def into(self, x: float, box: Box) -> None:
        """Draw the arrow of the input, from above."""
        self.drawing.arrow((x, box.top - 18), (x, box.top))

    def out(self, x: float, box: Box) -> None:
        """Draw the arrow of the output, downward."""
        self.drawing.arrow((x, box.bottom), (x, box.bottom + 18))

    def chain(self, x: float, *boxes: Box) -> None:
        """Draw arrows through boxes below each other, and the output of the last."""
        for above, below in itertools.pairwise(boxes):
            self.down(x, above, below)
        self.out(x, boxes[-1])


def draw() -> Drawing:
    """Draw the five modules."""
    drawing, _ = _draw()
    return drawing


def operations() -> dict[str, tuple[str, ...]]:
    """The functions that are drawn for each module, in the order in which it calls them in evaluation."""
    _, panels = _draw()
    return {panel.module: tuple(panel.operations) for panel in panels}


def _draw() -> tuple[Drawing, Sequence[_Panel]]:
    drawing = Drawing(
        "The modules of a Zipformer block",
        "Non-linear attention: a linear layer gives s, x and y of three quarters of the width; x times tanh of s is "
        "averaged with the attention weights of the first head, multiplied by y, and projected. Attention weights: "
        "products of queries and keys, plus products of position queries and projected position encodings, masked, then "
        "softmax. Self-attention: values averaged with the attention weights, then projected. Feed-forward: linear, "
        "SwooshL, linear. Convolution: a linear layer gives content and gate; content times sigmoid of the gate, zero at "
        "padding, depthwise convolution, SwooshR, linear.",
    )
    width = WIDTH - 2 * _MARGIN
    half = (width - _MARGIN) / 2
    nonlin = _nonlin_attention(drawing, Box(_MARGIN, _MARGIN, width, _height(5)))
    weights = _attention_weights(drawing, Box(_MARGIN, nonlin.frame.bottom + _MARGIN, width, _height(5.4)))
    top = weights.frame.bottom + _MARGIN
    attention = _self_attention(drawing, Box(_MARGIN, top, half, _height(3)))
    feed_forward = _feed_forward(drawing, Box(_MARGIN, attention.frame.bottom + _MARGIN, half, _height(3)))
    bottom = feed_forward.frame.bottom
    convolution = _convolution(drawing, Box(_MARGIN * 2 + half, top, half, bottom - top))
    legend = "D: channels of the stack. H: heads. T: frames. F: hidden width."
    drawing.text((_MARGIN + 2, bottom + 22), legend, "small", is_soft=True)
    drawing.height = bottom + 36
    return drawing, (nonlin, weights, attention, feed_forward, convolution)


def _height(num_rows: float) -> float:
    return _HEADING + num_rows * _STEP - _GAP + 28


def _nonlin_attention(drawing: Drawing, frame: Box) -> _Panel:
    panel = _Panel(drawing, frame, "NonlinAttention", "Non-linear attention", "attention")
    gate, content, outer = 150.0, 250.0, 350.0
    sides = (gate - 50, frame.right - _PAD)
    first = panel.box("linear", 0, sides, "Linear: D to 3 · ¾ D")
    tanh = panel.box("tanh", 1, (gate - 30, gate + 30), "tanh")
    inner = panel.circle("mul", 1, content)
    attention = panel.box("matmul", 2, (content - 78, content + 78), "weights · (x tanh s)")
    product = panel.circle("mul", 3, content)
    last = panel.box("linear", 4, sides, "Linear: ¾ D to D")
    panel.into(content, first)
    panel.down(gate, first, tanh, "s")
    panel.down(content, first, inner, "x")
    drawing.arrow((tanh.right, tanh.center), (inner.left, tanh.center))
    drawing.arrow((outer, first.bottom), (outer, product.center), (product.right, product.center))
    drawing.text((outer + 6, first.bottom + 14), "y", "small", is_soft=True)
    drawing.text((frame.left + _PAD, attention.center - 3), "weights of the", "small", is_soft=True)
    drawing.text((frame.left + _PAD, attention.center + 11), "first head", "small", is_soft=True)
    drawing.arrow((frame.left + _PAD + 96, attention.center), (attention.left, attention.center))
    panel.chain(content, inner, attention, product, last)
    return panel


def _attention_weights(drawing: Drawing, frame: Box) -> _Panel:
    panel = _Panel(drawing, frame, "AttentionWeights", "Attention weights", "attention")
    query_dim, _, position_dim = preset_encoder().head_dims(0)
    query, key, position, encoding, middle = 62.0, 148.0, 234.0, 344.0, 197.0
    width = f"H · ({query_dim} + {query_dim} + {position_dim})"
    first = panel.box("linear", 0, (frame.left + _PAD, 286), f"Linear: D to {width}")
    content = panel.box("matmul", 1.4, (query - 30, key + 30), "queries · keys")
    offsets = panel.box("linear", 0, (encoding - 50, frame.right - _PAD), f"Linear to H · {position_dim}")
    relative = panel.box("matmul", 1.4, (position - 30, encoding + 30), "product, by offset")
    plus = panel.circle("add", 2.4, middle)
    mask = panel.box("masked_fill", 3.4, (middle - 112, middle + 112), "mask padding and other chunks")
    softmax = panel.box("softmax", 4.4, (middle - 112, middle + 112), "softmax over the keys: H · T · T")
    panel.into(key, first)
    panel.into(encoding, offsets)
    drawing.text((frame.right - _PAD, offsets.top - 24), "position encoding", "small", anchor="end", is_soft=True)
    panel.down(query, first, content, "queries")
    panel.down(key, first, content, "keys")
    panel.down(position, first, relative, "position\nqueries")
    panel.down(encoding, offsets, relative)
    drawing.arrow((content.middle, content.bottom), (content.middle, plus.center), (plus.left, plus.center))
    drawing.arrow((relative.middle, relative.bottom), (relative.middle, plus.center), (plus.right, plus.center))
    panel.chain(middle, plus, mask, softmax)
    return panel


def _self_attention(drawing: Drawing, frame: Box) -> _Panel:
    panel = _Panel(drawing, frame, "SelfAttention", "Self-attention", "attention")
    _, value_dim, _ = preset_encoder().head_dims(0)
    x = frame.left + 125
    sides = (x - 63, x + 63)
    first = panel.box("linear", 0, sides, f"Linear: D to H · {value_dim}")
    average = panel.box("matmul", 1, sides, "weights · values")
    last = panel.box("linear", 2, sides, f"Linear: H · {value_dim} to D")
    drawing.text((frame.left + 8, average.center - 8), "weights", "small", is_soft=True)
    drawing.arrow((frame.left + 8, average.center), (average.left, average.center))
    panel.into(x, first)
    panel.chain(x, first, average, last)
    return panel


def _feed_forward(drawing: Drawing, frame: Box) -> _Panel:
    panel = _Panel(drawing, frame, "FeedForward", "Feed-forward", "feedforward")
    x = frame.left + 125
    sides = (x - 63, x + 63)
    first = panel.box("linear", 0, sides, "Linear: D to F")
    swoosh = panel.box("swoosh_left", 1, sides, "SwooshL")
    last = panel.box("linear", 2, sides, "Linear: F to D")
    panel.into(x, first)
    panel.chain(x, first, swoosh, last)
    return panel


def _convolution(drawing: Drawing, frame: Box) -> _Panel:
    panel = _Panel(drawing, frame, "ConvolutionModule", "Convolution", "convolution")
    content, gate = frame.left + 58, frame.right - 46
    sides = (frame.left + _PAD, frame.right - _PAD)
    kernels = " or ".join(str(size) for size in sorted(set(preset_encoder().kernel_sizes), reverse=True))
    first = panel.box("linear", 0, sides, "Linear: D to 2 D")
    sigmoid = panel.box("sigmoid", 1, (gate - 34, gate + 34), "sigmoid")
    product = panel.circle("mul", 1, content)
    zero = panel.box("masked_fill", 2, sides, "zero at padding")
    depthwise = panel.box("conv2d", 3, sides, "depthwise convolution", f"kernel of {kernels} frames")
    lower = 14 / _STEP
    swoosh = panel.box("swoosh_right", 4 + lower, sides, "SwooshR")
    last = panel.box("linear", 5 + lower, sides, "Linear: D to D")
    panel.into(frame.middle, first)
    panel.down(content, first, product, "content")
    panel.down(gate, first, sigmoid, "gate")
    drawing.arrow((sigmoid.left, sigmoid.center), (product.right, product.center))
    panel.down(content, product, zero)
    panel.chain(frame.middle, zero, depthwise, swoosh, last)
    return panel
