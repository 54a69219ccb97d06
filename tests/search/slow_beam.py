"""Modified beam search, written slowly and plainly, as a reference."""

from collections.abc import Callable

import numpy as np

from tests.search.toy_scorer import ToyScorer, label_scores
from zipasr.nn.encoded import Encoded
from zipasr.search.hypothesis import Hypothesis


def obvious_beam_search(
    scorer: ToyScorer,
    encoded: Encoded,
    beam: int,
    unk_id: int | None = None,
    prior_of: Callable[[tuple[int, ...]], float] = lambda ids: 0.0,
    max_symbols: int = 1,
    **settings: float,
) -> list[list[Hypothesis]]:
    """The hypotheses of each utterance, computed one at a time, with dictionaries of whole sequences."""
    found = []
    for frames, length in zip(encoded.frames, encoded.lens.tolist(), strict=True):
        live = {(): Hypothesis()}
        for t in range(length):
            inside, finished = live, {}
            for num_symbols in range(1, max_symbols + 1):
                pool = [(hypothesis.score, hypothesis, 0, 0.0) for hypothesis in finished.values()]
                for hypothesis in inside.values():
                    scores = label_scores(scorer, frames[t], hypothesis.ids, **settings).tolist()
                    pool += [(hypothesis.score + step, hypothesis, label, step) for label, step in enumerate(scores)]
                inside, finished = {}, {}
                for score, hypothesis, label, step in sorted(pool, key=lambda entry: -entry[0])[:beam]:
                    if label in (0, unk_id):
                        new, group = hypothesis._replace(score=score), finished
                    else:
                        ids, times = (*hypothesis.ids, label), (*hypothesis.frames, t)
                        score += prior_of(ids) - prior_of(hypothesis.ids)
                        new = Hypothesis(ids, times, (*hypothesis.log_probs, step), score)
                        group = inside if num_symbols < max_symbols else finished
                    if new.ids in group:
                        old = group[new.ids]
                        new = old._replace(score=float(np.logaddexp(old.score, score)))
                    group[new.ids] = new
                if not inside:
                    break
            live = finished
        found.append(sorted(live.values(), key=lambda h: -h.score / (len(h.ids) + scorer.context_size)))
    return found
