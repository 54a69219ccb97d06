"""The flags for the device and the precision of a model."""

import argparse

PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
"""The values of `device.Precision`, repeated here because importing it loads torch."""


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Add `--device` to a verb."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")


def add_precision_option(parser: argparse.ArgumentParser) -> None:
    """Add `--precision` to a verb that runs the encoder."""
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="precision of the encoder; values other than float32 are for GPUs, tf32 for NVIDIA GPUs, bfloat16 for CPUs "
        "with AMX too (default: float32)",
    )
