"""Transcribe a recording with a server of your own through OpenAI's client.

zipasr serve exp/mine                # in another terminal: http://127.0.0.1:6006
pip install openai
python examples/openai_client.py http://127.0.0.1:6006/v1 call.mp3
"""

import sys
from pathlib import Path

from openai import OpenAI


def main(base_url: str, path: str) -> None:
    client = OpenAI(base_url=base_url, api_key="any")  # or the key in the server's --api-key-file
    answer = client.audio.transcriptions.create(
        model="whisper-1",  # stands for the model of the server, as its own name does
        file=Path(path),
        response_format="verbose_json",
        timestamp_granularities=["word"],
    )
    print(answer.text)
    for word in answer.words or []:
        print(f"{word.start:8.2f} s {word.end:8.2f} s  {word.word}")


if __name__ == "__main__":
    main(*sys.argv[1:])
