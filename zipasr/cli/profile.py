"""`zipasr profile NAME_OR_FOLDER`: parameters, operations, time and memory of a model, with the paper's figures."""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from zipasr.cli.flags import flag, given
from zipasr.cli.model_argument import local_path
from zipasr.errors import ConfigError, ZipasrError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zipasr.profile import ModelProfile

_MEASURING = ("batch", "seconds", "threads", "device")
"""Flags that affect only time and memory."""
_FIGURES = f"{'paper':>8} {'ours':>8} {'diff':>7}"
_COLUMNS = (
    (f"{'':36}  {'parameters (M)':^25}  {'GFLOPs of the encoder':^25}", f"{'model':18} {'type':17}  {_FIGURES}  {_FIGURES}"),
    (f"  {'time':>9} {'memory':>9}", f"  {'s':>9} {'MiB':>9}"),
)
"""The two header lines of the table, and the columns that follow if time was measured."""
_GFLOPS_NOTE = "GFLOPs: the encoder on one utterance of 30 s, counted by the paper's rule"
_MEASURED_NOTE = "median time of a batch, peak memory above model and input, random weights"
_HEAD_NOTE = (
    "Conformer: the published count includes a different transducer head than our model; our number here is our encoder "
    "with that head"
)


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "profile",
        takes="(NAME_OR_FOLDER | --all)",
        example="zipasr profile zipformer-m --no-time",
        help="count parameters and operations, measure time and memory",
        description="Print the cost of a model and the paper's figures for it. Operations are those of the encoder for "
        "30 s of speech; time and memory are those of encoding a batch.",
    )
    parser.add_argument(
        "model",
        metavar="NAME_OR_FOLDER",
        nargs="?",
        help="a preset such as zipformer-s, the folder of a model or run, or hf:OWNER/NAME for a model on the hub",
    )
    parser.add_argument("--all", action="store_true", help="profile every model in the paper's table of encoders instead")
    parser.add_argument("--batch", type=int, help="utterances per batch (default: 30 on a GPU, else 1)")
    parser.add_argument("--seconds", type=float, metavar="S", help="length of each utterance (default: 30)")
    parser.add_argument("--threads", type=int, help="number of CPU threads (default: PyTorch's choice)")
    parser.add_argument("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    parser.add_argument(
        "--time", action=argparse.BooleanOptionalAction, default=True, help="measure time and memory (default: yes)"
    )
    parser.add_argument("--plot", metavar="PNG", help="with --all: plot time and memory over model size to this file")
    parser.add_argument("--json", action="store_true", help="print the results as JSON, a list with --all")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Count, measure and print; a model that cannot be measured is reported and skipped. Return the exit code."""
    from zipasr.presets import TABLE_2, find_config
    from zipasr.profile import plot_profiles, profile_encoder, profile_model
    from zipasr.progress import track, write_line

    _check(args)
    names = list(TABLE_2) if args.all else [args.model]
    chosen = given(args, _MEASURING)
    profiles, num_failed = [], 0
    for name in track(names, "profile", unit="models"):
        config, measured = find_config(local_path(name)), None
        try:
            measured = profile_encoder(config, **chosen) if args.time else None
        except ConfigError:
            raise
        except ZipasrError as error:
            num_failed += 1
            print(f"zipasr: error: {name}: {error}", file=sys.stderr)
        profiles.append(profile_model(name, config, measured))
    if args.json:
        print(json.dumps([profile.to_dict() for profile in profiles] if args.all else profiles[0].to_dict()))
    else:
        print(_table(profiles))
    if args.plot:
        write_line(f"zipasr: figure: {plot_profiles(profiles, args.plot)}")
    return 1 if num_failed else 0


def _check(args: argparse.Namespace) -> None:
    """Raise ConfigError for flags that contradict each other or have no effect."""
    if args.all == (args.model is not None):
        found = "both are; leave one out" if args.all else "neither is; name a model, or ask for the whole table"
        raise ConfigError(f"either NAME_OR_FOLDER or --all must be given, but {found}")
    if args.plot and not (args.all and args.time):
        raise ConfigError("--plot plots the times of the whole table; use it with --all and without --no-time")
    useless = [flag(name) for name in given(args, _MEASURING)]
    if useless and not args.time:
        raise ConfigError(f"{', '.join(useless)} would have no effect with --no-time; leave one of them out")
    if args.plot:
        from zipasr.plots import check_figure

        check_figure(args.plot)


def _table(profiles: "Sequence[ModelProfile]") -> str:
    measured = next((profile.measured for profile in profiles if profile.measured is not None), None)
    heads = [line + (more if measured is not None else "") for line, more in zip(*_COLUMNS, strict=True)]
    lines = [*heads, *(_row(profile) for profile in profiles), "", _GFLOPS_NOTE]
    if any(profile.published is not None and profile.published.head_params for profile in profiles):
        lines.append(_HEAD_NOTE)
    if measured is not None:
        lines.append(f"time, memory: {measured.setting}; {_MEASURED_NOTE}")
    return "\n".join(line.rstrip() for line in lines)


def _row(profile: "ModelProfile") -> str:
    paper, measured = profile.published, profile.measured
    title, heads, params_m, gflops = profile.name, "", None, None
    if paper is not None:
        title, heads, params_m, gflops = paper.title, paper.type, paper.params_m, paper.gflops
    figures = _figures(params_m, profile.published_like_params / 1e6, profile.params_difference)
    figures += "  " + _figures(gflops, profile.gflops, profile.gflops_difference)
    row = f"{title:18} {heads:17}  {figures}"
    if measured is None:
        return row
    memory = "-" if measured.peak_mib is None else f"{measured.peak_mib:.0f}"
    return f"{row}  {measured.time_s:9.3f} {memory:>9}"


def _figures(published: float | None, ours: float, difference: float | None) -> str:
    if published is None or difference is None:
        return f"{'-':>8} {ours:8.2f} {'':7}"
    return f"{published:8.1f} {ours:8.2f} {round(difference, 1) + 0.0:+5.1f} %"
