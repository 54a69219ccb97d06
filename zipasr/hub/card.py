"""Model cards: what is known about a model in, the README.md of its repository out: `model_card`.

The front matter is what the hub reads: language, license, tags, and results of `zipasr evaluate --json` as `model-index`.
The text is for people. What nobody stated is said to be not stated; nothing is guessed.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zipasr.errors import ConfigError, DataError
from zipasr.hub.description import EncoderDescription, ModelDescription
from zipasr.hub.model_table import LANGUAGES
from zipasr.lines import parse_json, read_whole

LIBRARY = "zipasr"
"""Name of the library in the front matter, by which a card is known as ours."""
_TASK = {"type": "automatic-speech-recognition", "name": "Automatic Speech Recognition"}
_METRICS = (("wer", "WER", "words"), ("cer", "CER", "characters"))
_NOT_STATED = "Not stated."


@dataclass(frozen=True, kw_only=True)
class TestResult:
    """Error rates on a set, measured by `zipasr evaluate --json`."""

    __test__ = False  # pytest takes classes of this name for tests

    name: str
    """Name of the set."""
    wer: float
    """Word error rate in percent."""
    cer: float
    """Character error rate in percent."""
    num_utterances: int
    audio_s: float
    search: str = ""
    """The search, and its settings."""


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What the files of a model do not say; empty where nobody stated it."""

    repository: str
    """OWNER/NAME."""
    languages: tuple[str, ...] = ()
    """Codes such as en."""
    license: str = ""
    """Identifier such as apache-2.0, of the model, not of the code."""
    datasets: tuple[str, ...] = ()
    """What the model was trained on: identifiers of data sets of the hub, or names."""
    training_data: str = ""
    """The same in a sentence or more."""
    recipe: str = ""
    """How it was trained, in a sentence or more."""
    limits: str = ""
    """What it does badly, in a sentence or more."""
    base_model: str = ""
    """OWNER/NAME of the model of the hub that it was made from."""
    settings: Mapping[str, Any] | None = None
    """Settings of the training by name."""
    results: tuple[TestResult, ...] = ()
    other_programs: str = ""
    """How other programs run the files, in Markdown: the README of an exported folder."""

    def __post_init__(self) -> None:
        for code in self.languages:
            if not re.fullmatch(r"[a-z]{2,3}([-_][A-Za-z0-9]+)*", code):
                raise ConfigError(f"a language must be a code such as en or zh-HK, but is {code!r}")
        if self.license and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", self.license):
            raise ConfigError(
                f"a license must be an identifier in small letters, such as apache-2.0 or other, but is {self.license!r}"
            )
        texts = (*self.datasets, self.training_data, self.recipe, self.limits, *(result.name for result in self.results))
        if any("\ud800" <= character <= "\udfff" for text in texts for character in text):
            raise ConfigError("the text of a card must be valid Unicode, but has a lone surrogate; check the arguments")

    def missing(self) -> dict[str, str]:
        """What the card cannot say, and the flag of `zipasr push` that states it."""
        flags = {
            "language": ("--language", self.languages),
            "license": ("--license", self.license),
            "training data": ("--training-data or --dataset", self.training_data or self.datasets),
            "error rates": ("--results", self.results),
        }
        return {name: flag for name, (flag, value) in flags.items() if not value}


def read_results(arguments: Iterable[str]) -> tuple[TestResult, ...]:
    """The results in files that `zipasr evaluate --json` printed.

    Args:
        arguments: FILE, whose name is then that of the set, or NAME=FILE.
    Raises:
        DataError: a file cannot be read, or is something else.
    """
    return tuple(_read_result(argument) for argument in arguments)


