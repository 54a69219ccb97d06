"""Law: the host does not wait for the device while it computes losses and gradients.

The tests use the meta device, whose tensors have no values, so that reading one raises.
"""

import contextlib
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from tests.train.ranks import random_batch
from tests.train.tones import minute_config, minute_model
from zipasr.heads.attention import AttentionConfig
from zipasr.losses.lattice import LatticeKind
from zipasr.model import AsrConfig, AsrModel
from zipasr.nn import constraint
from zipasr.nn.constraint import Whiten
from zipasr.train.averaging import RunningAverage
from zipasr.train.distributed import Ranks
from zipasr.train.setup import new_optimizer
from zipasr.train.state import Position, TrainState
from zipasr.train.step import Stepper


@pytest.fixture(autouse=True)
def on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake what the meta device lacks: autocast, and a CTC loss, which on CUDA needs lengths on the CPU."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(functional, "ctc_loss", ctc_loss)


def ctc_loss(log_probs: Tensor, labels: Tensor, lens: Tensor, label_lens: Tensor, **_: object) -> Tensor:
    assert [x.device.type for x in (log_probs, labels, lens, label_lens)] == ["meta", "meta", "cpu", "cpu"]
    return log_probs.sum((0, 2))


def meta_model(lattice: LatticeKind) -> AsrModel:
    config: AsrConfig = minute_model().config
    assert config.transducer is not None
    attention = AttentionConfig(num_layers=1, dim=32, attention_dim=32, num_heads=4, feedforward=64)
    transducer = dataclasses.replace(config.transducer, lattice=lattice)
    return AsrModel(dataclasses.replace(config, transducer=transducer, attention=attention)).to("meta").train()


@pytest.mark.parametrize("lattice", ["regular", "modified", "constrained"])
def test_losses_and_gradients_read_nothing_from_the_device(lattice: LatticeKind, monkeypatch: pytest.MonkeyPatch) -> None:
    """This holds with every constraint active, and with labels and lengths on the CPU."""
    monkeypatch.setattr(constraint, "chance", lambda prob: prob > 0.0)
    model = meta_model(lattice)
    batch = random_batch(torch.Generator().manual_seed(0), 4)
    losses = model(batch.features.to("meta"), batch.feature_lens, batch.labels, batch.label_lens)
    assert set(losses) == {"simple", "pruned", "ctc", "attention"}
    torch.stack(list(losses.values())).sum().backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing
    whiten = [module for module in model.modules() if isinstance(module, Whiten)]
    assert whiten and all(module._late is not None for module in whiten)
    with pytest.raises(RuntimeError, match="meta"):
        _ = whiten[0].prob  # this shows that reading would have raised


def test_wrong_values_are_reported_on_the_cpu_only() -> None:
    model, batch = meta_model("regular"), random_batch(torch.Generator().manual_seed(0), 4)
    with pytest.raises(ValueError, match="label_lens must be in"):
        model(batch.features.to("meta"), batch.feature_lens, batch.labels, batch.label_lens + 1000)


class DeviceReads(TorchDispatchMode):
    """Counts the values that the host reads from the meta device, and returns ones instead of raising."""

    def __init__(self) -> None:
        super().__init__()
        self.num_reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        source = args[1] if name == "copy_" else args[0] if args else None
        target = args[0].device if name == "copy_" else torch.device(kwargs.get("device") or "meta")
        is_copy = name in ("copy_", "_to_copy") and target.type == "cpu"
        is_read = name == "_local_scalar_dense" or is_copy
        if not is_read or not isinstance(source, Tensor) or source.device.type != "meta":
            return func(*args, **kwargs)
        self.num_reads += 1
        if name == "_local_scalar_dense":
            return 1.0
        return args[0].fill_(1) if name == "copy_" else torch.ones(source.shape, dtype=source.dtype)


def test_a_step_reads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads its losses and the norm of its gradients together; the optimizer reads nothing.

    What Whiten needs from the last step was copied to the host before these values, so reading it is no wait.
    """
    tolist = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda self: tolist(self.cpu()))  # as for a GPU: copied, then listed
    monkeypatch.setattr(constraint, "chance", lambda prob: prob > 0.0)
    monkeypatch.setattr(constraint._LateFlag, "read", lambda _: True)
    model = meta_model("regular")
    config = dataclasses.replace(minute_config(), model=model.config)
    state = TrainState(model, *new_optimizer(config, model), RunningAverage(model, 2), Position())
    stepper = Stepper(config, state, Ranks(), torch.device("meta"))
    generator = torch.Generator().manual_seed(0)
    for b in range(1, 6):  # ScaledAdam changes the sizes of parameters every fourth step
        batch = random_batch(generator, 4)
        with DeviceReads() as device:
            assert stepper.step([batch], b).is_learned
        assert device.num_reads == 1
