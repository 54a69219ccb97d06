"""The command line: one file per verb."""

from zipasr.cli.command import main

__all__ = ["main"]
