"""The command `zipasr VERB ...`: runs the verb, and turns errors into one line and an exit code.

Exit codes: 0 done, 1 failed, 2 misuse, 130 interrupted. Results go to stdout, everything else to stderr. Each verb is a
module of this folder whose `add_parser(subparsers)` registers its `run(args) -> int`; importing it loads nothing heavy.
"""

import argparse
import difflib
import importlib
import os
import sys
import textwrap
import traceback
from collections.abc import Sequence
from typing import Any

from zipasr import __version__
from zipasr.cli.console import configure_streams, log_lines
from zipasr.cli.memory import keep_freed_memory, skip_collection_at_exit
from zipasr.cli.threads import wait_without_spinning
from zipasr.errors import ConfigError, ZipasrError

VERBS = (
    "prepare",
    "train",
    "train-lm",
    "compile-graph",
    "average",
    "plot",
    "evaluate",
    "transcribe",
    "align",
    "spot",
    "profile",
    "diagnose",
    "export",
    "serve",
    "models",
    "pull",
    "inspect",
    "convert",
    "push",
)
"""All verbs, in the order in which they are used."""

FIRST_STEPS = f"""\
zipasr {__version__}: speech recognition with Zipformer, from recordings to transcripts.
Your own recordings, each beside its text (a.wav, a.txt):
  zipasr prepare recordings --out data/mine
  zipasr train data/mine --out exp/mine
  zipasr transcribe exp/mine new.wav
A model: commands, which comes with zipasr (single English words), or a folder:
  zipasr transcribe commands a.wav
A first look at training: 22 minutes of telephone prompts, from Debian:
  zipasr prepare prompts --out data/prompts
  zipasr train prompts:tiny --out exp/quickstart
All verbs: zipasr --help. One verb, with an example: zipasr train --help."""
"""What to do first, for each kind of user; `zipasr` without arguments prints it."""

_EXIT_DONE, _EXIT_FAILED, _EXIT_MISUSE, _EXIT_INTERRUPTED = 0, 1, 2, 130


class _Parser(argparse.ArgumentParser):
    """Prints help and the version; unlike that of argparse, it reports a full disk."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is sys.stdout:
            print(message, end="", flush=True)
        else:
            super()._print_message(message, file)


class _HelpFormatter(argparse.HelpFormatter):
    """Shows the value of a flag as N if it is a whole number, and as X if it is any other number."""

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        if action.type in (int, float):
            return "N" if action.type is int else "X"
        return super()._get_default_metavar_for_optional(action)


class _VerbParser(_Parser):
    """The parser of a verb.

    Its usage is short and followed by an example, so that both are on the first screen of the help and beside an error.
    Flags may stand before, between and after positional arguments, as in `transcribe DIR --json a.wav`.
    """

    _is_intermixing = False

    def __init__(self, *, takes: str = "", example: str | None = None, **settings: Any) -> None:
        """Create the parser.

        Args:
            takes: the positional arguments and required flags, as in "DIR --out OUT".
            example: a complete command.
            settings: those of argparse.
        """
        super().__init__(**{"formatter_class": _HelpFormatter, **settings})
        self.example = example
        if example:
            usage = " ".join(filter(None, (self.prog, takes, "[options]")))
            self.usage = textwrap.fill(usage, width=72, subsequent_indent=" " * 9)
            self.usage = f"{self.usage}\nexample: {example}".replace("%", "%%")

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """Parse the arguments of a verb; argparse's own method ends a list of positional arguments at the first flag.

        What is left over is an error here, so that the usage beside it is that of the verb.
        """
        if self._is_intermixing:
            return super().parse_known_args(args, namespace)
        self._is_intermixing = True
        try:
            namespace, extras = self.parse_known_intermixed_args(args, namespace)
        finally:
            self._is_intermixing = False
        if extras:
            nearest = difflib.get_close_matches(extras[0], self._option_string_actions, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"{self.prog} --help lists all flags"
            self.error(f"unrecognized arguments: {' '.join(extras)}; {hint}")
        return namespace, extras


def main(argv: Sequence[str] | None = None) -> int:
    """Run `zipasr` with these arguments (default: those of the process) and return the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    configure_streams()
    wait_without_spinning()
    keep_freed_memory()
    skip_collection_at_exit()
    try:
        if not argv:
            print(FIRST_STEPS, flush=True)
            return _EXIT_DONE
        args = _parser(argv).parse_args(argv)
        _refuse_empty(args)
        with log_lines(is_quiet=args.quiet):
            return int(args.run(args) or _EXIT_DONE)
    except SystemExit as stop:  # argparse: --help, or misuse that it has reported
        return stop.code if isinstance(stop.code, int) else _EXIT_FAILED
    except KeyboardInterrupt:
        return _report("interrupted", _EXIT_INTERRUPTED)
    except ConfigError as error:
        return _report(f"error: {error}", _EXIT_MISUSE)
    except ZipasrError as error:
        return _report(f"error: {error}", _EXIT_FAILED)
    except BrokenPipeError:
        # The reader of our output has exited (`zipasr ... | head`): keep Python from reporting that at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _EXIT_FAILED
    except OSError as error:  # a full disk, a name that is too long: not a bug, and a verb has nothing to add
        where = f"{error.filename}: " if error.filename else ""
        return _report(f"error: {where}{error.strerror or error}; check the path, permissions and free space", _EXIT_FAILED)
    except Exception as error:
        traceback.print_exc()
        return _report(f"error: unexpected {type(error).__name__}: {error}; this is a bug, please report it", _EXIT_FAILED)


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="zipasr",
        usage="zipasr VERB INPUT... [options]\nexample: zipasr transcribe exp/mine a.wav",
        description="Speech recognition, from recordings to transcripts. `zipasr VERB --help` explains a verb; `zipasr` "
        "alone says what to do first.",
    )
    parser.add_argument("--version", action="version", version=f"zipasr {__version__}", help="print the version and exit")
    subparsers = parser.add_subparsers(dest="verb", required=True, prog="zipasr", metavar="VERB", parser_class=_VerbParser)
    chosen = [verb for verb in VERBS if argv and verb == argv[0]]
    for verb in chosen or VERBS:
        importlib.import_module(f"zipasr.cli.{verb.replace('-', '_')}").add_parser(subparsers)
    for verb_parser in subparsers.choices.values():
        verb_parser.add_argument("--quiet", action="store_true", help="write only errors to stderr")
    return parser


def _refuse_empty(args: argparse.Namespace) -> None:
    """Check that no argument is empty, for example from an unset shell variable: as a path it would mean this folder.

    Raises:
        ConfigError: an argument is empty.
    """
    for name, value in vars(args).items():
        if value == "" or (isinstance(value, list) and "" in value):
            raise ConfigError(f"{name.replace('_', '-')} must have a value, but is empty; give one or leave it out")


def _report(message: str, code: int) -> int:
    if sys.stdout is not None:  # None: it was closed before the program started
        sys.stdout.flush()
    if sys.stderr is not None:
        print("zipasr:", " ".join(line.strip() for line in message.splitlines()), file=sys.stderr)
    return code
