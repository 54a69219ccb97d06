"""`zipasr serve DIR`: a server for recordings and live audio, with a web page to try it."""

import argparse
import dataclasses
import os
import sys

from zipasr.cli.flags import given
from zipasr.cli.keyword_options import add_keyword_file_option
from zipasr.cli.memory import uncollected_imports
from zipasr.cli.model_argument import add_model_argument
from zipasr.cli.search_options import add_chunk_options, add_search_options, add_vad_option, load_recognizer
from zipasr.errors import ConfigError
from zipasr.lines import read_whole

_KEY_VARIABLE = "ZIPASR_API_KEY"


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "serve",
        takes="DIR",
        example="zipasr serve exp/mine --port 8000",
        help="serve a model over HTTP and WebSockets, with a web page",
        description="Serve a model: OpenAI's POST /v1/audio/transcriptions, sherpa-onnx's WebSocket protocols, /health, "
        "/metrics and a web page. Only this machine can connect unless --host says otherwise. After SIGTERM or Ctrl-C, the "
        "server completes accepted requests and exits. See docs/serving.md.",
    )
    add_model_argument(parser)
    parser.add_argument("--host", metavar="ADDRESS", help="address to listen on; 0.0.0.0: all (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on; 0: any free one (default: 6006)")
    parser.add_argument(
        "--api-key-file",
        metavar="FILE",
        help=f"a file with the key that clients must send (default: the variable {_KEY_VARIABLE}, else no key)",
    )
    parser.add_argument("--max-upload-mb", type=float, help="largest request, in MB (default: 500)")
    parser.add_argument("--max-audio-s", type=float, help="longest recording, in seconds (default: 14400)")
    parser.add_argument("--max-connections", type=int, help="most open requests and WebSockets (default: 200)")
    parser.add_argument(
        "--workers", type=int, help="batches computed at once, with the threads of --threads in all (default: 1)"
    )
    parser.add_argument("--max-waiting", type=int, help="most recordings in the queue (default: 64)")
    parser.add_argument(
        "--max-wait-ms",
        type=float,
        help="under load, let live audio wait this long for that of other streams, at most a quarter of a chunk: together "
        "they cost less (default: 40; 0: never)",
    )
    parser.add_argument(
        "--idle-timeout-s",
        type=float,
        help="disconnect clients that send nothing for this many seconds; live audio gets its final text first (default: "
        "60; 0: never)",
    )
    parser.add_argument(
        "--drain-timeout-s", type=float, help="seconds that accepted requests have after SIGTERM (default: 120)"
    )
    _add_recognition_options(parser)
    _add_rare_options(parser)
    add_search_options(parser)
    add_chunk_options(parser, "process live audio in chunks of this length")
    parser.set_defaults(run=run)


def _add_recognition_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--language",
        metavar="CODE",
        help="the model's language, such as en: requests may name no other (default: they may name any)",
    )
    add_vad_option(parser)
    parser.add_argument(
        "--graphs",
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders of compile-graph that requests may name, by the names of the folders: the field graph, or ?graph=NAME "
        "of a WebSocket",
    )


def _add_rare_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags of keywords and of what is in front of the server."""
    add_keyword_file_option(parser, "keywords of the WebSocket /spot for clients that name none")
    parser.add_argument(
        "--allow-origin",
        action="append",
        dest="allow_origins",
        metavar="ORIGIN",
        help="let pages of this origin, such as https://example.org, use the server; may be repeated; *: all "
        "(default: only its own page)",
    )
    parser.add_argument("--root-path", metavar="PATH", help="the path that a proxy publishes the server at, such as /speech")
    parser.add_argument(
        "--forwarded-allow-ips",
        type=lambda text: [part.strip() for part in text.split(",")],
        metavar="IPS",
        help="proxies whose X-Forwarded-Host and -Proto count: addresses and networks with commas between them; *: all "
        "(default: 127.0.0.1,::1)",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until a signal; return the exit code."""
    with uncollected_imports():
        from zipasr.hub import model_name
        from zipasr.progress import write_line
        from zipasr.recognizer import LongRecordingConfig
        from zipasr.search.keywords import read_keywords
        from zipasr.serve import ServeConfig, serve
        from zipasr.serve.server import check_packages

    check_packages()
    settings = given(args, [field.name for field in dataclasses.fields(ServeConfig)])
    if args.keywords is not None:
        settings["keywords"] = read_keywords(args.keywords)
    settings |= {name: tuple(values) for name, values in settings.items() if isinstance(values, list)}
    config = ServeConfig(api_key=_api_key(args.api_key_file), **settings)
    name = model_name(args.model)
    recognizer = load_recognizer(args, long_recordings=LongRecordingConfig(use_vad=args.vad), num_workers=config.workers)

    def on_ready(url: str) -> None:
        print(url, flush=True)
        write_line(f"zipasr: serving {name}; Ctrl-C stops it")

    if not serve(recognizer, config, model_name=name, graphs=args.graphs, on_ready=on_ready):
        print("zipasr: error: some requests could not be completed in time", file=sys.stderr)
        return 1
    return 0


def _api_key(path: str | None) -> str | None:
    """The API key, from a file or the environment: all users of a machine can read command lines."""
    if path is None:
        key = os.environ.get(_KEY_VARIABLE) or None
        return key.strip() if key is not None else None  # one of spaces alone is refused: it lets nobody in
    try:
        return read_whole(path).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--api-key-file must be a file with the API key, but {path} cannot be read: {error}") from error
