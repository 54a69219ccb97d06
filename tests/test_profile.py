"""Golden: the paper's parameters and operations. Reference: operations of Zipformer written out stack by stack. Law:
counting changes nothing and takes no memory. Contract: measuring, its errors, the JSON, the figure."""

import functools
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.serve.running import wait_until
from zipasr import profile
from zipasr.config import to_json
from zipasr.encoder.zipformer import Zipformer, ZipformerConfig
from zipasr.errors import ConfigError, DataError, ZipasrError
from zipasr.model import AsrModel
from zipasr.nn.encoded import Encoded
from zipasr.presets import ALIASES, TABLE_2, find_preset
from zipasr.profile import Measured, ModelProfile, count_flops, plot_profiles, profile_encoder, profile_model

ON_RECORD = {
    "small": (40_751_624_294, (9.7868, 9.7349, 6.7152, 3.0941, 1.6108, 3.0941, 6.7152), 1),
    "medium": (62_875_543_190, (9.7868, 9.7353, 6.7155, 9.1676, 11.5865, 9.1676, 6.7155), 2),
    "large": (107_648_816_894, (9.7868, 9.7358, 6.7158, 22.6707, 29.3520, 22.6707, 6.7158), 3),
}
"""Operations of the original encoder for 30 s, those of Conv-Embed and of each stack in 10^9, and a count.

The count says how often the operations include the tanh of NonlinAttention. The rule counts it once, and so do we. The
original's figures count it once, twice or three times, like a counter whose hooks are added again for each model of a
process: stacks 1, 2 and 6, which are equal in all three models, have different figures. The difference is 0.003 and 0.005 %.
"""


