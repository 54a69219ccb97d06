"""`config.yaml` of soundsgoodai's models: `read_model_yaml(text)` -> settings, names of files, and facts to check.

Its `model_params` are the flags of icefall's recipe, as numbers or as text ("2,2,4,5,4,2"). The file is data of a stranger:
only plain values are read, references between its parts are refused, and names of files count only inside the model's
folder.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from zipasr.errors import CheckpointError, ConfigError
from zipasr.features import FbankConfig
from zipasr.hub.settings import SIZES, TRAINING_SIZES, ModelSettings, Sizes, parse_sizes
from zipasr.model import AsrConfig

MAX_BYTES = 100_000
"""Far more than any such file has."""
_MAX_NODES, _MAX_DEPTH = 10_000, 20
_ENCODER_FACTS = {
    "num_encoder_layers": "num_layers",
    "downsampling_factor": "downsample",
    "feedforward_dim": "feedforward",
    "encoder_dim": "channels",
    "cnn_module_kernel": "kernel_sizes",
    "pos_dim": "pos_dim",
    "causal": "is_causal",
    "feature_dim": "num_features",
}
_FRAMES = {
    "samp_freq": 16000,
    "frame_shift_ms": 10,
    "frame_length_ms": 25,
    "preemph_coeff": 0.97,
    "window_type": "povey",
    "snip_edges": False,
}
"""The only frames of features that Zipformers have; `_ms` may be missing in the names."""
_NYQUIST_HZ = 8000.0


class ModelYaml(NamedTuple):
    """What a `config.yaml` says."""

    checkpoint: str | None
    """Name of the file with the tensors."""
    vocabulary: str | None
    """Name of the vocabulary."""
    settings: ModelSettings
    """Settings that the tensors do not say."""
    facts: Mapping[str, Any]
    """`model_params`, of which many are in the tensors too."""

    def check(self, config: AsrConfig) -> None:
        """Check that the weights are those that the file describes.

        Raises:
            ConfigError: they are not.
        """
        for name, (said, own) in self._compared(config).items():
            if said != own:
                raise ConfigError(
                    f"the weights must have {name} {said}, as config.yaml says, but have {own}; the files are of different "
                    "models: get both from one place"
                )

    def _compared(self, config: AsrConfig) -> dict[str, tuple[Any, Any]]:
        """Name -> what is said, and what the weights have."""
        encoder = config.encoder
        own: dict[str, Any] = {name: getattr(encoder, field) for name, field in _ENCODER_FACTS.items()}
        own |= {"use_transducer": config.transducer is not None, "use_ctc": config.ctc is not None}
        own |= {"use_attention_decoder": config.attention is not None, "subsampling_factor": 4}
        if (transducer := config.transducer) is not None:
            own |= {"decoder_dim": transducer.predictor_dim, "joiner_dim": transducer.joiner_dim}
            own |= {"context_size": transducer.context_size}
        return {name: (_like(self.facts[name], own[name], name), own[name]) for name in own if name in self.facts}


def read_model_yaml(text: str) -> ModelYaml:
    """What the text of a `config.yaml` says.

    Raises:
        CheckpointError: it is no YAML of plain values, or describes another kind of model.
        ConfigError: a value in it is not of its kind.
    """
    document = _plain_yaml(text)
    if not isinstance(document, Mapping):
        raise CheckpointError(f"config.yaml must hold names and values, but holds {type(document).__name__}")
    kind = document.get("model_type", "zipformer")
    if "zipformer" not in str(kind).lower():
        raise CheckpointError(f"config.yaml must describe a Zipformer, but its model_type is {str(kind)[:50]!r}")
    facts = _mapping(document, "model_params")
    if "model_type" not in document and not facts:
        found = ", ".join(str(name) for name in list(document)[:5])
        raise CheckpointError(
            f"config.yaml must describe a Zipformer (model_type, model_params), but has {found or 'nothing'}; if it is not "
            "of this model, move it away"
        )
    sizes = SIZES | TRAINING_SIZES
    given: dict[str, Any] = {setting: _sizes(facts[name], name) for name, setting in sizes.items() if name in facts}
    if "attention_decoder_num_heads" in facts:
        given["attention_decoder_heads"] = _number(facts, "attention_decoder_num_heads", int)
    decoding = _mapping(document, "decoding")
    for name, number in (("beam_size", int), ("blank_penalty", float)):
        if name in decoding:
            given[name] = _number(decoding, name, number)
    given |= _features(_mapping(document, "feature_opts"))
    return ModelYaml(_name(document, "file"), _name(document, "tokenizer"), ModelSettings(**given), facts)


def _plain_yaml(text: str) -> Any:
    """The content of a YAML file, in which nothing refers to another part: such references can multiply without end."""
    try:
        import yaml
    except ImportError as error:
        raise ConfigError('config.yaml needs the package PyYAML: pip install "zipasr[hub]"') from error
    if len(text) > MAX_BYTES:
        raise CheckpointError(f"config.yaml must be at most {MAX_BYTES} bytes, but is larger; it is no model's description")
    depth = 0
    try:
        for number, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > _MAX_DEPTH or number > _MAX_NODES:
                raise CheckpointError(
                    "config.yaml must hold plain values, but repeats parts of itself, nests them deeply or has very many; "
                    "do not use it"
                )
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"config.yaml must hold plain values, but cannot be read: {reason}") from error


def _mapping(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = document.get(name) or {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} in config.yaml must hold names and values, but is {str(value)[:50]!r}")
    return value


def _name(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    if value is not None and not isinstance(value, str):
        raise ConfigError(f"{name} in config.yaml must be the name of a file, but is {str(value)[:50]!r}")
    return value


def _sizes(value: Any, name: str) -> Sizes:
    if isinstance(value, list):
        value = ",".join(map(str, value))
    return parse_sizes(str(value), name=f"{name} in config.yaml")


def _number(values: Mapping[str, Any], name: str, kind: type[int] | type[float]) -> int | float:
    try:
        if isinstance(values[name], bool):
            raise ValueError
        return kind(values[name])
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{name} in config.yaml must be a number, but is {str(values[name])[:50]!r}") from error


def _like(said: Any, own: Any, name: str) -> Any:
    """What a file says, in the form of our value."""
    if isinstance(own, bool):
        return str(said).lower() in ("1", "true", "yes")
    sizes = _sizes(said, name)
    if isinstance(own, tuple):
        return (sizes,) * len(own) if isinstance(sizes, int) else tuple(sizes)
    return sizes[0] if not isinstance(sizes, int) and len(set(sizes)) == 1 else sizes


def _features(options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a filterbank, whose frames must be the usual ones."""
    frames, mel = _mapping(options, "frame_opts"), _mapping(options, "mel_opts")
    for name, usual in _FRAMES.items():
        said = frames.get(name, frames.get(name.removesuffix("_ms"), usual))
        if said != usual:
            raise ConfigError(
                f"{name} in config.yaml must be {usual}, as in every Zipformer's features, but is {str(said)[:50]!r}"
            )
    usual_bank = FbankConfig()
    low = _number(mel, "low_freq", float) if "low_freq" in mel else usual_bank.low_freq_hz
    high = _number(mel, "high_freq", float) if "high_freq" in mel else usual_bank.high_freq_hz
    found: dict[str, Any] = {"low_freq_hz": low, "high_freq_hz": high - _NYQUIST_HZ if high > 0 else high}
    if "num_bins" in mel:
        found["num_mel_bins"] = _number(mel, "num_bins", int)
    return found
