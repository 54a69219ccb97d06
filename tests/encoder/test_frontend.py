"""Golden: Conv-Embed of the original, including intermediate images. Reference: plain tensor operations with autograd in
float64. Contract: what differs in training, and by how much."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.golden_files import assert_close_to, frontend_tensors, load_golden, seeded
from zipasr.encoder.frontend import ConvEmbed, ConvNeXt
from zipasr.nn.constraint import Balancer, Whiten
from zipasr.nn.dropout import DROPOUT, Dropout
from zipasr.nn.norm import BiasNorm
from zipasr.nn.schedule import set_step


def golden_frontend() -> tuple[ConvEmbed, dict[str, Tensor]]:
    meta, golden = load_golden("a_conv2d_subsampling")
    module = ConvEmbed(meta["in_channels"], meta["out_channels"])
    module.load_state_dict(frontend_tensors(golden))
    return module.eval(), golden


def small_frontend() -> ConvEmbed:
    torch.manual_seed(0)
    return ConvEmbed(20, 8, conv_channels=(2, 4, 8))


def test_values_equal_golden() -> None:
    module, golden = golden_frontend()
    images: list[Tensor] = []
    module.convnext.register_forward_pre_hook(lambda _, inputs: images.append(inputs[0]))
    module.convnext.register_forward_hook(lambda _, inputs, output: images.append(output))
    for grad in (True, False):
        images.clear()
        with torch.set_grad_enabled(grad):
            assert_close_to(module(golden["in.x"]), golden["out.x"])
        for name, image in zip(("conv", "convnext"), images, strict=True):
            assert_close_to(image.permute(0, 3, 1, 2)[:1, ::16], golden[f"out.{name}"])


def slow_conv_embed(features: Tensor, p: dict[str, Tensor]) -> Tensor:
    """The operations of the recipe one after the other, on (N, C, T, F)."""

    def swoosh(x: Tensor, shift: float, offset: float) -> Tensor:
        return torch.logaddexp(x - shift, torch.zeros_like(x)) - 0.08 * x - offset

    def conv(x: Tensor, name: str, **settings: object) -> Tensor:
        return functional.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], **settings)

    x = swoosh(conv(features.unsqueeze(1), "conv1", padding=(0, 1)), 1.0, 0.313261687)
    x = swoosh(conv(x, "conv2", stride=2), 1.0, 0.313261687)
    x = swoosh(conv(x, "conv3", stride=(1, 2)), 1.0, 0.313261687)
    y = conv(x, "convnext.depthwise", padding=3, groups=x.shape[1])
    y = torch.einsum("nctf,oc->notf", y, p["convnext.pointwise1.weight"])
    y = swoosh(y + p["convnext.pointwise1.bias"][:, None, None], 4.0, 0.035)
    y = torch.einsum("nctf,oc->notf", y, p["convnext.pointwise2.weight"])
    x = x + y + p["convnext.pointwise2.bias"][:, None, None]
    x = x.permute(0, 2, 1, 3).flatten(2) @ p["out.weight"].t() + p["out.bias"]
    return x * p["out_norm.log_scale"].exp() / (x - p["out_norm.bias"]).square().mean(-1, keepdim=True).sqrt()


def test_value_and_gradient_equal_slow_code_in_float64() -> None:
    module = small_frontend().double().eval()
    features = seeded(2, 24, 20, dtype=torch.float64).requires_grad_()
    inputs = {"features": features, **dict(module.named_parameters())}
    expected = slow_conv_embed(features, dict(module.named_parameters()))
    y = module(features)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
    y_grad = seeded(*y.shape, seed=1, dtype=torch.float64)
    own, slow = (torch.autograd.grad(out, list(inputs.values()), y_grad) for out in (y, expected))
    for name, mine, theirs in zip(inputs, own, slow, strict=True):
        assert_close_to(mine, theirs, 1e-8, name)


def test_number_of_parameters_is_the_published_one() -> None:
    assert sum(p.numel() for p in ConvEmbed(80, 192).parameters()) == 611_953


def test_the_output_layer_can_be_swapped() -> None:
    """Quantization and LoRA replace linear layers by modules of other classes."""
    module = small_frontend().eval()
    x = seeded(1, 20, 20)
    expected = module(x)
    layer, calls = module.out, []

    class Swapped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(x.shape)
            return layer(x)

    module.out = Swapped()  # type: ignore[assignment]
    torch.testing.assert_close(module(x), expected)
    assert len(calls) == 1


def without_chances(module: ConvEmbed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zipasr.nn.constraint.chance", lambda prob: False)
    set_step(module, 20000.0)
    module.dropout.rate, module.convnext.skip_rate = 0.0, 0.0


def test_training_scales_the_gradient_of_the_first_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    module = small_frontend()
    without_chances(module, monkeypatch)
    x = seeded(2, 24, 20)
    gradients = []
    for training in (False, True):
        module.train(training).zero_grad()
        module(x).square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        assert_close_to(gradients[1][name], gradient * (0.2 if name.startswith("conv1") else 1.0), 1e-5, name)


def test_convnext_skips_whole_sequences_while_training(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = ConvNeXt(4)
    monkeypatch.setattr("zipasr.nn.constraint.chance", lambda prob: False)
    image = seeded(400, 3, 2, 4)

    def skipped() -> Tensor:
        return (module(image) == image).flatten(1).all(1)

    assert not skipped().any()  # no step was set
    for step, rate in ((0.0, 0.2), (20000.0, 0.015)):
        set_step(module, step)
        assert skipped().float().mean().item() == pytest.approx(rate, abs=0.05)
        assert not torch.equal(module(image)[0], image[0]) or skipped().any()
    set_step(module, 0.0)
    assert not (module.eval()(image) == image).flatten(1).all(1).any()


@pytest.mark.parametrize("num_frames", [1, 66, 128, 129, 131, 132, 256, 300])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("rate", [2, 4])
def test_slices_of_inference_equal_the_whole(num_frames: int, batch: int, rate: int) -> None:
    """One frame, full slices, a last slice of one, of as many frames as the look-ahead, and of more."""
    torch.manual_seed(0)
    module = ConvEmbed(20, 8, conv_channels=(2, 4, 8), rate=rate).double().eval()
    shapes: list[torch.Size] = []
    module.convnext.register_forward_hook(lambda _, inputs, output: shapes.append(output.shape))
    features = seeded(batch, rate * (num_frames - 1) + 10, 20, dtype=torch.float64)
    expected = module(features)
    assert expected.requires_grad
    assert expected.shape[1] == num_frames
    shapes.clear()
    with torch.no_grad():
        found = module(features)
    torch.testing.assert_close(found, expected.detach())
    assert max(shape[0] * shape[1] for shape in shapes) <= 131
    assert sum(shape[0] * shape[1] for shape in shapes) == batch * num_frames


def test_dropout_is_shared_over_time_and_follows_the_published_schedule() -> None:
    module = small_frontend()
    assert module.dropout.rate == DROPOUT
    assert module.dropout.is_shared_over_time
    torch.manual_seed(0)
    set_step(module, 0.0)
    is_zero = module(seeded(20, 24, 20)) == 0
    assert (is_zero == is_zero[:, :1]).all()
    assert is_zero.float().mean().item() == pytest.approx(0.3, abs=0.1)


def test_starts_as_in_the_original() -> None:
    torch.manual_seed(0)
    convnext = ConvNeXt(128)
    assert convnext.pointwise1.weight.abs().max().item() == pytest.approx(128**-0.5, rel=1e-2)
    assert convnext.pointwise2.weight.abs().max().item() == pytest.approx(0.01 * 384**-0.5, rel=1e-2)
    assert convnext.pointwise2.bias.abs().max().item() == pytest.approx(0.001, rel=5e-2)


def test_constraints_stand_where_the_original_has_them() -> None:
    module = small_frontend()
    called: list[str] = []
    for name, part in module.named_modules():
        if isinstance(part, Balancer | Whiten | BiasNorm | Dropout):
            part.register_forward_hook(lambda module, inputs, output, name=name: called.append(name))
    module(seeded(1, 24, 20))
    assert called == [
        *("balancer1", "balancer2", "balancer3"),
        *("convnext.hidden_balancer", "convnext.out_balancer", "convnext.out_whiten"),
        *("out_whiten", "out_norm", "dropout"),
    ]


def test_constraints_are_those_of_the_published_recipe() -> None:
    module = small_frontend()
    assert [b.max_abs for b in (module.balancer1, module.balancer2, module.balancer3)] == [1.0, 4.0, 4.0]
    for balancer in (module.balancer1, module.balancer2, module.balancer3):
        assert (balancer.min_positive, balancer.max_positive, balancer.min_abs) == (0.05, 0.95, 0.2)
    hidden, out = module.convnext.hidden_balancer, module.convnext.out_balancer
    assert (hidden.min_positive, hidden.max_positive, hidden.min_abs, hidden.max_abs) == (0.3, 1.0, 0.75, 5.0)
    assert (out.min_positive, out.max_positive, out.min_abs, out.max_abs) == (0.4, 0.6, 1.0, 6.0)
    assert (module.convnext.out_whiten.limit, module.convnext.out_whiten.grad_scale) == (5.0, 0.01)
    whiten = module.out_whiten
    assert (whiten.limit(0), whiten.limit(20000), whiten.limit.default, whiten.grad_scale) == (4.0, 8.0, 4.0, 0.02)
