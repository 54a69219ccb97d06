"""Reference: linear layers by oneDNN equal those of PyTorch. Contract: only inference on a CPU changes; parameters, copies,
adapters and exported graphs stay as they are; a measurement decides, once per process."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from tests.golden_files import seeded
from tests.tiny_model import noise, tiny_asr_model, tiny_tokenizer
from zipasr.export.graph import for_tracing
from zipasr.nn import products
from zipasr.nn.lora import LoraConfig, add_lora, merged_state_dict
from zipasr.nn.products import OneDnnLinear, OneDnnSwooshLinear, is_onednn_faster, onednn_linear, use_onednn
from zipasr.nn.swoosh import SwooshLinear
from zipasr.recognizer import Recognizer
from zipasr.recognizer import engine as engine_module

needs_onednn = pytest.mark.skipif(not products._has_onednn(), reason="this PyTorch has no linear layers by oneDNN")


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of rows that oneDNN gets from now on."""
    rows: list[int] = []

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows.append(x.numel() // x.shape[-1])
        return onednn_linear(x, weight, bias)

    monkeypatch.setattr(products, "onednn_linear", linear)
    return rows


@needs_onednn
@pytest.mark.parametrize("shape", [(64, 24), (2, 96, 24), (3, 50, 24), (1, 1, 65, 24)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_products_equal_those_of_pytorch(shape: tuple[int, ...], has_bias: bool) -> None:
    layer = nn.Linear(24, 40, bias=has_bias)
    x = seeded(*shape)
    with torch.no_grad():
        found = onednn_linear(x, layer.weight, layer.bias)
        exact = copy.deepcopy(layer).double()(x.double())
    torch.testing.assert_close(found, exact.float(), rtol=1e-5, atol=1e-5)


@needs_onednn
@pytest.mark.parametrize("kind", [nn.Linear, SwooshLinear])
def test_layers_use_it_for_what_is_suitable_only(kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = (kind(24, 24, "swoosh_left") if kind is SwooshLinear else kind(24, 24)).eval()
    layer, rows = copy.deepcopy(plain), counted(monkeypatch)
    use_onednn(layer)
    assert type(layer) is (OneDnnSwooshLinear if kind is SwooshLinear else OneDnnLinear)
    x = seeded(2, 70, 24)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), plain(x), rtol=1e-5, atol=1e-5)
        assert rows == [140]
        wide, few = seeded(2, 70, 48)[..., ::2], seeded(1, 63, 24)
        for other in (wide, few, x[:, ::2]):
            assert torch.equal(layer(other), plain(other))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(layer(x), plain(x))
        assert torch.equal(copy.deepcopy(layer).double()(x.double()), copy.deepcopy(plain).double()(x.double()))
    assert layer(x).requires_grad
    assert torch.equal(layer(x), plain(x))
    assert rows == [140]


@needs_onednn
def test_a_recognizer_uses_it_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model keeps its parameters; its copies, adapters and graphs work."""
    features = [torch.randn(400, 80, generator=torch.Generator().manual_seed(0)) - 8.0]
    plain, model = tiny_asr_model(), tiny_asr_model()
    expected = Recognizer(plain, tiny_tokenizer()).engine.encode(features)
    rows = counted(monkeypatch)
    monkeypatch.setattr(engine_module, "is_onednn_faster", lambda: True)
    recognizer = Recognizer(model, tiny_tokenizer())
    found = recognizer.engine.encode(features)
    assert rows
    torch.testing.assert_close(found.frames, expected.frames, rtol=1e-4, atol=1e-4)
    assert recognizer.transcribe(noise(2.0)).text
    assert list(model.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(*pair) for pair in zip(model.state_dict().values(), plain.state_dict().values(), strict=True))
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.inference_mode():
            frames = again.encode(features[0].unsqueeze(0), torch.tensor([400])).frames
        torch.testing.assert_close(frames, model.encode(features[0].unsqueeze(0), torch.tensor([400])).frames.detach())
    assert for_tracing(model.encoder) is not None
    add_lora(model, LoraConfig())
    assert list(merged_state_dict(model)) == list(plain.state_dict())


@needs_onednn
def test_other_precisions_do_not_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "is_onednn_faster", lambda: True)
    model = tiny_asr_model()
    Recognizer(model, tiny_tokenizer(), precision="bfloat16")
    assert not any(isinstance(module, OneDnnLinear) for module in model.modules())


def test_a_measurement_decides_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What rounds, is slower or is missing is not used."""
    monkeypatch.setattr(products, "_has_onednn", lambda: True)
    monkeypatch.setattr(products, "onednn_linear", nn.functional.linear)

    def measured(theirs: float, ours: float) -> bool:
        times = [theirs] * products._ROUNDS + [ours] * products._ROUNDS
        ticks = [tick for time_s in times for tick in (0.0, time_s)]
        monkeypatch.setattr(products.time, "perf_counter", iter(ticks).__next__)
        is_onednn_faster.cache_clear()
        return is_onednn_faster()

    assert measured(2.0, 1.0)
    assert not measured(1.2, 1.0)
    assert not measured(1.0, 2.0)
    assert is_onednn_faster() is is_onednn_faster()
    monkeypatch.setattr(
        products, "onednn_linear", lambda x, w, b: nn.functional.linear(x.bfloat16(), w.bfloat16(), b.bfloat16())
    )
    is_onednn_faster.cache_clear()
    assert not is_onednn_faster()
    monkeypatch.setattr(products, "_has_onednn", lambda: False)
    is_onednn_faster.cache_clear()
    assert not is_onednn_faster()
    is_onednn_faster.cache_clear()
