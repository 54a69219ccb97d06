"""What the machine is, and how fast it copies and multiplies: the ceilings that other figures are compared with."""

import platform
import shutil
import subprocess
import sys
from importlib import metadata
from typing import Any

import torch

from gpu.models import ABSENT
from gpu.runner import Block
from gpu.timing import NUM_INPUT_SETS, time_calls
from zipasr.device import DTYPES, arithmetic

PEAK_BF16 = 989e12
"""Dense bf16 operations a second of an H100 SXM, by its data sheet."""


def ceilings(block: Block) -> None:
    """Versions and card; a copy of 4 GB; products of 8192 x 8192 matrices."""
    block.case("versions", lambda: versions(block.device))
    copy = block.case("copy", lambda: measure_copy(block))
    if copy is not None:
        block.setting.ceilings["bytes_per_s"] = copy["bytes_per_s"]
    for precision in ("bfloat16", "float16", "tf32", "float32"):
        product = block.case(f"product {precision}", lambda precision=precision: measure_product(block, precision))
        if precision == "bfloat16" and product is not None:
            block.setting.ceilings["flops_per_s"] = product["flops_per_s"]


def card_name(device: torch.device) -> str:
    """The card as PyTorch names it, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def versions(device: torch.device) -> dict[str, Any]:
    """Versions of everything that counts, and the card with its clocks; nothing is changed."""
    found: dict[str, Any] = {"python": platform.python_version(), "system": sys.platform, "torch": torch.__version__}
    for name in ("triton", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    found |= {"card": card_name(device), "placeholders": list(ABSENT), "threads": torch.get_num_threads()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "capability": f"{properties.major}.{properties.minor}",
            "memory_gib": properties.total_memory / 2**30,
            "multiprocessors": properties.multi_processor_count,
            "driver": query_card("driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit", device),
        }
    return found


def query_card(fields: str, device: torch.device) -> str:
    """What nvidia-smi says of a card, or why it says nothing."""
    if shutil.which("nvidia-smi") is None:
        return "nvidia-smi is absent"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv", f"--id={device.index or 0}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    return (done.stdout or done.stderr).strip()


def measure_copy(block: Block) -> dict[str, Any]:
    """Copy 4 GB inside the memory of the device; read and written bytes both count."""
    num_elements = 2**20 if block.is_toy else 2**29  # of 4 bytes, twice
    sources = [torch.randn(num_elements, device=block.device) for _ in range(NUM_INPUT_SETS)]
    target = torch.empty_like(sources[0])
    times = time_calls([lambda s=s: target.copy_(s) for s in sources], block.device, is_toy=block.is_toy)
    return {"bytes_per_s": 2 * 4 * num_elements / (times["ms"] / 1e3), **times}


def measure_product(block: Block, precision: str) -> dict[str, Any]:
    """Multiply two square matrices."""
    size, dtype = (256 if block.is_toy else 8192), DTYPES[precision]
    pairs = [torch.randn(2, size, size, device=block.device).to(dtype) for _ in range(NUM_INPUT_SETS)]
    with arithmetic(precision, block.device):
        times = time_calls([lambda p=p: p[0] @ p[1] for p in pairs], block.device, is_toy=block.is_toy)
    return {"flops_per_s": 2 * size**3 / (times["ms"] / 1e3), **times}
