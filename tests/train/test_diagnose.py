"""Activation diagnostics. Reference: slow code over stored activations. Law: the marked channels are those that Balancer and
Whiten act on; the model does not change. Contract: empty dev sets and damaged runs are errors, NaN is the worst of all."""

import copy
import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.train.tones import cut_of, minute_config, minute_model, write_tones
from zipasr.baselines import ConformerConfig
from zipasr.config import to_json
from zipasr.data.batching import Batch
from zipasr.errors import CheckpointError, DataError
from zipasr.features import FbankConfig
from zipasr.model import AsrConfig, AsrModel
from zipasr.nn.attention import AttentionWeights
from zipasr.nn.constraint import Balancer, Whiten, _whitening_metric
from zipasr.nn.schedule import Schedule
from zipasr.tokenizer import Tokenizer
from zipasr.train.data import read_cuts
from zipasr.train.diagnose import diagnose, read_speech, schedule_progress_of
from zipasr.train.state import TRAINING_FILE


def batch(seed: int, lens: tuple[int, ...] = (120, 90)) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    size = len(lens)
    features = torch.randn(size, max(lens), 80, generator=generator)
    labels = torch.randint(3, 14, (size, 5), generator=generator)
    ids = tuple(f"u{i}" for i in range(size))
    return Batch(features, torch.tensor(lens), labels, torch.full((size,), 5), ids, sum(lens) / 100.0)


BATCHES = [batch(0), batch(1, (80, 80, 60))]


def test_figures_are_those_of_all_activations_together() -> None:
    model, seen = minute_model(), {}
    kept: dict[str, list[Tensor]] = {}
    modules = {name: m for name, m in model.named_modules() if isinstance(m, Balancer | Whiten | AttentionWeights)}
    handles = [
        m.register_forward_hook(lambda _, __, out, name=name: kept.setdefault(name, []).append(out))
        for name, m in modules.items()
    ]
    reports = diagnose(model, BATCHES)
    for handle in handles:
        handle.remove()
    assert {report.name for report in reports} == modules.keys()
    for report in reports:
        module = modules[report.name]
        if report.kind == "attention":
            heads = [(-(w * (w + 1e-30).log()).sum(-1).mean(2)) for w in kept[report.name]]
            mean = torch.cat(heads).mean(0)
            assert report.entropy == pytest.approx((mean.min().item(), mean.max().item()), rel=1e-4)
            assert mean.max().item() <= report.entropy_limit + 1e-6
            continue
        x = torch.cat([out.reshape(-1, out.shape[-1]) for out in kept[report.name]]).double()
        assert report.rms == pytest.approx(x.square().mean().sqrt().item(), rel=1e-6)
        shares = [(channel > 0).double().mean().item() for channel in x.T]
        assert report.positive == pytest.approx((min(shares), max(shares)), abs=1e-9)
        sizes = [channel.square().mean().sqrt().item() for channel in x.T]
        assert report.channel_rms == pytest.approx((min(sizes), max(sizes)), rel=1e-6)
        if isinstance(module, Whiten):
            assert report.whiteness == pytest.approx(_whitening_metric(x, module.num_groups)[0].item(), rel=1e-5)
        seen[report.kind] = True
    assert seen == {"balancer": True, "whiten": True}
    assert [r.badness for r in reports] == sorted((r.badness for r in reports), reverse=True)


