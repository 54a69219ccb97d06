"""Transcribe a recording with and without phrases that the search should prefer, such as names.

python examples/hotwords.py exp/mine call.wav "Anna Maria" "Łódź Street"
"""

import sys

import zipasr


def main(model: str, path: str, *phrases: str) -> None:
    recognizer = zipasr.load(model)
    print("without:", recognizer.transcribe(path).text)
    # 2.5 nats for each token of a phrase; 1.5 is the default. Too much puts the phrases where nobody said them.
    hotwords = [zipasr.Hotword(phrase, boost=2.5) for phrase in phrases]
    print("with:   ", recognizer.transcribe(path, hotwords=hotwords).text)


if __name__ == "__main__":
    main(*sys.argv[1:])
