"""What the paths of a search through a graph have put out: `History` of one utterance, and `Records` of a batch while it is
advanced. A record is one token, one output symbol, or both; it follows another record, its parent. Frames at 25 Hz."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zipasr.search.graph.token_graph import NO_SYMBOL, NO_TOKEN, concatenated, take
from zipasr.search.hypothesis import Hypothesis, Output

NO_RECORD = -1
"""Parent of the first record of a path."""


class RecordArrays(NamedTuple):
    """Records in order of their creation, so that a parent comes before its children."""

    parents: NDArray[np.int64]
    tokens: NDArray[np.int64]
    frames: NDArray[np.int64]
    log_probs: NDArray[np.float64]
    symbols: NDArray[np.int64]


NO_RECORDS = RecordArrays._make(np.zeros(0, kind) for kind in (np.int64, np.int64, np.int64, np.float64, np.int64))


class History:
    """The records that the live paths of an utterance lead back to.

    What all live paths share is in the trunk, so that a stream of hours takes little more memory than its text.
    """

    def __init__(self, symbols: Sequence[str]) -> None:
        """Start without records; `symbols` are those of the graph."""
        self._symbols = symbols
        self._ids: list[int] = []
        self._frames: list[int] = []
        self._log_probs: list[float] = []
        self._outputs: list[Output] = []
        self.records = NO_RECORDS

    def settle(self, records: RecordArrays, live: NDArray[np.int64]) -> NDArray[np.int64]:
        """Replace the records, drop those that no live path leads back to, and move what all share to the trunk.

        Args:
            records: all records of the utterance since the trunk.
            live: (P,) the last record of each live path, or `NO_RECORD`.
        Returns:
            (P,) the same places among the records that are left.
        """
        is_needed = np.zeros(len(records.parents), bool)
        front = np.unique(live[live >= 0])
        while len(front):
            is_needed[front] = True
            parents = records.parents[front]
            parents = np.unique(parents[parents >= 0])
            front = parents[~is_needed[parents]]
        kept = np.flatnonzero(is_needed)
        places = np.full(len(records.parents) + 1, NO_RECORD)  # the last one is that of NO_RECORD
        places[kept] = np.arange(len(kept))
        records = take(records, kept)
        records = records._replace(parents=places[records.parents])
        live = places[live]
        num_shared = self._num_shared(records.parents, live)
        for i in range(num_shared):
            self._add(records, i)
        records = take(records, np.arange(num_shared, len(kept)))
        self.records = records._replace(parents=np.maximum(records.parents - num_shared, NO_RECORD))
        return np.maximum(live - num_shared, NO_RECORD)

    @staticmethod
    def _num_shared(parents: NDArray[np.int64], live: NDArray[np.int64]) -> int:
        """Number of first records that are in one chain which all live paths go through."""
        if not len(live):
            return 0
        is_chain = parents == np.arange(len(parents)) - 1  # each follows the one before it
        length = len(parents) if is_chain.all() else int(is_chain.argmin())
        # A later record may follow one inside the chain, or a path may end there.
        ends = np.concatenate([parents[length:], live]) + 1
        return min(length, int(ends.min()))

    def _add(self, records: RecordArrays, i: int) -> None:
        """Add a record to the trunk."""
        if records.symbols[i] != NO_SYMBOL:
            self._outputs.append(Output(self._symbols[records.symbols[i]], len(self._ids)))
        if records.tokens[i] != NO_TOKEN:
            self._ids.append(int(records.tokens[i]))
            self._frames.append(int(records.frames[i]))
            self._log_probs.append(float(records.log_probs[i]))

    def spell(self, last: int) -> Hypothesis:
        """All that a path has put out up to its last record, as a hypothesis without a score."""
        chain = []
        while last != NO_RECORD:
            chain.append(last)
            last = int(self.records.parents[last])
        branch = History(self._symbols)
        branch._ids, branch._frames = list(self._ids), list(self._frames)
        branch._log_probs, branch._outputs = list(self._log_probs), list(self._outputs)
        for i in reversed(chain):
            branch._add(self.records, i)
        ids, frames, log_probs = tuple(branch._ids), tuple(branch._frames), tuple(branch._log_probs)
        return Hypothesis(ids, frames, log_probs, outputs=tuple(branch._outputs))


class Records:
    """The records of all utterances of a batch while it is advanced."""

    def __init__(self, histories: Sequence[History]) -> None:
        """Start with the records of each utterance."""
        self._parts: list[tuple[NDArray[np.int64], RecordArrays]] = []
        self._num = 0
        self.first: list[int] = []
        """Place of the first record of each utterance."""
        for n, history in enumerate(histories):
            parents = history.records.parents
            self.first.append(self._num)
            moved = history.records._replace(parents=np.where(parents >= 0, parents + self._num, NO_RECORD))
            self.add(np.full(len(parents), n), moved)

    def add(self, utterances: NDArray[np.int64], records: RecordArrays) -> NDArray[np.int64]:
        """Add records; return the place of each."""
        self._parts.append((utterances, records))
        self._num += len(utterances)
        return np.arange(self._num - len(utterances), self._num)

    def divided(self, num_utterances: int) -> tuple[list[RecordArrays], NDArray[np.int64]]:
        """The records of each utterance, with parents among them, and for each record of the batch its place there."""
        utterances = np.concatenate([part for part, _ in self._parts])
        records = concatenated([records for _, records in self._parts])
        order = np.argsort(utterances, kind="stable")
        bounds = np.searchsorted(utterances[order], np.arange(num_utterances + 1))
        places = np.full(self._num + 1, NO_RECORD)
        places[order] = np.arange(self._num) - bounds[utterances[order]]
        records = records._replace(parents=places[records.parents])
        return [take(records, order[bounds[n] : bounds[n + 1]]) for n in range(num_utterances)], places
