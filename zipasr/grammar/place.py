"""Text of a grammar with its places: where a word, a rule or an error is, as file, line and column."""

import bisect
import os
import re
from typing import NamedTuple

from zipasr.errors import ConfigError
from zipasr.lfs import refuse_pointer
from zipasr.lines import read_whole


class Place(NamedTuple):
    """Where something is in a file; as text, `path:line:column`."""

    path: str
    line: int
    """From 1."""
    column: int
    """In characters, from 1."""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}"


class Source:
    """The text of a grammar, with \\n at the ends of its lines, and the file that it is from."""

    def __init__(self, text: str, path: str) -> None:
        """Keep the content of a file; `path` is what errors call it."""
        self.text, self.path = re.sub(r"\r\n?", "\n", text), path
        self._line_starts = [0, *(match.end() for match in re.finditer("\n", self.text))]

    def place(self, offset: int) -> Place:
        """The place of a character of the text."""
        line = bisect.bisect_right(self._line_starts, offset)
        return Place(self.path, line, offset - self._line_starts[line - 1] + 1)


def read_source(path: str | os.PathLike[str]) -> Source:
    """Read the text of a grammar: UTF-8, UTF-16 with a byte order mark, or what the first line of a JSGF file declares.

    Raises:
        ConfigError: the file cannot be read, or is not text in its encoding.
    """
    try:
        content = read_whole(path)
    except OSError as error:
        raise ConfigError(f"{path} must be a file with a grammar, but cannot be read: {error.strerror}") from error
    refuse_pointer(content, path, ConfigError)
    declared = re.match(rb"\s*#JSGF\s+V1\.0\s+([\w.:-]+)", content)
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else declared[1].decode() if declared else "utf-8-sig"
    encoding = "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding
    try:
        return Source(content.decode(encoding), os.fspath(path))
    except LookupError as error:
        raise ConfigError(
            f"{path}:1:1: the encoding in the first line must be one that Python knows, but is {encoding}; write UTF-8"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} must be text in {encoding}, but its byte {error.start} is not; save it as UTF-8, or name its encoding "
            "in the first line: #JSGF V1.0 ISO-8859-1;"
        ) from error
