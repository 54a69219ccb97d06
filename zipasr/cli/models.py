"""`zipasr models`: the published models that are known, with what they need and how good they are said to be."""

import argparse
import json
import textwrap
from typing import TYPE_CHECKING

from zipasr.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from zipasr.hub import KnownModel, PublishedRate

_COLUMNS = "{:11}  {:4}  {:21}  {:>7}  {:42}  {}"
_HEADER = _COLUMNS.format("language", "live", "heads", "size", "error rate, % (as published)", "license")
_WIDTH = 120
_FOOTER = """\
Error rates are of words, and of characters in Chinese, Cantonese, Japanese and Korean. They were published, not measured
here. --json has their parts, how they were measured, and the source of every line. Take a name that starts with hf: wherever
zipasr takes the folder of a model: zipasr transcribe {example} a.wav"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "models",
        example="zipasr models --lang zh --streaming",
        help="list published models",
        description="Print a table of published Zipformer models: language, whether they are for live audio, heads, size, "
        "published error rate, license, and what they need. It is part of zipasr; nothing is downloaded.",
    )
    parser.add_argument("--lang", metavar="LANG", help="only models for this language, such as zh or Chinese")
    parser.add_argument(
        "--streaming", action=argparse.BooleanOptionalAction, help="only models for live audio (--no-streaming: the others)"
    )
    parser.add_argument("--json", action="store_true", help="print the rows as a JSON list, with their sources")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the table; return the exit code."""
    from zipasr.hub import find_models
    from zipasr.progress import write_line

    try:
        models = find_models(language=args.lang, is_streaming=args.streaming)
    except ConfigError as error:
        raise ConfigError(f"--lang: {error}") from error
    if args.json:
        print(json.dumps([model.to_dict() for model in models], ensure_ascii=False))
    elif models:
        print(_table(models))
    else:
        write_line("zipasr: no model of the table fits; leave --streaming or --no-streaming out for all of the language")
    return 0


def _table(models: "Sequence[KnownModel]") -> str:
    lines = [f"  {_HEADER}"]
    for model in models:
        lines += [model.title, *(f"  {line}" for line in _about(model))]
    usable = (model.reference for model in models if model.reference and not model.refused)
    example = next(usable, "hf:OWNER/NAME")
    return "\n".join([*lines, "", _FOOTER.format(example=example)])


def _about(model: "KnownModel") -> list[str]:
    """The columns of a model, and a line for each thing that a user must know."""
    many = len(model.languages)
    languages = " ".join(model.languages) if many <= 4 else f"{many} languages"
    size = model.size if model.params_m is None else f"{model.params_m:g} M"
    rates = ", ".join(_rates(model.error_rates))
    license = model.license or model.license_note or "not known"
    row = _COLUMNS.format(languages, "yes" if model.is_streaming else "no", " ".join(model.heads), size, rates, license)
    settings = model.to_dict()["settings"]
    lines = [row.rstrip()]
    if settings:
        shown = ", ".join(f"{name} {_plain(value)}" for name, value in settings.items())
        lines.append(f"needs, and gets by itself: {shown}")
    if model.where:
        lines.append(f"not on the hub: unpack it, and give its folder; {model.where}")
    if model.note:
        lines.append(model.note)
    if model.refused:
        lines.append(f"cannot be run: {model.refused}")
    return [part for line in lines for part in textwrap.wrap(line, _WIDTH, break_long_words=False)]


def _rates(rates: "Iterable[PublishedRate]") -> list[str]:
    """The error rates by corpus, as in `LibriSpeech 2.21/4.79`."""
    by_corpus: dict[str, list[str]] = {}
    for rate in rates:
        by_corpus.setdefault(rate.corpus, []).append(f"{rate.percent:.2f}")
    return [f"{corpus} {'/'.join(percents)}" for corpus, percents in by_corpus.items()]


def _plain(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else f"{value:g}" if isinstance(value, float) else str(value)
