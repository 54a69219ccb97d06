"""Git LFS: files that are only pointers to what a clone without `git lfs` has not downloaded."""

import os

from zipasr.errors import ZipasrError

_POINTER = b"version https://git-lfs.github.com/spec/"
HEAD_BYTES = len(_POINTER)
"""Bytes at the start of a file that tell whether it is a pointer."""


def refuse_pointer(head: bytes, path: str | os.PathLike[str], kind: type[ZipasrError]) -> None:
    """Raise `kind` if the first `HEAD_BYTES` of a file are those of a pointer; every function that opens files calls it."""
    if head.startswith(_POINTER):
        raise kind(f"{os.fspath(path)} is only a Git LFS pointer; download the file itself with: git lfs pull")
