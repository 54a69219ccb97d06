"""The encoder as a picture: Conv-Embed, six stacks at falling and rising rates, and the final Downsample."""

from typing import NamedTuple

from scripts.pictures.drawing import WIDTH, Box, Drawing
from zipasr.encoder import rates
from zipasr.encoder.zipformer import ZipformerConfig
from zipasr.presets import find_preset

PRESET = "medium"
_SPINE = 56.0
_LEFT_OF_FIRST, _LEFT, _INDENT, _RIGHT = 20.0, 106.0, 26.0, 350.0
_BODY, _STRIP, _GAP = 58.0, 22.0, 34.0


class Stack(NamedTuple):
    """What the picture says of one stack."""

    number: int
    factor: int
    """Downsampling relative to 50 Hz; 1 means that the stack has neither Downsample, upsampling nor Bypass."""
    rate_hz: float
    num_blocks: int
    channels: int
    num_heads: int
    kernel_size: int
    num_joined: int
    """Channels at the end of its output that become part of the encoder's output."""


def preset_encoder() -> ZipformerConfig:
    """The configuration that is drawn."""
    encoder = find_preset(PRESET).encoder
    assert isinstance(encoder, ZipformerConfig)
    return encoder


def stacks_of(config: ZipformerConfig) -> list[Stack]:
    """The stacks of an encoder, in order."""
    joined, width = [0] * len(config.channels), 0
    for i, channels in reversed(list(enumerate(config.channels))):
        joined[i] = max(0, channels - width)
        width = max(width, channels)
    return [
        Stack(
            number=i + 1,
            factor=factor,
            rate_hz=rates.EMBED_RATE_HZ / factor,
            num_blocks=config.num_layers[i],
            channels=config.channels[i],
            num_heads=config.num_heads[i],
            kernel_size=config.kernel_sizes[i],
            num_joined=joined[i],
        )
        for i, factor in enumerate(config.downsample)
    ]


def _description(stacks: list[Stack], config: ZipformerConfig) -> str:
    around = "Downsample before its blocks, upsampling after them, and a Bypass from its input to its output"
    return (
        f"Features at {rates.FEATURE_RATE_HZ} Hz enter Conv-Embed, which returns frames at {rates.EMBED_RATE_HZ} Hz. "
        f"{len(stacks)} stacks follow, whose blocks run at {', '.join(f'{stack.rate_hz:g}' for stack in stacks)} Hz with "
        f"{', '.join(str(stack.channels) for stack in stacks)} channels. Every stack but the first has a {around}. "
        f"The outputs of the last stacks are joined to {max(config.channels)} channels, and a final Downsample by 2 "
        f"gives {rates.ENCODED_RATE_HZ} Hz."
    )


def draw() -> Drawing:
    """Draw the encoder of the preset."""
    config = preset_encoder()
    stacks = stacks_of(config)
    drawing = Drawing(f"The Zipformer encoder, preset {PRESET}", _description(stacks, config))
    drawing.text((_SPINE, 26), f"features: {config.num_features} mel bins at {rates.FEATURE_RATE_HZ} Hz", anchor="start")
    frontend = Box(_LEFT_OF_FIRST, 54, _RIGHT - _LEFT_OF_FIRST, _BODY)
    drawing.arrow((_SPINE, 33), (_SPINE, frontend.top))
    what = "3 convolutions, ConvNeXt, Linear"
    drawing.box(frontend, ["Conv-Embed", what, f"{rates.FEATURE_RATE_HZ} Hz to {rates.EMBED_RATE_HZ} Hz"], "convolution")
    y = frontend.bottom
    lanes: list[tuple[float, float]] = []
    for before, stack in zip([None, *stacks], stacks, strict=False):
        _width_change(drawing, y, before, stack)
        y = _draw_stack(drawing, y + _GAP, stack)
        if stack.num_joined and stack is not stacks[-1]:
            start = y + _GAP - 14
            lanes.append((WIDTH - 26 - 20 * len(lanes), start))
            drawing.dot((_SPINE, start))
            drawing.text((_RIGHT, start - 5), f"the last {stack.num_joined} channels", "small", anchor="end", is_soft=True)
    _draw_output(drawing, y, lanes, config)
    return drawing


def _width_change(drawing: Drawing, y: float, before: Stack | None, stack: Stack) -> None:
    """Write how many channels are appended or cut between two stacks."""
    change = stack.channels - (before.channels if before else stack.channels)
    if change:
        sign = "+" if change > 0 else "−"
        drawing.text((_SPINE - 10, y + _GAP / 2 + 4), f"{sign}{abs(change)}", "small", anchor="end", is_soft=True)


def _draw_stack(drawing: Drawing, y: float, stack: Stack) -> float:
    """Draw one stack with its upper edge at y; return y of its lower edge."""
    level = stack.factor.bit_length() - 1
    heads = f"{stack.num_heads} heads, kernel {stack.kernel_size}"
    lines = [f"Stack {stack.number}: {stack.rate_hz:g} Hz", f"{stack.num_blocks} blocks, {stack.channels} channels", heads]
    if stack.factor == 1:
        body = Box(_LEFT_OF_FIRST, y, _RIGHT - _LEFT_OF_FIRST, _BODY)
        drawing.arrow((_SPINE, y - _GAP), (_SPINE, body.top))
        drawing.box(body, lines, "rate")
        return body.bottom
    left = _LEFT + (level - 1) * _INDENT
    down = Box(left, y, _RIGHT - left, _STRIP)
    body = Box(left, down.bottom, down.width, _BODY)
    up = Box(left, body.bottom, down.width, _STRIP)
    bypass = Box(_SPINE - 28, up.center - 12, 56, 24)
    drawing.arrow((_SPINE, y - _GAP), (_SPINE, bypass.top))
    drawing.dot((_SPINE, down.center))
    drawing.arrow((_SPINE, down.center), (down.left, down.center))
    drawing.box(down, [f"Downsample: {stack.factor} frames to 1"], styles=["plain"])
    drawing.box(body, lines, "rate")
    drawing.box(up, [f"repeat each frame {stack.factor} times"], styles=["plain"])
    drawing.arrow((up.left, up.center), (bypass.right, up.center))
    drawing.box(bypass, ["Bypass"], "bypass", styles=["plain"])
    return up.bottom


def _draw_output(drawing: Drawing, y: float, lanes: list[tuple[float, float]], config: ZipformerConfig) -> None:
    """Draw what follows the last stack, whose lower edge is at y."""
    join = Box(_LEFT_OF_FIRST, y + _GAP, WIDTH - 2 * _LEFT_OF_FIRST + 8, 28)
    for lane, start in lanes:
        drawing.arrow((_SPINE, start), (lane, start), (lane, join.top))
    channels = max(config.channels)
    drawing.arrow((_SPINE, y), (_SPINE, join.top))
    drawing.box(join, [f"join to {channels} channels at {rates.EMBED_RATE_HZ} Hz"], styles=["plain"])
    down = Box(join.left, join.bottom + 20, join.width, 28)
    drawing.arrow((_SPINE, join.bottom), (_SPINE, down.top))
    drawing.box(down, ["Downsample: 2 frames to 1"], styles=["plain"])
    drawing.arrow((_SPINE, down.bottom), (_SPINE, down.bottom + 22))
    drawing.text((_SPINE, down.bottom + 38), f"encoded frames: {channels} channels at {rates.ENCODED_RATE_HZ} Hz")
    note = "+: zero channels are appended; −: channels are cut off"
    drawing.text((_LEFT_OF_FIRST, down.bottom + 66), note, "small", is_soft=True)
    drawing.height = down.bottom + 80
