"""`zipasr diagnose DIR CUTS`: activations of a model with their limits, and how a transducer head emits labels."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from zipasr.cli.device_options import add_device_option
from zipasr.cli.model_argument import add_model_argument, fetch_model
from zipasr.cli.threads import use_threads
from zipasr.errors import ConfigError

if TYPE_CHECKING:
    from zipasr.train.diagnose import ModuleActivations
    from zipasr.train.emission import EmissionReport

_HEAD = (
    f"  {'over by':>8}  {'kind':9} {'rms':>9}  {'channels, least-largest [limits]':34}  {'positive % [limits]':22}  "
    f"{'':34}  module"
)


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "diagnose",
        takes="DIR CUTS",
        example="zipasr diagnose exp/mine data/mine/dev_cuts.jsonl.gz",
        help="show the activations of a model with their limits, and why words are missing",
        description="Process some utterances and show, worst first, the size of activations, the share of positive values, "
        "how correlated channels are (whiteness: 1 is best) and how widely attention spreads (entropy), with the limits "
        "that Balancer and Whiten enforce at this point of training. '!' marks values outside. For models with a transducer "
        "head, also show how many frames emit more than one label, the delay of labels relative to CTC, and the word errors "
        "of greedy searches.",
    )
    add_model_argument(parser)
    parser.add_argument("cuts", metavar="CUTS", help="Lhotse cuts with text, such as DATA/dev_cuts.jsonl.gz")
    parser.add_argument("--utterances", type=int, default=32, help="utterances to process (default: 32)")
    parser.add_argument("--rows", type=int, default=30, help="lines of the table; 0: all (default: 30)")
    parser.add_argument(
        "--outputs",
        action=argparse.BooleanOptionalAction,
        help="also show the outputs of every module with weights (default: only if the encoder has no limits)",
    )
    add_device_option(parser)
    parser.add_argument("--json", action="store_true", help="print every module as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Process the utterances and print the tables; return the exit code."""
    from zipasr.device import select_device
    from zipasr.model import AsrModel, resolve_model_folder
    from zipasr.train.data import read_cuts
    from zipasr.train.diagnose import diagnose, read_speech, schedule_progress_of
    from zipasr.train.emission import diagnose_emission

    for name, least in (("utterances", 1), ("rows", 0)):
        if getattr(args, name) < least:
            raise ConfigError(f"--{name} must be {least} or more, but is {getattr(args, name)}")
    device = select_device(args.device)
    fetch_model(args)
    folder = resolve_model_folder(args.model)
    progress = schedule_progress_of(folder)
    use_threads(args.model)
    model, tokenizer = AsrModel.load(folder)
    batches = read_speech(read_cuts(Path(args.cuts)), tokenizer, model.config.features, num_utterances=args.utterances)
    reports = diagnose(model.to(device), batches, progress=progress, has_outputs=args.outputs)
    emission = diagnose_emission(model, batches, tokenizer) if model.has_transducer else None
    num_utterances, audio_s = sum(len(batch.ids) for batch in batches), sum(batch.audio_s for batch in batches)
    if args.json:
        document = {
            "model": str(folder),
            "step": str(progress) if progress == float("inf") else progress,
            "num_utterances": num_utterances,
            "audio_s": audio_s,
            "modules": [report.to_dict() for report in reports],
            "emission": None if emission is None else emission.to_dict(),
        }
        print(json.dumps(document))
        return 0
    shown = reports[: args.rows] if args.rows else reports
    num_exceeded = sum(report.is_exceeded for report in reports)
    at = "the end of training" if progress == float("inf") else f"step {progress:.1f} of the schedules"
    print(f"{folder}: {num_utterances} utterances, {audio_s:.1f} s; limits at {at}")
    print(_HEAD)
    for report in shown:
        print(_row(report).rstrip())
    more = f"; {len(reports) - len(shown)} not shown, --rows 0 shows all" if len(shown) < len(reports) else ""
    print(f"{num_exceeded} of {len(reports)} modules are outside their limits{more}")
    if emission is not None:
        print(_emission_text(emission))
    return 0


def _emission_text(report: "EmissionReport") -> str:
    from zipasr.train.emission import word_errors_percent

    stats = report.stats
    lines = []
    if stats.burst_share is not None and stats.burst_frame_share is not None:
        line = (
            f"emission of {stats.num_labels} labels: {100.0 * stats.burst_frame_share:.1f} % of the frames with labels emit "
            f"more than one; {100.0 * stats.burst_share:.1f} % of the labels are not the first of their frame"
        )
        lines.append(line if stats.delay_s is None else f"{line}; delay relative to CTC {stats.delay_s:+.3f} s")
    if stats.num_unaligned:
        lines.append(f"{stats.num_unaligned} utterances could not be aligned: too few frames, or scores that are not finite")
    lines.append(f"  {'search':32} {'WER %':>7} {'deleted %':>10} {'inserted %':>11} {'substituted %':>14}")
    for result in report.searches:
        deleted, inserted, substituted = word_errors_percent(result).values()
        lines.append(f"  {result.search!s:32} {result.wer:7.2f} {deleted:10.2f} {inserted:11.2f} {substituted:14.2f}")
    return "\n".join([*lines, *(f"! {finding}" for finding in report.findings)])


def _row(report: "ModuleActivations") -> str:
    mark = "!" if report.is_exceeded else " "
    rms = "" if report.rms is None else f"{report.rms:.3g}"
    channels = _range(report.channel_rms, report.rms_limits)
    positive = _range(report.positive, report.positive_limits, scale=100.0)
    measure = ""
    if report.outside is not None:
        measure = f"{100.0 * report.outside:.0f} % of channels outside"
    elif report.whiteness is not None:
        measure = f"whiteness {report.whiteness:.3g} [up to {report.whiteness_limit:.3g}]"
    elif report.entropy is not None:
        low, high = report.entropy
        measure = f"entropy {low:.2f}-{high:.2f} of {report.entropy_limit:.2f} nats"
    return (
        f"{mark} {report.badness:8.3f}  {report.kind:9} {rms:>9}  {channels:34}  {positive:22}  {measure:34}  {report.name}"
    )


def _range(found: tuple[float, float] | None, limits: tuple[float, float] | None, *, scale: float = 1.0) -> str:
    if found is None:
        return ""
    text = f"{scale * found[0]:.3g}-{scale * found[1]:.3g}"
    return text if limits is None else f"{text} [{scale * limits[0]:.3g}-{scale * limits[1]:.3g}]"
