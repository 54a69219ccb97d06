"""Golden: the original's stream, including its states. Law: streams of any length, in any pieces and batches, equal the
whole under the same chunk mask; stack and unstack, to_flat and from_flat are inverses; a step does not modify its inputs.
Contract: refusals."""

import dataclasses
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.encoder.encoders import golden_encoder, small_config
from tests.encoder.pieces import in_pieces
from tests.golden_files import assert_close_to, frontend_tensors, load_golden, seeded
from tests.speech_like import speech_like
from zipasr.baselines import ConformerConfig
from zipasr.encoder.ablation import AblationConfig
from zipasr.encoder.frontend import ConvEmbed
from zipasr.encoder.state import StreamState
from zipasr.encoder.window import WindowBuffer
from zipasr.encoder.zipformer import Zipformer, ZipformerConfig
from zipasr.features import PADDING_VALUE, Fbank
from zipasr.model import AsrModel, tiny
from zipasr.nn.encoded import Encoded
from zipasr.nn.past import Past

PADDING = -3.0  # for standard normal features
CHUNKS = [(4, 8), (8, 8), (8, 16), (8, 40), (16, 16), (32, 32)]
STREAMABLE: dict[str, dict[str, Any]] = {
    "zipformer": {},
    "no bypass": {"has_bypass": False},
    "layer norm": {"norm": "layer_norm"},
    "swish": {"activation": "swish"},
    "module norms": {"has_module_norms": True},
}


