"""What a model needs to know that its tensors do not say: `ModelSettings`, and those in the scripts of a recipe.

Settings come from several places, of which the later ones count more: the table of known models, scripts beside a
checkpoint, `config.yaml`, and the caller's arguments. Scripts are read as text and never run.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from zipasr.errors import ConfigError

Sizes = int | Sequence[int]
"""A number for all stacks, or one entry per stack."""
FeatureKind = Literal["kaldi", "whisper"]
HEAD_SIZES = ("num_heads", "query_head_dim", "value_head_dim", "pos_head_dim")
"""Any one of these determines the others."""


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Settings of a model of others; None where they are to be inferred, or are the usual ones."""

    num_heads: Sizes | None = None
    """Attention heads of the encoder, `--num-heads` of the recipe."""
    query_head_dim: Sizes | None = None
    """Width of a query and a key of one head."""
    value_head_dim: Sizes | None = None
    """Width of a value of one head."""
    pos_head_dim: Sizes | None = None
    """Width of a positional query of one head."""
    unmasked_channels: Sizes | None = None
    """`--encoder-unmasked-dim`, which matters only for further training."""
    attention_decoder_heads: int | None = None
    """Heads of the attention decoder."""
    chunk_frames_50hz: Sizes | None = None
    """Chunk sizes with which a causal model was trained; -1 is the whole utterance. Streams take the one nearest to 32."""
    left_context_frames_50hz: Sizes | None = None
    """Left contexts with which a causal model was trained; -1 is everything. Streams take the one nearest to 128."""
    features: FeatureKind | None = None
    """Kind of the filterbank."""
    num_mel_bins: int | None = None
    """Mel bins of the filterbank, which the shapes tell only up to three more or less."""
    low_freq_hz: float | None = None
    """Lower edge of the first mel filter."""
    high_freq_hz: float | None = None
    """Upper edge of the last mel filter; zero or less counts down from 8000 Hz."""
    blank_penalty: float | None = None
    """Blank penalty of the default search."""
    beam_size: int | None = None
    """Beam of the default search, which is then the beam search."""

    def over(self, earlier: "ModelSettings") -> "ModelSettings":
        """These settings, and where they are None, earlier ones; head sizes replace all earlier ones together."""
        own = {name: value for name, value in vars(self).items() if value is not None}
        if not own.keys().isdisjoint(HEAD_SIZES):
            earlier = dataclasses.replace(earlier, **dict.fromkeys(HEAD_SIZES))
        return dataclasses.replace(earlier, **own)


def parse_sizes(text: str, *, name: str) -> int | tuple[int, ...]:
    """The sizes in a text such as `4` or `4,4,4,8,4,4`.

    Raises:
        ConfigError: it is something else.
    """
    parts = text.strip().split(",")
    if not all(re.fullmatch(r"\s*-?\d{1,9}\s*", part) for part in parts):
        raise ConfigError(f"{name} must be a number, or numbers with commas between them, one per stack, but is {text!r}")
    sizes = tuple(int(part) for part in parts)
    return sizes[0] if len(sizes) == 1 else sizes


SIZES = {**{name: name for name in HEAD_SIZES}, "encoder_unmasked_dim": "unmasked_channels"}
"""The recipe's names of settings that are sizes, with `_` between their words -> ours."""
TRAINING_SIZES = {"chunk_size": "chunk_frames_50hz", "left_context_frames": "left_context_frames_50hz"}
"""The same for flags that mean a choice when decoding, and only in a training what the model can do."""
_NUMBERS: dict[str, tuple[str, type[int] | type[float]]] = {
    "attention_decoder_num_heads": ("attention_decoder_heads", int),
    "feature_dim": ("num_mel_bins", int),
    "num_mel_bins": ("num_mel_bins", int),
    "blank_penalty": ("blank_penalty", float),
}
_FLAG = re.compile(r"(?:^|\s)--([a-z][a-z-]*)(?:\s+|=)(?!--)(\"[^\"$`]*\"|'[^'$`]*'|[^\s\"'$`;|&()]+)(?=[\s;|&)]|$)")
_COMMENT = re.compile(r"(?:^|(?<=\s))#.*")
_CONTINUED = re.compile(r"\\[ \t]*\r?\n")


def settings_from_scripts(scripts: Mapping[str, str]) -> ModelSettings:
    """The settings in the flags of a recipe's commands, given scripts by name.

    Only plain values are taken, so variables of the shell mean nothing. Flags on which the scripts disagree are left out.
    """
    found: dict[str, list[Any]] = {}
    for name, text in scripts.items():
        for command in _commands(text):
            for setting, value in _settings_of(command, is_training=_is_training(name, command)):
                found.setdefault(setting, []).append(value)
    agreed = {setting: values[0] for setting, values in found.items() if all(value == values[0] for value in values)}
    return ModelSettings(**agreed)


def _commands(text: str) -> Iterable[str]:
    """The command lines of a script, without comments and continuation lines."""
    lines = (_COMMENT.sub("", line) for line in _CONTINUED.sub(" ", text).splitlines())
    return [line.strip() for line in lines if "--" in line]


def _is_training(name: str, command: str) -> bool:
    return "train" in name or re.search(r"\btrain\w*\.py\b", command) is not None


def _settings_of(command: str, *, is_training: bool) -> Iterable[tuple[str, Any]]:
    flags = [(match[1].replace("-", "_"), match[2].strip("\"'").strip()) for match in _FLAG.finditer(command)]
    method = dict(flags).get("decoding_method", dict(flags).get("method", ""))
    sizes = SIZES | TRAINING_SIZES if is_training else SIZES
    for flag, value in flags:
        if flag in sizes:
            if re.fullmatch(r"-?\d{1,6}(,-?\d{1,6})*", value):
                yield sizes[flag], parse_sizes(value, name=flag)
        elif flag in _NUMBERS:
            setting, kind = _NUMBERS[flag]
            if re.fullmatch(r"\d{1,6}" if kind is int else r"-?\d{1,6}(\.\d{1,6})?", value):
                yield setting, kind(value)
        elif flag == "beam_size" and method == "modified_beam_search" and re.fullmatch(r"[1-9]\d{0,2}", value):
            yield "beam_size", int(value)
        elif flag == "whisper_fbank":
            yield "features", "whisper" if value.lower() in ("1", "true", "yes") else "kaldi"
