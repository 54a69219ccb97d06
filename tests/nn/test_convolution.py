"""Golden: the convolution module and the chunk-causal convolution of the original. Reference: nn.Conv1d. Law: chunks equal
streaming with a cache; nothing after the chunk has an effect; padding counts as zeros; gradcheck."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.golden_files import assert_close_to, batch_first, layer_tensors, load_golden, seeded
from zipasr.nn.convolution import ChunkCausalDepthwiseConv, ConvolutionModule, DepthwiseConv, depthwise_conv
from zipasr.nn.past import Past


def golden_chunk_conv() -> tuple[ChunkCausalDepthwiseConv, dict[str, Tensor]]:
    _, golden = load_golden("a_chunk_causal_conv")
    conv = ChunkCausalDepthwiseConv(8, 15)
    own = layer_tensors({f"w.depthwise_conv.{name[2:]}": t for name, t in golden.items() if name.startswith("w.")})
    conv.load_state_dict({name.removeprefix("depthwise."): tensor for name, tensor in own.items()})
    return conv, golden


@pytest.mark.parametrize("kernel_size", [1, 3, 15, 31])
def test_depthwise_conv_equals_conv1d(kernel_size: int) -> None:
    torch.manual_seed(0)
    ours, theirs = DepthwiseConv(6, kernel_size), nn.Conv1d(6, 6, kernel_size, padding=kernel_size // 2, groups=6)
    theirs.load_state_dict(ours.state_dict())
    x = seeded(2, 20, 6)
    torch.testing.assert_close(ours(x, -1), theirs(x.transpose(1, 2)).transpose(1, 2))


def test_depthwise_conv_starts_like_conv1d() -> None:
    torch.manual_seed(7)
    theirs = nn.Conv1d(6, 6, 15, groups=6)
    torch.manual_seed(7)
    ours = DepthwiseConv(6, 15)
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)


def test_depthwise_conv_gradcheck() -> None:
    arguments = (seeded(2, 6, 3, dtype=torch.float64), seeded(3, 1, 5, dtype=torch.float64), seeded(3, dtype=torch.float64))
    assert torch.autograd.gradcheck(
        lambda x, w, b: depthwise_conv(x, w, b, padding=2), tuple(a.requires_grad_() for a in arguments)
    )


@pytest.mark.parametrize("chunk_frames", [-1, 4, 8, 16, 20, 64])
def test_chunk_causal_conv_equals_golden(chunk_frames: int) -> None:
    conv, golden = golden_chunk_conv()
    y = conv(golden["in.x"].transpose(1, 2), chunk_frames)
    assert_close_to(y.transpose(1, 2), golden[f"out.chunk{chunk_frames}"])


def stream(conv: ChunkCausalDepthwiseConv, x: Tensor, chunk_frames: int) -> Tensor:
    """The output chunk by chunk, with the last k//2 frames carried over."""
    reach = conv.kernel_size // 2
    cache, outputs = x.new_zeros(x.shape[0], reach, x.shape[2]), []
    for chunk in x.split(chunk_frames, dim=1):
        extended = torch.cat([cache, chunk], dim=1)
        cache = extended[:, -reach:]
        chunked = depthwise_conv(chunk, conv.chunkwise_weight, conv.chunkwise_bias, padding=reach)
        causal = depthwise_conv(extended, conv.causal_weight, conv.causal_bias)
        outputs.append(causal + chunked * conv.chunk_scale(chunk.shape[1]))
    return torch.cat(outputs, dim=1)


def test_streaming_with_a_cache_equals_golden_and_chunks() -> None:
    conv, golden = golden_chunk_conv()
    x = golden["in.x"].transpose(1, 2)
    streamed = stream(conv, x[:, :32], 8)
    assert_close_to(streamed.transpose(1, 2), golden["out.stream8"])
    assert_close_to(conv(x, 8)[:, :32], streamed)


