"""The argument that names a model: a folder, or `hf:OWNER/NAME` for one on the hub, which is fetched when it is needed."""

import argparse


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """Add the positional argument of a model to a verb."""
    parser.add_argument(
        "model",
        metavar="DIR",
        help="the folder of a training run or of a model, or hf:OWNER/NAME for a model on the hub (see zipasr pull)",
    )


def fetch_model(args: argparse.Namespace) -> None:
    """Make the argument `model` a local folder: fetch a model on the hub that is not in the cache yet.

    Call it after flags are checked, so that nobody waits for a download before they learn of a misspelled flag.

    Raises:
        ConfigError: the reference is malformed, or huggingface_hub is not installed.
        CheckpointError: the model cannot be fetched or used.
    """
    from zipasr.hub import is_reference, local_model

    folder = local_model(args.model)
    if is_reference(args.model):
        args.model = str(folder)
