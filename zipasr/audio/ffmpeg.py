"""Reader for everything but WAV and FLAC, by PyAV (FFmpeg): blocks of frames_TC float32 at the file's rate, placed at their
timestamps.
"""

import contextlib
import logging
import math
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

import av
import numpy as np
from av.stream import Disposition

from zipasr.audio.clock import Clock, places
from zipasr.audio.containers import stated_bytes
from zipasr.audio.decoder import decoder_of, frames_of, packets_of
from zipasr.audio.samples import ALLOW_DAMAGED_CURE, MAX_LEVEL, Block, FileOptions, check_rate, truncated
from zipasr.errors import AudioError

logger = logging.getLogger(__name__)

PCM_FORMATS = frozenset({"alaw", "mulaw", "s8", "u8"}) | {
    f"{kind}{order}" for kind in ("s16", "s24", "s32", "f32", "f64") for order in ("le", "be")
}
"""Raw mono samples without a header, by FFmpeg's names; `format=` and `sample_rate_hz=` describe them."""
HEADERLESS_FORMATS = PCM_FORMATS | {"g722", "gsm"}
"""All values that `format=` accepts. The last two have a fixed rate and are also recognized by their file names."""

# FFmpeg guesses among hundreds of formats, some of which open other files or URLs named inside (HLS, DASH, concat).
# Only formats that contain their own audio are allowed, so that an upload cannot make the reader open anything else.
_ALLOWED_CONTAINERS = (
    "3g2,3gp,aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,eac3,flac,flv,m4a,matroska,mj2,mov,mp2,mp3,mp4,mpeg,mpegts,"
    "nistsphere,ogg,tta,voc,w64,wav,webm,wv"
)
_MATROSKA, _MP4 = "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2"
_LENGTH_IN_HEADER = HEADERLESS_FORMATS | {*("aiff", "ape", "au", "flac", _MATROSKA, _MP4, "nistsphere", "tta", "wav", "wv")}
# Formats that store timestamps. For the others FFmpeg computes them from the bytes or samples before.
_WITH_CLOCK = frozenset({_MATROSKA, _MP4, "mpegts", "mpeg", "ogg", "flv", "asf", "flac"})
# These formats show what a track is only in its first packets. FFmpeg searches the first seconds for them; if it finds none,
# the file is opened again with a search of up to an hour or 64 MB.
_WITHOUT_LIST_OF_TRACKS = frozenset({"mpeg", "mpegts", "flv"})
_LONG_SEARCH = {"analyzeduration": "3600000000", "probesize": "64000000"}
# Lossy formats round their stated length to packets (AAC up to 2048 samples) and count encoder delay in it, which
# weighs more in short recordings: the slack is at most half of what is stated.
_LENGTH_SLACK_S = 0.5
_MAX_FALSE_RATE_S = 0.5
"""Damage imitates the header of a frame now and then; frames of another rate for longer are another recording."""
# The last chunk may be smaller than stated, as where programs count its header twice; 4096 bytes of speech are 0.1 s.
_BYTES_SLACK = 4096


@contextmanager
def opened_track(file: BinaryIO, name: str, headerless: str | None, options: FileOptions) -> Iterator["av.AudioStream"]:
    """The audio track of a number, from 0, or the default one; found even if it starts late. Damage in it raises.

    Raises:
        AudioError: there is no such track, or its codec or the format of the file is unknown.
    """
    settings = {"format_whitelist": headerless or _ALLOWED_CONTAINERS}
    if headerless in PCM_FORMATS:
        settings["sample_rate"] = str(options.sample_rate_hz)
    container = _opened(file, name, headerless, settings)
    if container.format.name in _WITHOUT_LIST_OF_TRACKS and not _is_known(container, options.audio_track):
        container.close()
        file.seek(0)
        container = _opened(file, name, headerless, settings | _LONG_SEARCH)
    with container:
        yield _audio_stream(container, name, options.audio_track)


def _is_known(container: "av.container.InputContainer", track: int | None) -> bool:
    """Whether FFmpeg has found an audio track and its codec parameters."""
    if track is None:
        return container.streams.best("audio") is not None
    tracks = container.streams.audio
    return track < len(tracks) and tracks[track].codec_context is not None and tracks[track].codec_context.channels > 0


