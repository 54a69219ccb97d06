"""The README of an exported folder: a list of its files, and the commands that run them."""

import re

from zipasr.export.search import search_of_graphs
from zipasr.onnx_runtime import ExportedConfig
from zipasr.search.comparison import NOTABLE_SHARE
from zipasr.search.default_search import DefaultSearch
from zipasr.search.strategy import SearchConfig
from zipasr.tokenizer import Tokenizer

_INTRODUCTION = """# A speech recognizer in ONNX

Written by `zipasr export`. This folder contains everything that is needed. The model takes 16 kHz mono audio.
"""
_ZIPASR = """
With zipasr (all searches, hotwords, word times):

    pip install "zipasr[onnx]"
    zipasr transcribe . audio.wav
"""
_STREAMING_ZIPASR = """
With zipasr (all searches, hotwords; a server with a page for live audio):

    pip install "zipasr[onnx,serve]"
    zipasr transcribe . audio.wav
    zipasr serve .
"""
_TRANSDUCER = """
With sherpa-onnx (`pip install sherpa-onnx sherpa-onnx-bin`), the transducer{how}:

    {program} --tokens=tokens.txt --encoder={encoder} --decoder={decoder} \\
      --joiner={joiner} --decoding-method=modified_beam_search audio.wav

In Python:

    sherpa_onnx.{recognizer}.from_transducer(
        encoder="{encoder}", decoder="{decoder}", joiner="{joiner}",
        tokens="tokens.txt", decoding_method="modified_beam_search",
    )
"""
VOCAB_FILE = "bpe.vocab"
_KNOWN_AS_BYTES = re.compile("[\u0180-\u01a6]")
"""Characters of the bytes by which sherpa-onnx knows byte-level pieces, those of the first bytes of long characters."""
_HOTWORDS = """
Hotwords, one phrase per line of hotwords.txt in {letters}, need that search and these flags (in
Python, arguments of the same names):

    --hotwords-file=hotwords.txt --hotwords-score=1.5 --modeling-unit={unit}{vocab}
"""
_KEYWORDS = """
The keywords of keywords.txt:

    zipasr spot . --keywords keywords.txt audio.wav
    sherpa-onnx-keyword-spotter --tokens=tokens.txt --encoder={encoder} --decoder={decoder} \\
      --joiner={joiner} --keywords-file=keywords.txt audio.wav
"""
_CTC = """
With sherpa-onnx (`pip install sherpa-onnx sherpa-onnx-bin`), the CTC head{how}:

    {program} --tokens=tokens.txt --{kind}-ctc-model={ctc} audio.wav

In Python:

    sherpa_onnx.{recognizer}.from_{kind}_ctc(model="{ctc}", tokens="tokens.txt")
"""
_OFFLINE_WORDS = {
    "how": "",
    "program": "sherpa-onnx-offline",
    "recognizer": "OfflineRecognizer",
    "kind": "zipformer",
}
_STREAMING_WORDS = {
    "how": ", chunk by chunk",
    "program": "sherpa-onnx",
    "recognizer": "OnlineRecognizer",
    "kind": "zipformer2",
}
_TAIL = """
Unlike zipasr, sherpa-onnx does not pad recordings: append 0.3 s of silence to one that ends right after its last word.
"""
_FILES = {
    "encoder": "the encoder, with the joiner's projection of its frames",
    "decoder": "the predictor, with the joiner's projection",
    "joiner": "the joiner",
    "ctc": "encoder and CTC head in one",
    "ctc_head": "the CTC head alone, on frames inside `encoder`; zipasr computes word times with it",
}


def sherpa_onnx_limits(config: ExportedConfig, default: DefaultSearch) -> str | None:
    """What sherpa-onnx loses compared with the model's default search, in sentences; None if nothing."""
    if config.files.encoder is None:
        return None
    num_symbols, has_ctc = default.search.max_symbols_per_frame, config.files.ctc is not None
    rates = _rates(default)
    if num_symbols > 1:
        text = (
            f"The default search of this model emits up to {num_symbols} tokens per frame of 40 ms (zipasr: "
            f"`--max-symbols-per-frame {num_symbols}`). sherpa-onnx's transducer search emits at most one, and may delete "
            f"words.{rates}"
        )
        return text + (" Its CTC head has no such limit." if has_ctc else "")
    if not rates:
        return None
    if default.search.ngram_scale:
        return f"The default search of this model uses an n-gram of its training texts, which sherpa-onnx does not.{rates}"
    if default.search.method == "joint":
        return f"The default search of this model lets both heads choose; sherpa-onnx searches with one head alone.{rates}"
    if default.search.method in ("ctc_greedy", "ctc_beam"):
        advice = "use the CTC graph" if has_ctc else "no CTC graph was exported"
        return f"The default search of this model uses its CTC head; its transducer is worse: {advice}.{rates}"
    return None


