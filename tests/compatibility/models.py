"""Model folders as this version writes them, with random weights and as small as possible, and the scores that they give.

`python -m tests.compatibility.models` writes them to tests/compatibility/VERSION, once for every version that changes what
is in a model folder. What is there is never written again: tests/compatibility/test_model_folders.py checks that this and
every later version read it.
"""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

import zipasr
from tests.tiny_model import noise, sharpened_model, tiny_tokenizer
from zipasr.baselines import BranchformerConfig, ConformerConfig, EBranchformerConfig, SqueezeformerConfig
from zipasr.encoder.zipformer import ZipformerConfig
from zipasr.features import Fbank
from zipasr.heads.attention import AttentionConfig
from zipasr.heads.ctc import CtcConfig
from zipasr.heads.transducer import TransducerConfig
from zipasr.model import AsrConfig, AsrModel, EncoderConfig
from zipasr.recognizer import Recognizer, SearchConfig
from zipasr.search.confidence import Calibration, write_calibration
from zipasr.search.default_search import write_default_search

FOLDER = Path(__file__).parent
SCORES_FILE, TRANSCRIPTS_FILE = "scores.safetensors", "transcripts.json"
CHUNK_FRAMES_50HZ, LEFT_CONTEXT_FRAMES_50HZ = 16, 64
DURATION_S = 1.0

ENCODERS: dict[str, EncoderConfig] = {
    "zipformer": ZipformerConfig(
        conv_channels=(2, 4, 8),
        channels=(8, 12),
        unmasked_channels=(8, 8),
        num_layers=(1, 1),
        downsample=(1, 2),
        feedforward=(8, 12),
        num_heads=(2, 2),
        kernel_sizes=(15, 15),
        query_head_dim=4,
        value_head_dim=4,
        pos_dim=8,
        is_causal=True,
    ),
    "conformer": ConformerConfig(subsampling_channels=4, num_layers=1, channels=8, num_heads=2, feedforward=8),
    "squeezeformer": SqueezeformerConfig(
        subsampling_channels=2, num_layers=3, channels=6, num_heads=2, reduce_at=1, recover_at=2, feedforward=6
    ),
    "branchformer": BranchformerConfig(subsampling_channels=4, num_layers=1, channels=8, num_heads=2, gating_channels=8),
    "e_branchformer": EBranchformerConfig(
        subsampling_channels=4, num_layers=1, channels=8, num_heads=2, feedforward=8, gating_channels=8
    ),
}


def config_of(name: str) -> AsrConfig:
    """The configuration of a model; the Zipformer has all heads."""
    is_whole = name == "zipformer"
    attention = AttentionConfig(num_layers=1, dim=8, attention_dim=8, num_heads=2, feedforward=16)
    return AsrConfig(
        vocab_size=tiny_tokenizer().vocab_size,
        encoder=ENCODERS[name],
        transducer=TransducerConfig(predictor_dim=8, joiner_dim=8) if is_whole else None,
        ctc=CtcConfig(),
        attention=attention if is_whole else None,
    )


@torch.inference_mode()
def scores_of(model: AsrModel) -> dict[str, Tensor]:
    """The scores of every head for a second of noise, offline, and from a causal model in chunks."""
    features = Fbank(model.config.features)(noise(DURATION_S))[None]
    lens = torch.tensor([features.shape[1]])
    encoded = model.encode(features, lens)
    scores = {"frames": encoded.frames, "ctc": model.ctc_log_probs(encoded.frames)}
    labels = torch.tensor([[5, 9, 7]])
    if model.has_transducer:
        contexts = model.predict(torch.tensor([[0, 5], [5, 9]]))
        scores["joiner"] = model.join(model.project_frames(encoded.frames)[0, :, None], contexts)
        chunked = model.encode(
            features, lens, chunk_frames_50hz=CHUNK_FRAMES_50HZ, left_context_frames_50hz=LEFT_CONTEXT_FRAMES_50HZ
        )
        scores["chunked"] = chunked.frames
    if model.has_attention:
        scores["attention"] = model.attention_log_probs(encoded, labels[:, None], torch.tensor([[3]]))
    return {name: tensor.float().contiguous() for name, tensor in scores.items()}


def write(folder: Path) -> None:
    """Write a model folder for each encoder, its scores, and the transcripts of the noise.

    Raises:
        FileExistsError: they were written before.
    """
    folder.mkdir()
    transcripts = {}
    for name in ENCODERS:
        model = sharpened_model(config_of(name), seed=3)
        model.save(folder / name, tiny_tokenizer())
        safetensors.torch.save_file(scores_of(model), folder / f"{name}.{SCORES_FILE}")
        if name == "zipformer":
            search = SearchConfig(method="beam", beam=3, max_symbols_per_frame=2)
            write_default_search(folder / name, search, (), chosen_on="dev")
            write_calibration(folder / name, "beam", Calibration(temperature=2.0, offset=0.5))
        transcripts[name] = transcribed(folder / name)
    (folder / TRANSCRIPTS_FILE).write_text(json.dumps(transcripts, indent=1) + "\n", encoding="utf-8")


def transcribed(folder: Path) -> dict[str, Any]:
    """What the default search of a model folder makes of the noise."""
    recognizer = Recognizer.load(folder)
    transcript = recognizer.transcribe(noise(DURATION_S))
    return {
        "text": transcript.text,
        "search": recognizer.search.method,
        "confidence": [round(word.confidence, 4) for word in transcript.words],
    }


if __name__ == "__main__":
    write(FOLDER / zipasr.__version__)
