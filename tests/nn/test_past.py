"""Law: modules that receive their input in pieces with a `Past` compute the same as in one call. Golden: the chunk-causal
convolution of the original, streamed. Contract: which frames are kept, and no copy without a past."""

import pytest
import torch
from torch import Tensor

from tests.golden_files import assert_close_to, layer_tensors, load_golden, seeded
from zipasr.nn.attention import AttentionWeights, NonlinAttention, RelativePositionalEncoding, SelfAttention
from zipasr.nn.convolution import ChunkCausalDepthwiseConv, ConvolutionModule, DepthwiseConv
from zipasr.nn.past import Past, join


@pytest.mark.parametrize(
    ("length", "num_new", "num_ahead"), [(5, 3, 0), (2, 7, 0), (4, 4, 0), (3, 8, 3), (6, 5, 2), (0, 4, 0)]
)
def test_past_keeps_the_last_frames_that_are_not_repeated(length: int, num_new: int, num_ahead: int) -> None:
    frames, new = seeded(2, length, 4), seeded(2, num_new, 4, seed=1).requires_grad_()
    past = Past(frames)
    joined = past.join(new, num_ahead=num_ahead)
    assert torch.equal(joined, torch.cat([frames, new], dim=1))
    assert joined.requires_grad
    assert past.next is not None and not past.next.requires_grad
    end = length + num_new - num_ahead
    assert torch.equal(past.next, joined[:, end - length : end])
    assert past.next.shape == frames.shape
    assert torch.equal(past.frames, frames)


def test_without_a_past_nothing_is_copied() -> None:
    x = seeded(2, 3, 4)
    assert join(None, x) is x


def attend_in_pieces(x: Tensor, pieces: list[int]) -> tuple[Tensor, Tensor]:
    """Attention of every frame to everything before and in its piece, computed under a mask and in pieces with pasts."""
    torch.manual_seed(0)
    weights_of = AttentionWeights(12, 8, num_heads=2, query_head_dim=4, pos_head_dim=4).double().eval()
    attend, nonlin = SelfAttention(12, num_heads=2, value_head_dim=6).double().eval(), NonlinAttention(12).double().eval()
    positions = RelativePositionalEncoding(8).double().eval()
    piece_of = torch.repeat_interleave(torch.arange(len(pieces)), torch.tensor(pieces))
    weights = weights_of(x, positions(x.shape[1]), piece_of[None, :] > piece_of[:, None])
    whole = attend(x, weights) + nonlin(x, weights[:, 0])

    left, outputs = x.shape[1], []
    keys, values, gated = x.new_zeros(2, left, 8), x.new_zeros(2, left, 12), x.new_zeros(2, left, 9)
    for i, piece in enumerate(x.split(pieces, dim=1)):
        pasts = Past(keys), Past(values), Past(gated)
        before_start = torch.arange(-left, piece.shape[1]) < -sum(pieces[:i])
        weights = weights_of(piece, positions(piece.shape[1], left), before_start, pasts[0])
        assert weights.shape == (2, 2, piece.shape[1], left + piece.shape[1])
        outputs.append(attend(piece, weights, pasts[1]) + nonlin(piece, weights[:, 0], pasts[2]))
        keys, values, gated = (past.next for past in pasts if past.next is not None)
    return whole, torch.cat(outputs, dim=1)


@pytest.mark.parametrize("pieces", [[4, 4, 4], [1, 5, 2, 7], [9]])
def test_attention_in_pieces_equals_attention_under_a_mask(pieces: list[int]) -> None:
    whole, streamed = attend_in_pieces(seeded(2, sum(pieces), 12, dtype=torch.float64), pieces)
    torch.testing.assert_close(streamed, whole, rtol=0.0, atol=1e-12)


def golden_chunk_conv() -> tuple[ChunkCausalDepthwiseConv, dict[str, Tensor]]:
    _, golden = load_golden("a_chunk_causal_conv")
    conv = ChunkCausalDepthwiseConv(8, 15)
    own = layer_tensors({f"w.depthwise_conv.{name[2:]}": t for name, t in golden.items() if name.startswith("w.")})
    conv.load_state_dict({name.removeprefix("depthwise."): tensor for name, tensor in own.items()})
    return conv, golden


def test_streamed_chunk_causal_convolution_equals_golden() -> None:
    conv, golden = golden_chunk_conv()
    x = golden["in.x"].transpose(1, 2)[:, :32]
    frames, outputs = x.new_zeros(2, 7, 8), []
    for chunk in x.split(8, dim=1):
        past = Past(frames)
        outputs.append(conv(chunk, 8, past))
        assert past.next is not None
        frames = past.next
    assert_close_to(torch.cat(outputs, dim=1).transpose(1, 2), golden["out.stream8"])
    assert torch.equal(frames, x[:, -7:])


@pytest.mark.parametrize(("chunk", "kernel"), [(4, 15), (8, 7), (3, 3)])
def test_streamed_convolution_module_equals_the_one_in_chunks(chunk: int, kernel: int) -> None:
    """This includes padding, which fills a chunk after the end of an utterance."""
    torch.manual_seed(0)
    module = ConvolutionModule(6, kernel, is_causal=True).double().eval()
    torch.nn.init.normal_(module.depthwise.edge_scale)
    x = seeded(2, 5 * chunk, 6, dtype=torch.float64)
    padding_mask = torch.arange(5 * chunk) >= torch.tensor([[5 * chunk], [3 * chunk - 1]])
    whole = module(x, padding_mask, chunk)
    frames, outputs = x.new_zeros(2, kernel // 2, 6), []
    for piece, mask in zip(x.split(chunk, dim=1), padding_mask.split(chunk, dim=1), strict=True):
        past = Past(frames)
        outputs.append(module(piece, mask, chunk, past))
        assert past.next is not None
        frames = past.next
    torch.testing.assert_close(torch.cat(outputs, dim=1), whole, rtol=0.0, atol=1e-12)


def test_a_convolution_that_sees_ahead_takes_no_past() -> None:
    with pytest.raises(AssertionError):
        DepthwiseConv(4, 3)(seeded(1, 5, 4), -1, Past(seeded(1, 1, 4)))
