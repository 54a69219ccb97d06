"""The package as rooms: its folders and root modules in the rows of the import map, and how audio becomes text in them."""

from scripts.pictures.drawing import WIDTH, Box, Drawing
from tests.import_map import DROP_INS, FILES, ROWS, part_of

SENTENCES = {
    "cli": "Parses, calls one function, prints.",
    "recipes": "Returns the settings of whole runs.",
    "serve": "Answers over HTTP and WebSockets.",
    "export": "Writes and checks ONNX graphs.",
    "train": "Trains, resumes and averages.",
    "evaluate": "Counts errors and tunes searches.",
    "prepare": "Makes cuts from what people have.",
    "recognizer": "Turns audio into transcripts.",
    "data": "Turns cuts into batches.",
    "profile": "Measures the cost of an encoder.",
    "hub": "Loads the checkpoints of icefall.",
    "alignment": "Finds where words are in the audio.",
    "grammar": "Says what may be said.",
    "search": "Turns scores into hypotheses.",
    "presets": "Names the models of the paper.",
    "model": "Joins an encoder and its heads.",
    "onnx_runtime": "Runs exported models.",
    "lm": "Scores texts without the audio.",
    "vad": "Finds speech in long recordings.",
    "heads": "Turns frames into scores and losses.",
    "encoder": "Turns features into frames at 25 Hz.",
    "baselines": "Holds the encoders to compare with.",
    "losses": "Computes losses of tensors.",
    "optim": "Updates weights and learning rates.",
    "nn": "Holds the modules of the encoders.",
    "features": "Turns samples into log-mel features.",
    "kernels": "Holds the Triton kernels for GPUs.",
    "audio": "Turns recordings into samples.",
    "tokenizer": "Turns text into ids and back.",
    "transcript": "Holds and writes what was said.",
    "checkpoint": "Reads and writes model folders.",
    "torch_file": "Opens foreign checkpoints safely.",
    "plots": "Draws curves and costs.",
    "text": "Normalizes every text.",
    "lines": "Reads and writes lines of files.",
    "config": "Turns settings into JSON and back.",
    "device": "Chooses the CPU or a GPU.",
    "progress": "Shows how far a command is.",
    "randomness": "Keeps random choices repeatable.",
    "lfs": "Detects pointers of Git LFS.",
    "eight_bit": "Weights in eight bits, and back.",
    "folder_swap": "Replaces a folder as a whole.",
    "errors": "Defines the exceptions.",
}
"""One sentence for every part of the import map."""

PATH = ("audio", "features", "encoder", "heads", "search", "recognizer")
"""The rooms through which audio becomes text, in that order."""

_LINE, _PAD, _GAP = 19.0, 6.0, 7.0
_RAIL, _NAME, _SENTENCE = 27.0, 46.0, 162.0


def rooms() -> list[list[str]]:
    """The parts of the package that exist, in the rows of the import map; in a row, those on the path come first."""
    found = set(map(part_of, FILES))
    rows = ([part for part in row if part in found] for row in ROWS)
    return [sorted(row, key=lambda part: part not in PATH) for row in rows if row]


def draw() -> Drawing:
    """Draw the rooms."""
    rows = rooms()
    drawing = Drawing(
        "The package zipasr as rooms",
        "A room may import from the rows below its own. The rows, from above: "
        + "; ".join(", ".join(row) for row in rows)
        + f". Audio becomes text on its way through {', '.join(PATH)}. {', '.join(DROP_INS)} need only torch.",
    )
    drawing.text((_NAME, 27), "A room imports only from the rows below its own.")
    drawing.path((_RAIL, 38), (_RAIL, 46))
    drawing.stop((_RAIL, 42))
    drawing.text((_NAME, 46.5), "Audio becomes text along this line, upward.")
    drawing.shade(Box(_RAIL - 10, 55, 20, 13), "feedforward")
    drawing.text((_NAME, 66), "Needs no package but torch.")
    y, stops = 80.0, {}
    for row in rows:
        band = Box(10, y, WIDTH - 20, len(row) * _LINE + 2 * _PAD)
        drawing.shade(band, "plain")
        for i, part in enumerate(row):
            line = Box(_NAME - 6, band.top + _PAD + i * _LINE, band.right - _NAME, _LINE)
            if part in DROP_INS:
                drawing.shade(Box(line.left, line.top + 1, line.width, line.height - 2), "feedforward")
            drawing.text((_NAME, line.top + 14), part, "strong")
            drawing.text((_SENTENCE, line.top + 14), SENTENCES[part], "plain")
            if part in PATH:
                stops[part] = line.center
        y = band.bottom + _GAP
    drawing.path(*((_RAIL, stops[part]) for part in PATH))
    for part in PATH:
        drawing.stop((_RAIL, stops[part]))
    drawing.height = y + 3
    return drawing
