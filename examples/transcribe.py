"""Transcribe recordings and print the words with their times and confidence.

python examples/transcribe.py exp/mine a.wav b.mp3
"""

import sys

import zipasr


def main(model: str, *paths: str) -> None:
    recognizer = zipasr.load(model)
    for result in recognizer.transcribe_files(paths):  # short recordings are transcribed in batches
        if result.transcript is None:
            print(f"{result.path}: {result.error}", file=sys.stderr)
            continue
        print(f"{result.path}: {result.transcript.text}")
        for word in result.transcript.words:
            print(f"{word.start_s:8.2f} s {word.end_s:8.2f} s  {word.confidence:.2f}  {word.text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
