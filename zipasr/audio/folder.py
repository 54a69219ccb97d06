"""Folders of recordings: `files_below` lists the files in a folder and below it, links to folders included."""

import os
from collections import deque
from pathlib import Path


def files_below(folder: str | os.PathLike[str]) -> list[Path]:
    """The files in a folder and in its subfolders, sorted; hidden ones, such as `._a.wav` of macOS, are left out.

    Links to folders are followed, except to one that holds the link. Each folder is listed once: by its own path if it is
    in `folder`, else by the first link to it.
    """
    folders = deque([os.fspath(folder)])
    listed: set[str] = set()
    files: list[Path] = []
    while folders:
        for here, names, file_names in os.walk(folders.popleft()):
            real = os.path.realpath(here)
            if real in listed:
                names.clear()
                continue
            listed.add(real)
            names[:] = [name for name in sorted(names) if not name.startswith(".")]
            links = (os.path.join(here, name) for name in names if os.path.islink(os.path.join(here, name)))
            folders += (link for link in links if not Path(real).is_relative_to(os.path.realpath(link)))
            files += (Path(here, name) for name in file_names if not name.startswith("."))
    return sorted(path for path in files if os.path.isfile(path))
