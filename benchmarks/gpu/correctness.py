"""Results on the device against float64 on the CPU: losses, every kind of block, the encoder, the optimizer, the searches.

Errors are the largest difference over the largest absolute value of the reference; a case says whether they are within the
tolerance of its precision, and ends as "ok" either way: the figures are the result.
"""

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from gpu.models import Inputs, balance_blank, build, config_of, noise_inputs, standardized, toy
from gpu.runner import Block
from zipasr.device import DTYPES, arithmetic
from zipasr.losses import (
    ctc_loss,
    full_transducer_loss,
    prune_ranges,
    pruned_transducer_loss,
    simple_transducer_loss,
)
from zipasr.model import AsrModel
from zipasr.nn.constraint import Balancer, Whiten
from zipasr.nn.encoded import Encoded
from zipasr.optim import ScaledAdam
from zipasr.search import Hypothesis, ctc_greedy_search, greedy_search, modified_beam_search

TOLERANCES = {"float32": 1e-4, "tf32": 1e-2, "bfloat16": 5e-2, "float16": 1e-2}
"""Of outputs; gradients may be three times as far off, as their sums cancel more."""
MARGINS = {"float32": 1e-3, "tf32": 0.05, "bfloat16": 0.25, "float16": 0.05}
"""Nats between the best two labels (or two hypotheses) below which a search may choose the other one."""


def correctness(block: Block) -> None:
    """Every part in every precision that it supports."""
    precisions = [name for name in TOLERANCES if name != "tf32" or block.device.type == "cuda"]
    for name, function in LOSSES.items():
        block.case(f"loss: {name}", lambda function=function: check_loss(block, function))
    block.case("loss repeated", lambda: check_repeats(block))
    for name in ("Balancer", "Whiten"):
        block.case(f"gradient: {name}", lambda name=name: check_constraint(block, name))
    block.case("optimizer", lambda: check_optimizer(block))
    reference = functools.cache(lambda: EncoderReference(block))  # made inside a case, which records what goes wrong
    for precision in precisions:
        block.case(f"blocks {precision}", lambda precision=precision: check_blocks(block, reference(), precision))
    searches = functools.cache(lambda: SearchReference(block))
    for precision in precisions:
        for name in SEARCHES:
            block.case(f"{name} {precision}", lambda n=name, p=precision: check_search(block, searches(), n, p))


