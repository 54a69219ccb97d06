"""The command `zipasr VERB ...`: runs the verb, and turns errors into one line and an exit code.

Exit codes: 0 done, 1 failed, 2 misuse, 130 interrupted. Results go to stdout, everything else to stderr. Each verb is a
module of this folder whose `add_parser(subparsers)` registers its `run(args) -> int`; importing it loads nothing heavy.
"""

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from zipasr.cli.console import configure_streams, log_lines
from zipasr.cli.threads import wait_without_spinning
from zipasr.errors import ConfigError, ZipasrError

VERBS = (
    "prepare",
    "train",
    "train-lm",
    "average",
    "plot",
    "evaluate",
    "transcribe",
    "align",
    "profile",
    "diagnose",
    "export",
    "serve",
)
"""All verbs, in the order in which they are used."""

_EXIT_DONE, _EXIT_FAILED, _EXIT_MISUSE, _EXIT_INTERRUPTED = 0, 1, 2, 130


class _VersionAction(argparse.Action):
    """Prints the version, which is looked up only then, since that takes time."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import zipasr

        print(f"zipasr {zipasr.__version__}")
        parser.exit(_EXIT_DONE)


class _VerbParser(argparse.ArgumentParser):
    """A parser that accepts flags before, between and after positional arguments, as in `transcribe DIR --json a.wav`."""

    _is_intermixing = False

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """Parse the arguments of a verb; argparse's own method ends a list of positional arguments at the first flag."""
        if self._is_intermixing:
            return super().parse_known_args(args, namespace)
        self._is_intermixing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._is_intermixing = False


def main(argv: Sequence[str] | None = None) -> int:
    """Run `zipasr` with these arguments (default: those of the process) and return the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    configure_streams()
    wait_without_spinning()
    try:
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
    parser = argparse.ArgumentParser(prog="zipasr", description="Speech recognition, from recordings to transcripts.")
    parser.add_argument("--version", action=_VersionAction, nargs=0, help="print the version and exit")
    subparsers = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_VerbParser)
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
        if value == "":
            raise ConfigError(f"{name.replace('_', '-')} must have a value, but is empty; give one or leave it out")


def _report(message: str, code: int) -> int:
    sys.stdout.flush()
    print("zipasr:", " ".join(line.strip() for line in message.splitlines()), file=sys.stderr)
    return code
