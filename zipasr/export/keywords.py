"""Keywords in an exported folder: the file in tokens that sherpa-onnx's spotter reads, with boosts, thresholds and names."""

from collections.abc import Sequence

from zipasr.errors import ConfigError
from zipasr.onnx_runtime import ExportedConfig
from zipasr.search.keywords import Keyword, encode_keywords
from zipasr.tokenizer import Tokenizer

KEYWORDS_FILE = "keywords.txt"
"""Name of the file in an exported folder."""


def check_spotting(*, has_transducer: bool, is_streaming: bool) -> None:
    """Check that graphs can spot keywords.

    Raises:
        ConfigError: they are of whole utterances, or the model has no transducer head.
    """
    if not has_transducer:
        raise ConfigError("keywords need a transducer head, but this model has none; export without --keywords")
    if not is_streaming:
        raise ConfigError("keywords need streaming graphs, but these encode whole utterances; give --chunk-ms too")


def keyword_files(keywords: Sequence[str | Keyword], tokenizer: Tokenizer, config: ExportedConfig) -> dict[str, bytes]:
    """The file of keywords for a folder of graphs, by its name; none without keywords.

    Raises:
        ConfigError: the graphs cannot spot keywords, or a keyword cannot be written in the vocabulary.
    """
    if not keywords:
        return {}
    check_spotting(has_transducer=config.files.encoder is not None, is_streaming=config.chunk_frames_50hz is not None)
    lines = encode_keywords(keywords, tokenizer).lines(tokenizer)
    return {KEYWORDS_FILE: "".join(f"{line}\n" for line in lines).encode()}
