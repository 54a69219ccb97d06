"""`zipasr train`: train a model by a recipe or on a data folder, or resume a run."""

import argparse
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from zipasr.cli.memory import keep_freed_memory
from zipasr.cli.threads import MOST_PROCESSES, add_threads_option, use_threads_for_training

if TYPE_CHECKING:
    from zipasr.train.config import TrainConfig
    from zipasr.train.length import BudgetedRun, Length
    from zipasr.train.local_ranks import Team
    from zipasr.train.loop import TrainReport


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "train",
        takes="RECIPE_OR_DATA --out OUT",
        example="zipasr train data/mine --out exp/mine --budget 2h",
        help="train a model on prepared data",
        description="Train a model. The same command with the same --out resumes the run; Ctrl-C and SIGTERM save a "
        "checkpoint first, which `zipasr transcribe` can already use. On several GPUs: "
        "torchrun --nproc-per-node N -m zipasr train ...",
    )
    parser.add_argument(
        "recipe",
        metavar="RECIPE_OR_DATA",
        help="a recipe such as prompts:tiny or my_recipe.py:function, or a folder that `zipasr prepare` wrote",
    )
    parser.add_argument("--out", required=True, help="folder of the run")
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        dest="settings",
        action="append",
        default=[],
        help="set a field of the recipe, such as lr=0.03 or model.encoder.channels=64,96,128,128,128,96; may be repeated",
    )
    parser.add_argument(
        "--from",
        metavar="CHECKPOINT",
        dest="checkpoint",
        help="finetune this model: a model folder, a run, hf:OWNER/NAME for one on the hub, or a .pt file of icefall; "
        "options: --set finetune.NAME=VALUE",
    )
    parser.add_argument(
        "--budget",
        metavar="TIME",
        help="size the run for this time on this machine, such as 20m or 2h, by timing some steps first",
    )
    parser.add_argument("--progress", action=argparse.BooleanOptionalAction, default=True, help="show a progress bar")
    add_threads_option(
        parser,
        ", readers of data included",
        "OMP_NUM_THREADS, else one per core; on a CPU, a model below 5 M parameters uses up to "
        f"{MOST_PROCESSES}, in processes of one thread each",
    )
    parser.add_argument("--show", action="store_true", help="print the resolved configuration as JSON and exit")
    parser.add_argument(
        "--check",
        action="store_true",
        help="check the data as before the first step, print what would be dropped, and exit; the exit code is 1 if a run "
        "would refuse the data",
    )
    parser.add_argument(
        "--probe",
        action="store_true",
        help="find the largest batch.max_duration_s that fits into memory by trying the worst batches, and exit",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train and print the folder of the model; return the exit code."""
    from zipasr.train.local_ranks import Team

    with Team(prepare=keep_freed_memory) as team:
        return _run(args, team)


def _run(args: argparse.Namespace, team: "Team") -> int:
    from zipasr.config import to_json
    from zipasr.progress import write_line
    from zipasr.recipes.configure import configure_run, is_given
    from zipasr.train.distributed import ranks_of_environment
    from zipasr.train.length import fit_to_time
    from zipasr.train.loop import train
    from zipasr.train.preflight import check_recipe

    def fit(config: "TrainConfig", budget_s: float, *, made_for: "Length | None") -> "BudgetedRun":
        team.start(use_threads_for_training(config, args.threads).num_processes)
        return team.call(fit_to_time, config, budget_s, made_for=made_for)

    config, notes = configure_run(
        args.recipe,
        args.settings,
        Path(args.out),
        checkpoint=args.checkpoint,
        budget=args.budget,
        fit=fit,
    )
    for note in notes if ranks_of_environment().is_main else ():
        write_line(note)
    if args.show:
        print(json.dumps(to_json(config), indent=1))
        return 0
    config, num_processes = use_threads_for_training(config, args.threads)
    if args.check:
        found = check_recipe(config, Path(args.out))
        print(found.format_table())
        found.require_usable()
        return 0
    if args.probe:
        from zipasr.train.probe import probe

        print(probe(config, Path(args.out), num_processes=num_processes).format())
        return 0
    team.start(num_processes)
    report = team.call(
        train,
        config,
        Path(args.out),
        is_quiet=not args.progress,
        is_save_interval_given=is_given("save_interval", args.recipe, args.settings),
    )
    if report.is_main:
        _print_report(report, Path(config.data))
    return 0


def _print_report(report: "TrainReport", data: Path) -> None:
    """Print the result of a run, where its model is, and the next commands."""
    if not report.is_finished:
        print(f"{report.folder}: stopped after {report.num_steps} batches; run the same command to resume")
        return
    print(
        f"{report.folder / 'model'}: {report.num_steps} batches, dev WER {report.wer:.2f} %, "
        f"{report.hours_per_hour:.0f} × real time"
    )
    if report.validation is not None:
        from zipasr.search.comparison import format_comparison

        default = report.validation.best.search
        print(format_comparison(report.validation.searches, default, what=report.validation.what))
        print(f"default search of the model: {default}")
    for finding in report.findings:
        print(f"note: {finding}")
    run = shlex.quote(str(report.folder))
    tests = [path for path in sorted(data.glob("test*_cuts.jsonl*")) if path.is_file()]
    print(f"the model is in {report.folder / 'model'}; to use it: zipasr transcribe {run} RECORDING")
    if tests:
        print(f"its error rate on the test part: zipasr evaluate {run} {shlex.quote(str(tests[0]))}")
