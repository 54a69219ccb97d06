"""Recomputed and compiled blocks. Law: the same gradients with all randomness on, and the same parameter names."""

import pytest
import torch

from tests.train.ranks import random_batch
from tests.train.tones import minute_model
from zipasr.model import AsrModel
from zipasr.nn.schedule import set_step
from zipasr.train.acceleration import compile_blocks, encoder_blocks, recompute_activations


def gradients(model: AsrModel, seed: int = 0) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Gradients of a batch in training mode, halfway through the schedules, and the random state afterwards."""
    batch = random_batch(torch.Generator().manual_seed(0), 4)
    model.train()
    set_step(model, 1000.0)
    torch.manual_seed(seed)
    model.zero_grad()
    losses = model(batch.features, batch.feature_lens, batch.labels, batch.label_lens)
    torch.stack(list(losses.values())).sum().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return grads, torch.get_rng_state()


def fresh_model() -> AsrModel:
    model = AsrModel(minute_model().config)
    model.load_state_dict(minute_model().state_dict())
    return model


def test_recomputed_activations_give_the_same_gradients() -> None:
    """This holds with dropout, skips and constraints, over several draws of which of them are active."""
    plain, recomputing = fresh_model(), fresh_model()
    recompute_activations(recomputing.encoder)
    assert len(encoder_blocks(recomputing.encoder)) == 2
    names = list(recomputing.state_dict())
    assert names == list(plain.state_dict())
    for seed in range(4):
        (expected, _), (found, _) = gradients(plain, seed), gradients(recomputing, seed)
        assert expected.keys() == found.keys()
        assert all(torch.equal(grad, found[name]) for name, grad in expected.items())
    other, _ = gradients(plain, 9)
    assert not all(torch.equal(grad, other[name]) for name, grad in expected.items())


def kept_bytes(model: AsrModel, seed: int) -> int:
    """Memory that the forward pass of the blocks keeps for the backward pass, each storage once."""
    is_inside, storages = [False], dict[int, torch.UntypedStorage]()  # they stay alive, or an address would be used again

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if is_inside[0]:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    for block in encoder_blocks(model.encoder):
        block.register_forward_pre_hook(lambda *_: is_inside.__setitem__(0, True))
        block.register_forward_hook(lambda *_: is_inside.__setitem__(0, False))
    batch = random_batch(torch.Generator().manual_seed(0), 4)
    torch.manual_seed(seed)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model.encode(batch.features, batch.feature_lens)
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("seed", range(3))
def test_recomputing_frees_activations(seed: int) -> None:
    """For each block, the forward pass keeps little more than the input."""
    plain, recomputing = fresh_model().train(), fresh_model().train()
    recompute_activations(recomputing.encoder)
    assert kept_bytes(recomputing, seed) < 0.2 * kept_bytes(plain, seed)


@pytest.mark.parametrize("num_frames", [1, 7])
def test_a_block_is_one_graph_in_inference(num_frames: int) -> None:
    """Nothing in a block breaks the graph of torch.compile."""
    block = encoder_blocks(fresh_model().eval().encoder)[0]
    channels = block.attention_weights.in_proj.in_features
    x, is_padding = torch.randn(2, num_frames, channels), torch.zeros(2, num_frames, dtype=torch.bool)
    positions = torch.randn(2 * num_frames - 1, block.attention_weights.linear_pos.in_features)
    with torch.no_grad():
        explained = torch._dynamo.explain(block)(x, positions, is_padding[:, None, None], is_padding)
    assert explained.graph_break_count == 0, explained.break_reasons


@pytest.mark.slow(minutes=5)
def test_compiled_blocks_give_the_same_gradients() -> None:
    """The graphs are captured and run as they are: kernels would need a compiler, which a test must not require."""
    plain, compiled = fresh_model(), fresh_model()
    compile_blocks(compiled.encoder, backend="aot_eager")
    model_names = list(compiled.state_dict())
    assert model_names == list(plain.state_dict())
    expected, _ = gradients(plain)
    found, _ = gradients(compiled)
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
