"""The exceptions of zipasr, one tree. Messages say what was expected, what came instead, and how to mend it.

`ValueError` is kept for a caller's wrong argument; everything below concerns things outside the program: files,
checkpoints, configurations, peers.
"""


class ZipasrError(Exception):
    """Base of every error that zipasr raises about the world outside it."""


class AudioError(ZipasrError):
    """A recording cannot be opened, decoded or used."""


class DataError(ZipasrError):
    """A corpus, a manifest or a transcript cannot be used."""


class CheckpointError(ZipasrError):
    """A checkpoint or run folder is missing, incomplete, damaged or of another kind."""


class ConfigError(ZipasrError, ValueError):
    """A configuration contradicts itself or names something that does not exist."""


class ProtocolError(ZipasrError):
    """A network peer sent something that the protocol does not allow."""


class ExportError(ZipasrError):
    """An exported graph does not do what its model does, or does it too badly."""
