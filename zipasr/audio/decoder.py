"""Packets -> frames -> samples: the decoder of a track that FFmpeg opened, and frames_TC float32 from what it decodes."""

from collections.abc import Iterator, Sequence
from contextlib import suppress

import av
import numpy as np

from zipasr.audio.samples import scaled

_REFERENCE_OPUS, _OPUS_RATE_HZ = "libopus", 48_000
_SAMPLE_TYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "flt": "f4", "dbl": "f8"}
"""NumPy's types of FFmpeg's packed sample formats."""
_UNMARKED_PLANES = 8
"""From so many planes on, FFmpeg does not mark their end."""


class _ReferenceOpus:
    """Decodes the packets of an Opus track by libopus.

    FFmpeg's own decoder makes some valid files of speech at 32 kbit/s thousands of times as loud for an instant, and what it
    decodes from low rates is up to two samples late.
    """

    def __init__(self, own: "av.AudioCodecContext") -> None:
        self._context = av.AudioCodecContext.create(_REFERENCE_OPUS, "r")
        self._context.extradata, self._context.options = own.extradata, {"request_sample_fmt": "flt"}
        self._skipped_samples = 0

    def decode(self, packet: "av.Packet") -> list["av.AudioFrame"]:
        """The frames of a packet. Those that lost samples to the delay of the encoder start when what is left starts.

        FFmpeg moves the timestamps itself if it knows the time base of the packets, which PyAV cannot tell this decoder.
        """
        if packet.has_sidedata("skip_samples"):
            self._skipped_samples += int.from_bytes(bytes(packet.get_sidedata("skip_samples"))[:4], "little")
        frames = self._context.decode(packet)
        if self._skipped_samples and packet.duration:
            step_samples = float(packet.time_base * _OPUS_RATE_HZ)
            missing = round(packet.duration * step_samples) - sum(frame.samples for frame in frames)
            skipped = min(self._skipped_samples, max(0, missing))
            self._skipped_samples -= skipped
            for frame in frames[:1]:
                if frame.pts is not None:
                    frame.pts += round(skipped / step_samples)
        return list(frames)


def decoder_of(stream: "av.AudioStream") -> "_ReferenceOpus | av.AudioCodecContext":
    """The decoder of a track: FFmpeg's own, but the reference decoder for Opus where this FFmpeg contains it."""
    own = stream.codec_context
    return _ReferenceOpus(own) if own.name == "opus" and _REFERENCE_OPUS in av.codecs_available else own


def packets_of(container: "av.container.InputContainer", streams: Sequence["av.stream.Stream"]) -> Iterator["av.Packet"]:
    """The packets of some tracks, and an empty one for each at the end.

    If FFmpeg finds another track while it reads, such as a video that starts late, PyAV ends with an IndexError.
    """
    with suppress(IndexError):
        yield from container.demux(list(streams))


def frames_of(frame: "av.AudioFrame") -> np.ndarray:
    """The samples of a decoded frame as frames_TC float32.

    PyAV's own `to_ndarray` and `planes` read planes up to a null pointer. From eight planes on FFmpeg puts none: version 18
    crashes the process, and version 19 raises ValueError.

    Raises:
        ValueError: the samples are integers of 64 bits.
    """
    num_channels = frame.layout.nb_channels
    if not frame.format.is_planar:
        return scaled(frame.to_ndarray()).reshape(-1, num_channels)
    if num_channels < _UNMARKED_PLANES:
        return scaled(frame.to_ndarray()).T
    kind = frame.format.packed.name
    if kind not in _SAMPLE_TYPES:
        raise ValueError(f"samples must be {', '.join(_SAMPLE_TYPES)}, but are {kind}")
    planes = [av.audio.plane.AudioPlane(frame, i) for i in range(num_channels)]
    return scaled(np.stack([np.frombuffer(plane, _SAMPLE_TYPES[kind], frame.samples) for plane in planes], axis=1))