class _OneModule(nn.Module):
    """The part of a model that diagnosis needs: its encoder is one module that receives the features themselves."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.encoder = module
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, features: Tensor, *_: Tensor) -> dict[str, Tensor]:
        self.encoder(features)
        return {}


def activations(rms: float, positive: float, channels: int = 8) -> Tensor:
    """Independent Gaussian channels with this root mean square and about this share of positive values."""
    x = torch.randn(1, 4000, channels, generator=torch.Generator().manual_seed(0)).double()
    x = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True, correction=0)
    x = x + math.sqrt(2.0) * torch.special.erfinv(torch.tensor(2.0 * positive - 1.0)).item()
    return (x * rms / x.square().mean(1, keepdim=True).sqrt()).float()


def diagnose_one(module: nn.Module, x: Tensor, step: float = math.inf) -> tuple[float, float | None, float | None]:
    one = Batch(x, torch.tensor([x.shape[1]]), torch.zeros(1, 1).long(), torch.ones(1).long(), ("u",), 1.0)
    (report,) = diagnose(_OneModule(module), [one], progress=step)  # type: ignore[arg-type]
    assert report.is_exceeded == (report.badness > 0.0)
    return report.badness, report.outside, report.whiteness


@pytest.mark.parametrize(
    ("rms", "positive", "outside"),
    [(1.0, 0.5, 0.0), (0.1, 0.5, 1.0), (200.0, 0.5, 1.0), (1.0, 0.8, 1.0), (1.0, 0.2, 1.0), (1.0, 0.6, 0.0)],
)
def test_balancer_is_marked_where_it_acts(rms: float, positive: float, outside: float) -> None:
    limits = {"min_positive": 0.3, "max_positive": 0.7, "min_abs": 0.2, "max_abs": 100.0}
    x = activations(rms, positive)
    badness, share, _ = diagnose_one(Balancer(**limits), x)
    assert share == outside
    assert (badness > 0.0) == (outside > 0.0)
    acting = Balancer(**limits, prob=1.0).train()
    x.requires_grad_(True)
    grad = torch.randn(x.shape)
    acting(x).backward(grad)
    assert x.grad is not None
    assert torch.equal(x.grad, grad) == (outside == 0.0)


def test_badness_of_loudness_is_its_logarithm() -> None:
    balancer = Balancer(min_positive=0.05, max_positive=0.95, min_abs=0.0, max_abs=1.0)
    badness, _, _ = diagnose_one(balancer, activations(10.0, 0.5))
    assert badness == pytest.approx(math.log(10.0 / math.sqrt(math.pi / 2.0)), rel=1e-5)


def test_whiteness_of_channels_that_are_independent_or_all_the_same() -> None:
    x = activations(1.0, 0.5)
    badness, _, metric = diagnose_one(Whiten(2.0), x)
    assert metric == pytest.approx(1.0, abs=0.01) and badness == 0.0
    same = x[..., :1].expand(-1, -1, 8)
    badness, _, metric = diagnose_one(Whiten(2.0), same)
    assert metric == pytest.approx(8.0, rel=1e-5)
    assert badness == pytest.approx(math.log(8.0 / 2.0), rel=1e-5)


def test_limits_follow_their_schedule() -> None:
    same = activations(1.0, 0.5)[..., :1].expand(-1, -1, 4)
    whiten = Whiten(Schedule(((0.0, 2.0), (100.0, 6.0))))
    assert [diagnose_one(whiten, same, step)[0] > 0.0 for step in (0.0, 49.0, 51.0, math.inf)] == [True, True, False, False]


@pytest.mark.parametrize("module", [Balancer(), Whiten(5.0)])
def test_nan_is_the_worst(module: nn.Module) -> None:
    x = activations(1.0, 0.5)
    x[0, 7, 3] = float("nan")
    badness, _, _ = diagnose_one(module, x)
    assert badness == math.inf
    one = Batch(x, torch.tensor([4000]), torch.zeros(1, 1).long(), torch.ones(1).long(), ("u",), 1.0)
    report = diagnose(_OneModule(module), [one])[0]  # type: ignore[arg-type]
    json.dumps(report.to_dict(), allow_nan=False)


def test_model_is_left_as_it_was() -> None:
    model = copy.deepcopy(minute_model()).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    first = diagnose(model, BATCHES)
    assert model.training and all(not m._forward_hooks for m in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert diagnose(model, BATCHES) == first


def test_encoders_without_limits_report_their_outputs() -> None:
    encoder = ConformerConfig(subsampling_channels=4, num_layers=1, channels=16, num_heads=2, feedforward=16, kernel_size=3)
    torch.manual_seed(0)
    model = AsrModel(AsrConfig(vocab_size=14, encoder=encoder)).eval()
    reports = {report.name: report for report in diagnose(model, BATCHES)}
    outputs = [name for name, report in reports.items() if report.kind == "output" and name.startswith("encoder.")]
    assert outputs and all(reports[name].rms > 0.0 and not reports[name].is_exceeded for name in outputs)
    assert not any(name.startswith("encoder.") for name in (r.name for r in diagnose(model, BATCHES, has_outputs=False)))


def test_speech_is_spread_over_the_cuts(tmp_path: Path) -> None:
    cuts = read_cuts(write_tones(tmp_path, num_train=20, num_dev=1) / "train_cuts.jsonl.gz")
    tokenizer = Tokenizer.train([cut.supervisions[0].text for cut in cuts], kind="char", vocab_size=None)
    config = minute_config()
    batches = read_speech(cuts, tokenizer, config.model.features, num_utterances=5, batch_duration_s=2.0)
    assert sorted(id for b in batches for id in b.ids) == [f"train{i:03d}" for i in (0, 4, 8, 12, 16)]
    assert all(b.features.shape[1] * b.features.shape[0] <= 210 for b in batches)
    assert sum(len(b.ids) for b in read_speech(cuts, tokenizer, config.model.features, num_utterances=99)) == 20
    with pytest.raises(DataError, match="holds none with a text"):
        read_speech([], tokenizer, config.model.features, num_utterances=5)
    missing = cut_of(tmp_path / "train000.flac", "LO")
    (tmp_path / "train000.flac").unlink()
    with pytest.raises(DataError, match="can no longer be read"):
        read_speech([missing], tokenizer, config.model.features, num_utterances=5)


def test_speech_too_short_for_a_frame_is_left_out(tmp_path: Path) -> None:
    data = write_tones(tmp_path, num_train=3, num_dev=1)
    cuts = list(read_cuts(data / "train_cuts.jsonl.gz"))
    cuts[1] = cuts[1].truncate(duration=0.05, preserve_id=True)
    tokenizer = Tokenizer.train(["LO MID HI UP DOWN"], kind="char", vocab_size=None)
    (batch,) = read_speech(cuts, tokenizer, FbankConfig(), num_utterances=3)
    assert sorted(batch.ids) == [cuts[0].id, cuts[2].id]
    with pytest.raises(DataError, match=r"of 0\.1 s or more to encode, but all 1 are too short"):
        read_speech([cuts[1]], tokenizer, FbankConfig(), num_utterances=3)


def test_no_speech() -> None:
    with pytest.raises(DataError, match="at least one batch of speech, but there is none"):
        diagnose(minute_model(), [])


def test_schedule_progress_of_runs_checkpoints_and_models(tmp_path: Path) -> None:
    from zipasr import checkpoint

    config = minute_config()
    folders = [tmp_path / "checkpoints" / f"batch-{b:08d}" for b in (5, 10)]
    for b, folder in zip((5, 10), folders, strict=True):
        note = {"position": {"num_steps": b}, "divergence": {}, "ranks": [None]}
        checkpoint.write_folder(folder, documents={TRAINING_FILE: note}, tensors={}, blobs={})
    (tmp_path / "model").mkdir()
    assert schedule_progress_of(tmp_path / "model") == math.inf  # not a configuration of a run
    (tmp_path / "config.json").write_text(json.dumps(to_json(dataclasses.replace(config, ref_duration_s=6.0))))
    assert [schedule_progress_of(path) for path in (*folders, tmp_path / "model")] == [10.0, 20.0, 20.0]  # 12 s per batch
    assert schedule_progress_of(tmp_path / "elsewhere") == math.inf
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="must be the configuration of a run"):
        schedule_progress_of(tmp_path / "model")
