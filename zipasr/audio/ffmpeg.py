"""Everything but WAV and FLAC, by PyAV (FFmpeg): blocks (samples,) float32, mono, at the rate of the file."""

import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import av
import numpy as np

from zipasr.audio.samples import Block, check_channel, check_rate, mixed, scaled, truncated
from zipasr.errors import AudioError

PCM_FORMATS = frozenset({"alaw", "mulaw", "s8", "u8"}) | {
    f"{kind}{order}" for kind in ("s16", "s24", "s32", "f32", "f64") for order in ("le", "be")
}
"""Raw mono samples without a header, by FFmpeg's names; `format=` and `sample_rate_hz=` describe them."""
HEADERLESS_FORMATS = PCM_FORMATS | {"g722", "gsm"}
"""All that `format=` accepts. The last two have a fixed rate and are also known by their file names."""

# FFmpeg guesses among hundreds of formats, some of which fetch other files or URLs named inside (HLS, DASH, concat).
# Only formats that carry their own audio are allowed, so an upload cannot make the reader open anything else.
_ALLOWED_CONTAINERS = (
    "3g2,3gp,aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,eac3,flac,flv,m4a,matroska,mj2,mov,mp2,mp3,mp4,mpeg,mpegts,"
    "nistsphere,ogg,tta,voc,w64,wav,webm,wv"
)
_LENGTH_IN_HEADER = frozenset({"aiff", "au", "flac", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "wav"} | HEADERLESS_FORMATS)
# Lossy formats round their stated length to packets (AAC up to 2048 samples) and count encoder delay in it, which
# weighs more in short recordings: the slack is at most half of what is stated.
_LENGTH_SLACK_S = 0.5


@contextmanager
def opened_by_av(
    file: BinaryIO, name: str, headerless: str | None, sample_rate_hz: int | None
) -> Iterator["av.container.InputContainer"]:
    options = {"format_whitelist": headerless or _ALLOWED_CONTAINERS}
    if headerless in PCM_FORMATS:
        options["sample_rate"] = str(sample_rate_hz)
    try:
        container = av.open(file, "r", format=headerless, options=options, metadata_errors="replace")
    except (av.InvalidDataError, av.ArgumentError) as error:
        raise AudioError(
            "Expected a recording (wav, flac, mp3, ogg, opus, m4a, webm, ...) in "
            f"{name}, got an unknown or damaged format that begins {head_of(file)!r}; convert it to WAV or "
            "FLAC, or name a headerless format, for example format='g722'."
        ) from error
    with container:
        yield container


def audio_stream(container: "av.container.InputContainer", name: str) -> "av.AudioStream":
    """The audio track of a file, set up so that damage raises."""
    stream = container.streams.best("audio")
    if stream is None or stream.codec_context is None:  # no context: a codec that this FFmpeg does not know
        raise AudioError(
            f"Expected an audio track of a known codec in {name}, got a {container.format.name} file without one; "
            "export its sound as WAV or FLAC."
        )
    if container.format.name == "flac":
        stream.codec_context.options = {"err_detect": "crccheck+explode"}  # FFmpeg would pass over damaged frames
    return stream


def frames(container: "av.container.InputContainer", stream: "av.AudioStream") -> Iterator["av.AudioFrame"]:
    """Decoded frames. Damage raises, except in mp3, where players step over junk between and after the frames."""
    for packet in container.demux(stream):
        try:
            decoded = packet.decode()
        except av.InvalidDataError:
            if container.format.name != "mp3":
                raise
            continue
        yield from decoded


def av_blocks(
    file: BinaryIO, name: str, headerless: str | None, sample_rate_hz: int | None, channel: int | None
) -> Iterator[Block]:
    """Decoded blocks of a few thousand samples.

    Raises:
        AudioError: no such channel or track, two rates, or at the end fewer samples than promised.
    """
    num_samples = 0
    with opened_by_av(file, name, headerless, sample_rate_hz) as container:
        stream = audio_stream(container, name)
        promised = promised_s(container, stream, file)
        rate_hz = int(stream.rate or 0)
        check_rate(rate_hz, name)
        for frame in frames(container, stream):
            if frame.sample_rate != rate_hz:
                if num_samples:
                    raise AudioError(
                        f"Expected one sample rate in {name}, got {rate_hz} Hz and then {frame.sample_rate} Hz; "
                        "convert it to WAV or FLAC."
                    )
                rate_hz = frame.sample_rate
                check_rate(rate_hz, name)
            samples = _frame_to_mono(frame, channel, name)
            num_samples += samples.size
            yield Block(samples, rate_hz)
        is_mp3 = container.format.name == "mp3"
    found_s = num_samples / rate_hz
    if promised is not None and found_s < promised - min(_LENGTH_SLACK_S, promised / 2):
        raise truncated(name, f"{promised:.2f} s", f"{found_s:.2f} s")
    if num_samples == 0 and is_mp3:
        raise AudioError(f"Expected mp3 frames in {name}, got none that decodes; convert it to WAV or FLAC.")


def head_of(file: BinaryIO) -> bytes:
    """The first bytes of a file, which say what it is."""
    file.seek(0)
    return file.read(12)


def _frame_to_mono(frame: "av.AudioFrame", channel: int | None, name: str) -> np.ndarray:
    num_channels = frame.layout.nb_channels
    check_channel(channel, num_channels, name)
    samples = scaled(frame.to_ndarray())
    return mixed(samples.T if frame.format.is_planar else samples.reshape(-1, num_channels), channel)


def promised_s(container: "av.container.InputContainer", stream: "av.AudioStream", file: BinaryIO) -> float | None:
    """Length in seconds that the header states; None where FFmpeg's figure is only its guess from the bit rate."""
    limit_s = math.inf
    if container.format.name == "mp3":
        # With junk behind the sound FFmpeg mistrusts the header and guesses, so its figure is held against the header.
        limit_s = _xing_length_s(file, stream.rate)
    elif container.format.name not in _LENGTH_IN_HEADER:
        return None
    if limit_s == 0:
        return None
    if stream.duration:
        return min(float(stream.duration * stream.time_base), limit_s)
    if container.duration and len(container.streams) == 1:
        return float(min(container.duration / av.time_base, limit_s))
    return None


def _xing_length_s(file: BinaryIO, rate_hz: int) -> float:
    """Length that the first frame of an mp3 states (Xing or Info tag, flag 1), encoder delay included; 0 without it."""
    resume_at = file.tell()
    head = head_of(file)
    start = 0
    if head[:3] == b"ID3":  # ID3v2: its size as four bytes of seven bits
        start = 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    file.seek(start)
    frame = file.read(64)
    file.seek(resume_at)
    for tag in (b"Xing", b"Info"):
        at = frame.find(tag)
        if at >= 0 and len(frame) >= at + 12:
            flags, num_frames = struct.unpack(">II", frame[at + 4 : at + 12])
            if flags & 1:
                return num_frames * (1152 if rate_hz >= 32_000 else 576) / rate_hz  # MPEG-1 : MPEG-2 and 2.5
    return 0.0
