"""`zipasr train`: train a model by a recipe, or on a data folder, or go on with a run that stopped."""

import argparse


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the verb."""
    parser = subparsers.add_parser(
        "train",
        help="train a model on prepared data",
        description="Train a model. The same command on the same --out goes on where the run stopped; Ctrl-C saves first.",
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
        help="set a field of the recipe, e.g. lr=0.03 or model.encoder.channels=64,96,128,128,128,96; may be repeated",
    )
    parser.add_argument("--progress", action=argparse.BooleanOptionalAction, default=True, help="show a progress bar")
    parser.add_argument("--show", action="store_true", help="print the resolved configuration as JSON and do nothing")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, and print where the model is."""
    import json
    import logging
    from pathlib import Path

    from zipasr.config import set_fields, to_json
    from zipasr.recipes.find import find_recipe
    from zipasr.train.loop import train

    logging.basicConfig(level=logging.WARNING, format="zipasr: %(message)s")
    config = set_fields(find_recipe(args.recipe), args.settings)
    if args.show:
        print(json.dumps(to_json(config), indent=1))
        return 0
    report = train(config, Path(args.out), is_quiet=not args.progress)
    print(
        f"{report.folder / 'model'}: {report.num_batches} batches, dev WER {report.wer:.2f} %, "
        f"{report.hours_per_hour:.0f} hours of audio per hour"
    )
    return 0
