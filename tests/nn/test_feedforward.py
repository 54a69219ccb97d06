"""Golden: the feed-forward module of the original. Law: gradcheck; dropout shared over time. Contract: constraints."""

import pytest
import torch

from tests.golden_files import assert_close_to, batch_first, layer_tensors, load_golden, seeded
from zipasr.nn.dropout import DROPOUT
from zipasr.nn.feedforward import FeedForward
from zipasr.nn.schedule import set_step


@pytest.mark.parametrize("kind", ["noncausal", "causal"])
def test_equals_golden(kind: str) -> None:
    meta, golden = load_golden(f"a_encoder_layer_{kind}")
    module = FeedForward(meta["embed_dim"], meta["feedforward_dim"])
    own = layer_tensors(golden)
    name = "feed_forward2."
    module.load_state_dict({k.removeprefix(name): v for k, v in own.items() if k.startswith(name)})
    assert_close_to(module.eval()(batch_first(golden["in.x"])), batch_first(golden["out.feed_forward2"]))


def test_gradcheck() -> None:
    torch.manual_seed(0)
    module = FeedForward(4, 6).double().eval()
    assert torch.autograd.gradcheck(module, (seeded(2, 3, 4, dtype=torch.float64).requires_grad_(),))


def test_dropout_is_the_published_one_and_shared_over_time() -> None:
    torch.manual_seed(0)
    module = FeedForward(4, 256)
    assert module.out_proj.dropout == DROPOUT
    set_step(module, 0.0)
    x = seeded(1, 1, 4).expand(1, 10, 4)
    y = module(x)
    torch.testing.assert_close(y, y[:, :1].expand_as(y))
    assert not torch.allclose(y, module.eval()(x))


def test_starts_as_in_the_original() -> None:
    torch.manual_seed(0)
    module = FeedForward(256, 768)
    assert module.in_proj.weight.abs().max().item() == pytest.approx(256**-0.5, rel=1e-2)
    assert module.out_proj.weight.abs().max().item() == pytest.approx(0.1 * 768**-0.5, rel=1e-2)
    assert module.out_proj.bias.abs().max().item() == pytest.approx(0.01, rel=5e-2)


def test_constraints_are_those_of_the_published_recipe() -> None:
    module = FeedForward(8, 16)
    hidden, whiten = module.hidden_balancer, module.out_whiten
    assert (hidden.min_positive, hidden.max_positive, hidden.min_abs, hidden.max_abs) == (0.3, 1.0, 0.75, 5.0)
    assert [hidden.prob(step) for step in (0, 8000)] == [0.5, 0.125]
    assert hidden.prob.default == 0.4
    assert (whiten.limit(0), whiten.limit(20000), whiten.grad_scale, whiten.num_groups) == (7.5, 15.0, 0.01, 1)