def stack_flops(config: ZipformerConfig, i: int, num_frames_50hz: int) -> tuple[int, int]:
    """Operations of stack i including its Downsample and Bypass, and how many of them are tanh."""
    factor, channels, hidden = config.downsample[i], config.channels[i], config.feedforward[i]
    frames, heads, layers = -(-num_frames_50hz // factor), config.num_heads[i], config.num_layers[i]
    query, value, pos = config.head_dims(i)
    gated = 3 * channels // 4
    scores = heads * frames * frames
    linear = frames * channels * heads * (2 * query + pos)  # queries, keys, positional queries
    linear += (2 * frames - 1) * config.pos_dim * heads * pos
    linear += 2 * 2 * frames * channels * heads * value  # two self-attentions, in and out
    linear += 2 * frames * channels * (hidden * 3 // 4 + hidden + hidden * 5 // 4)
    linear += frames * channels * 4 * gated  # NonlinAttention
    linear += 2 * frames * channels * 3 * channels  # two convolution modules, in and out
    depthwise = 2 * frames * channels * config.kernel_sizes[i]
    attention = scores * query + heads * frames * (2 * frames - 1) * pos + 2 * scores * value + frames * frames * gated
    tanh = frames * gated
    elements = scores + tanh + 2 * frames * channels  # softmax, tanh, sigmoid
    elements += 2 * frames * channels  # bias of the depthwise convolutions
    elements += 5 * frames * channels + 2 * 2 * frames * channels  # BiasNorm, two Bypass
    total = layers * (2 * (linear + depthwise + attention) + elements)
    if factor > 1:
        total += factor + frames * factor * channels + 2 * num_frames_50hz * channels  # softmax, sum; Bypass
    return total, layers * tanh


def embed_flops(config: ZipformerConfig, num_frames: int) -> int:
    """Operations of Conv-Embed."""
    c1, c2, c3 = config.conv_channels
    freq1 = config.num_features
    freq2 = (freq1 - 1) // 2
    freq3 = (freq2 - 1) // 2
    frames = (num_frames - 7) // 2
    sizes = [(num_frames - 2) * freq1 * c1, (num_frames - 3) // 2 * freq2 * c2, frames * freq3 * c3]
    total = sum(2 * size * 9 * inputs for size, inputs in zip(sizes, (1, c1, c2), strict=True))
    total += 2 * sum(sizes)  # bias and Swoosh
    depthwise, wide = sizes[2], 3 * sizes[2]
    total += 2 * 49 * depthwise + 2 * 2 * wide * c3  # ConvNeXt
    total += depthwise + wide + depthwise + wide  # its three biases, its Swoosh
    out = frames * config.channels[0]
    return total + 2 * out * c3 * freq3 + 5 * out


def zipformer_flops(config: ZipformerConfig, num_frames: int) -> tuple[list[int], list[int]]:
    """Operations of Conv-Embed, of each stack and of the last Downsample; tanh of each."""
    frames = (num_frames - 7) // 2
    stacks = [stack_flops(config, i, frames) for i in range(len(config.channels))]
    output = 2 + (frames + 1) // 2 * 2 * max(config.channels)
    return [embed_flops(config, num_frames), *(s[0] for s in stacks), output], [0, *(s[1] for s in stacks), 0]


@functools.cache
def counted(name: str) -> ModelProfile:
    return profile_model(name, find_preset(name))


@pytest.mark.parametrize("name", ON_RECORD)
def test_published_flops(name: str) -> None:
    config = find_preset(name)
    total, parts_g, num_tanh = ON_RECORD[name]
    profile = counted(name)
    parts, tanh = zipformer_flops(config.encoder, 3000)
    assert profile.flops == sum(parts)
    recorded = [part + (num_tanh - 1) * extra for part, extra in zip(parts, tanh, strict=True)]
    assert sum(recorded) == total
    assert [round(part / 1e9, 4) for part in recorded[:-1]] == list(parts_g)
    assert profile.flops == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("num_frames", [9, 100, 1001])
def test_other_shapes_and_lengths(num_frames: int) -> None:
    config = ZipformerConfig(
        num_features=40,
        conv_channels=(4, 8, 16),
        channels=(16, 32, 24),
        unmasked_channels=(16, 16, 16),
        num_layers=(1, 2, 3),
        downsample=(1, 3, 8),
        feedforward=(24, 16, 32),
        num_heads=(1, 2, 4),
        kernel_sizes=(3, 5, 7),
        query_head_dim=8,
        value_head_dim=6,
        pos_dim=10,
    )
    flops = count_flops(Zipformer(config), num_frames, num_features=40)
    assert flops == sum(zipformer_flops(config, num_frames)[0])


@pytest.mark.parametrize("name", TABLE_2)
def test_close_to_the_paper(name: str) -> None:
    profile, paper = counted(ALIASES.get(name, name)), TABLE_2[name]
    tolerance = 0.005 if name.startswith(("zipformer", "conformer")) else 0.025
    assert profile.published is paper
    assert profile.gflops == pytest.approx(paper.gflops, rel=tolerance)
    # Branchformer has 0.7 M more than published, for an unknown reason; all others agree as printed, or nearly.
    assert profile.published_like_params / 1e6 == pytest.approx(paper.params_m, abs=0.75 if name == "branchformer" else 0.1)
    assert profile.params_difference == pytest.approx(100 * (profile.published_like_params / 1e6 / paper.params_m - 1))
    assert profile.gflops_difference == pytest.approx(100 * (profile.gflops / paper.gflops - 1))


@pytest.mark.parametrize(
    ("name", "num_params"), [("conformer-s", 9_789_436), ("conformer-m", 28_417_500), ("conformer-l", 122_457_052)]
)
def test_conformers_with_the_published_head(name: str, num_params: int) -> None:
    profile = counted(name)
    assert profile.published_like_params == num_params
    assert profile.params != num_params


class Chosen(nn.Module):
    """An encoder that is a single operation on (1, T, F)."""

    def __init__(self, operation: str) -> None:
        super().__init__()
        self.operation = operation
        self.norm = nn.BatchNorm1d(6) if operation == "batch_norm" else nn.LayerNorm(6)
        self.conv = nn.Conv1d(6, 4, 3, bias=operation == "conv_bias")
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor, lens: Tensor) -> Encoded:
        if self.operation == "batch_norm":
            y = self.norm(x.transpose(1, 2))
        elif self.operation.startswith("conv"):
            y = self.conv(x.transpose(1, 2))
        elif self.operation == "attention":
            heads = x.view(1, 10, 2, 3).transpose(1, 2)
            y = functional.scaled_dot_product_attention(heads, heads, heads)
        elif self.operation == "sum":
            y = x.sum(2)
        elif self.operation in ("layer_norm", "linear"):
            y = (self.norm if self.operation == "layer_norm" else self.linear)(x)
        elif self.operation == "arithmetic":
            y = functional.dropout(x * 2.0 + x, 0.5, self.training)
        else:
            y = getattr(functional, self.operation)(x)
        return Encoded(y, lens)


@pytest.mark.parametrize(
    ("operation", "flops"),
    [
        ("linear", 2 * 10 * 6 * 4),
        ("conv", 2 * 8 * 4 * 6 * 3),
        ("conv_bias", 2 * 8 * 4 * 6 * 3 + 8 * 4),
        ("attention", 2 * (2 * 2 * 10 * 10 * 3) + 2 * 10 * 10),
        ("layer_norm", 5 * 60),
        ("batch_norm", 2 * 60),
        ("glu", 30),
        ("relu_", 60),
        ("silu", 60),
        ("gelu", 60),
        ("sigmoid", 60),
        ("tanh", 60),
        ("softplus", 60),
        ("sum", 60),
        ("arithmetic", 0),
    ],
)
def test_rule_for_each_operation(operation: str, flops: int) -> None:
    assert count_flops(Chosen(operation), 10, num_features=6) == flops


def test_counting_changes_nothing() -> None:
    encoder = AsrModel(find_preset("tiny")).encoder.train()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    flops = count_flops(encoder)
    with torch.device("meta"):
        assert count_flops(AsrModel(find_preset("tiny")).encoder) == flops
    assert encoder.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in encoder.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of a process from /proc")
def test_counting_a_large_model_takes_no_memory() -> None:
    """The model has 0.9 GB of weights."""
    code = """
from pathlib import Path
from zipasr.presets import find_preset
from zipasr.profile import profile_model

def peak_kib():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)

profile_model("tiny", find_preset("tiny"))
before = peak_kib()
profile_model("squeezeformer-l", find_preset("squeezeformer-l"))
print(peak_kib() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 50_000


# Measuring


def test_measures_in_a_process_of_its_own() -> None:
    threads = torch.get_num_threads()
    config = find_preset("tiny")
    short = profile_encoder(config, batch=1, seconds=2.5, threads=1, device="cpu", repeats=3)
    assert (short.device, short.batch, short.seconds, short.threads) == ("cpu", 1, 2.5, 1)
    assert 0 < short.min_s <= short.time_s <= short.max_s
    long = profile_encoder(config, batch=6, seconds=10, threads=1, device="cpu", repeats=1)
    assert long.peak_mib > short.peak_mib + 20
    assert torch.get_num_threads() == threads


def test_time_is_the_median_of_passes_after_one_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock moves only while the encoder runs."""
    clock, passes, shapes = [0.0], iter([100.0, 3.0, 1.0, 2.0]), []

    class Timed(nn.Module):
        def forward(self, features: Tensor, lens: Tensor) -> None:
            clock[0] += next(passes)
            shapes.append((features.shape, lens.tolist()))

    monkeypatch.setattr(profile, "make_encoder", lambda config: Timed())
    monkeypatch.setattr(profile, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    request = {"config": to_json(find_preset("tiny")), "batch": 2, "seconds": 1.5, "threads": None, "device": "cpu"}
    measured = profile._measure({**request, "repeats": 3})
    assert (measured.time_s, measured.min_s, measured.max_s) == (2.0, 1.0, 3.0)
    assert shapes == [((2, 150, 80), [150, 150])] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch must be at least 1, but is 0"),
        ({"seconds": 0.01}, "seconds must be at least 0.2, but is 0.01"),
        ({"seconds": float("nan")}, "seconds must be at least"),
        ({"threads": 0}, "threads must be at least 1, but is 0"),
        ({"repeats": 0}, "repeats must be at least 1"),
        ({"device": "abacus"}, "device must be"),
    ],
)
def test_refuses_to_measure(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        profile_encoder(find_preset("tiny"), **options)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_measurement_ends_with_the_process_that_asked_for_it() -> None:
    code = "from zipasr import profile, presets; profile.profile_encoder(presets.find_preset('tiny'), repeats=10**6)"
    with subprocess.Popen([sys.executable, "-c", code]) as asking:
        children = Path(f"/proc/{asking.pid}/task/{asking.pid}/children")
        wait_until(lambda: children.read_text().strip())
        measuring = Path("/proc", children.read_text().split()[0])
        wait_until(lambda: "profile" in (measuring / "cmdline").read_text())
        asking.terminate()
    wait_until(lambda: not measuring.exists() or ") Z " in (measuring / "stat").read_text())


def test_says_why_a_measurement_failed() -> None:
    with pytest.raises(ZipasrError, match=r"1000000000 x 30 s could not be encoded on cpu: .*memory.*; use a smaller batch"):
        profile_encoder(find_preset("tiny"), batch=10**9, device="cpu")


def measured(seconds: float) -> Measured:
    return Measured(
        device="cpu", batch=1, seconds=30.0, threads=2, time_s=seconds, min_s=seconds, max_s=seconds, peak_mib=100 * seconds
    )


def test_json_round_trip() -> None:
    profile = profile_model("small", find_preset("small"), measured(1.5))
    figures = json.loads(json.dumps(profile.to_dict()))
    assert figures["name"] == "small"
    assert (figures["params"], figures["gflops"]) == (23_285_615, 40.751624294)
    assert figures["published"]["params_m"] == 23.3
    assert figures["measured"]["time_s"] == 1.5
    other = ModelProfile(name="mine", params=3, encoder_params=2, flops=10**9).to_dict()
    assert (other["published"], other["measured"], other["gflops_difference"], other["gflops"]) == (None, None, None, 1.0)


def test_figure_of_the_measured_models(tmp_path: Path) -> None:
    sizes = ("s", "m", "l")
    profiles = [ModelProfile(name="unmeasured", params=3, encoder_params=2, flops=1)]
    for i, size in enumerate(sizes):
        name = f"zipformer-{size}"
        profiles.append(
            ModelProfile(
                name=name, params=10**7, encoder_params=1, flops=1, published=TABLE_2[name], measured=measured(i + 1.0)
            )
        )
    assert plot_profiles(profiles, tmp_path / "costs.png").read_bytes().startswith(b"\x89PNG\r\n")
    with pytest.raises(DataError, match="none was measured"):
        plot_profiles(profiles[:1], tmp_path / "costs.png")
