"""The pictures of the architecture (scripts/pictures). Contract: the files in docs/pictures are what the program draws,
small, accessible and without overlapping texts. Reference: what they show is what the code computes."""

import dataclasses
import itertools
import sys
import xml.etree.ElementTree as ElementTree
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import soundfile
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from scripts.pictures.__main__ import FOLDER, PICTURES
from scripts.pictures.block import Step, steps
from scripts.pictures.drawing import WIDTH, Box, Drawing, text_width
from scripts.pictures.encoder import Stack, preset_encoder, stacks_of
from scripts.pictures.modules import operations
from scripts.pictures.rooms import PATH, SENTENCES, rooms
from tests.conftest import REPOSITORY
from tests.import_map import HEIGHT, PACKAGE
from tests.tiny_model import noise, tiny_asr_model, tiny_tokenizer
from zipasr.encoder import rates
from zipasr.encoder.layer import LayerShape, ZipformerLayer
from zipasr.encoder.zipformer import Zipformer, join_outputs
from zipasr.nn import swoosh
from zipasr.nn.attention import AttentionWeights, NonlinAttention, RelativePositionalEncoding, SelfAttention
from zipasr.nn.convolution import ConvolutionModule
from zipasr.nn.feedforward import FeedForward
from zipasr.recognizer import Recognizer

SVG = "{http://www.w3.org/2000/svg}"
MAX_BYTES = 30_000


# The files.


@pytest.mark.parametrize("name", PICTURES)
def test_file_is_what_the_program_draws(name: str) -> None:
    drawn = PICTURES[name]().svg()
    assert drawn == PICTURES[name]().svg()
    assert (FOLDER / name).read_text(encoding="utf-8") == drawn, "run `python -m scripts.pictures`, and look at the picture"


def test_folder_holds_the_pictures_and_what_pages_show() -> None:
    names = {path.name for path in FOLDER.iterdir()}
    assert set(PICTURES) <= names
    pages = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
    shown = "".join(page.read_text(encoding="utf-8") for page in pages)
    assert [name for name in sorted(names) if f"pictures/{name})" not in shown] == []


@pytest.mark.parametrize("name", PICTURES)
def test_file_is_small_accessible_and_self_contained(name: str) -> None:
    content = (FOLDER / name).read_text(encoding="utf-8")
    root = ElementTree.fromstring(content)
    assert len(content.encode()) <= MAX_BYTES
    labels = {element.get("id"): element.text for element in root if element.tag in (f"{SVG}title", f"{SVG}desc")}
    assert all(labels[label] for label in (root.get("aria-labelledby") or "").split())
    assert sorted(map(str, labels)) == ["desc", "title"]
    assert "@media (prefers-color-scheme:dark)" in content
    assert content.count("http") == 1, "only the name space is an address"
    page = root.find(f"{SVG}rect")
    assert page is not None
    assert page.get("class") == "page", "the page has a background of its own"


@pytest.mark.parametrize("name", PICTURES)
def test_everything_is_on_the_page_and_no_texts_overlap(name: str) -> None:
    drawing = PICTURES[name]()
    for place, text in drawing.texts:
        assert place.left >= 8, text
        assert place.right <= WIDTH - 8, text
        assert 8 <= place.top < place.bottom <= drawing.height - 8, text
    for (one, a), (other, b) in itertools.combinations(drawing.texts, 2):
        is_apart = one.right <= other.left or other.right <= one.left or one.bottom <= other.top or other.bottom <= one.top
        assert is_apart, f"{a!r} overlaps {b!r}"


# The writer.


def test_text_that_does_not_fit_is_refused() -> None:
    drawing = Drawing("title", "description")
    with pytest.raises(ValueError, match="must fit in its box"):
        drawing.box(Box(0, 0, 60, 30), ["much too long for this"])
    with pytest.raises(ValueError, match="must fit in its box"):
        drawing.box(Box(0, 0, 300, 30), ["three", "lines", "here"])
    with pytest.raises(ValueError, match="must be on the page"):
        drawing.text((WIDTH - 20, 10), "beyond the edge")
    assert text_width("abc", "plain") < text_width("abcd", "plain") < text_width("abcd", "strong")


def test_texts_are_escaped() -> None:
    drawing = Drawing("a < b", "c & d")
    drawing.text((10, 10), "e < f & g")
    drawing.height = 20
    root = ElementTree.fromstring(drawing.svg())
    assert [element.text for element in root.iter() if element.tag.endswith(("title", "desc", "text"))] == [
        "a < b",
        "c & d",
        "e < f & g",
    ]


# The encoder.


