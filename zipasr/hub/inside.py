"""Names of files that others chose -> paths that lie inside the folder they belong to."""

import re
from pathlib import Path

from zipasr.errors import CheckpointError

_WINDOWS = re.compile(r"[\\:\x00-\x1f]")
"""In the names of drives, network places and folders of Windows, and in no name of a published model's files."""


def path_inside(root: Path, name: str) -> Path:
    """The path of a file by its name relative to a folder, after a check that it lies there.

    Symbolic links are followed; in a snapshot of the hub's cache they lead into its `blobs/`, which counts as inside.

    Raises:
        CheckpointError: the name or a link leads out of the folder, or there is no such file.
    """
    parts = name.split("/")
    if not name or _WINDOWS.search(name) or name.startswith("/") or ".." in parts:
        raise CheckpointError(
            f"the name of a file must lead to a place inside {root}, but is {name[:100]!r}; do not use a model that asks "
            "for other files"
        )
    path = root / name
    try:
        resolved, is_file = path.resolve(), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, or a name that no system has
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    places = [root.resolve()]
    if root.parent.name == "snapshots":
        places.append(root.parent.parent.resolve() / "blobs")
    if not any(resolved.is_relative_to(place) for place in places):
        raise CheckpointError(
            f"{path} must be a file in {root}, but is a link to {resolved}; copy that file there if it is the right one"
        )
    if not is_file:
        raise CheckpointError(f"{path} must be a file of the model, but there is none; get it from where the others are")
    return path
