"""`zipasr convert PATH --out DIR`: another project's checkpoint as a model folder, or ours with int8 weights."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zipasr.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from zipasr.hub import ModelSettings


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "convert",
        takes="PATH --out DIR",
        example="zipasr convert exp/pretrained.pt --out converted",
        help="make a model folder of a PyTorch checkpoint of icefall",
        description="Write a PyTorch checkpoint as a model folder (configuration, safetensors, vocabulary): checkpoints of "
        "icefall's zipformer recipes, of the authors' zipformer package, and of soundsgoodai. Nothing in their files is "
        "executed. The sizes come from the tensors, and other settings from scripts and config.yaml beside them. With "
        "--int8, PATH may also be a model folder or the folder of a run.",
    )
    parser.add_argument(
        "path",
        metavar="PATH",
        help="the checkpoint (pretrained.pt, epoch-N.pt, model.pt) or its folder, or hf:OWNER/NAME for one on the hub",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write, new or from an earlier conversion")
    parser.add_argument(
        "--tokenizer",
        metavar="FILE",
        help="vocabulary (default: the one beside the checkpoint, or in data/ where recipes have it)",
    )
    parser.add_argument(
        "--num-heads",
        metavar="N,N,...",
        help="attention heads, of all stacks or one number per stack, if not the published ones",
    )
    parser.add_argument("--attention-decoder-heads", type=int, help="heads of the attention decoder, likewise")
    parser.add_argument("--features", choices=("kaldi", "whisper"), help="kind of the filterbank (default: kaldi)")
    parser.add_argument("--blank-penalty", type=float, help="penalty of the blank in the default search")
    parser.add_argument("--beam", type=int, help="beam of the default search")
    parser.add_argument("--max-gb", type=float, help="largest checkpoint that is opened (default: 12; 5 from the hub)")
    parser.add_argument(
        "--int8",
        action="store_true",
        help="store weights in eight bits, with a scale for each row: a quarter of the size, and float32 again when opened",
    )
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Convert the checkpoint and print what it holds; return the exit code."""
    from zipasr.hub import is_reference

    if args.max_gb is not None and not args.max_gb > 0:
        raise ConfigError(f"--max-gb must be positive, but is {args.max_gb}; leave it out for the default")
    out = _convert_published(args) if is_reference(args.path) else _convert_local(args)
    written = _written(out)
    if args.json:
        print(json.dumps(written))
        return 0
    heads = ", ".join(written["heads"])
    kind = "causal encoder" if written["is_causal"] else "encoder"
    print(f"{out}: {kind} with {heads}, {written['vocab_size']} tokens, {written['features']} features ({written['from']})")
    if not written["can_encode"]:
        print("its vocabulary turns tokens into text, but no text into tokens: no hotwords, alignment or training on")
    if written["search"]:
        print("default search: " + ", ".join(f"{name} {value}" for name, value in written["search"].items()))
    return 0


def _convert_local(args: argparse.Namespace) -> Path:
    from zipasr.hub import MAX_CHECKPOINT_GB, convert, find_local, shrink

    tokenizer = None if args.tokenizer is None else Path(args.tokenizer)
    if args.int8 and (own := _own_model(args.path)) is not None:
        return _shrunk(own, args)
    root, files = find_local(Path(args.path), needs_vocabulary=tokenizer is None)
    max_gb = MAX_CHECKPOINT_GB if args.max_gb is None else args.max_gb
    out = convert(root, files, args.out, settings=_settings(args), tokenizer=tokenizer, max_gb=max_gb)
    return shrink(out, out) if args.int8 else out


def _own_model(path: str) -> Path | None:
    """The folder of a model that needs no conversion; None for anything else."""
    from zipasr.hub import local_model
    from zipasr.model import resolve_model_folder

    try:
        return resolve_model_folder(local_model(path))
    except CheckpointError:
        return None


def _shrunk(folder: Path, args: argparse.Namespace) -> Path:
    """Write a model of ours with its weights in eight bits.

    Raises:
        ConfigError: flags say how to convert the checkpoint of another project.
    """
    from zipasr.hub import ModelSettings, shrink

    if args.tokenizer is not None or args.max_gb is not None or _settings(args) != ModelSettings():
        raise ConfigError(
            f"{args.path} has all its settings, so that only --int8 and --out apply to it; leave the other flags out"
        )
    return shrink(folder, args.out)


def _convert_published(args: argparse.Namespace) -> Path:
    from zipasr.hub import shrink
    from zipasr.hub.local import MAX_GB, check_target, copy_model, fetched_family, local_model

    if args.tokenizer is not None:
        raise ConfigError(
            "--tokenizer is for files of this machine, but the model is on the hub; download it to use another"
        )
    check_target(args.out)
    folder = local_model(args.path, settings=_settings(args), max_gb=MAX_GB if args.max_gb is None else args.max_gb)
    if (family := fetched_family(folder)) == "zipasr" and args.int8:
        return _shrunk(folder, args)
    if family not in ("icefall", "authors", "soundsgoodai"):
        raise ConfigError(
            f"{args.path} must be a checkpoint of another project, but is {family}; it needs no conversion: zipasr pull "
            f"{args.path} --out {args.out}"
        )
    return shrink(folder, args.out) if args.int8 else copy_model(folder, args.out)


def _settings(args: argparse.Namespace) -> "ModelSettings":
    from zipasr.hub import ModelSettings, parse_sizes

    return ModelSettings(
        num_heads=None if args.num_heads is None else parse_sizes(args.num_heads, name="--num-heads"),
        attention_decoder_heads=args.attention_decoder_heads,
        features=args.features,
        blank_penalty=args.blank_penalty,
        beam_size=args.beam,
    )


def _written(out: Path) -> dict[str, Any]:
    """What a converted folder holds."""
    from zipasr.checkpoint import CheckpointFolder
    from zipasr.encoder.zipformer import ZipformerConfig
    from zipasr.hub import SOURCE_FILE
    from zipasr.model import CONFIG_FILE, AsrConfig
    from zipasr.search.default_search import read_default_search
    from zipasr.tokenizer import MODEL_FILE, Tokenizer

    folder = CheckpointFolder(out)
    config, source = folder.config(AsrConfig, CONFIG_FILE), folder.document(SOURCE_FILE)
    default = read_default_search(out)
    return {
        "model": str(out),
        "from": ", ".join(source["files"]),
        "family": source["family"],
        "vocab_size": config.vocab_size,
        "can_encode": Tokenizer.from_bytes(folder.blob(MODEL_FILE)).can_encode,
        "heads": [head for head in ("transducer", "ctc", "attention") if getattr(config, head) is not None],
        "is_causal": isinstance(config.encoder, ZipformerConfig) and config.encoder.is_causal,
        "features": config.features.kind,
        "search": default.search.changes() if default is not None else None,
    }