def test_stacks_are_those_of_the_published_medium_model() -> None:
    stacks = stacks_of(preset_encoder())
    assert [stack.rate_hz for stack in stacks] == [50, 25, 12.5, 6.25, 12.5, 25]
    assert [stack.num_blocks for stack in stacks] == [2, 2, 3, 4, 3, 2]
    assert [stack.channels for stack in stacks] == [192, 256, 384, 512, 384, 256]
    assert [stack.num_joined for stack in stacks] == [0, 0, 0, 128, 128, 256]


@pytest.mark.parametrize(
    "channels", [preset_encoder().channels, (192, 256, 256, 256, 256, 256), (8, 16, 8), (16, 8, 16), (24, 8, 16), (8,)]
)
def test_output_joins_the_channels_that_the_picture_says(channels: tuple[int, ...]) -> None:
    joined = join_outputs([torch.full((1, 1, width), float(i)) for i, width in enumerate(channels)]).flatten()
    size = len(channels)
    config = dataclasses.replace(
        preset_encoder(),
        channels=channels,
        unmasked_channels=(8,) * size,
        num_layers=(1,) * size,
        downsample=(1,) * size,
        feedforward=(8,) * size,
        num_heads=(1,) * size,
        kernel_sizes=(3,) * size,
    )
    assert [stack.num_joined for stack in stacks_of(config)] == [int((joined == i).sum()) for i in range(size)]


def called(module: nn.Module, record: list[tuple[str, int]], name: str) -> None:
    """Record the name of `module` and the number of frames of its input, (N, T, ...), whenever it is called."""
    module.register_forward_pre_hook(lambda _, inputs: record.append((name, inputs[0].shape[1])))


def test_stacks_run_at_the_rates_and_in_the_order_of_the_picture() -> None:
    narrow = dataclasses.replace(
        preset_encoder(), channels=(8,) * 6, unmasked_channels=(8,) * 6, feedforward=(8,) * 6, num_heads=(1,) * 6
    )
    model, record = Zipformer(narrow).eval(), list[tuple[str, int]]()
    called(model.frontend, record, "frontend")
    for stack in model.stacks:
        for name, child in stack.named_children():
            if name in ("downsample", "bypass"):
                called(child, record, name)
        for layer in stack.layers:
            called(layer, record, "block")
    called(model.output_downsample, record, "downsample")
    num_features = 2 * 64 + 7
    with torch.no_grad():
        encoded = model(torch.randn(1, num_features, 80), torch.tensor([num_features]))

    def expected(stack: Stack, frames: int) -> list[tuple[str, int]]:
        blocks = [("block", int(frames * stack.rate_hz / rates.EMBED_RATE_HZ))] * stack.num_blocks
        return blocks if stack.factor == 1 else [("downsample", frames), *blocks, ("bypass", frames)]

    frames = num_features * rates.EMBED_RATE_HZ // rates.FEATURE_RATE_HZ - 3
    assert record == [
        ("frontend", num_features),
        *(call for stack in stacks_of(preset_encoder()) for call in expected(stack, frames)),
        ("downsample", frames),
    ]
    assert encoded.frames.shape[1] == frames * rates.ENCODED_RATE_HZ // rates.EMBED_RATE_HZ


# The block.


def block_shape() -> LayerShape:
    return LayerShape(
        channels=16,
        feedforward=32,
        num_heads=2,
        kernel_size=5,
        query_head_dim=8,
        value_head_dim=6,
        pos_head_dim=4,
        pos_dim=12,
        is_causal=False,
    )


def run(program: list[Step], block: ZipformerLayer, x: Tensor, positions: Tensor, mask: Tensor, padding: Tensor) -> Tensor:
    """What the steps of the picture compute with the modules of a block."""
    before, weights = x, x.new_empty(0)
    for step in program:
        module = getattr(block, step.module)
        if step.wiring == "weights":
            weights = module(x, positions, mask)
        elif step.wiring == "bypass":
            x = module(before, x)
        elif step.wiring == "replace":
            x = module(x)
        elif step.attention:
            x = x + module(x, weights[:, 0] if step.attention == "the first head" else weights)
        else:
            x = x + (module(x, padding) if isinstance(module, ConvolutionModule) else module(x))
    return x


