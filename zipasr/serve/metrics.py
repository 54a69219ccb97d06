"""The counters of a server, in the text format of Prometheus. No I/O."""

import contextlib
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from zipasr.errors import AudioError, ConfigError
from zipasr.serve.limits import ServerBusy

# Differs: this and the other files behind `server.Service` import the packages of the extra `serve` at the top; the service
# checks that they are installed before it imports these files.

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters of one server, independent of other servers in the process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"zipasr_{name}", what, labels, registry=self._registry)

        self.answers = counter("answers", "Responses to HTTP requests and handshakes, by status", "status")
        self.recordings = counter(
            "recordings", "Recordings by outcome; left: the client disconnected; failed: an error of the server", "outcome"
        )
        self.audio_s = counter("audio_seconds", "Seconds of audio, of recordings and live, that were transcribed")
        self.busy_s = counter("busy_seconds", "Seconds in which the recognizer was computing")
        self.utterances = counter("utterances", "Utterances of live audio that have ended")
        self.open = Gauge("zipasr_open", "Open requests and WebSockets", registry=self._registry)
        self.waiting = Gauge("zipasr_waiting", "Recordings that wait for the recognizer", registry=self._registry)
        self.live = Gauge("zipasr_live", "Open live streams", registry=self._registry)
        self.batch_size = Histogram(
            "zipasr_batch_size",
            "Recordings or streams per batch",
            ["kind"],
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self._registry,
        )
        self.wait_s = Histogram(
            "zipasr_wait_seconds",
            "Seconds that recordings waited for the recognizer",
            buckets=(0.01, 0.1, 0.3, 1, 3, 10, 30, 100),
            registry=self._registry,
        )

    @contextlib.contextmanager
    def counting_failures(self) -> Iterator[None]:
        """Context manager: count a recording whose transcription in the block ends with a bug of ours as failed."""
        try:
            yield
        except (AudioError, ConfigError, ServerBusy):  # of the recording, the request or the load
            raise
        except Exception:
            self.recordings.labels("failed").inc()
            raise

    def to_text(self) -> bytes:
        """All counters in the text format of Prometheus."""
        return generate_latest(self._registry)
