"""`zipasr train-lm TEXT...`: train a language model for a recognizer, neural or n-gram, or resume training it."""

import argparse

from zipasr.cli.threads import count_parameters
from zipasr.errors import ConfigError

_DEFAULT_ORDER, _DEFAULT_UNIT = 3, "token"


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "train-lm",
        takes="TEXT... --model DIR --out OUT",
        example="zipasr train-lm texts.txt --model exp/mine --out exp/lm",
        help="train a language model for a recognizer",
        description="Train a language model on text, for --lm and --lodr of transcribe and evaluate. A neural one (lstm, "
        "transformer) is a folder; the same command with the same --out resumes training. An n-gram is a file in ARPA "
        "format. Perplexity is measured on 5 % of the lines, at most 2000, which are held out, or on --dev.",
    )
    parser.add_argument(
        "texts", metavar="TEXT", nargs="+", help="text with one sentence per line, or a manifest (.jsonl); may be gzipped"
    )
    parser.add_argument(
        "--model", required=True, metavar="DIR", help="the recognizer: a model folder, a run, or hf:OWNER/NAME"
    )
    parser.add_argument(
        "--out", required=True, help="folder of the run; for an n-gram a file: .arpa, .arpa.gz or .safetensors"
    )
    parser.add_argument(
        "--kind", choices=("lstm", "transformer", "ngram"), default="lstm", help="kind of model (default: %(default)s)"
    )
    parser.add_argument(
        "--order", type=int, metavar="ORDER", help=f"order of an n-gram; LODR needs 2 (default: {_DEFAULT_ORDER})"
    )
    parser.add_argument(
        "--unit", choices=("token", "word"), help=f"unit of an n-gram; LODR needs token (default: {_DEFAULT_UNIT})"
    )
    parser.add_argument(
        "--dev", metavar="FILE", action="append", default=[], help="measure perplexity on this text; may be repeated"
    )
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        dest="settings",
        action="append",
        default=[],
        help="set a field of a neural model, such as lr=0.001 or network.dim=512; may be repeated",
    )
    parser.add_argument("--progress", action=argparse.BooleanOptionalAction, default=True, help="show a progress bar")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train and print the path of the model and its perplexity; return the exit code."""
    from zipasr.config import set_fields
    from zipasr.device import configure_threads
    from zipasr.lm import LmConfig, NeuralLm
    from zipasr.lm.training import default_config, train_language_model, train_ngram
    from zipasr.recognizer.opening import open_tokenizer

    is_ngram = args.kind == "ngram"
    if is_ngram and args.settings:
        raise ConfigError("--set has no effect on an n-gram; use --order and --unit, or --kind lstm")
    for name in ("order", "unit"):
        if not is_ngram and getattr(args, name) is not None:
            raise ConfigError(f"--{name} has no effect on a neural model; leave it out, or use --kind ngram")
    config = set_fields(default_config(args.kind), args.settings)
    tokenizer = open_tokenizer(args.model)
    if is_ngram:
        order, unit = args.order if args.order is not None else _DEFAULT_ORDER, args.unit or _DEFAULT_UNIT
        report = train_ngram(args.texts, tokenizer, args.out, order=order, unit=unit, dev=args.dev)
    else:
        shape = LmConfig(vocab_size=tokenizer.vocab_size, sos_eos_id=tokenizer.sos_eos_id, network=config.network)
        configure_threads(num_parameters=count_parameters(lambda: NeuralLm(shape)))
        report = train_language_model(args.texts, tokenizer, args.out, config, dev=args.dev, is_quiet=not args.progress)
    print(
        f"{report.model}: {report.description}; perplexity {report.perplexity:.2f} per {report.unit} on "
        f"{report.num_held_out_lines} held-out lines"
    )
    return 0