@pytest.mark.parametrize(("batch", "num_frames"), [(1, 1), (1, 2), (1, 16), (3, 5), (40, 16)])
@pytest.mark.parametrize("kernel_size", [1, 15, 31])
@pytest.mark.parametrize("has_past", [False, True])
def test_few_frames_of_inference_equal_the_convolution(
    batch: int, num_frames: int, kernel_size: int, has_past: bool
) -> None:
    """Without gradients, few frames are products instead of a convolution; the last batch is too large for that."""
    torch.manual_seed(0)
    conv = ChunkCausalDepthwiseConv(8, kernel_size).double()
    nn.init.normal_(conv.edge_scale)
    x = seeded(batch, num_frames, 8, dtype=torch.float64)
    frames = seeded(batch, kernel_size // 2, 8, seed=1, dtype=torch.float64) if has_past else None
    pasts = [None if frames is None else Past(frames) for _ in range(2)]
    expected = conv(x, num_frames, pasts[0])
    assert expected.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(conv(x, num_frames, pasts[1]), expected.detach())


@pytest.mark.parametrize("chunk_frames", [4, 8, 16])
def test_chunk_causal_conv_does_not_see_later_chunks(chunk_frames: int) -> None:
    conv, golden = golden_chunk_conv()
    x = golden["in.x"].transpose(1, 2)[:, :32]
    for end in range(chunk_frames, 32, chunk_frames):
        changed = torch.cat([x[:, :end], 100.0 * seeded(2, 32 - end, 8)], dim=1)
        torch.testing.assert_close(conv(changed, chunk_frames)[:, :end], conv(x, chunk_frames)[:, :end])


@pytest.mark.parametrize("chunk_frames", [-1, 2, 4])
def test_chunk_causal_conv_gradcheck(chunk_frames: int) -> None:
    torch.manual_seed(0)
    conv = ChunkCausalDepthwiseConv(2, 3).double()
    nn.init.normal_(conv.edge_scale)
    names = [name for name, _ in conv.named_parameters()]

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(conv, dict(zip(names, parameters, strict=True)), (x, chunk_frames))

    x = seeded(2, 5, 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(run, (x, *conv.parameters()))


@pytest.mark.parametrize("chunk_frames", [3, 7, 15, 16, 40])
def test_chunk_scale_is_one_plus_both_edges(chunk_frames: int) -> None:
    conv, _ = golden_chunk_conv()
    scale = conv.chunk_scale(chunk_frames)
    for t in range(chunk_frames):
        expected = torch.ones(8)
        if t < 15:
            expected = expected + conv.edge_scale[0, :, t]
        if chunk_frames - t <= 15:
            expected = expected + conv.edge_scale[1, :, 15 - (chunk_frames - t)]
        torch.testing.assert_close(scale[t], expected)


def test_chunk_causal_conv_starts_as_in_the_original() -> None:
    torch.manual_seed(0)
    conv = ChunkCausalDepthwiseConv(500, 15)
    assert (conv.edge_scale == 0).all()
    assert conv.causal_weight.shape == (500, 1, 8)
    assert conv.chunkwise_weight.shape == (500, 1, 15)
    assert conv.causal_weight.abs().max().item() == pytest.approx(8**-0.5, rel=1e-2)
    assert conv.causal_bias.abs().max().item() == pytest.approx(0.1, rel=1e-2)
    assert conv.chunkwise_bias.abs().max().item() == pytest.approx(15**-0.5, rel=1e-2)


# The module


def golden_module(kind: str) -> tuple[ConvolutionModule, dict[str, Tensor]]:
    meta, golden = load_golden(f"a_encoder_layer_{kind}")
    module = ConvolutionModule(meta["embed_dim"], meta["cnn_module_kernel"], is_causal=kind == "causal")
    own = {k.removeprefix("conv1."): v for k, v in layer_tensors(golden).items() if k.startswith("conv1.")}
    module.load_state_dict(own)
    return module.eval(), golden


@pytest.mark.parametrize(
    ("kind", "chunk_frames", "name"),
    [
        ("noncausal", -1, "out.conv_module1"),
        ("causal", -1, "out.conv_module1"),
        ("causal", 4, "out.conv_module1_chunk4"),
        ("causal", 8, "out.conv_module1_chunk8"),
    ],
)
def test_module_equals_golden(kind: str, chunk_frames: int, name: str) -> None:
    module, golden = golden_module(kind)
    y = module(batch_first(golden["in.x"]), golden["in.key_padding_mask"], chunk_frames)
    assert_close_to(y, batch_first(golden[name]))


@pytest.mark.parametrize("kind", ["noncausal", "causal"])
def test_what_padding_frames_hold_does_not_matter(kind: str) -> None:
    module, golden = golden_module(kind)
    x, padding = batch_first(golden["in.x"]), golden["in.key_padding_mask"]
    other = torch.where(padding.unsqueeze(-1), 50.0 * seeded(*x.shape), x)
    difference = module(x, padding, -1) - module(other, padding, -1)
    assert (difference.masked_fill(padding.unsqueeze(-1), 0.0) == 0).all()


def test_module_equals_slow_code() -> None:
    torch.manual_seed(0)
    module = ConvolutionModule(8, 5, is_causal=False).double().eval()
    x, padding = seeded(2, 7, 8, dtype=torch.float64), torch.zeros(2, 7, dtype=torch.bool)
    padding[1, 4:] = True
    content, gate = functional.linear(x, module.in_proj.weight, module.in_proj.bias).split(8, dim=-1)
    gated = (content * torch.sigmoid(gate)) * ~padding.unsqueeze(-1)
    mixed = functional.conv1d(
        gated.transpose(1, 2), module.depthwise.weight, module.depthwise.bias, padding=2, groups=8
    ).transpose(1, 2)
    activated = torch.log1p(torch.exp(mixed - 1.0)) - 0.08 * mixed - 0.313261687
    expected = functional.linear(activated, module.out_proj.weight, module.out_proj.bias)
    torch.testing.assert_close(module(x, padding), expected)


@pytest.mark.parametrize("is_causal", [False, True])
def test_module_gradcheck(is_causal: bool) -> None:
    torch.manual_seed(0)
    module = ConvolutionModule(4, 3, is_causal=is_causal).double().eval()
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    x = seeded(2, 5, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: module(x, padding, 2 if is_causal else -1), (x,))


def test_constraints_are_those_of_the_published_recipe() -> None:
    module = ConvolutionModule(32, 15, is_causal=False)
    gate, out = module.gate_balancer, module.out_balancer
    assert [gate.min_positive(s) for s in (0, 8000)] == [0.05, 0.025]
    assert (gate.max_positive, gate.min_abs) == (1.0, 1.5)
    assert [gate.max_abs(s) for s in (0, 8000)] == [5.0, 10.0]
    assert [out.min_positive(s) for s in (0, 8000)] == [0.1, 0.05]
    assert [out.min_abs(s) for s in (0, 20000)] == [0.2, 0.5]
    assert (out.max_positive, out.max_abs) == (1.0, 10.0)
    assert (module.whiten.limit(0), module.whiten.limit(20000), module.whiten.grad_scale) == (7.5, 15.0, 0.01)
    assert module.out_proj.dropout == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("is_causal", [False, True])
def test_half_precision_keeps_its_type(dtype: torch.dtype, is_causal: bool) -> None:
    module = ConvolutionModule(8, 3, is_causal=is_causal).to(dtype).eval()
    y = module(seeded(1, 6, 8).to(dtype), torch.zeros(1, 6, dtype=torch.bool), 2 if is_causal else -1)
    assert y.dtype == dtype
