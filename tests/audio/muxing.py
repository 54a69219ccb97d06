"""Synthetic recordings with timestamps: packets moved, dropped or damaged, video next to the audio, several audio tracks."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np

Retime = Callable[[float], float | None]
"""Maps the start of a packet in seconds to its new start, or to None to drop it."""


_LAYOUTS = {1: "mono", 2: "stereo", 8: "7.1", 16: "hexadecagonal"}


def encoded_packets(stream: "av.AudioStream", samples: np.ndarray) -> list["av.Packet"]:
    """The packets of (samples,) or (samples, channels) at the sampling rate of a stream."""
    context = stream.codec_context
    frames_TC = samples.reshape(len(samples), -1)
    codes = np.rint(np.clip(frames_TC, -1, 1) * 32767).astype(np.int16).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(codes, "s16", context.layout)
    frame.sample_rate, frame.pts = context.sample_rate, 0
    resampler = av.AudioResampler(context.format, context.layout, context.sample_rate, frame_size=context.frame_size or 1024)
    packets = [
        packet for piece in [*resampler.resample(frame), *resampler.resample(None)] for packet in stream.encode(piece)
    ]
    return packets + stream.encode(None)


def mux(
    container: str,
    codec: str,
    rate_hz: int,
    *tracks: np.ndarray,
    retime: Retime = lambda start_s: start_s,
    damage: Sequence[float] = (),
    video_s: float | None = None,
    video_start_s: float = 0.0,
    options: dict[str, str] | None = None,
    default_track: int | None = None,
    path: Path | None = None,
) -> bytes:
    """The bytes of a file with an audio track for each of `tracks`.

    Args:
        container: FFmpeg's name.     codec: FFmpeg's name.     rate_hz: of all tracks.
        tracks: (samples,) or (samples, channels) with 2, 8 or 16 channels.
        retime: moves the packets of audio.
        damage: packets that hold these times, in seconds before `retime`, get other bytes.
        video_s: length of a video; None: there is none.     video_start_s: its start.
        options: of the muxer.
        default_track: the track with the disposition "default".
        path: where to write it first, for muxers that need a file; None: in memory.
    """
    out = io.BytesIO()
    with av.open(out if path is None else str(path), "w", format=container, options=options or {}) as target:
        packets = []
        if video_s is not None:
            packets += _video(target, video_s, video_start_s)
        streams = []
        for track in tracks:
            layout = _LAYOUTS[track.shape[1] if track.ndim == 2 else 1]
            streams.append(target.add_stream(codec, rate=rate_hz, layout=layout))
        for i, (stream, track) in enumerate(zip(streams, tracks, strict=True)):
            if default_track is not None:
                stream.disposition = av.stream.Disposition.default if i == default_track else av.stream.Disposition(0)
            for packet in encoded_packets(stream, track):
                assert packet.pts is not None
                start_s = float(packet.pts * packet.time_base)
                end_s = start_s + float(packet.duration * packet.time_base)
                if any(start_s <= at_s < end_s for at_s in damage):
                    packet = _damaged(packet)
                moved_s = retime(start_s)
                if moved_s is not None:
                    packet.pts = packet.dts = packet.pts + round((moved_s - start_s) / packet.time_base)
                    packets.append(packet)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            target.mux(packet)
    return out.getvalue() if path is None else path.read_bytes()


def _damaged(packet: "av.Packet") -> "av.Packet":
    """The same packet with bytes that no decoder accepts."""
    other = av.Packet(b"\xff" * packet.size)
    other.pts, other.dts, other.duration, other.time_base = packet.pts, packet.dts, packet.duration, packet.time_base
    other.stream, other.is_keyframe = packet.stream, True
    return other


def _video(target: "av.container.OutputContainer", duration_s: float, start_s: float) -> list["av.Packet"]:
    """Packets of a tiny gray video at 10 Hz."""
    stream = target.add_stream({"webm": "libvpx", "flv": "flv"}.get(target.format.name, "mpeg4"), rate=10)
    stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
    packets, gray = [], np.full((48, 32), 128, np.uint8)
    for i in range(round(duration_s * 10)):
        frame = av.VideoFrame.from_ndarray(gray, "yuv420p")
        frame.pts = round(start_s * 10) + i
        packets += stream.encode(frame)
    return packets + stream.encode(None)
