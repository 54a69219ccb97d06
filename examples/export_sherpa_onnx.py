"""Export a model with a transducer to ONNX and transcribe a recording with sherpa-onnx, which needs no PyTorch.

pip install "zipasr[onnx]" sherpa-onnx
python examples/export_sherpa_onnx.py exp/mine exported call.wav
"""

import sys
from pathlib import Path

import sherpa_onnx

from zipasr.audio import SAMPLE_RATE_HZ, load_audio
from zipasr.export import export_model


def main(model: str, out: str, path: str) -> None:
    print(export_model(model, out).table())  # every graph is compared with PyTorch before it is written

    folder = Path(out)
    recognizer = sherpa_onnx.OfflineRecognizer.from_transducer(
        encoder=str(folder / "encoder.onnx"),
        decoder=str(folder / "decoder.onnx"),
        joiner=str(folder / "joiner.onnx"),
        tokens=str(folder / "tokens.txt"),
        decoding_method="modified_beam_search",
    )
    stream = recognizer.create_stream()
    stream.accept_waveform(SAMPLE_RATE_HZ, load_audio(path))
    recognizer.decode_stream(stream)
    print(stream.result.text)


if __name__ == "__main__":
    main(*sys.argv[1:])
