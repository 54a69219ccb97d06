"""The argument that names a model: a folder, a model of the package, or `hf:OWNER/NAME`, which is fetched when needed."""

import argparse


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """Add the positional argument of a model to a verb."""
    parser.add_argument(
        "model",
        metavar="DIR",
        help="the folder of a training run or of a model, commands for the model that comes with zipasr, or hf:OWNER/NAME "
        "for a model on the hub (see zipasr pull)",
    )


def fetch_model(args: argparse.Namespace) -> None:
    """Make the argument `model` a local folder: that of a model of the package, or of one on the hub, fetched if need be.

    Call it after flags are checked, so that nobody waits for a download before they learn of a misspelled flag.

    Raises:
        ConfigError: the reference is malformed, or huggingface_hub is not installed.
        CheckpointError: the model cannot be fetched or used.
    """
    args.model = local_path(args.model)


def local_path(model: str) -> str:
    """The folder of a model of the package or of the hub, fetched if need be; what names a path stays as it is written.

    Raises:
        ConfigError, CheckpointError: as for `fetch_model`.
    """
    from zipasr.hub import is_built_in, is_reference, local_model

    folder = local_model(model)
    return str(folder) if is_reference(model) or is_built_in(model) else model