def _opened(file: BinaryIO, name: str, headerless: str | None, settings: dict[str, str]) -> "av.container.InputContainer":
    # Before version 19, PyAV refuses a file whose tags are no UTF-8 unless it is told to replace what cannot be decoded.
    tags = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
    try:
        return av.open(file, "r", format=headerless, options=settings, **tags)
    except (av.InvalidDataError, av.ArgumentError) as error:
        raise AudioError(
            f"{name} must be a recording (wav, flac, mp3, ogg, opus, m4a, webm, ...), but has an unknown or damaged format "
            f"that starts with {head_of(file)!r}; convert it to WAV or FLAC, or name a headerless format, for example "
            "format='g722'"
        ) from error


def _audio_stream(container: "av.container.InputContainer", name: str, track: int | None) -> "av.AudioStream":
    tracks = container.streams.audio
    if track is not None and track >= len(tracks):
        raise no_such_track(track, name, [_described(stream) for stream in tracks])
    stream = container.streams.best("audio") if track is None else tracks[track]
    if stream is None or stream.codec_context is None:  # no context: a codec that this FFmpeg does not know
        raise AudioError(
            f"{name} must have an audio track of a known codec, but is a {container.format.name} file without one; export "
            "its audio as WAV or FLAC"
        )
    if stream.codec_context.name == "flac":
        stream.codec_context.options = {"err_detect": "crccheck+explode"}  # by default FFmpeg skips damaged frames silently
    return stream


def no_such_track(track: int, name: str, tracks: Sequence[str]) -> AudioError:
    """The error for an audio track that a file does not have."""
    listed = ", ".join(f"{i} ({described})" for i, described in enumerate(tracks)) or "none"
    return AudioError(f"{name} must have an audio track {track}, but has only these: {listed}; they count from 0")


def _described(stream: "av.AudioStream") -> str:
    context, tags = stream.codec_context, stream.metadata
    words = [context.name if context is not None else "unknown codec"]
    if context is not None:
        words.append("mono" if context.channels == 1 else f"{context.channels} channels")
    words += [tags[tag] for tag in ("language", "title") if tags.get(tag)]
    return ", ".join([*words, "default"] if stream.disposition & Disposition.default else words)


def first_num_channels(stream: "av.AudioStream") -> int:
    """The number of channels of the first frame that decodes; some AAC headers say mono although the audio is stereo."""
    decoder = decoder_of(stream)
    for packet in packets_of(stream.container, [stream]):
        with contextlib.suppress(av.FFmpegError):
            for frame in decoder.decode(packet):
                return int(frame.layout.nb_channels)
    return int(stream.codec_context.channels)


def av_blocks(file: BinaryIO, name: str, headerless: str | None, options: FileOptions) -> Iterator[Block]:
    """Decoded blocks of a few thousand samples, placed at their timestamps, with silence in the gaps.

    Raises:
        AudioError: no such track, two rates, damage, or fewer samples than the header states.
    """
    if headerless is None:
        _check_bytes(file, name, allow_damaged=options.allow_damaged)
    with opened_track(file, name, headerless, options) as stream:
        promised = _promised_s(stream, file)
        check_rate(int(stream.rate or 0), name)
        track = _Track(stream, name, allow_damaged=options.allow_damaged)
        yield from track.blocks()
        clock, found_s = track.clock, track.found_s()
        if clock.num_samples == 0 and track.is_mp3:
            raise AudioError(f"{name} must have mp3 frames, but has none that decodes; convert it to WAV or FLAC")
    if clock.holes:
        logger.warning("%s is damaged; silence replaces what cannot be decoded: %s", name, places(clock.holes))
    if promised is not None and found_s < promised - min(_LENGTH_SLACK_S, promised / 2):
        if not options.allow_damaged:
            raise truncated(name, f"{promised:.2f} s", f"{found_s:.2f} s")
        logger.warning("%s is truncated: it ends at %.2f s of %.2f s", name, found_s, promised)


def _check_bytes(file: BinaryIO, name: str, *, allow_damaged: bool) -> None:
    """Raise AudioError for a file that is smaller than its headers state, or log a warning if damage is allowed."""
    stated = stated_bytes(file)
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if stated is None or size >= stated - _BYTES_SLACK:
        return
    if not allow_damaged:
        raise truncated(name, f"{stated} bytes", f"{size}")
    logger.warning("%s is truncated: it has %d of %d bytes", name, size, stated)


