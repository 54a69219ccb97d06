"""Keywords in an exported folder: the file in tokens that sherpa-onnx's spotter reads, with boosts, thresholds and names."""

from collections.abc import Sequence

from zipasr.errors import ConfigError
from zipasr.search.keywords import Keyword, encode_keywords
from zipasr.tokenizer import Tokenizer

KEYWORDS_FILE = "keywords.txt"
"""Name of the file in an exported folder."""


def keyword_files(
    keywords: Sequence[str | Keyword], tokenizer: Tokenizer, *, has_transducer: bool, is_streaming: bool
) -> dict[str, bytes]:
    """The file of keywords for a folder of graphs, by its name; none without keywords.

    Args:
        keywords: what to spot.
        tokenizer: the one of the model.
        has_transducer: whether the graphs have a transducer head.
        is_streaming: whether they encode chunks.
    Raises:
        ConfigError: the graphs cannot spot keywords, or a keyword cannot be written in the vocabulary.
    """
    if not keywords:
        return {}
    if not has_transducer:
        raise ConfigError("keywords need a transducer head, but this model has none; export without --keywords")
    if not is_streaming:
        raise ConfigError("keywords need streaming graphs, but these encode whole utterances; give --chunk-ms too")

    lines = encode_keywords(keywords, tokenizer).lines(tokenizer)
    return {KEYWORDS_FILE: "".join(f"{line}\n" for line in lines).encode()}