def relative_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest difference over the largest absolute value expected, in all tensors together; inf if one is not finite.

    Together, since some gradients are zero but for rounding: that of a bias of the keys, for one.
    """
    if not all(bool(torch.isfinite(x).all()) for x in found):
        return float("inf")
    pairs = zip(found, expected, strict=True)
    difference = max((float((x.detach().cpu().double() - y.double()).abs().max()) for x, y in pairs), default=0.0)
    return difference / max([float(y.abs().max()) for y in expected] + [1e-12])


# Losses.


def lattice_inputs(block: Block, seed: int = 0) -> dict[str, Tensor]:
    """Scores, labels and lengths of utterances of several lengths, one of them without labels; float64, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    size, num_frames, num_labels, vocab_size = (3, 12, 4, 11) if block.is_toy else (8, 120, 30, 200)
    frame_lens = torch.linspace(num_frames, num_frames // 2, size).long()
    label_lens = torch.linspace(num_labels, 0, size).long()
    return {
        "am": torch.randn(size, num_frames, vocab_size, generator=generator, dtype=torch.float64),
        "lm": torch.randn(size, num_labels + 1, vocab_size, generator=generator, dtype=torch.float64),
        "labels": torch.randint(1, vocab_size, (size, num_labels), generator=generator),
        "frame_lens": frame_lens,
        "label_lens": label_lens,
    }


def _simple(am: Tensor, lm: Tensor, *rest: Tensor) -> Tensor:
    return simple_transducer_loss(am, lm, *rest, blank=0).loss_N


def _pruned(am: Tensor, lm: Tensor, labels: Tensor, frame_lens: Tensor, label_lens: Tensor) -> Tensor:
    with torch.no_grad():
        simple = simple_transducer_loss(am.double(), lm.double(), labels, frame_lens, label_lens, blank=0)
        band = prune_ranges(*simple[1:], frame_lens, label_lens, 5)
    index = band.positions_NTR.flatten(1)[:, :, None].expand(-1, -1, lm.shape[-1])
    logits = am[:, :, None] + lm.gather(1, index).view(*band.positions_NTR.shape, -1)
    return pruned_transducer_loss(logits, band.first_label_NT, labels, frame_lens, label_lens, blank=0)


def _full(am: Tensor, lm: Tensor, *rest: Tensor) -> Tensor:
    return full_transducer_loss(am[:, :, None] + lm[:, None], *rest, blank=0)


def _ctc(am: Tensor, lm: Tensor, *rest: Tensor) -> Tensor:
    return ctc_loss(am.log_softmax(-1), *rest, blank=0) + 0.0 * lm.sum()


LOSSES: dict[str, Callable[..., Tensor]] = {"simple": _simple, "pruned": _pruned, "full": _full, "ctc": _ctc}


def loss_and_gradients(function: Callable[..., Tensor], inputs: dict[str, Tensor]) -> list[Tensor]:
    """The losses (N,) and the gradients of their sum with respect to both scores."""
    am, lm = (inputs[name].detach().requires_grad_() for name in ("am", "lm"))
    loss_N = function(am, lm, inputs["labels"], inputs["frame_lens"], inputs["label_lens"])
    return [loss_N.detach(), *torch.autograd.grad(loss_N.sum(), (am, lm))]


def to_device(inputs: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The inputs in float32 on the device."""
    return {name: x.to(device, torch.float32 if x.is_floating_point() else x.dtype) for name, x in inputs.items()}


def check_loss(block: Block, function: Callable[..., Tensor]) -> dict[str, Any]:
    """Errors of a loss and its gradients in float32, the only precision that losses accept."""
    inputs = lattice_inputs(block)
    expected = loss_and_gradients(function, inputs)
    found = loss_and_gradients(function, to_device(inputs, block.device))
    return within("float32", *both_errors(found, expected))


def both_errors(found: Sequence[Tensor], expected: Sequence[Tensor]) -> tuple[float, float]:
    """Error of the first tensor, an output, and of the others, its gradients."""
    return relative_error(found[:1], expected[:1]), relative_error(found[1:], expected[1:])


def within(precision: str, output_error: float, gradient_error: float) -> dict[str, Any]:
    """The errors, and whether they are within the tolerance."""
    tolerance = TOLERANCES[precision]
    is_within = output_error <= tolerance and gradient_error <= 3 * tolerance
    return {"output_error": output_error, "gradient_error": gradient_error, "is_within": is_within}


def check_repeats(block: Block) -> dict[str, Any]:
    """Whether three runs of each loss give the same bits, gradients included."""
    inputs, found = to_device(lattice_inputs(block), block.device), {}
    for name, function in LOSSES.items():
        first, *others = (loss_and_gradients(function, inputs) for _ in range(3))
        found[f"is_{name}_bit_equal"] = all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))
    return found


def check_constraint(block: Block, name: str) -> dict[str, Any]:
    """The gradient behind a constraint that is at work, in float32."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 50, 32, generator=generator, dtype=torch.float64) * torch.linspace(0.01, 5.0, 32) + 0.5
    grad = torch.randn(4, 50, 32, generator=generator, dtype=torch.float64)

    def gradient(device: torch.device, dtype: torch.dtype) -> Tensor:
        module = Balancer(prob=1.0) if name == "Balancer" else Whiten(1.5, grad_scale=0.1)
        if isinstance(module, Whiten):
            module.prob = 1.0
        # detach() before requires_grad_(), or x itself would carry it where neither device nor dtype changes
        leaf = x.detach().to(device, dtype).requires_grad_()
        (found,) = torch.autograd.grad(module.train()(leaf), leaf, grad.to(device, dtype))
        return found

    expected = gradient(torch.device("cpu"), torch.float64)
    is_at_work = not torch.equal(expected, grad)
    error = relative_error([gradient(block.device, torch.float32)], [expected])
    return within("float32", 0.0, error) | {"is_at_work": is_at_work}


def check_optimizer(block: Block) -> dict[str, Any]:
    """A trajectory of ScaledAdam with clipping over 24 steps, scalars and missing gradients included."""
    shapes = [(32, 16), (64,), (8, 4, 3), (), (1,)]

    def trajectory(device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        start = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
        parameters = [nn.Parameter(x.to(device, dtype)) for x in start]
        optimizer = ScaledAdam(parameters, lr=0.045, clipping_scale=2.0)
        for step in range(24):
            for i, (p, shape) in enumerate(zip(parameters, shapes, strict=True)):
                size = 100.0 if step == 17 else 1.0  # is clipped: the threshold is set at step 10
                grad = size * torch.randn(shape, generator=generator, dtype=torch.float64)
                p.grad = None if (i, step) == (2, 5) else grad.to(device, dtype)
            optimizer.step()
        return [p.detach() for p in parameters]

    expected = trajectory(torch.device("cpu"), torch.float64)
    found = trajectory(block.device, torch.float32)
    return within("float32", max(relative_error([x], [y]) for x, y in zip(found, expected, strict=True)), 0.0)


# The encoder and everything in it.


class EncoderReference:
    """A float64 encoder in eval mode on the CPU, and what went into and came out of the first module of each class in it."""

    def __init__(self, block: Block) -> None:
        config = toy() if block.is_toy else config_of("S", is_toy=False)
        inputs = noise_inputs(2, 1.5 if block.is_toy else 6.0, vocab_size=config.vocab_size)
        self.encoder = build(config).encoder.double().eval()
        self.calls: dict[str, tuple[str, tuple[Any, ...]]] = {}
        hooks = [
            module.register_forward_hook(self._keep(name)) for name, module in self.encoder.named_modules() if name != ""
        ]
        lens = torch.tensor([inputs.features.shape[1], inputs.features.shape[1] * 2 // 3])
        self.inputs = (inputs.features.double(), lens)
        output = self.encoder(*self.inputs)  # with gradients: without, a CPU takes Conv-Embed in slices, each with a past
        self.frames = output.frames.detach()
        for hook in hooks:
            hook.remove()
        modules = dict(self.encoder.named_modules())
        self.expected = {kind: output_and_gradients(modules[name], args) for kind, (name, args) in self.calls.items()}

    def _keep(self, name: str) -> Callable[..., None]:
        def keep(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            kind = type(module).__name__
            if kind not in self.calls and isinstance(out, Tensor):
                self.calls[kind] = (name, tree_map(lambda x: x.detach().clone() if isinstance(x, Tensor) else x, args))

        return keep


def check_blocks(block: Block, reference: EncoderReference, precision: str) -> dict[str, Any]:
    """Errors of each class of module, fed what the float64 encoder fed it, and of the whole encoder; the worst is named."""
    device = block.device
    encoder = copy.deepcopy(reference.encoder).float().to(device)
    modules, errors = dict(encoder.named_modules()), {}
    with arithmetic(precision, device):
        with torch.no_grad():
            frames = encoder(reference.inputs[0].float().to(device), reference.inputs[1].to(device)).frames
        for kind, (name, args) in reference.calls.items():
            found = output_and_gradients(modules[name], tree_map(lambda x: _moved(x, device), args))
            errors[kind] = within(precision, *both_errors(found, reference.expected[kind]))
    whole = relative_error([frames], [reference.frames])
    worst = max(errors, key=lambda kind: errors[kind]["output_error"])
    return {
        "encoder_error": whole,
        "is_within": whole <= TOLERANCES[precision] and all(found["is_within"] for found in errors.values()),
        "num_outside": sum(not found["is_within"] for found in errors.values()),
        "worst": worst,
        "worst_error": errors[worst]["output_error"],
        "modules": errors,
    }


def _moved(x: Any, device: torch.device) -> Any:
    if not isinstance(x, Tensor):
        return x
    return x.to(device, torch.float32 if x.is_floating_point() else x.dtype)


def output_and_gradients(module: nn.Module, args: Sequence[Any]) -> list[Tensor]:
    """The output, and the gradients of a fixed projection of it with respect to the first input and all parameters."""
    is_differentiable = isinstance(args[0], Tensor) and args[0].is_floating_point()
    first = args[0].detach().requires_grad_() if is_differentiable else None
    with torch.enable_grad():
        out = module(args[0] if first is None else first, *args[1:])
        generator = torch.Generator().manual_seed(0)
        direction = torch.randn(out.shape, generator=generator).bfloat16()  # the same numbers in every precision
        leaves = [x for x in (first, *module.parameters()) if x is not None and x.requires_grad]
        if not (out.requires_grad and leaves):
            return [out.detach()]
        grads = torch.autograd.grad(out, leaves, direction.to(out.device, out.dtype), allow_unused=True)
    return [out.detach(), *(torch.zeros_like(x) if grad is None else grad for x, grad in zip(leaves, grads, strict=True))]


# Searches.


def _beam(scorer: AsrModel, encoded: Encoded) -> list[Hypothesis]:
    return [ranked[0] for ranked in modified_beam_search(scorer, encoded, beam=4)]


SEARCHES: dict[str, Callable[[AsrModel, Encoded], list[Hypothesis]]] = {
    "greedy": greedy_search,
    "beam 4": _beam,
    "CTC greedy": ctc_greedy_search,
}


class SearchReference:
    """A float64 model on the CPU, frames of utterances of several lengths, and what each search finds in them."""

    def __init__(self, block: Block) -> None:
        config = toy() if block.is_toy else config_of("S", is_toy=False, has_ctc=True)
        num_utterances, seconds = (3, 1.5) if block.is_toy else (8, 8.0)
        inputs: Inputs = noise_inputs(num_utterances, seconds, vocab_size=config.vocab_size, seed=1)
        self.model = build(config).eval()
        lens = torch.linspace(inputs.lens[0], inputs.lens[0] // 2, num_utterances).long()
        with torch.no_grad():
            encoded = self.model.encode(inputs.features, lens)
        self.model.double()
        self.encoded = standardized(Encoded(encoded.frames.double(), encoded.lens))
        balance_blank(self.model, self.encoded)
        self.found = {name: search(self.model, self.encoded) for name, search in SEARCHES.items()}


def check_search(block: Block, reference: SearchReference, name: str, precision: str) -> dict[str, Any]:
    """Utterances whose tokens are those of the reference, and whether the others differ on a margin only.

    That is not said of the beam in half precision: which hypotheses it keeps follows from sums over all frames so far, and
    those it ends with may have other scores by far.
    """
    model = copy.deepcopy(reference.model).float().to(block.device)
    encoded = Encoded(reference.encoded.frames.float().to(block.device), reference.encoded.lens.to(block.device))
    with arithmetic(precision, block.device):
        hypotheses = SEARCHES[name](model, encoded)
    pairs = list(zip(hypotheses, reference.found[name], strict=True))
    differing = [n for n, (ours, expected) in enumerate(pairs) if ours.ids != expected.ids]
    margins = [margin(reference, name, n, *pairs[n]) for n in differing]
    found = {
        "num_utterances": len(pairs),
        "num_equal": len(pairs) - len(differing),
        "num_labels": sum(len(expected.ids) for _, expected in pairs),
        "largest_margin": max(margins, default=0.0),
        "score_error": max(abs(ours.score - expected.score) for ours, expected in pairs),
    }
    if name != "beam 4" or DTYPES[precision] == torch.float32:
        found["is_within"] = found["largest_margin"] <= MARGINS[precision]
    return found


@torch.no_grad()
def margin(reference: SearchReference, name: str, n: int, ours: Hypothesis, expected: Hypothesis) -> float:
    """By how many nats the reference preferred its own choice where a search first chose otherwise.

    For the beam this is the difference of the scores that hypotheses are ranked by, for greedy searches that of two labels.
    """
    model = reference.model
    if name == "beam 4":
        return abs(ours.normalized_score(model.context_size) - expected.normalized_score(model.context_size))
    same = 0
    while (
        same < min(len(ours.ids), len(expected.ids))
        and ours.ids[same] == expected.ids[same]
        and ours.frames[same] == expected.frames[same]
    ):
        same += 1
    frame = min(found.frames[same] for found in (ours, expected) if same < len(found.frames))
    frames_1TD = reference.encoded.frames[n : n + 1, frame : frame + 1]
    if name == "CTC greedy":
        scores_V = model.ctc_log_probs(frames_1TD)[0, 0]
    else:
        history = (*(-1,) * (model.context_size - 1), model.blank_id, *expected.ids[:same])
        context_1C = torch.tensor([history[-model.context_size :]])
        scores_V = model.join(model.project_frames(frames_1TD)[0], model.predict(context_1C))[0].log_softmax(-1)
    best, second = scores_V.topk(2).values.tolist()
    return best - second