def _read_result(argument: str) -> TestResult:
    name, equals, path = argument.partition("=")
    if not equals or os.path.exists(argument):
        name, path = Path(argument).stem, argument
    if not name.strip() or not path:
        raise ConfigError(f"--results must be FILE or NAME=FILE, but is {argument!r}")
    try:
        content = parse_json(read_whole(path))
        rates = {key: _number(content[key]) for key in ("wer", "cer", "audio_s", "num_utterances")}
        search = content.get("search", {})
        shown = ", ".join(str(value) if key == "method" else f"{key} {value}" for key, value in search.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} must be the results of an evaluation, but is not: {error}; give what zipasr evaluate --json printed"
        ) from error
    return TestResult(
        name=" ".join(name.split()),
        wer=rates["wer"],
        cer=rates["cer"],
        audio_s=rates["audio_s"],
        num_utterances=round(rates["num_utterances"]),
        search=shown,
    )


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise ValueError(f"{value!r} is no rate or count")
    return float(value)


def model_card(facts: CardFacts, model: ModelDescription) -> str:
    """The text of the card, with its front matter."""
    sections = {
        "Use it": _use(facts, model),
        "Error rates": _error_rates(facts.results),
        "What it is": _architecture(model),
        "Training data": _training_data(facts),
        "How it was trained": _recipe(facts),
        "Limits": _limits(facts, model),
        "License": _license(facts),
        "In other programs": _other_programs(facts.other_programs),
    }
    body = "\n".join(f"## {title}\n\n{text}\n" for title, text in sections.items() if text)
    title = facts.repository.partition("/")[2]
    return f"---\n{_front_matter(facts, model)}---\n\n# {title}\n\n{_introduction(facts, model)}\n\n{body}"


def _front_matter(facts: CardFacts, model: ModelDescription) -> str:
    try:
        import yaml
    except ImportError as error:
        raise ConfigError('a model card needs PyYAML, but it is not installed; pip install "zipasr[hub]"') from error
    tags = ["automatic-speech-recognition", "speech", "zipformer", *model.heads, *(["streaming"] if model.is_causal else [])]
    values = {
        "language": list(facts.languages),
        "license": facts.license,
        "library_name": LIBRARY,
        "pipeline_tag": _TASK["type"],
        "tags": tags,
        "datasets": list(facts.datasets),
        "base_model": facts.base_model,
        "metrics": [key for key, _, _ in _METRICS] if facts.results else [],
        "model-index": [_index_entry(facts)] if facts.results else [],
    }
    text = yaml.safe_dump({k: v for k, v in values.items() if v}, sort_keys=False, allow_unicode=True, width=1000)
    return str(text)


def _index_entry(facts: CardFacts) -> dict[str, Any]:
    results = []
    for result in facts.results:
        metrics = [{"type": key, "value": round(getattr(result, key), 2), "name": name} for key, name, _ in _METRICS]
        dataset = {"name": result.name, "type": re.sub(r"[^\w.-]+", "-", result.name.lower()).strip("-") or "test"}
        results.append({"task": dict(_TASK), "dataset": dataset, "metrics": metrics})
    return {"name": facts.repository.partition("/")[2], "results": results}


def _introduction(facts: CardFacts, model: ModelDescription) -> str:
    spoken = f" for {_listed(LANGUAGES.get(code, code) for code in facts.languages)}" if facts.languages else ""
    live = "recordings and live audio" if model.is_causal else "recordings"
    size = f" of {model.num_params / 1e6:.1f} M parameters" if model.num_params else ""
    return (
        f"A speech recognizer{spoken}: a {model.encoder.name}{size} with {_heads(model.heads)}, for {live}. It runs with "
        "zipasr, Zipformers in plain Python and PyTorch."
    )


def _use(facts: CardFacts, model: ModelDescription) -> str:
    reference = f"hf:{facts.repository}"
    extras = "extras `hub` and `onnx`" if model.num_params is None else "extra `hub`"  # graphs do not tell their number
    live = f"\nzipasr serve {reference}" if model.is_causal else ""
    return f"""\
```python
import zipasr

transcript = zipasr.load("{reference}").transcribe("a.wav")
print(transcript.text)
```

The same on the command line, which also writes subtitles, word times and n-best hypotheses:

```bash
zipasr transcribe {reference} a.wav{live}
```

zipasr must be installed with its {extras}. Any audio file will do; it is converted to 16 kHz mono."""


