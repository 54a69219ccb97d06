"""Draw the pictures of the architecture: `python -m scripts.pictures` writes docs/pictures/*.svg.

What they say comes from the code, and tests/test_pictures.py fails if a file is not what this program writes.
"""

from collections.abc import Callable
from pathlib import Path

from scripts.pictures import block, encoder, modules, rooms
from scripts.pictures.drawing import Drawing

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
PICTURES: dict[str, Callable[[], Drawing]] = {
    "encoder.svg": encoder.draw,
    "block.svg": block.draw,
    "modules.svg": modules.draw,
    "rooms.svg": rooms.draw,
}


def main() -> None:
    """Write every picture."""
    for name, draw in PICTURES.items():
        (FOLDER / name).write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
