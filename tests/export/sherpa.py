"""What sherpa-onnx and our PyTorch searches return for recordings, from exported folders and from the models behind them.

Folders of other projects are read too.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sherpa_onnx
from onnx import TensorProto, helper, numpy_helper

from zipasr.model import AsrModel, resolve_model_folder
from zipasr.onnx_runtime import ExportedFiles, GraphFiles, find_foreign, load
from zipasr.recognizer import Recognizer, SearchConfig
from zipasr.transcript import Transcript

SEARCHES = {"greedy": "greedy_search", "beam": "modified_beam_search", "ctc_greedy": ""}


def graph_files(folder: Path) -> ExportedFiles | GraphFiles:
    """The names of the graphs of a folder."""
    return find_foreign(folder) or load(folder).scorer.config.files


def sherpa_results(folder: Path, recordings: Sequence[np.ndarray], method: str, **hotwords: Any) -> list[Any]:
    """sherpa-onnx's results for recordings at 16 kHz with an exported folder.

    `method` is one of `SEARCHES`; `hotwords` are arguments of `from_transducer`.
    """
    files, tokens = graph_files(folder), str(folder / "tokens.txt")
    if method == "ctc_greedy":
        recognizer = sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(model=str(folder / str(files.ctc)), tokens=tokens)
    else:
        recognizer = sherpa_onnx.OfflineRecognizer.from_transducer(
            encoder=str(folder / str(files.encoder)),
            decoder=str(folder / str(files.decoder)),
            joiner=str(folder / str(files.joiner)),
            tokens=tokens,
            decoding_method=SEARCHES[method],
            **hotwords,
        )
    results = []
    for samples in recordings:
        stream = recognizer.create_stream()
        stream.accept_waveform(16_000, samples)
        recognizer.decode_stream(stream)
        results.append(stream.result)
    return results


def transcribe_with_sherpa(folder: Path, recordings: Sequence[np.ndarray], method: str) -> list[str]:
    """The texts of `sherpa_results`."""
    return [result.text.strip() for result in sherpa_results(folder, recordings, method)]


def transcribe_as_sherpa(model_dir: Path, recordings: Sequence[np.ndarray], method: str) -> list[str]:
    """The texts that our search finds with PyTorch without padding after a recording, as in sherpa-onnx."""
    return [transcript.text for transcript in transcripts_without_padding(model_dir, recordings, method)]


def transcripts_without_padding(model_dir: Path, recordings: Sequence[np.ndarray], method: str) -> list[Transcript]:
    """The transcripts of `transcribe_as_sherpa`."""
    model, tokenizer = AsrModel.load(resolve_model_folder(model_dir))
    search = SearchConfig(method=method)  # type: ignore[arg-type]
    recognizer = Recognizer(model, tokenizer, search=search, tail_padding_frames=0, use_true_times=False)
    return [recognizer.transcribe(samples) for samples in recordings]


def sherpa_tokens(recognizer: sherpa_onnx.OnlineRecognizer, recordings: Sequence[np.ndarray]) -> list[list[str]]:
    """Tokens of recordings that arrive in pieces of 0.1 s, their chunks decoded in batches."""
    streams = [recognizer.create_stream() for _ in recordings]
    for start in range(0, max(map(len, recordings)), 1600):
        for stream, samples in zip(streams, recordings, strict=True):
            stream.accept_waveform(16_000, samples[start : start + 1600])
        while ready := [stream for stream in streams if recognizer.is_ready(stream)]:
            recognizer.decode_streams(ready)
    for stream in streams:
        stream.input_finished()
    while ready := [stream for stream in streams if recognizer.is_ready(stream)]:
        recognizer.decode_streams(ready)
    return [recognizer.tokens(stream) for stream in streams]


def sherpa_recognizer(folder: Path, method: str) -> sherpa_onnx.OnlineRecognizer:
    """The real sherpa-onnx on streaming graphs; `method` is greedy, beam or ctc_greedy."""
    files, tokens = graph_files(folder), str(folder / "tokens.txt")
    if method == "ctc_greedy":
        return sherpa_onnx.OnlineRecognizer.from_zipformer2_ctc(model=str(folder / str(files.ctc)), tokens=tokens)
    return sherpa_onnx.OnlineRecognizer.from_transducer(
        encoder=str(folder / str(files.encoder)),
        decoder=str(folder / str(files.decoder)),
        joiner=str(folder / str(files.joiner)),
        tokens=tokens,
        decoding_method={"greedy": "greedy_search", "beam": "modified_beam_search"}[method],
    )


def constant_ctc_graph(log_probs_TV: np.ndarray) -> bytes:
    """A CTC graph with these scores for every recording."""
    num_frames, vocab_size = log_probs_TV.shape
    constants = {
        "constant": log_probs_TV[None].astype(np.float32),
        "zero": np.zeros((), np.float32),
        "len": np.array([num_frames], np.int64),
    }
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Add", ["constant", "nothing"], ["log_probs"]),
        helper.make_node("Identity", ["len"], ["log_probs_len"]),
    ]
    float32, int64 = TensorProto.FLOAT, TensorProto.INT64
    graph = helper.make_graph(
        nodes,
        "constant",
        [helper.make_tensor_value_info("x", float32, ["N", "T", 80]), helper.make_tensor_value_info("x_lens", int64, ["N"])],
        [
            helper.make_tensor_value_info("log_probs", float32, ["N", "U", vocab_size]),
            helper.make_tensor_value_info("log_probs_len", int64, ["N"]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, {"model_type": "zipformer2_ctc", "version": "1", "model_author": "", "comment": ""})
    content: bytes = model.SerializeToString()
    return content


def sherpa_spotter(folder: Path, **settings: Any) -> sherpa_onnx.KeywordSpotter:
    """The keyword spotter of the real sherpa-onnx on streaming graphs and their keywords; `settings` are its arguments."""
    files = graph_files(folder)
    return sherpa_onnx.KeywordSpotter(
        tokens=str(folder / "tokens.txt"),
        encoder=str(folder / str(files.encoder)),
        decoder=str(folder / str(files.decoder)),
        joiner=str(folder / str(files.joiner)),
        keywords_file=str(folder / "keywords.txt"),
        num_threads=1,
        **settings,
    )


def sherpa_events(spotter: sherpa_onnx.KeywordSpotter, samples: np.ndarray) -> list[tuple[str, tuple[float, ...]]]:
    """The keywords that sherpa-onnx spots in a recording, and the times of their tokens.

    Streams are not reset after an event, which would clear the encoder's state too. Of several events in a chunk it shows
    the last one.
    """
    stream = spotter.create_stream()
    found: list[tuple[str, tuple[float, ...]]] = []
    stream.accept_waveform(16_000, samples)
    stream.input_finished()
    while spotter.is_ready(stream):
        spotter.decode_stream(stream)
        result = spotter.keyword_spotter.get_result(stream)
        event = (result.keyword, tuple(round(time_s, 2) for time_s in result.timestamps))
        if result.keyword and found[-1:] != [event]:
            found.append(event)
    return found
