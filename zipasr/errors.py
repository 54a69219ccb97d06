"""The exceptions of zipasr, in one tree. Messages state the expected value, the actual value, and how to fix it.

`ValueError` is for a caller's invalid argument; the exceptions below concern things outside the program: files,
checkpoints, configurations, peers.
"""


class ZipasrError(Exception):
    """Base class of all errors of zipasr that concern files, checkpoints, configurations or peers."""


class AudioError(ZipasrError):
    """A recording cannot be opened, decoded or used."""


class DataError(ZipasrError):
    """A corpus, a manifest or a transcript cannot be used."""


class CheckpointError(ZipasrError):
    """A checkpoint or run folder is missing, incomplete, damaged or of another kind."""


class ConfigError(ZipasrError, ValueError):
    """A configuration is inconsistent or names something that does not exist."""


class ProtocolError(ZipasrError):
    """A network peer sent something that the protocol does not allow."""


class ExportError(ZipasrError):
    """An exported graph does not compute what its model does, or not accurately enough."""
