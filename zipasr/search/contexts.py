"""Label contexts of a batch of searches: the predictor computes each once, however many hypotheses share it.

The predictor sees only the last few labels, so hypotheses, utterances and frames share the same contexts;
a search holds row numbers and gathers projected contexts (..., J) from one table.
"""

import numpy as np
import torch
from torch import Tensor

from zipasr.search.scorer import Scorer

FIRST_ROW = 0
"""Row of `first_context`."""


def first_context(scorer: Scorer) -> tuple[int, ...]:
    """The context of a hypothesis without labels: nothing (-1, a zero vector), then one blank."""
    return (-1,) * (scorer.context_size - 1) + (scorer.blank_id,)


class Contexts:
    """Every label context so far, by row, with the output of the predictor.

    It grows with every new context, so a search that runs for hours creates a new one now and then.
    """

    def __init__(self, scorer: Scorer) -> None:
        """Start with the context of a hypothesis without labels in `FIRST_ROW`."""
        self._scorer = scorer
        self._contexts = [first_context(scorer)]
        self._rows = {self._contexts[0]: FIRST_ROW}
        self._num_known = 0
        self._table_MJ: Tensor | None = None

    @property
    def num_rows(self) -> int:
        """Number of contexts."""
        return len(self._contexts)

    def row_of(self, context: tuple[int, ...]) -> int:
        """Row of a context, the last `context_size` labels."""
        if context not in self._rows:
            self._rows[context] = len(self._contexts)
            self._contexts.append(context)
        return self._rows[context]

    def row_after(self, row: int, label: int) -> int:
        """Row of the context that follows the one in `row` when `label` is emitted."""
        return self.row_of((*self._contexts[row][1:], label))

    def context(self, row: int) -> tuple[int, ...]:
        """The context in a row."""
        return self._contexts[row]

    def gather(self, rows: Tensor) -> Tensor:
        """Projected contexts (..., J) of any rows."""
        num_rows = len(self._contexts)
        if self._num_known < num_rows:
            new_MC = torch.from_numpy(np.array(self._contexts[self._num_known :])).to(rows.device)
            new_MJ = self._scorer.predict(new_MC)
            if self._table_MJ is None or self._table_MJ.shape[0] < num_rows:
                table_MJ = new_MJ.new_empty(2 * num_rows + 64, new_MJ.shape[1])
                if self._table_MJ is not None:
                    table_MJ[: self._num_known] = self._table_MJ[: self._num_known]
                self._table_MJ = table_MJ
            self._table_MJ[self._num_known : num_rows] = new_MJ
            self._num_known = num_rows
        assert self._table_MJ is not None
        return self._table_MJ.index_select(0, rows) if rows.dim() == 1 else self._table_MJ[rows]