def _error_rates(results: Sequence[TestResult]) -> str:
    if not results:
        return _NOT_STATED
    rows = [
        f"| {_cell(r.name)} | {r.wer:.2f} | {r.cer:.2f} | {r.num_utterances} | {_duration(r.audio_s)} | {_cell(r.search)} |"
        for r in results
    ]
    head = "| set | word error rate, % | character error rate, % | utterances | audio | search |\n|---|---|---|---|---|---|"
    return "\n".join(["Measured with `zipasr evaluate`.", "", head, *rows])


def _architecture(model: ModelDescription) -> str:
    vocabulary, features = model.vocabulary, model.features
    bank = "Whisper's filterbank" if features.kind == "whisper" else "the log-mel filterbank of Kaldi"
    rows = [
        ("encoder", _encoder(model.encoder)),
        ("heads", _listed(model.heads)),
        ("parameters", f"{model.num_params:,}" if model.num_params else ""),
        ("weights", model.precision),
        ("vocabulary", f"{vocabulary.size} labels: {vocabulary.kind}"),
        ("features", f"{features.num_mel_bins} bins of {bank}"),
        ("chunks", f"{_listed(map(str, model.chunks_ms))} ms" if model.chunks_ms else ""),
        ("left context", f"{_listed(map(str, model.left_contexts_ms))} ms" if model.left_contexts_ms else ""),
        ("search", model.search),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {_cell(value)} |" for name, value in rows if value)])


def _encoder(encoder: EncoderDescription) -> str:
    parts = [encoder.name]
    for name, sizes in (("layers", encoder.num_layers), ("channels", encoder.channels), ("heads", encoder.num_heads)):
        if sizes:
            parts.append(f"{name} {' '.join(map(str, sizes))}")
    return "; ".join(parts)


def _training_data(facts: CardFacts) -> str:
    sentences = [facts.training_data, f"Data sets: {', '.join(facts.datasets)}." if facts.datasets else ""]
    return "\n\n".join(filter(None, sentences)) or _NOT_STATED


def _recipe(facts: CardFacts) -> str:
    parts = [facts.recipe]
    if facts.base_model:
        parts.append(f"Made from [{facts.base_model}](https://huggingface.co/{facts.base_model}).")
    if facts.settings:
        rows = [f"| `{name}` | {_cell(_setting(value))} |" for name, value in facts.settings.items()]
        parts.append("\n".join(["Settings of `zipasr train`:", "", "| setting | value |", "|---|---|", *rows]))
    return "\n\n".join(filter(None, parts)) or _NOT_STATED


def _limits(facts: CardFacts, model: ModelDescription) -> str:
    vocabulary = model.vocabulary
    case = {"upper": "upper case only", "lower": "lower case only", "mixed": "upper and lower case"}.get(vocabulary.case, "")
    marks = "with punctuation" if vocabulary.has_punctuation else "without punctuation"
    known = [
        f"It writes {case}, {marks}." if case else f"It writes text {marks}.",
        "" if model.is_causal else "It needs whole recordings: live audio needs a causal model.",
        "" if vocabulary.can_encode else "Texts cannot be written in its labels, so it takes no hotwords.",
        "Speech unlike its training data - other accents, rooms, microphones, topics - has more errors.",
        facts.limits,
    ]
    return "\n".join(f"- {sentence}" for sentence in known if sentence)


def _license(facts: CardFacts) -> str:
    return f"{facts.license} (the model)" if facts.license else f"{_NOT_STATED} Ask its owner before you use it."


def _other_programs(readme: str) -> str:
    """The README of an exported folder as a section: without its title, its headings one level deeper."""
    lines = [f"#{line}" if line.startswith("#") else line for line in readme.splitlines() if not line.startswith("# ")]
    return "\n".join(lines).strip()


def _heads(heads: Sequence[str]) -> str:
    names = {"transducer": "a transducer head", "ctc": "a CTC head", "attention": "an attention decoder"}
    return _listed([names[head] for head in heads])


def _listed(words: Iterable[str]) -> str:
    """Words as in `a, b and c`."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _duration(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


def _setting(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_setting, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    """A text for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
