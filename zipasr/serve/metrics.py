"""What a server counts, in the text format of Prometheus. No I/O."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

# Differs: this and the other files behind `server.Service` import the packages of the extra `serve` at their top; it checks
# that they are there before it imports these files.

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters of one server, beside any other in the process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"zipasr_{name}", what, labels, registry=self._registry)

        self.answers = counter("answers", "Answers to HTTP requests and handshakes, by status", "status")
        self.recordings = counter("recordings", "Recordings, by how it went: done, refused, left", "outcome")
        self.audio_s = counter("audio_seconds", "Seconds of sound that were transcribed")
        self.busy_s = counter("busy_seconds", "Seconds in which the recogniser worked")
        self.utterances = counter("utterances", "Utterances of live sound that have ended")
        self.open = Gauge("zipasr_open", "Requests and WebSockets that are open", registry=self._registry)
        self.waiting = Gauge("zipasr_waiting", "Recordings that wait for the recogniser", registry=self._registry)
        self.live = Gauge("zipasr_live", "Streams of live sound", registry=self._registry)
        self.batch_size = Histogram(
            "zipasr_batch_size",
            "Recordings or streams that were computed together",
            ["kind"],
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self._registry,
        )
        self.wait_s = Histogram(
            "zipasr_wait_seconds",
            "Seconds that recordings waited for the recogniser",
            buckets=(0.01, 0.1, 0.3, 1, 3, 10, 30, 100),
            registry=self._registry,
        )

    def to_text(self) -> bytes:
        """All of them as Prometheus reads them."""
        return generate_latest(self._registry)