class _Track:
    """Decodes one audio track."""

    def __init__(self, stream: "av.AudioStream", name: str, *, allow_damaged: bool) -> None:
        self._stream, self._name, self._allow_damaged = stream, name, allow_damaged
        self._decoder = decoder_of(stream)
        self._format: str = stream.container.format.name
        self._has_clock = self._format in _WITH_CLOCK
        self.is_mp3 = self._format == "mp3"
        codec = stream.codec_context.codec
        self._is_lossy = codec.lossy and not codec.lossless
        others_start_s = _others_start_s(stream) if self._has_clock else None
        # FFmpeg loses damaged frames of a FLAC file without an error.
        self.clock = Clock(int(stream.rate), name, others_start_s, is_seamless=self._format == "flac")
        self._others_end_s = 0.0

    def blocks(self) -> Iterator[Block]:
        """All blocks up to the end of the track."""
        clock, num_channels, other_rate_s = self.clock, 1, 0.0
        for frame in self._frames():
            frame_s = frame.samples / max(frame.sample_rate, 1)
            if clock.num_samples and frame.sample_rate != clock.rate_hz:
                other_rate_s += frame_s
                if not self._allow_damaged or other_rate_s > _MAX_FALSE_RATE_S:
                    raise AudioError(
                        f"{self._name} must have one sample rate, but has {clock.rate_hz} Hz and then {frame.sample_rate} "
                        "Hz; convert it to WAV or FLAC"
                    )
                clock.lose(frame_s)
                continue
            other_rate_s = 0.0
            check_rate(frame.sample_rate, self._name)
            clock.rate_hz = frame.sample_rate
            num_channels = frame.layout.nb_channels
            frames_TC = frames_of(frame)
            # Damage decodes to noise of any level. Lossless floats that large are 16-bit integers: `check_samples` says so.
            if self._is_lossy and not np.abs(frames_TC).max(initial=0.0) <= MAX_LEVEL:
                if not self._allow_damaged:
                    raise damaged(self._name, clock.now_s, "samples far beyond full scale")
                clock.lose(frame_s)
                continue
            is_timed = self._has_clock and frame.pts is not None
            for placed_TC in clock.place(frames_TC, float(frame.pts * frame.time_base) if is_timed else None):
                if clock.holes and not self._allow_damaged:
                    raise damaged(self._name, clock.holes[0][0], "lost frames")
                yield Block(placed_TC, clock.rate_hz)
        if clock.num_samples and not self.is_mp3:  # data after the last mp3 frame is not audio
            for placed_TC in clock.finish(num_channels):
                yield Block(placed_TC, clock.rate_hz)

    def found_s(self) -> float:
        """Seconds that were found, counted in the same way as `_promised_s`."""
        if _duration_s(self._stream) is not None:
            return (self.clock.num_samples - self.clock.lead_samples) / self.clock.rate_hz
        return max(self.clock.end_s, self.clock.now_s, self._others_end_s)

    def _frames(self) -> Iterator["av.AudioFrame"]:
        """Decoded frames. Damage raises, except in mp3, where players skip junk between and after the frames."""
        for packet in self._packets():
            if self._format == "ogg" and _starts_another(packet):
                self.clock.expect_restart()
            try:
                decoded = self._decoder.decode(packet)
            except av.FFmpegError as error:
                if self._allow_damaged:
                    self.clock.lose(float((packet.duration or 0) * packet.time_base))
                elif not (self.is_mp3 and isinstance(error, av.InvalidDataError)):
                    raise damaged(self._name, self.clock.now_s, reason(error)) from error
                continue
            yield from decoded

    def _packets(self) -> Iterator["av.Packet"]:
        # A Matroska header states the length of the longest stream, so the other streams are read too.
        container = self._stream.container
        try:
            for packet in packets_of(container, list(container.streams) if self._format == _MATROSKA else [self._stream]):
                if packet.stream.index == self._stream.index:
                    yield packet
                elif packet.pts is not None:
                    end_s = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                    self._others_end_s = max(self._others_end_s, end_s)
        except av.FFmpegError as error:
            if not self._allow_damaged:
                raise damaged(self._name, self.clock.now_s, reason(error)) from error
            self.clock.lose(0.0)