def make_loud(module: nn.Module) -> nn.Module:
    """Make every parameter large enough to matter, those that start at zero too."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1 and not name.endswith("edge_scale"):
                parameter.mul_(2.0)
            else:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval().requires_grad_(False)


def loud_encoder(dtype: torch.dtype = torch.float32, **ablation: Any) -> Zipformer:
    torch.manual_seed(0)
    encoder = Zipformer(small_config(is_causal=True, ablation=AblationConfig(**ablation)))
    make_loud(encoder)
    return encoder.to(dtype)


ENCODER, ENCODER64 = loud_encoder(), loud_encoder(torch.float64)


def offline(encoder: nn.Module, utterances: list[Tensor], chunk: int, left: int, padding: float) -> list[Tensor]:
    """Valid frames of each utterance, all in one batch with 32 frames of padding, and at least one chunk long."""
    longest = max(max(len(u) for u in utterances) + 32, 2 * chunk + 9)
    features = torch.stack([nn.functional.pad(u, (0, 0, 0, longest - len(u)), value=padding) for u in utterances])
    lens = torch.tensor([len(u) for u in utterances])
    encode = encoder.encode if isinstance(encoder, AsrModel) else encoder
    encoded = encode(features, lens, chunk_frames_50hz=chunk, left_context_frames_50hz=left)
    return [frames[:length] for frames, length in zip(encoded.frames, encoded.lens.tolist(), strict=True)]


def streamed(encoder: Zipformer, utterances: list[Tensor], chunk: int, left: int, seed: int) -> list[Tensor]:
    """The same from streams that start at different times, arrive in pieces, and are batched at random."""
    generator = random.Random(seed)
    arriving = [
        [torch.zeros(0, u.shape[1], dtype=u.dtype)] * generator.randint(0, 3) + list(u.split(in_pieces(len(u), generator)))
        for u in utterances
    ]
    buffers = [WindowBuffer(chunk, padding_value=PADDING) for _ in utterances]
    sizes = {"chunk_frames_50hz": chunk, "left_context_frames_50hz": left}
    states = encoder.initial_state(len(utterances), **sizes).unstack()
    outputs: list[list[Tensor]] = [[u.new_zeros(0, encoder.output_channels)] for u in utterances]
    while True:
        for buffer, pieces in zip(buffers, arriving, strict=True):
            for _ in range(min(len(pieces), generator.randint(1, 2))):
                buffer.push(pieces.pop(0))
            if not pieces:
                buffer.finish()
        ready = [i for i, buffer in enumerate(buffers) if buffer.is_ready]
        if not ready and not any(arriving):
            return [torch.cat(frames) for frames in outputs]
        chosen = [i for i in ready if generator.random() < 0.8]
        generator.shuffle(chosen)
        if not chosen:
            continue
        windows, lens = zip(*(window for i in chosen if (window := buffers[i].pop()) is not None), strict=True)
        state = StreamState.stack([states[i] for i in chosen])
        encoded, state = encoder.encode_chunk(torch.stack(windows), torch.tensor(lens), state)
        for i, frames, length, after in zip(chosen, encoded.frames, encoded.lens.tolist(), state.unstack(), strict=True):
            outputs[i].append(frames[:length])
            states[i] = after


def assert_streams_equal(encoder: Zipformer, lens: list[int], chunk: int, left: int, seed: int, atol: float) -> None:
    dtype = encoder.output_downsample.bias.dtype
    utterances = [seeded(length, 20, seed=seed + i, dtype=dtype) for i, length in enumerate(lens)]
    expected = offline(encoder, utterances, chunk, left, PADDING)
    for actual, wanted in zip(streamed(encoder, utterances, chunk, left, seed), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=0.0, atol=atol)


# Goldens


def test_streamed_conv_embed_equals_golden() -> None:
    meta, golden = load_golden("a_conv2d_subsampling")
    module = ConvEmbed(meta["in_channels"], meta["out_channels"])
    module.load_state_dict(frontend_tensors(golden))
    image = torch.zeros(3, 3, 19, 128)
    for c in range(2):
        past = Past(image)
        assert_close_to(module.eval()(golden["in.x"][:, 16 * c : 16 * c + 29], past), golden[f"out.stream{c}.x"])
        assert past.next is not None
        image = past.next
        assert_close_to(image.permute(0, 3, 1, 2)[:, ::8], golden[f"out.stream{c}.cache"])


def published_layout(name: str, tensor: Tensor) -> Tensor:
    """A tensor of `LayerState` in the layout of the original; the docstring of `to_flat` describes it."""
    if name.startswith("conv"):
        return tensor.transpose(1, 2)
    time_first = tensor.transpose(0, 1)
    return tensor.unsqueeze(0) if name == "nonlin" else time_first


def test_stream_equals_golden() -> None:
    encoder, _ = golden_encoder("causal")
    meta, golden = load_golden("a_zipformer2_streaming")
    encoder.frontend.load_state_dict(frontend_tensors(golden, "w.encoder_embed."))
    sizes = {"chunk_frames_50hz": meta["chunk_size"], "left_context_frames_50hz": meta["left_context_frames"]}
    embedded: list[Tensor] = []
    encoder.frontend.register_forward_hook(lambda _, inputs, output: embedded.append(output))
    state, published = encoder.initial_state(2, **sizes), {"nonlin": "nonlin_attn", "value1": "val1", "value2": "val2"}
    shapes = [published_layout(name, t).shape for layer in state.layers for name, t in layer._asdict().items()]
    assert [list(shape) for shape in shapes] == [[n for n in row if n] for row in golden["info.init_state_shapes"].tolist()]
    outputs = []
    with torch.no_grad():
        for c in range(7):
            window = golden["in.features"][:, 32 * c : 32 * c + 45]
            encoded, state = encoder.encode_chunk(window, torch.tensor([45, 45]), state)
            torch.testing.assert_close(encoded.frames, golden[f"out.chunk{c}"], rtol=0.0, atol=1.5e-4)
            assert encoded.lens.tolist() == [8, 8]
            assert state.processed_frames.tolist() == [16 * (c + 1)] * 2
            assert_close_to(embedded[-1], golden[f"out.embed{c}"])
            outputs.append(encoded.frames)
            for layer in (0, 1, 2, 4) if c in (0, 5) else ():
                for name, tensor in state.layers[layer]._asdict().items():
                    expected = golden[f"out.state{c}.layer{layer}.{published.get(name, name)}"]
                    torch.testing.assert_close(published_layout(name, tensor), expected, rtol=0.0, atol=1.5e-4)
        simulated = encoder(golden["in.features"], torch.tensor([237, 237]), **sizes).frames[:, :56]
    assert_close_to(state.embed.permute(0, 3, 1, 2)[:, ::8], golden["out.embed_cache_final"])
    torch.testing.assert_close(torch.cat(outputs, dim=1), golden["out.simulated"], rtol=0.0, atol=1.5e-4)
    torch.testing.assert_close(torch.cat(outputs, dim=1), simulated, rtol=0.0, atol=5e-5)


# Laws


@given(
    lens=st.lists(st.integers(0, 150), min_size=1, max_size=4),
    sizes=st.sampled_from(CHUNKS),
    seed=st.integers(0, 1_000_000),
)
@settings(max_examples=25)
def test_streams_equal_the_whole(lens: list[int], sizes: tuple[int, int], seed: int) -> None:
    assert_streams_equal(ENCODER, lens, *sizes, seed, atol=1e-4)


@pytest.mark.parametrize(("chunk", "left"), CHUNKS)
def test_streams_equal_the_whole_in_float64(chunk: int, left: int) -> None:
    """Streams equal the whole near the end of one and of two chunks, where one window more or less may be needed."""
    lens = [2 * chunk + overhang for overhang in (5, 6, 7, 8, 9, 10, 13)] + [4 * chunk + 7, 4 * chunk + 9, 9, 8, 0, 130]
    assert_streams_equal(ENCODER64, lens, chunk, left, chunk, atol=1e-9)


@pytest.mark.parametrize("name", list(STREAMABLE))
def test_ablations_with_the_same_memory_stream_too(name: str) -> None:
    assert_streams_equal(loud_encoder(torch.float64, **STREAMABLE[name]), [90, 61, 0], 8, 16, 3, atol=1e-9)


def test_audio_in_pieces_equals_the_whole_recording() -> None:
    config = dataclasses.replace(tiny(), encoder=dataclasses.replace(tiny().encoder, is_causal=True))
    torch.manual_seed(0)
    model = AsrModel(config)
    make_loud(model)
    generator, samples = random.Random(0), speech_like(2.3)
    stream, buffer = Fbank().stream(), WindowBuffer(16, padding_value=PADDING_VALUE)
    state = model.initial_state(1, chunk_frames_50hz=16, left_context_frames_50hz=64)
    outputs, start = [], 0

    def encode_what_is_ready(state: StreamState) -> StreamState:
        while (window := buffer.pop()) is not None:
            encoded, state = model.encode_chunk(window[0].unsqueeze(0), torch.tensor([window[1]]), state)
            outputs.append(encoded.frames[0, : int(encoded.lens)])
        return state

    while start < len(samples):
        end = start + generator.choice([1, 77, 160, 3000, 9000])
        buffer.push(stream.accept(samples[start:end]))
        state, start = encode_what_is_ready(state), end
    assert len(outputs) > 3
    buffer.push(stream.finish())
    buffer.finish()
    encode_what_is_ready(state)
    (expected,) = offline(model, [Fbank()(samples)], 16, 64, PADDING_VALUE)
    assert len(expected) == model.output_length(230)
    torch.testing.assert_close(torch.cat(outputs), expected, rtol=0.0, atol=1e-4)


def first_steps(encoder: Zipformer, features: Tensor, *, num_steps: int = 2) -> tuple[list[Encoded], StreamState]:
    """Steps with chunk 8 and left context 16 over full windows."""
    state = encoder.initial_state(features.shape[0], chunk_frames_50hz=8, left_context_frames_50hz=16)
    outputs = []
    for c in range(num_steps):
        window = features[:, 16 * c : 16 * c + 29]
        encoded, state = encoder.encode_chunk(window, torch.full((len(features),), 29), state)
        outputs.append(encoded)
    return outputs, state


def test_neighbors_do_not_matter() -> None:
    """Streams with other audio at other positions in the batch, including finished ones, change nothing."""
    features = seeded(3, 61, 20, dtype=torch.float64)
    alone, state = first_steps(ENCODER64, features[:1])
    _, other = first_steps(ENCODER64, 100.0 * features[1:], num_steps=1)
    lonely, _ = ENCODER64.encode_chunk(features[:1, 32:], torch.tensor([29]), state)
    windows = torch.cat([features[2:, 3:32], features[:1, 32:], features[1:2, 7:36]])
    together, after = ENCODER64.encode_chunk(
        windows, torch.tensor([0, 29, 20]), StreamState.stack([other.unstack()[0], state, other.unstack()[1]])
    )
    torch.testing.assert_close(together.frames[1], lonely.frames[0], rtol=0.0, atol=1e-11)
    assert together.lens.tolist() == [0, 4, 3]
    assert together.frames.isfinite().all()
    assert after.processed_frames.tolist() == [8, 24, 14]
    assert len(alone) == 2


def test_streams_without_audio_have_no_frames() -> None:
    state = ENCODER.initial_state(2, chunk_frames_50hz=8, left_context_frames_50hz=16)
    encoded, state = ENCODER.encode_chunk(torch.full((2, 29, 20), PADDING), torch.tensor([0, 8]), state)
    assert encoded.lens.tolist() == [0, 0]
    assert encoded.frames.shape == (2, 4, 32) and encoded.frames.isfinite().all()
    assert state.processed_frames.tolist() == [0, 0]


def test_a_step_does_not_modify_its_arguments() -> None:
    features = seeded(2, 61, 20)
    _, state = first_steps(ENCODER, features)
    given_tensors = [*state.to_flat(), features]
    before = [tensor.clone() for tensor in given_tensors]
    lens = torch.tensor([29, 20])
    first, _ = ENCODER.encode_chunk(features[:, 32:], lens, state)
    for tensor, copy in zip(given_tensors, before, strict=True):
        assert torch.equal(tensor, copy)
    assert lens.tolist() == [29, 20]
    assert torch.equal(ENCODER.encode_chunk(features[:, 32:], lens, state)[0].frames, first.frames)


def test_layout_of_the_features_in_memory_does_not_matter() -> None:
    features, lens = seeded(2, 45, 20), torch.tensor([45, 38])
    views = [features.transpose(1, 2).contiguous().transpose(1, 2), torch.stack([features, features], dim=-1)[..., 0]]
    views += [features.transpose(0, 1).contiguous().transpose(0, 1), torch.cat([features, features], dim=2)[:, :, 20:]]
    whole = ENCODER(features, lens, chunk_frames_50hz=8, left_context_frames_50hz=16).frames
    (first, second), _ = first_steps(ENCODER, features)
    for view in views:
        assert torch.equal(view, features) and not view.is_contiguous()
        again = ENCODER(view, lens, chunk_frames_50hz=8, left_context_frames_50hz=16).frames
        torch.testing.assert_close(again, whole, rtol=0.0, atol=2e-5)
        for step, expected in zip(first_steps(ENCODER, view)[0], (first, second), strict=True):
            torch.testing.assert_close(step.frames, expected.frames, rtol=0.0, atol=2e-5)


def test_states_are_in_the_type_of_the_weights_and_carry_no_gradient() -> None:
    encoder = loud_encoder().requires_grad_(True)
    outputs, state = first_steps(encoder, seeded(2, 45, 20))
    assert outputs[-1].frames.requires_grad
    assert not any(tensor.requires_grad for tensor in state.to_flat())
    expected = {torch.float32, torch.int64}
    assert {tensor.dtype for tensor in state.to_flat()} == expected
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, state = first_steps(encoder, seeded(2, 45, 20))
    assert {tensor.dtype for tensor in state.to_flat()} == expected
    assert_close_to(half[-1].frames, outputs[-1].frames, 0.1)
    half, state = first_steps(loud_encoder(torch.bfloat16), seeded(2, 45, 20).bfloat16())
    assert {tensor.dtype for tensor in state.to_flat()} == {torch.bfloat16, torch.int64}
    assert_close_to(half[-1].frames, outputs[-1].frames, 0.1)


def test_initial_state_is_on_the_device_of_the_weights() -> None:
    state = loud_encoder().to("meta").initial_state(2, chunk_frames_50hz=8, left_context_frames_50hz=16)
    assert all(tensor.is_meta for tensor in state.to_flat())


# States are values


def test_stack_and_unstack_undo_each_other() -> None:
    _, state = first_steps(ENCODER, seeded(3, 45, 20))
    parts = state.unstack()
    assert [part.batch_size for part in parts] == [1, 1, 1]
    again = StreamState.stack([StreamState.stack(parts[:2]), parts[2]])
    assert again.chunk_frames_50hz == 8 and again.left_context_frames_50hz == 16 and again.batch_size == 3
    for tensor, expected in zip(again.to_flat(), state.to_flat(), strict=True):
        assert torch.equal(tensor, expected)
    for n, part in enumerate(parts):
        for tensor, expected in zip(part.to_flat(), state.to_flat(), strict=True):
            assert torch.equal(tensor, expected[n : n + 1])


def test_to_flat_and_from_flat_undo_each_other() -> None:
    _, state = first_steps(ENCODER, seeded(2, 45, 20))
    flat = state.to_flat()
    assert len(flat) == 6 * 5 + 2
    assert flat[:6] == list(state.layers[0]) and flat[-2] is state.embed and flat[-1] is state.processed_frames
    again = StreamState.from_flat(flat, chunk_frames_50hz=8)
    assert all(one is other for one, other in zip(again.to_flat(), flat, strict=True))
    assert state.shapes() == [tuple(tensor.shape[1:]) for tensor in flat]


def test_memory_of_the_published_medium_model() -> None:
    with torch.device("meta"):
        encoder = Zipformer(ZipformerConfig(is_causal=True))
    state = encoder.initial_state(1, chunk_frames_50hz=16, left_context_frames_50hz=64)
    assert len(state.to_flat()) == 6 * 16 + 2
    assert state.shapes()[:6] == [(64, 128), (64, 144), (64, 48), (64, 48), (15, 192), (15, 192)]
    assert state.layers[7].key.shape == (1, 8, 256)
    assert state.embed.shape == (1, 3, 19, 128)


# Refusals


@pytest.mark.parametrize(
    ("chunk", "left", "message"),
    [
        (-1, 16, "chunk_frames_50hz must be a positive multiple of 2 in a stream, but is -1"),
        (0, 16, "positive multiple of 2 in a stream, but is 0"),
        (7, 14, "positive multiple of 2 in a stream, but is 7"),
        (6, 12, "6 is not a multiple of 4"),
        (8, -1, "left_context_frames_50hz must be a positive multiple of the chunk, 8, in a stream, but is -1"),
        (8, 0, "positive multiple of the chunk, 8, in a stream, but is 0"),
        (8, 12, "positive multiple of the chunk, 8, in a stream, but is 12"),
        (4, 4, "half the kernel of stack 1, 6 frames, but 4 frames give 4"),
    ],
)
def test_chunks_that_cannot_stream_are_refused(chunk: int, left: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ENCODER.initial_state(1, chunk_frames_50hz=chunk, left_context_frames_50hz=left)


@pytest.mark.parametrize(
    "ablation",
    [{"block": "conformer_pair"}, {"has_nonlin_attention": False}, {"has_shared_attention_weights": False}],
)
def test_blocks_with_another_memory_are_refused(ablation: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="memory of the Zipformer block only"):
        loud_encoder(**ablation).initial_state(1, chunk_frames_50hz=8, left_context_frames_50hz=16)


def test_models_that_cannot_stream_are_refused() -> None:
    sizes = {"chunk_frames_50hz": 16, "left_context_frames_50hz": 64}
    with pytest.raises(ValueError, match="only a model trained with is_causal=True can stream"):
        AsrModel(tiny()).initial_state(1, **sizes)
    with pytest.raises(ValueError, match="batch_size must be 1 or more, but is 0"):
        ENCODER.initial_state(0, **sizes)
    with torch.device("meta"):
        conformer = AsrModel(dataclasses.replace(tiny(), encoder=ConformerConfig()))
    with pytest.raises(ValueError, match="only a causal Zipformer can stream, but this encoder is a Conformer"):
        conformer.initial_state(1, **sizes)
    state = ENCODER.initial_state(1, chunk_frames_50hz=8, left_context_frames_50hz=16)
    with pytest.raises(ValueError, match="only a causal Zipformer can stream"):
        conformer.encode_chunk(torch.zeros(1, 29, 80), torch.tensor([29]), state)
    with pytest.raises(ValueError, match=r"call model\.eval\(\)"):
        loud_encoder().train().encode_chunk(torch.zeros(1, 29, 20), torch.tensor([29]), state)


@pytest.mark.parametrize(
    ("shape", "lens", "message"),
    [
        ((2, 30, 20), [29, 29], "chunk_frames_50hz = 8 must have 29 features, but has 30"),
        ((2, 13, 20), [13, 13], "must have 29 features, but has 13; fill the last one with padding"),
        ((2, 29, 19), [29, 29], r"features must be \(N, T >= 9, 20\)"),
        ((2, 29, 20), [29], r"lens must be \(2,\)"),
        ((2, 29, 20), [30, 29], "lens must be within 0 and T = 29"),
        ((3, 29, 20), [29, 29, 29], "must have the same number of streams, but have 3 and 2"),
    ],
)
def test_windows_that_do_not_fit_are_refused(shape: tuple[int, ...], lens: list[int], message: str) -> None:
    state = ENCODER.initial_state(2, chunk_frames_50hz=8, left_context_frames_50hz=16)
    with pytest.raises(ValueError, match=message):
        ENCODER.encode_chunk(torch.zeros(shape), torch.tensor(lens), state)


def test_states_that_do_not_fit_are_refused() -> None:
    state = ENCODER.initial_state(1, chunk_frames_50hz=8, left_context_frames_50hz=16)
    other_model = Zipformer(small_config(is_causal=True, num_heads=(2, 2, 4, 2))).eval()
    with pytest.raises(ValueError, match="must come from a model of the same shape"):
        other_model.encode_chunk(torch.zeros(1, 29, 20), torch.tensor([29]), state)
    with pytest.raises(ValueError, match="at least one state"):
        StreamState.stack([])
    for chunk, left in ((16, 16), (8, 24)):
        other = ENCODER.initial_state(1, chunk_frames_50hz=chunk, left_context_frames_50hz=left)
        with pytest.raises(ValueError, match=f"state 1 has chunk {chunk}, left {left}"):
            StreamState.stack([state, other])
    with pytest.raises(ValueError, match="6 tensors for each block and 2 more, but there are 31"):
        StreamState.from_flat(state.to_flat()[1:], chunk_frames_50hz=8)
    with pytest.raises(ValueError, match="must have the batch as dimension 0, 1 as"):
        StreamState.from_flat([tensor.transpose(0, -1) for tensor in state.to_flat()], chunk_frames_50hz=8)
