"""`zipasr inspect REF_OR_PATH`: what a model is, and what zipasr can do with it."""

import argparse
import json
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zipasr.hub.description import EncoderDescription, ModelDescription, VocabularyDescription
    from zipasr.hub.inspection import Inspection

_WIDTH, _INDENT = 110, 19


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "inspect",
        takes="MODEL",
        example="zipasr inspect hf:Zengwei/icefall-asr-librispeech-zipformer-2023-05-15",
        help="say what a model is and what can be done with it",
        description="Print layout, architecture, parameters, vocabulary and features of a model, and what zipasr can do "
        "with it. Of a model on the hub that is not in the cache, only small files are fetched. Exit code 1: it cannot be "
        "used.",
    )
    parser.add_argument(
        "model", metavar="MODEL", help="a folder, a checkpoint file, or hf:OWNER/NAME[@REVISION][#SUBFOLDER] on the hub"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the findings; return the exit code."""
    from zipasr.hub.inspection import inspect_model

    found = inspect_model(args.model)
    if args.json:
        print(json.dumps(found.to_dict(), ensure_ascii=False))
    else:
        print("\n".join([found.model, *(line for name, text in _rows(found) for line in _row(name, text))]))
    return 1 if found.refused else 0


def _row(name: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=f"  {name:{_INDENT - 2}}",
        subsequent_indent=" " * _INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _rows(found: "Inspection") -> "Iterator[tuple[str, str]]":
    """Name and text of every finding."""
    yield "layout", found.layout
    if found.commit:
        yield "commit", found.commit
    if found.source:
        yield "made from", found.source
    model = found.description
    if model is not None:
        yield from _architecture(model)
    if found.vocabulary is not None:
        yield "vocabulary", _vocabulary(found.vocabulary)
    if model is not None:
        yield from _processing(model)
    yield "files", _files(found)
    if found.known is not None:
        yield from _published(found)
    if found.refused:
        yield "cannot be used", found.refused
        return
    yield from _abilities(found)


def _architecture(model: "ModelDescription") -> "Iterator[tuple[str, str]]":
    yield "encoder", _encoder(model.encoder, is_causal=model.is_causal)
    context = f" (sees {model.context_size} label{'s' * (model.context_size != 1)})"
    yield "heads", ", ".join(head + context * (head == "transducer") for head in model.heads)
    if model.num_params is not None:
        yield "parameters", f"{model.num_params:,}"
    yield "precision", model.precision


def _encoder(encoder: "EncoderDescription", *, is_causal: bool) -> str:
    lists = {
        "layers": encoder.num_layers,
        "channels": encoder.channels,
        "feed-forward": encoder.feedforward,
        "attention heads": encoder.num_heads,
        "downsampling": encoder.downsample,
    }
    sizes = [f"{name} {' '.join(map(str, values))}" for name, values in lists.items() if values]
    return ", ".join([f"{encoder.name}{' (causal)' if is_causal else ''}", *sizes])


def _vocabulary(vocabulary: "VocabularyDescription") -> str:
    case = {"upper": "upper case", "lower": "lower case", "mixed": "upper and lower case"}.get(vocabulary.case, "")
    parts = [f"{vocabulary.size} labels", vocabulary.kind, case, "punctuation" if vocabulary.has_punctuation else ""]
    return ", ".join([*filter(None, parts), *([] if vocabulary.can_encode else ["can only decode"])])


def _processing(model: "ModelDescription") -> "Iterator[tuple[str, str]]":
    bank = "Whisper's filterbank" if model.features.kind == "whisper" else "Kaldi's filterbank"
    yield "features", f"{model.features.num_mel_bins} bins, {bank}"
    if model.is_causal:
        chunks, contexts = (", ".join(map(str, sizes)) or "any" for sizes in (model.chunks_ms, model.left_contexts_ms))
        yield "chunks", f"{chunks} ms, left context {contexts} ms"
    if model.search:
        yield "search", model.search


def _files(found: "Inspection") -> str:
    from zipasr.hub.refusals import megabytes

    largest = sorted(found.files, key=lambda name: -found.files[name])[:4]
    more = f" and {len(found.files) - len(largest)} more" if len(found.files) > len(largest) else ""
    return f"{megabytes(sum(found.files.values()))}: {', '.join(largest)}{more}" if largest else "none"


def _published(found: "Inspection") -> "Iterator[tuple[str, str]]":
    assert found.known is not None
    rates = [f"{r.corpus} {r.part} {r.percent:.2f} % {r.metric}".replace("  ", " ") for r in found.known.error_rates]
    if rates:
        yield "published", f"{', '.join(rates)}{f' ({found.known.search})' if found.known.search else ''}"
    yield "license", found.known.license or found.known.license_note or "not known: ask its owner"
    if found.known.note:
        yield "note", found.known.note


def _abilities(found: "Inspection") -> "Iterator[tuple[str, str]]":
    from zipasr.hub.capabilities import ABILITIES, KINDS

    for ability, capability in found.abilities.items():
        yield ability, "yes" if capability.can else f"no: {capability.why_not}"
    if not found.abilities and found.kind in KINDS:
        for ability, condition in zip(ABILITIES, KINDS[found.kind].conditions, strict=True):
            yield ability, condition.cell
        yield "", f"it is not in the cache; fetch it to know more: zipasr pull {found.model}"
    elif not found.abilities:
        yield "use", "with a speech recognizer: zipasr transcribe MODEL a.wav --lm FOLDER"
