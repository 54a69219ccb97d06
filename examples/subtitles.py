"""Write SubRip subtitles beside a recording or video of any length.

python examples/subtitles.py exp/mine talk.mp4
"""

import sys
from pathlib import Path

import zipasr
from zipasr.transcript import to_srt


def main(model: str, path: str) -> None:
    recognizer = zipasr.load(model)
    transcript = recognizer.transcribe(path, on_progress=lambda done_s: print(f"{done_s:.0f} s done", file=sys.stderr))
    subtitles = Path(path).with_suffix(".srt")
    subtitles.write_text(to_srt(transcript, path), encoding="utf-8")
    print(subtitles)


if __name__ == "__main__":
    main(*sys.argv[1:])
