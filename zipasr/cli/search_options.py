"""The flags that all verbs with a recognizer share, and the recognizer that they configure."""

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from zipasr.cli.device_options import add_device_option, add_precision_option
from zipasr.cli.flags import given, refuse_without
from zipasr.cli.model_argument import fetch_model
from zipasr.cli.threads import add_threads_option, divide_threads, use_threads
from zipasr.errors import ConfigError

if TYPE_CHECKING:
    from zipasr.recognizer import ChunkConfig, LongRecordingConfig, Recognizer
    from zipasr.search.strategy import SearchConfig


def add_search_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the search, the device, the precision and the threads to a verb."""
    parser.add_argument(
        "--search",
        choices=("auto", "beam", "greedy", "ctc_greedy", "ctc_beam", "joint", "attention_rescoring", "graph", "ctc_graph"),
        default="auto",
        metavar="METHOD",
        help="beam or greedy (transducer head), ctc_beam or ctc_greedy (CTC head), joint (both heads), attention_rescoring; "
        "with --graph graph (transducer head) or ctc_graph (CTC head); or auto (default): the default search of the model, "
        "saved by train or evaluate --save, else beam for a transducer head, attention_rescoring for an attention decoder, "
        "ctc_greedy for others (ctc_beam if a flag below needs it)",
    )
    parser.add_argument("--beam", type=int, help="beam size: hypotheses that a beam search keeps (default: 4)")
    parser.add_argument(
        "--max-symbols-per-frame",
        type=int,
        help="tokens that beam and greedy may emit per frame of 40 ms; try more if words are missing (default: 1)",
    )
    parser.add_argument(
        "--ctc-scale", type=float, help="weight of the CTC head in joint, relative to 1 for the transducer (default: 0.3)"
    )
    parser.add_argument(
        "--attention-scale",
        type=float,
        help="weight of the attention decoder in attention_rescoring, relative to 1 for CTC (default: 1)",
    )
    parser.add_argument(
        "--blank-penalty",
        type=float,
        help="subtracted from the score of blank; positive values reduce deletions (default: 0)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        help="divides the scores before they become probabilities; above 1 a beam search trusts the model less (default: 1)",
    )
    parser.add_argument(
        "--hotwords",
        metavar="FILE",
        help="file of phrases to prefer, one per line in plain words, optionally followed by ` :BOOST`",
    )
    parser.add_argument(
        "--hotword-boost",
        type=float,
        help="boost in nats per token, for hotwords without a boost of their own (default: 1.5)",
    )
    _add_graph_options(parser)
    _add_language_model_options(parser)
    add_device_option(parser)
    add_precision_option(parser)
    add_threads_option(parser)


def _add_language_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lm", metavar="PATH", help="language model: a file or folder of train-lm, hf:OWNER/NAME, or an ARPA file"
    )
    parser.add_argument("--lm-scale", type=float, help="weight of --lm (default: 0.3)")
    parser.add_argument(
        "--ngram-scale",
        type=float,
        help="weight of the n-gram of the training texts that train puts into the folder of a model (default: 0, or that of "
        "its default search)",
    )
    parser.add_argument(
        "--lodr",
        metavar="FILE",
        help="token n-gram of train-lm or in ARPA format, whose scores are subtracted, to discount what the transducer "
        "knows of language",
    )
    parser.add_argument("--lodr-scale", type=float, help="weight of --lodr, 0 or below (default: -0.15)")


def _add_graph_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--graph",
        metavar="DIR",
        help="folder of compile-graph: allow only what its grammar or lexicon allows; the answer to anything else is "
        "nothing, if the graph has a threshold",
    )
    parser.add_argument(
        "--graph-beam-nats", type=float, help="paths through --graph to keep, below the best by X (default: 20)"
    )
    parser.add_argument("--max-states", type=int, help="states of --graph to keep per frame (default: 1000)")
    parser.add_argument("--max-contexts", type=int, help="label contexts to score per frame with --graph (default: 8)")


def add_vad_option(parser: argparse.ArgumentParser) -> None:
    """Add `--vad` to a verb."""
    parser.add_argument(
        "--vad",
        action=argparse.BooleanOptionalAction,
        help="split recordings longer than 30 s at pauses and skip silence (default: do so if silero-vad is installed)",
    )


def add_chunk_options(parser: argparse.ArgumentParser, what: str) -> None:
    """Add `--chunk-ms`, with `what` as its help, and `--left-context-ms` to a verb."""
    parser.add_argument("--chunk-ms", type=int, help=f"{what}; for causal models, such as 320")
    parser.add_argument(
        "--left-context-ms",
        type=int,
        help="with --chunk-ms: left context before a chunk (default: the one of training that is nearest to 2560)",
    )


def chunk_config(args: argparse.Namespace, *, simulate_streaming: bool) -> "ChunkConfig | None":
    """The chunk configuration of the flags; None without `--chunk-ms`.

    Raises:
        ConfigError: a value is not a positive multiple of a frame, or there is a left context without a chunk.
    """
    from zipasr.recognizer.chunks import ChunkConfig, frames_50hz

    chunk_ms, left_context_ms = args.chunk_ms, args.left_context_ms
    if chunk_ms is None:
        if left_context_ms is not None:
            raise ConfigError("--left-context-ms has no effect without --chunk-ms; give that too, or leave it out")
        return None
    return ChunkConfig(
        chunk_frames_50hz=frames_50hz(chunk_ms, name="--chunk-ms"),
        left_context_frames_50hz=None if left_context_ms is None else frames_50hz(left_context_ms, name="--left-context-ms"),
        simulate_streaming=simulate_streaming,
    )


def search_config(args: argparse.Namespace) -> "SearchConfig":
    """The search configuration of the flags.

    Raises:
        ConfigError: a value is out of range, or a flag has no effect on the chosen search.
    """
    from zipasr.search.strategy import SearchConfig

    refuse_without(args, "lm", "lm_scale")
    refuse_without(args, "lodr", "lodr_scale")
    refuse_without(args, "hotwords", "hotword_boost")
    refuse_without(args, "graph", "graph_beam_nats", "max_states", "max_contexts")
    return SearchConfig(method=args.search, **_given(args))


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of `SearchConfig` that flags set, without the method."""
    from zipasr.search.strategy import SearchConfig

    return given(args, [field.name for field in dataclasses.fields(SearchConfig)])


