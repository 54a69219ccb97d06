"""The README of an exported folder: what its files are, and the commands that run them."""

from zipasr.onnx_runtime import ExportedConfig
from zipasr.search.strategy import SearchConfig

_INTRODUCTION = """# A speech recogniser in ONNX

Written by `zipasr export`. Everything needed is in this folder. Sound is 16 kHz mono.
"""
_ZIPASR = """
With zipasr (all searches, hotwords, word times):

    pip install "zipasr[onnx]"
    zipasr transcribe . audio.wav
"""
_STREAMING_ZIPASR = """
With zipasr (all searches, hotwords; a server with a page for live sound):

    pip install "zipasr[onnx,serve]"
    zipasr transcribe . audio.wav
    zipasr serve .
"""
_TRANSDUCER = """
With sherpa-onnx (`pip install sherpa-onnx sherpa-onnx-bin`), the transducer:

    sherpa-onnx-offline --tokens=tokens.txt --encoder={encoder} --decoder={decoder} \\
      --joiner={joiner} --decoding-method=modified_beam_search audio.wav

In Python:

    sherpa_onnx.OfflineRecognizer.from_transducer(
        encoder="{encoder}", decoder="{decoder}", joiner="{joiner}",
        tokens="tokens.txt", decoding_method="modified_beam_search",
    )
"""
_CTC = """
With sherpa-onnx (`pip install sherpa-onnx sherpa-onnx-bin`), the CTC head:

    sherpa-onnx-offline --tokens=tokens.txt --zipformer-ctc-model={ctc} audio.wav

In Python:

    sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(model="{ctc}", tokens="tokens.txt")
"""
_STREAMING_TRANSDUCER = """
With sherpa-onnx (`pip install sherpa-onnx sherpa-onnx-bin`), the transducer, chunk by chunk:

    sherpa-onnx --tokens=tokens.txt --encoder={encoder} --decoder={decoder} \\
      --joiner={joiner} --decoding-method=modified_beam_search audio.wav

In Python:

    sherpa_onnx.OnlineRecognizer.from_transducer(
        encoder="{encoder}", decoder="{decoder}", joiner="{joiner}",
        tokens="tokens.txt", decoding_method="modified_beam_search",
    )
"""
_STREAMING_CTC = """
With sherpa-onnx (`pip install sherpa-onnx sherpa-onnx-bin`), the CTC head, chunk by chunk:

    sherpa-onnx --tokens=tokens.txt --zipformer2-ctc-model={ctc} audio.wav

In Python:

    sherpa_onnx.OnlineRecognizer.from_zipformer2_ctc(model="{ctc}", tokens="tokens.txt")
"""
_TAIL = """
sherpa-onnx does not pad what it hears, zipasr does: add 0.3 s of silence to a recording that ends with its last word.
"""
_FILES = {
    "encoder": "the encoder, with the joiner's projection of its frames",
    "decoder": "the predictor, with the joiner's projection",
    "joiner": "the joiner",
    "ctc": "encoder and CTC head in one",
    "ctc_head": "the CTC head alone, on frames that `encoder` computes inside; zipasr finds the times of words with it",
}


def sherpa_onnx_limits(config: ExportedConfig, search: SearchConfig) -> str | None:
    """What sherpa-onnx cannot do of the search that suits a model, in sentences for people; None if nothing is lost.

    Args:
        config: the exported graphs.
        search: the search that suits the model, as the run that trained it or its user chose.
    """
    if config.files.encoder is None or search.max_symbols_per_frame == 1:
        return None
    num_symbols = search.max_symbols_per_frame
    text = (
        f"The best search of this model emits up to {num_symbols} tokens in a frame of 40 ms. zipasr does so with "
        f"`--max-symbols-per-frame {num_symbols}`; sherpa-onnx emits one at most, so with the transducer it may leave words "
        "out."
    )
    return text + (" Its CTC head has no such limit." if config.files.ctc is not None else "")


def describe(config: ExportedConfig, *, search: SearchConfig | None = None) -> str:
    """The text of the README.

    Args:
        config: the exported graphs.
        search: the search that suits the model; where sherpa-onnx has none like it, the text says so. None: not known.
    """
    names: dict[str, str | None] = vars(config.files)
    is_streaming = config.chunk_frames_50hz is not None
    text = _INTRODUCTION + (_STREAMING_ZIPASR if is_streaming else _ZIPASR)
    if config.files.encoder is not None:
        text += (_STREAMING_TRANSDUCER if is_streaming else _TRANSDUCER).format(**names)
    if search is not None and (limits := sherpa_onnx_limits(config, search)) is not None:
        text += f"\n{limits}\n"
    if config.files.ctc is not None:
        text += (_STREAMING_CTC if is_streaming else _CTC).format(**names)
    if not is_streaming:
        text += _TAIL
    rows = [f"- `{name}`: {_FILES[part]}" for part, name in names.items() if name is not None]
    rows += [
        "- `tokens.txt`: the vocabulary, for sherpa-onnx",
        "- `tokenizer.model`, `export.json`, `checksums.json`: for zipasr",
    ]
    return text + "\n## Files\n\nWeights are " + config.precision + ".\n\n" + "\n".join(rows) + "\n"
