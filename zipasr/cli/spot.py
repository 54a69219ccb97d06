"""`zipasr spot DIR --keywords FILE AUDIO...`: where keywords were said in recordings, a pipe or a microphone."""

import argparse
import io
import json
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, cast

from zipasr.cli.device_options import add_device_option, add_precision_option
from zipasr.cli.keyword_options import add_keyword_file_option, add_spotter_options, make_spotter, spotter_config
from zipasr.cli.model_argument import add_model_argument, fetch_model
from zipasr.cli.recordings import add_file_options, expand_folders, report_failure
from zipasr.cli.search_options import add_chunk_options, chunk_config
from zipasr.cli.threads import add_threads_option, use_threads
from zipasr.errors import AudioError, ConfigError

if TYPE_CHECKING:
    import numpy as np

    from zipasr.recognizer import KeywordEvent, KeywordSpotter

_RATE_HZ = 16_000
_PIECE_S = 0.1
"""Audio of a pipe or a microphone that is received at once."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "spot",
        takes="DIR --keywords FILE [AUDIO...]",
        example="zipasr spot exp/mine --keywords keywords.txt --microphone",
        help="find keywords in recordings or live audio",
        description="Print a line for each keyword as soon as it is found: seconds from the start of the audio, the keyword "
        "and its score, after the name of the recording if there are several. The model must be a causal transducer. A "
        "recording that cannot be read is reported and skipped; the exit code is then 1.",
    )
    add_model_argument(parser)
    parser.add_argument(
        "audio",
        metavar="AUDIO",
        nargs="*",
        default=[],
        help="recordings of any format and length, or folders of them; -: raw 16-bit mono samples on the standard input, "
        "processed as they come",
    )
    add_keyword_file_option(parser, "keywords", is_required=True)
    parser.add_argument("--microphone", action="store_true", help="process the audio of the microphone until Ctrl-C")
    parser.add_argument(
        "--sample-rate", type=int, metavar="HZ", help=f"rate of the samples on the standard input (default: {_RATE_HZ})"
    )
    add_spotter_options(parser)
    parser.add_argument(
        "--max-symbols-per-frame",
        type=int,
        help="tokens that a frame of 40 ms may emit (default: as many as the model's default search)",
    )
    parser.add_argument(
        "--near",
        type=float,
        nargs="?",
        const=0.5,
        metavar="SHARE",
        help="also report near misses, whose score is at least this share of the threshold (without a number: 0.5)",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object for each event")
    add_file_options(parser)
    add_chunk_options(parser, "process audio in chunks of this length: shorter ones report earlier, with more errors")
    add_device_option(parser)
    add_precision_option(parser)
    add_threads_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the events; return the exit code."""
    from zipasr.recognizer import Recognizer

    paths = expand_folders(args.audio)
    if args.microphone == bool(paths):
        found = "both are given" if paths else "there is neither"
        raise ConfigError(f"the audio must be recordings or --microphone, but {found}; name files, or - for raw samples")
    if args.sample_rate is not None and "-" not in paths:
        raise ConfigError(
            "--sample-rate is for raw samples on the standard input, but - is not given; files state their own"
        )
    if (args.audio_track is not None or args.allow_damaged) and all(path == "-" for path in paths):
        flag = "--allow-damaged" if args.audio_track is None else "--audio-track"
        raise ConfigError(f"{flag} is for files, but there is only live audio; name files, or leave it out")
    _rate_hz(args)
    spotter_config(args)  # misuse is reported before work starts
    chunks = chunk_config(args, simulate_streaming=False)
    fetch_model(args)
    use_threads(args.model, args.threads)
    recognizer = Recognizer.load(args.model, device=args.device, precision=args.precision, chunks=chunks)
    spotter = make_spotter(args, recognizer)
    if args.microphone:
        _print_events(spotter, _microphone(), _RATE_HZ, name=None, is_json=args.json, is_live=True)
        return 0
    num_failed = 0
    for path in paths:
        name = path if len(paths) > 1 else None
        try:
            _spot(args, spotter, path, name)
        except AudioError as error:
            num_failed += 1
            report_failure(path, str(error), is_json=args.json)
    return 1 if num_failed else 0


