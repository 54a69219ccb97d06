"""Transcribe live audio from standard input, one line per utterance: 16-bit samples, 16 kHz, mono. Needs a causal model.

arecord -q -f S16_LE -r 16000 -c 1 -t raw | python examples/live.py exp/causal
ffmpeg -v error -re -i call.wav -f s16le -ar 16000 -ac 1 - | python examples/live.py exp/causal
"""

import sys

import numpy as np

import zipasr

BLOCK_BYTES = 3200  # 100 ms


def main(model: str) -> None:
    # A shorter pause than usual ends an utterance: 0.8 s of silence after some text.
    pause = zipasr.EndpointRule(must_contain_nonsilence=True, min_trailing_silence_s=0.8, min_utterance_length_s=0.0)
    stream = zipasr.load(model).stream(endpoint=zipasr.EndpointConfig(rule2=pause))
    shown = ""
    while len(block := sys.stdin.buffer.read(BLOCK_BYTES)) >= 2:
        stream.accept_waveform(np.frombuffer(block[: len(block) // 2 * 2], np.int16))
        stream.decode()
        if stream.text != shown:  # what was said so far; later words may change earlier ones
            shown = stream.text
            print(f"\r{shown}", end="", file=sys.stderr, flush=True)
        if stream.is_endpoint():
            if stream.text:
                print(f"\r{stream.text}", flush=True)
            stream.reset()
    print(f"\r{stream.finish().text}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