def load_recognizer(
    args: argparse.Namespace,
    *,
    long_recordings: "LongRecordingConfig | None" = None,
    simulate_streaming: bool = False,
    num_workers: int = 1,
) -> "Recognizer":
    """The recognizer of the argument DIR, configured by the flags.

    Args:
        args: the parsed command line; a reference to the hub in it becomes a local folder.
        long_recordings: how to split recordings that are too long to transcribe at once.
        simulate_streaming: whether whole recordings are processed in the chunks of the flags too.
        num_workers: threads of `--workers` that will run the model; they share those of `--threads`.

    Raises:
        ConfigError: flags contradict each other or the model, or the hotwords cannot be used.
        CheckpointError: the model cannot be read.
        DataError: an ARPA file cannot be read.
    """
    from zipasr.recognizer import Recognizer
    from zipasr.search.hotwords import read_hotwords

    search = search_config(args)
    fetch_model(args)
    num_threads = args.threads
    if num_workers > 1:
        num_threads = divide_threads(args.model, num_workers, num_threads, flag="--workers")
    use_threads(args.model, num_threads)
    return Recognizer.load(
        args.model,
        device=args.device,
        precision=args.precision,
        search=search,
        explicit=_given(args),
        lm=args.lm,
        lodr=args.lodr,
        hotwords=read_hotwords(args.hotwords) if args.hotwords is not None else (),
        graph=args.graph,
        long_recordings=long_recordings,
        chunks=chunk_config(args, simulate_streaming=simulate_streaming),
    )