def test_steps_of_the_picture_compute_what_the_block_computes() -> None:
    torch.manual_seed(3)
    block = ZipformerLayer(block_shape()).eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        x, padding = torch.randn(2, 9, 16), torch.zeros(2, 9, dtype=torch.bool)
        padding[1, 6:] = True
        given = (RelativePositionalEncoding(12).eval()(9), padding[:, None, None, :], padding)
        expected = block(x, *given)
        torch.testing.assert_close(run(steps(), block, x, *given), expected)
        for i in range(1, len(steps()) - 1):  # the comparison sees the order
            swapped = steps()
            swapped[i : i + 2] = reversed(swapped[i : i + 2])
            assert not torch.allclose(run(swapped, block, x, *given), expected, atol=1e-3)


def test_steps_are_all_modules_of_the_block() -> None:
    constraints = {"balancer_nonlin", "balancer_ff2", "balancer_ff3", "balancer1", "balancer2", "whiten"}
    modules = {name for name, _ in ZipformerLayer(block_shape()).named_children()}
    assert {step.module for step in steps()} == modules - constraints
    hidden = [step.detail for step in steps() if step.module.startswith("feed_forward")]
    assert hidden == ["hidden width 3/4 F", "hidden width F", "hidden width 5/4 F"]


# The modules.


class Calls(TorchFunctionMode):
    """Names of the drawn functions that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.drawn = {operation for names in operations().values() for operation in names}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(getattr(func, "__name__", "")).removeprefix("__").removesuffix("__")
        if name in self.drawn:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", operations())
def test_modules_call_the_functions_of_the_picture(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weights, padding = torch.randn(2, 9, 16), torch.rand(2, 2, 9, 9), torch.zeros(2, 9, dtype=torch.bool)
    modules: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
        "NonlinAttention": (NonlinAttention(16), (x, weights[:, 0])),
        "AttentionWeights": (
            AttentionWeights(16, 12, num_heads=2, query_head_dim=8, pos_head_dim=4),
            (x, torch.randn(17, 12), padding[:, None, None, :]),
        ),
        "SelfAttention": (SelfAttention(16, num_heads=2, value_head_dim=6), (x, weights)),
        "FeedForward": (FeedForward(16, 32), (x,)),
        "ConvolutionModule": (ConvolutionModule(16, 5, is_causal=False), (x, padding)),
    }
    module, given = modules[name]
    value = swoosh._value
    with torch.no_grad(), Calls() as calls:
        monkeypatch.setattr(swoosh, "_value", lambda x, kind: (calls.names.append(kind), value(x, kind))[1])
        module.eval()(*given)
    assert tuple(calls.names) == operations()[name]


def test_widths_of_the_linear_layers_are_those_of_the_picture() -> None:
    channels, heads, (query, value, position) = 64, 4, preset_encoder().head_dims(0)
    nonlin = NonlinAttention(channels)
    assert Fraction(nonlin.out_proj.in_features, channels) == Fraction(3, 4)
    assert nonlin.in_proj.out_features == 3 * nonlin.out_proj.in_features
    weights = AttentionWeights(channels, 48, num_heads=heads, query_head_dim=query, pos_head_dim=position)
    assert weights.in_proj.out_features == heads * (query + query + position)
    assert weights.linear_pos.out_features == heads * position
    assert SelfAttention(channels, num_heads=heads, value_head_dim=value).in_proj.out_features == heads * value
    assert ConvolutionModule(channels, 31, is_causal=False).in_proj.out_features == 2 * channels


# The rooms.


def test_every_part_of_the_import_map_has_a_sentence() -> None:
    assert set(SENTENCES) == set(HEIGHT)
    assert all(sentence[0].isupper() and sentence.endswith(".") for sentence in SENTENCES.values())


def test_rooms_are_the_folders_and_modules_of_the_package() -> None:
    names = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    drawn = [part for row in rooms() for part in row]
    assert sorted(drawn) == sorted(name for name in names if not name.startswith("__"))
    heights = [HEIGHT[part] for part in drawn]
    assert heights == sorted(heights, reverse=True)


def test_audio_becomes_text_along_the_path(tmp_path: Path) -> None:
    """A recording leaves the rooms for the last time in the order of the path."""
    soundfile.write(tmp_path / "a.wav", noise(1.0), 16_000)
    recognizer = Recognizer(tiny_asr_model(has_ctc=False), tiny_tokenizer())
    left: dict[str, int] = {}

    def profile(frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "return" and PACKAGE in path.parents:
            part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
            left.pop(part, None)
            left[part] = 1

    sys.setprofile(profile)
    try:
        transcript = recognizer.transcribe(tmp_path / "a.wav")
    finally:
        sys.setprofile(None)
    assert transcript.text
    assert tuple(part for part in left if part in PATH) == PATH
    assert [HEIGHT[part] for part in PATH] == sorted(HEIGHT[part] for part in PATH), "the line only goes up"
