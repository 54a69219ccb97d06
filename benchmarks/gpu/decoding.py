"""Decoding: encoder and searches at several batch sizes, and the paper's figure 5, time and memory of every encoder.

Weights are random and inputs are noise, but the blank is balanced so that searches find about as many labels as in speech.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import nn

from gpu.models import LABELS_PER_S, balance_blank, build, config_of, noise_inputs, standardized, toy
from gpu.runner import Block
from gpu.timing import NUM_INPUT_SETS, count_operators, peak_mib, time_calls
from zipasr.baselines import SqueezeformerConfig
from zipasr.device import Precision, arithmetic
from zipasr.encoder.zipformer import ZipformerConfig
from zipasr.model import AsrModel, EncoderConfig, make_encoder
from zipasr.nn.encoded import Encoded
from zipasr.presets import PRESETS, TABLE_2
from zipasr.search import ctc_greedy_search, greedy_search, modified_beam_search

UTTERANCE_S = 15.0
BATCHES = (1, 16, 64)
SEARCHES: dict[str, Callable[[AsrModel, Encoded], Any]] = {
    "greedy": greedy_search,
    "beam 4": lambda scorer, encoded: modified_beam_search(scorer, encoded, beam=4),
    "CTC greedy": ctc_greedy_search,
}
COUNTS = ("operators", "host_waits", "copies_to_device")


def decoding(block: Block) -> None:
    """Encoder in float32 and bf16, then each search on its frames, for M and the 288 M shape."""
    for size in ("M",) if block.is_toy else ("M", "288M"):
        model = build(config_of(size, is_toy=block.is_toy, has_ctc=True)).eval().to(block.device)
        for batch in BATCHES:
            decode_batch(block, model, size, batch)
        del model


def decode_batch(block: Block, model: AsrModel, size: str, batch: int) -> None:
    """The cases of one batch size."""
    seconds, num_utterances = (1.0, min(batch, 2)) if block.is_toy else (UTTERANCE_S, batch)
    title = f"{size}, {batch} x {UTTERANCE_S:g} s"
    audio_s = num_utterances * seconds
    inputs = [
        noise_inputs(num_utterances, seconds, vocab_size=model.config.vocab_size, seed=seed).to(block.device)
        for seed in range(NUM_INPUT_SETS)
    ]

    def encode(precision: str) -> dict[str, Any]:
        calls = [lambda i=i: model.encode(i.features, i.lens) for i in inputs]
        with torch.inference_mode(), arithmetic(precision, block.device):
            return measure(block, calls, audio_s)

    for precision in get_args(Precision) if block.device.type == "cuda" else ("float32", "bfloat16"):
        block.case(f"{title}: encoder {precision}", lambda precision=precision: encode(precision))
    encoded: list[Encoded] = []

    def search(function: Callable[[AsrModel, Encoded], Any]) -> dict[str, Any]:
        if not encoded:
            with torch.no_grad():
                encoded.extend(standardized(model.encode(i.features, i.lens)) for i in inputs)
            balance_blank(model, encoded[0], share_of_labels=LABELS_PER_S / 25)
        found = function(model, encoded[0])
        best = [ranked[0] if isinstance(ranked, list) else ranked for ranked in found]
        calls = [lambda e=e: function(model, e) for e in encoded]
        return {"labels_per_s": sum(len(h.ids) for h in best) / audio_s, **measure(block, calls, audio_s)}

    for name, function in SEARCHES.items():
        block.case(f"{title}: {name}", lambda function=function: search(function))


def measure(block: Block, calls: list[Callable[[], Any]], audio_s: float) -> dict[str, Any]:
    """Time, audio per second of time, memory and host waits."""
    times = time_calls(calls, block.device, is_toy=block.is_toy)
    counts = count_operators(calls[0], block.device)
    found = {"times_real_time": audio_s / (times["ms"] / 1e3), **times, **peak_mib(calls[1], block.device)}
    return found | {name: counts[name] for name in COUNTS}


# The paper's figure 5.

FIGURE_UTTERANCES = 30
FIGURE_SECONDS = 30.0


def figure_5(block: Block) -> None:
    """Encoders of the paper's table 2 on 30 x 30 s: time and peak memory beyond model and input."""
    names = list({TABLE_2[name].family: name for name in TABLE_2}.values()) if block.is_toy else list(TABLE_2)
    for precision in ("float32", "bfloat16"):
        for name in names:
            title = TABLE_2[name].title
            block.case(f"{title} {precision}", lambda name=name, p=precision: measure_encoder(block, name, p))


def encoder_config(name: str, *, is_toy: bool) -> EncoderConfig:
    """The encoder of a preset; of a toy the last layers are left out."""
    config = PRESETS[{"zipformer-s": "small", "zipformer-m": "medium", "zipformer-l": "large"}.get(name, name)]().encoder
    if not is_toy:
        return config
    if isinstance(config, ZipformerConfig):
        return toy().encoder
    narrow = {"channels": 32, "subsampling_channels": 32, "num_heads": 2, "num_layers": 1}
    if isinstance(config, SqueezeformerConfig):
        narrow |= {"num_layers": 3, "reduce_at": 1, "recover_at": 2}
    narrow |= {field: 64 for field in ("feedforward", "gating_channels") if hasattr(config, field)}
    return dataclasses.replace(config, **narrow)


def measure_encoder(block: Block, name: str, precision: str) -> dict[str, Any]:
    """Time and memory of one encoder in eval mode with random weights."""
    torch.manual_seed(0)
    encoder: nn.Module = make_encoder(encoder_config(name, is_toy=block.is_toy)).eval().to(block.device)
    num_utterances, seconds = (2, 1.0) if block.is_toy else (FIGURE_UTTERANCES, FIGURE_SECONDS)
    inputs = [
        noise_inputs(num_utterances, seconds, vocab_size=2, seed=seed).to(block.device) for seed in range(NUM_INPUT_SETS)
    ]
    calls = [lambda i=i: encoder(i.features, i.lens) for i in inputs]
    resident = torch.cuda.memory_allocated(block.device) / 2**20 if block.device.type == "cuda" else 0.0
    with torch.inference_mode(), arithmetic(precision, block.device):
        times = time_calls(calls, block.device, is_toy=block.is_toy)
        memory = peak_mib(calls[0], block.device)
    found = {"parameters_m": sum(p.numel() for p in encoder.parameters()) / 1e6, **times, **memory}
    found["times_real_time"] = num_utterances * seconds / (times["ms"] / 1e3)
    if memory:
        found["activations_mib"] = memory["peak_mib"] - resident
    return found
