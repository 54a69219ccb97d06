"""How long a step of live streams waits for company: one step of several streams costs less than a step for each. No I/O.

At 70 % load and less, nothing waits. At the limit of a machine steps grow by themselves, since many chunks become complete
during each. In between, waiting saves processor time at the price of a fraction of a chunk of latency (benchmarks/LOG.md,
"Serving").
"""

import math
from collections.abc import Iterable

ENOUGH_STREAMS = 16
"""A step of so many costs a stream 4 % more than one of 64, one of 4 streams 40 % (exported `prompts:streaming`)."""
_MIN_LOAD = 0.7
"""With 0.4, 16 streams on a slow core had a 95th percentile of 62 instead of 16 ms (benchmarks/LOG.md)."""
_MEMORY_S = 1.0
"""Time over which the load is averaged."""
_MAX_SHARE = 0.25
"""Of a chunk: the rest of the time to its deadline, when the next one is complete, is for the step."""
_SLACK_S = 0.002
"""By which a chunk may come later than expected."""


class Gathering:
    """Knows the load and decides. Times are seconds of one clock."""

    def __init__(self, max_wait_s: float, now_s: float) -> None:
        """Start without load. `max_wait_s`: longest wait of a complete chunk; 0: none."""
        self._max_wait_s = max_wait_s
        self._load, self._until_s = 0.0, now_s

    def record(self, started_s: float, ended_s: float) -> None:
        """Count a step towards the load."""
        self._load = self._load_at(started_s)
        self._load = 1.0 - (1.0 - self._load) * math.exp((started_s - ended_s) / _MEMORY_S)
        self._until_s = ended_s

    def _load_at(self, now_s: float) -> float:
        return self._load * math.exp(min(0.0, self._until_s - now_s) / _MEMORY_S)

    def wait_s(self, now_s: float, ready_s: Iterable[float], expected_s: Iterable[float], chunk_s: float) -> float:
        """How long to wait for one of the expected chunks, unless another comes first, before deciding again; 0: step now.

        Args:
            now_s: the time.
            ready_s: when the chunks that wait for the step were complete.
            expected_s: when those of other streams should be.
            chunk_s: length of a chunk.
        """
        if self._load_at(now_s) < _MIN_LOAD:
            return 0.0
        waiting = list(ready_s)
        limit_s = min(waiting, default=now_s) + min(self._max_wait_s, _MAX_SHARE * chunk_s)
        if len(waiting) >= ENOUGH_STREAMS or limit_s <= now_s:
            return 0.0
        # Any of them will do: if another chunk comes earlier, the thread is woken and decides again.
        waits_s = (time_s + _SLACK_S - now_s for time_s in expected_s)
        return next((wait_s for wait_s in waits_s if 0 < wait_s <= limit_s - now_s), 0.0)
