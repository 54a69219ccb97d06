"""`zipasr train-lm TEXT...`: train a language model for a recogniser, neural or n-gram, or go on training it."""

import argparse

from zipasr.cli.threads import use_threads_for

_DEFAULT_ORDER, _DEFAULT_UNIT = 3, "token"


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the verb."""
    parser = subparsers.add_parser(
        "train-lm",
        help="train a language model for a recogniser",
        description="Train a language model on text, for transcribe --lm and --lodr and evaluate. A neural one (lstm, "
        "transformer) is a folder; the same command on the same --out goes on where it stopped. An n-gram is a file in ARPA "
        "format. Perplexity is measured on 5 % of the lines, at most 2000, which are held out, or on --dev.",
    )
    parser.add_argument(
        "texts", metavar="TEXT", nargs="+", help="text, a sentence a line, or a manifest (.jsonl, .jsonl.gz); gzipped or not"
    )
    parser.add_argument("--model", required=True, metavar="DIR", help="the recogniser: a model folder or a run")
    parser.add_argument("--out", required=True, help="folder of the run; for an n-gram a file, .arpa or .arpa.gz")
    parser.add_argument(
        "--kind", choices=("lstm", "transformer", "ngram"), default="lstm", help="what to train (%(default)s)"
    )
    parser.add_argument(
        "--order", type=int, help=f"n-gram only: length of the longest ones ({_DEFAULT_ORDER}); LODR takes 2"
    )
    parser.add_argument(
        "--unit", choices=("token", "word"), help=f"n-gram only: what they are made of ({_DEFAULT_UNIT}); LODR takes tokens"
    )
    parser.add_argument("--dev", metavar="FILE", action="append", default=[], help="measure on this text; may be repeated")
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        dest="settings",
        action="append",
        default=[],
        help="neural only: set a field, e.g. lr=0.001 or network.dim=512; may be repeated",
    )
    parser.add_argument("--progress", action=argparse.BooleanOptionalAction, default=True, help="show a progress bar")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, and print where the model is and its perplexity."""
    from zipasr.config import set_fields
    from zipasr.errors import ConfigError
    from zipasr.lm import LmConfig, NeuralLm
    from zipasr.train.language_model import default_config, tokenizer_of, train_language_model, train_ngram

    if args.kind == "ngram":
        if args.settings:
            raise ConfigError("--set has no effect on an n-gram; use --order and --unit, or --kind lstm")
        report = train_ngram(
            args.texts,
            tokenizer_of(args.model),
            args.out,
            order=_DEFAULT_ORDER if args.order is None else args.order,
            unit=args.unit or _DEFAULT_UNIT,
            dev=args.dev,
        )
    else:
        for name in ("order", "unit"):
            if getattr(args, name) is not None:
                raise ConfigError(f"--{name} has no effect on a neural model; leave it out, or use --kind ngram")
        config = set_fields(default_config(args.kind), args.settings)
        tokenizer = tokenizer_of(args.model)
        use_threads_for(lambda: NeuralLm(LmConfig(vocab_size=tokenizer.vocab_size, network=config.network)))
        report = train_language_model(args.texts, tokenizer, args.out, config, dev=args.dev, is_quiet=not args.progress)
    print(
        f"{report.model}: {report.description}; perplexity {report.perplexity:.2f} per {report.unit} on "
        f"{report.num_held_out_lines} held-out lines"
    )
    return 0
