"""The console: characters that it cannot encode, log lines, `--quiet`, and columns."""

import codecs
import io
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

_ESCAPE = "zipasr.escape"
_HUB = "zipasr.hub"


def configure_streams() -> None:
    r"""Make stdout and stderr write characters that their encoding lacks as `\uXXXX`, valid in JSON, and never raise."""
    codecs.register_error(_ESCAPE, _escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ESCAPE)


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2)), error.end


@contextmanager
def log_lines(*, is_quiet: bool) -> Iterator[None]:
    """Write warnings and errors that are logged in the block to stderr; if quiet, only errors, and no progress bars.

    What is fetched from the hub is said too: it takes time and space that nobody may have expected.
    """
    handler = _LineHandler(logging.ERROR if is_quiet else logging.INFO)
    handler.setFormatter(logging.Formatter("zipasr: %(message)s"))
    handler.addFilter(lambda record: record.levelno >= logging.WARNING or record.name.startswith(_HUB))
    logging.getLogger().addHandler(handler)
    level = logging.getLogger(_HUB).level
    logging.getLogger(_HUB).setLevel(level if is_quiet else logging.INFO)
    try:
        with _silence() if is_quiet else nullcontext():
            yield
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger(_HUB).setLevel(level)


def right_aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table whose cells end where the widest of their column does."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


@contextmanager
def _silence() -> Iterator[None]:
    from zipasr.progress import quiet

    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _LineHandler(logging.Handler):
    """A log handler that writes lines above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record as a line."""
        from zipasr.progress import write_line

        try:
            write_line(self.format(record), is_error=record.levelno >= logging.ERROR)
        except Exception:  # Differs: as all handlers of `logging` do
            self.handleError(record)