def _starts_another(packet: "av.Packet") -> bool:
    """Whether a packet of an Ogg file comes with the tags of another recording, joined to the one before.

    FFmpeg may give the time of that recording, instead of going on with that before, only from its second page.
    """
    return bool(packet.has_sidedata("strings_metadata"))


def _others_start_s(stream: "av.AudioStream") -> float | None:
    """Timestamp at which video and other audio tracks start, without cover pictures; None: there are none.

    Together with the first decoded frame it gives the start of the container. FFmpeg's own value includes the encoder
    delay of some formats.
    """
    streams = stream.container.streams
    starts = [
        float(other.start_time * other.time_base)
        for other in (*streams.video, *streams.audio)
        if other.index != stream.index and other.start_time is not None and not other.disposition & Disposition.attached_pic
    ]
    return min(starts, default=None)


def damaged(name: str, at_s: float, what: str) -> AudioError:
    """The error for a recording that cannot be decoded to its end."""
    return AudioError(
        f"{name} must be a whole recording, but has damaged data at {at_s:.2f} s ({what}); copy it again{ALLOW_DAMAGED_CURE}"
    )


def reason(error: Exception) -> str:
    """The message of an error that a library raised, or the name of its type."""
    text = getattr(error, "strerror", None) or getattr(error, "error_string", None) or str(error)
    return str(text).strip().rstrip(".") or type(error).__name__


def head_of(file: BinaryIO) -> bytes:
    """The first 12 bytes of a file, which identify its format."""
    file.seek(0)
    return file.read(12)


def _promised_s(stream: "av.AudioStream", file: BinaryIO) -> float | None:
    """Length in seconds that the header states; None where FFmpeg only estimates it from the bit rate."""
    container, limit_s = stream.container, math.inf
    if container.format.name == "mp3":
        # With junk after the audio FFmpeg ignores the header and estimates the length, so the header's length bounds it.
        limit_s = _xing_length_s(file, stream.rate)
    elif container.format.name not in _LENGTH_IN_HEADER:
        return None
    if limit_s == 0:
        return None
    duration_s = _duration_s(stream)
    if duration_s is not None:
        return min(duration_s, limit_s)
    if container.duration and (len(container.streams) == 1 or container.format.name == _MATROSKA):
        return float(min(container.duration / av.time_base, limit_s))
    return None


def _duration_s(stream: "av.AudioStream") -> float | None:
    """Length of a single track from its start; None: the header does not state it.

    Matroska never does. FFmpeg then gives the length of the file to a track whose first packet comes late.
    """
    if not stream.duration or stream.container.format.name == _MATROSKA:
        return None
    duration_s, start_s = float(stream.duration * stream.time_base), _start_s(stream)
    index = stream.index_entries
    if start_s <= 0 or stream.container.format.name != _MP4 or not len(index):
        return duration_s
    # Where the edit list of an MP4 file delays a track and cuts it too, FFmpeg states the length before the cut, or adds the
    # delay. The table of packets ends where the track does; that of a fragmented file may be incomplete.
    end_s = float(index[-1].timestamp * stream.time_base)
    return max(duration_s - start_s, min(duration_s, end_s - start_s))


def _start_s(stream: "av.AudioStream") -> float:
    return float((stream.start_time or 0) * stream.time_base)


def stated_duration_s(stream: "av.AudioStream", file: BinaryIO) -> float | None:
    """Length of the track on the timeline, including silence before it, as the header states it; None: it does not."""
    container, promised = stream.container, _promised_s(stream, file)
    if promised is None or container.format.name not in _WITH_CLOCK:
        return promised
    start_s = _start_s(stream)
    others_start_s = _others_start_s(stream)
    if _duration_s(stream) is None:  # Matroska counts from 0 to the end of the longest stream
        return promised - start_s if len(container.streams) == 1 else None
    return promised + max(0.0, start_s - others_start_s) if others_start_s is not None else promised


def _xing_length_s(file: BinaryIO, rate_hz: int) -> float:
    """Length that the first frame of an mp3 states (Xing or Info tag, flag 1), including encoder delay; 0 without it."""
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