def attention_limits(config: ExportedConfig, default: DefaultSearch | None) -> str:
    """What the graphs of a model with an attention decoder lose without it, in sentences."""
    text = "The attention decoder of this model is not exported."
    search = search_of_graphs(default)
    if default is None or search is None:
        if config.files.encoder is not None:  # its default is then a search of the transducer
            return text
        return f"{text} It rescores by default; the graphs decode with the CTC head alone (ctc_greedy)."
    if search == default:
        return text
    text += f" The default search of this model is {default.search}, which needs it; that of the graphs is {search.search}."
    rates = default.rates()
    if default.search not in rates or search.search not in rates:
        return text
    return (
        f"{text} On {default.chosen_on}, the word error rate is {rates[search.search]:.1f} % instead of "
        f"{rates[default.search]:.1f} %."
    )


def _rates(default: DefaultSearch) -> str:
    """A sentence with the error rates of sherpa-onnx's transducer searches; empty if they are not worse, or unknown."""
    known = default.rates()
    own = known.get(default.search)
    theirs = [(method, known.get(SearchConfig(method=method))) for method in ("greedy", "beam")]
    found = [f"{method} search {rate:.1f} %" for method, rate in theirs if rate is not None]
    if own is None or not found or min(rate for _, rate in theirs if rate is not None) <= (1.0 + NOTABLE_SHARE) * own:
        return ""
    return (
        f" On {default.chosen_on}, its transducer has a word error rate of {', '.join(found)}; the default has {own:.1f} %."
    )


def vocabulary_limits(tokenizer: Tokenizer, *, has_transducer: bool = True) -> str | None:
    """What sherpa-onnx does not do with a vocabulary, in sentences; None if it does all."""
    sentences = []
    if has_transducer and tokenizer.blank_id != 0:
        sentences.append(f"sherpa-onnx takes id 0 for the blank of a transducer, but here it is {tokenizer.blank_id}.")
    if tokenizer.is_byte_level and not any(_KNOWN_AS_BYTES.search(piece) for piece in tokenizer.pieces):
        sentences.append(
            "sherpa-onnx does not notice that the tokens of this model are bytes, since none is of a three-byte character"
            " or a longer one, and shows letters such as é as two other letters."
        )
    return " ".join(sentences) or None


def describe(
    config: ExportedConfig,
    *,
    limits: str | None = None,
    is_spaceless: bool = False,
    is_byte_level: bool = False,
    can_encode: bool = True,
    has_keywords: bool = False,
) -> str:
    """The text of the README.

    Args:
        config: the exported graphs.
        limits: the result of `sherpa_onnx_limits`.
        is_spaceless: whether the vocabulary is one of characters without spaces.
        is_byte_level: whether its pieces are bytes.
        can_encode: whether texts can be cut into its tokens, as hotwords must be.
        has_keywords: whether there is a file of keywords.
    """
    names = config.files.named()
    is_streaming, has_transducer = config.chunk_frames_50hz is not None, config.files.encoder is not None
    has_vocab = has_transducer and can_encode and not is_spaceless
    words = names | (_STREAMING_WORDS if is_streaming else _OFFLINE_WORDS)
    text = _INTRODUCTION + (_STREAMING_ZIPASR if is_streaming else _ZIPASR)
    if has_transducer:
        text += _TRANSDUCER.format(**words)
    if has_transducer and can_encode:
        unit = "cjkchar" if is_spaceless else "bbpe" if is_byte_level else "bpe"
        text += _HOTWORDS.format(
            unit=unit,
            vocab=f" --bpe-vocab={VOCAB_FILE}" if has_vocab else "",
            letters="Chinese characters (sherpa-onnx cuts others wrongly)" if is_byte_level else "the letters of tokens.txt",
        )
    if has_keywords:
        text += _KEYWORDS.format(**words)
    if limits is not None:
        text += f"\n{limits}\n"
    if config.files.ctc is not None:
        text += _CTC.format(**words)
    if not is_streaming:
        text += _TAIL
    rows = [f"- `{name}`: {_FILES[part]}" for part, name in names.items()]
    rows += [
        "- `tokens.txt`: the vocabulary, for sherpa-onnx",
        *(["- `keywords.txt`: the keywords in tokens, with boosts and thresholds"] if has_keywords else []),
        *([f"- `{VOCAB_FILE}`: scores of its pieces, for hotwords in sherpa-onnx"] if has_vocab else []),
        "- `tokenizer.model`, `export.json`, `checksums.json`: for zipasr",
    ]
    return text + "\n## Files\n\nWeights are " + config.precision + ".\n\n" + "\n".join(rows) + "\n"
