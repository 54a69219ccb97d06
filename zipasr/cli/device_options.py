"""The flags that say where a model computes, and in which precision."""

import argparse

PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
"""As in `device.Precision`, which loads torch."""


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Add `--device` to a verb."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")


def add_precision_option(parser: argparse.ArgumentParser) -> None:
    """Add `--precision` to a verb that encodes."""
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="what the encoder computes in; others than float32 are for GPUs, tf32 for NVIDIA's (default: float32)",
    )