def _rate_hz(args: argparse.Namespace) -> int:
    """The rate of the samples on the standard input.

    Raises:
        ConfigError: no audio has such a rate.
    """
    from zipasr.audio.samples import MAX_RATE_HZ, MIN_RATE_HZ

    rate_hz = _RATE_HZ if args.sample_rate is None else int(args.sample_rate)
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise ConfigError(f"--sample-rate must be from {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz, but is {rate_hz}")
    return rate_hz


def _spot(args: argparse.Namespace, spotter: "KeywordSpotter", path: str, name: str | None) -> None:
    """Print the events of a recording."""
    from zipasr.audio import read_blocks

    if path == "-":
        rate_hz = _rate_hz(args)
        _print_events(spotter, _raw_samples(rate_hz), rate_hz, name=name, is_json=args.json, is_live=True)
        return
    blocks = read_blocks(path, audio_track=args.audio_track, allow_damaged=args.allow_damaged)
    _print_events(spotter, blocks, _RATE_HZ, name=name, is_json=args.json)


def _print_events(
    spotter: "KeywordSpotter",
    pieces: "Iterable[np.ndarray]",
    rate_hz: int,
    *,
    name: str | None,
    is_json: bool,
    is_live: bool = False,
) -> None:
    """Print the events of a stream as they are found; live audio may be ended by Ctrl-C."""
    stream = spotter.stream()
    try:
        for samples in pieces:
            try:
                stream.accept_waveform(samples, rate_hz)
            except ValueError as error:
                raise AudioError(f"{name or 'the audio'} cannot be used: {error}") from error
            stream.decode()
            _write(stream.events(), name, is_json=is_json)
    except KeyboardInterrupt:
        if not is_live:
            raise  # else what was said until then counts
    _write(stream.finish(), name, is_json=is_json)


def _write(events: "Iterable[KeywordEvent]", name: str | None, *, is_json: bool) -> None:
    for event in events:
        if is_json:
            line = json.dumps(({} if name is None else {"audio": name}) | event.to_dict(), ensure_ascii=False)
        else:
            prefix = "" if name is None else f"{name}: "
            near = f" (near miss, threshold {event.threshold:g})" if event.is_near else ""
            line = f"{prefix}{event.start_s:.2f} {event.keyword} {event.score:.3f}{near}"
        print(line, flush=True)


def _raw_samples(rate_hz: int) -> "Iterator[np.ndarray]":
    """16-bit samples of the standard input, as they come."""
    import numpy as np

    from zipasr.audio import standard_input

    rest = b""
    stdin = cast(io.BufferedReader, standard_input("the standard input"))
    while content := stdin.read1(2 * round(_PIECE_S * rate_hz)):
        content = rest + content
        num_bytes = len(content) // 2 * 2
        rest = content[num_bytes:]
        yield np.frombuffer(content[:num_bytes], "<i2")


def _microphone() -> "Iterator[np.ndarray]":
    """Samples of the default microphone, until it is interrupted.

    Raises:
        ConfigError: sounddevice is not installed, or there is no microphone.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: the library PortAudio is missing
        raise ConfigError(
            f"--microphone needs sounddevice, but it cannot be loaded: {error}; pip install "
            '"zipasr[microphone]", and on Linux the library PortAudio (libportaudio2)'
        ) from error
    try:
        with sounddevice.InputStream(samplerate=_RATE_HZ, channels=1, dtype="float32") as device:
            print("zipasr: the microphone is on; Ctrl-C stops", file=sys.stderr)
            while True:
                samples, _ = device.read(round(_PIECE_S * _RATE_HZ))
                yield samples[:, 0]
    except sounddevice.PortAudioError as error:
        raise ConfigError(f"there must be a microphone of {_RATE_HZ} Hz, but it cannot be opened: {error}") from error
