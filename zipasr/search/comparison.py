"""The searches of a model compared on utterances with known text: the best search, and the causes of differences.

Encoder frames (N, T, D) at 25 Hz and references in, error rates of every search out. A batch is encoded once for all
searches. Training does this at validation, `zipasr evaluate` afterwards.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from zipasr.losses import LatticeKind
from zipasr.nn.encoded import Encoded
from zipasr.search.edits import ErrorRates, Errors, count_text_errors
from zipasr.search.finding import find_with_each
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.joint import CTC_SCALES
from zipasr.search.rescoring import SCALES
from zipasr.search.scorer import Scorer
from zipasr.search.strategy import NO_LANGUAGE_MODELS, LanguageModels, SearchConfig
from zipasr.text import words_apart
from zipasr.tokenizer import Tokenizer

SEVERAL_SYMBOLS = 5
"""Labels per frame in searches that allow several: on a model that emits in bursts, 2, 3 and 5 gave 17, 9 and 5 % WER
where 1 gave 34 %."""
NGRAM_SCALE = 0.5
"""Weight of the n-gram of the training texts to compare on a dev set."""
NOTABLE_SHARE = 0.1
"""Differences between the error counts of two searches are reported if they exceed this share..."""
NOTABLE_WORDS = 5
"""... and are at least this many words, which is beyond chance on a small dev set."""


@dataclass(frozen=True, kw_only=True)
class ComparedSearch:
    """Error rates of one search on the utterances."""

    search: SearchConfig
    errors: ErrorRates
    decode_s: float
    """Seconds of computation, without the encoder."""

    @property
    def wer(self) -> float:
        """Word error rate in percent."""
        return self.errors.words.rate

    @property
    def deletions(self) -> float:
        """Words of the reference that are missing, in percent."""
        return Errors(deletions=self.errors.words.deletions, num_reference=self.errors.words.num_reference).rate

    def to_dict(self) -> dict[str, Any]:
        """The result for JSON, rates in percent."""
        return {
            **self.search.changes(),
            "wer": round(self.wer, 4),
            "cer": round(self.errors.characters.rate, 4),
            "deletions": round(self.deletions, 4),
            "num_words": self.errors.words.num_reference,
            "decode_s": round(self.decode_s, 3),
        }


def searches_to_compare(
    scorer: Scorer, *, lattice: LatticeKind | None = None, has_ngram: bool = False
) -> list[SearchConfig]:
    """The searches that the heads of a model allow, the cheapest first.

    Args:
        scorer: the model.
        lattice: the kind of lattice that its transducer head was trained with; None: unknown. If it has one symbol a frame,
            several a frame mostly harm; one search with several shows it, and the most expensive of all is left out.
        has_ngram: whether there is an n-gram of the training texts, which the beam searches are then compared with too.
    """
    searches = []
    if scorer.has_ctc:
        searches.append(SearchConfig(method="ctc_greedy"))
    if scorer.has_transducer:
        searches.append(SearchConfig(method="greedy"))
        searches.append(SearchConfig(method="greedy", max_symbols_per_frame=SEVERAL_SYMBOLS))
    if scorer.has_ctc:
        searches.append(SearchConfig(method="ctc_beam"))
    if scorer.has_transducer:
        searches.append(SearchConfig(method="beam"))
        if lattice in (None, "regular"):
            searches.append(SearchConfig(method="beam", max_symbols_per_frame=SEVERAL_SYMBOLS))
    if scorer.has_ctc and scorer.has_transducer:
        searches += [SearchConfig(method="joint", ctc_scale=scale) for scale in CTC_SCALES]
    if scorer.has_ctc and scorer.has_attention:
        searches.append(SearchConfig(method="attention_rescoring"))
    if not has_ngram:
        return searches
    beams = [s for s in searches if s.method in ("beam", "ctc_beam", "joint") and s.max_symbols_per_frame == 1]
    return searches + [dataclasses.replace(search, ngram_scale=NGRAM_SCALE) for search in beams]


class SearchComparison:
    """Counts the errors of several searches, batch by batch."""

    def __init__(
        self,
        scorer: Scorer,
        tokenizer: Tokenizer,
        searches: Sequence[SearchConfig],
        *,
        language_models: LanguageModels = NO_LANGUAGE_MODELS,
    ) -> None:
        """A comparison, without utterances yet, of searches that are resolved, the cheapest first."""
        self.scorer, self.tokenizer, self.language_models = scorer, tokenizer, language_models
        self.searches = list(searches)
        self._errors = [ErrorRates()] * len(self.searches)
        self._decode_s = [0.0] * len(self.searches)

    def add(self, encoded: Encoded, references: Sequence[str]) -> None:
        """Search a batch of frames at 25 Hz and count its errors, given the text of each utterance."""
        for i, ranked in enumerate(self.find_with_each(encoded)):
            for reference, (best, *_) in zip(references, ranked, strict=True):
                self._count(i, reference, self.tokenizer.decode(best.ids), str)

    def find_with_each(self, encoded: Encoded) -> Iterator[list[list[Hypothesis]]]:
        """Yield the ranked hypotheses of each utterance of a batch for one search after the other, and count their time."""
        found = find_with_each(
            self.scorer, encoded, self.searches, unk_id=self.tokenizer.unk_id, language_models=self.language_models
        )
        for i in range(len(self.searches)):
            started = time.perf_counter()
            ranked = next(found)
            self._decode_s[i] += time.perf_counter() - started
            yield ranked

    def add_texts(self, reference: str, texts: Sequence[str], *, rewrite: Callable[[str], str] = str) -> None:
        """Count the errors of an utterance, given the text of each search; `rewrite` is applied to both texts."""
        for i, text in enumerate(texts):
            self._count(i, reference, text, rewrite)

    def _count(self, i: int, reference: str, text: str, rewrite: Callable[[str], str]) -> None:
        """Count the errors of one search in one utterance."""
        texts = (words_apart(rewrite(one), self.tokenizer.word_joiner) for one in (reference, text))
        errors = count_text_errors(*texts, is_spaceless=self.tokenizer.is_spaceless)
        self._errors[i] = self._errors[i].plus(errors)

    def results(self) -> list[ComparedSearch]:
        """The searches in the order in which they were given."""
        pairs = enumerate(zip(self.searches, self._errors, strict=True))
        return [ComparedSearch(search=search, errors=errors, decode_s=self._seconds(i)) for i, (search, errors) in pairs]

    def _seconds(self, i: int) -> float:
        """Seconds of a search, with those of the searches whose hypotheses and scores it shares."""
        if self.searches[i].method != "joint":
            return self._decode_s[i]
        alone = self.searches[i].reset(["ctc_scale"])
        shared = [dataclasses.replace(alone, method=method) for method in ("beam", "ctc_beam")]
        pairs = zip(self.searches, self._decode_s, strict=True)
        return sum(spent for search, spent in pairs if search in shared or search.reset(["ctc_scale"]) == alone)


class ScaleTuning(SearchComparison):
    """Finds the weight of the attention decoder with the fewest errors; a search without one is only measured."""

    def __init__(
        self,
        scorer: Scorer,
        tokenizer: Tokenizer,
        search: SearchConfig,
        *,
        language_models: LanguageModels = NO_LANGUAGE_MODELS,
    ) -> None:
        """A tuning without utterances, of a search that is resolved, with the language models that it uses."""
        is_rescored = search.method == "attention_rescoring"
        tried = [dataclasses.replace(search, attention_scale=scale) for scale in SCALES] if is_rescored else [search]
        super().__init__(scorer, tokenizer, tried, language_models=language_models)

    def tuned(self) -> ComparedSearch:
        """The search with its best weight, and the seconds that all weights together took."""
        return dataclasses.replace(best_search(self.results()), decode_s=sum(self._decode_s))


def best_search(results: Sequence[ComparedSearch]) -> ComparedSearch:
    """The search with the fewest word errors; ties go to the fewest character errors, then to the first."""
    return min(results, key=lambda result: (result.errors.words.total, result.errors.characters.total))


def format_comparison(results: Sequence[ComparedSearch], chosen: SearchConfig, *, what: str) -> str:
    """The comparison as a table for a terminal, the chosen search marked by a star.

    `what` names the utterances, such as `dev (40 utterances)`.
    """
    head = f"search on {what}"
    names = [str(result.search) for result in results]
    width = max(map(len, [head, *(f"* {name}" for name in names)]))
    lines = [f"{head:<{width}}  {'WER %':>6}  {'deleted %':>9}  {'CER %':>6}  {'seconds':>7}"]
    for result, name in zip(results, names, strict=True):
        mark = "*" if result.search == chosen else " "
        lines.append(
            f"{f'{mark} {name}':<{width}}  {result.wer:6.2f}  {result.deletions:9.2f}  "
            f"{result.errors.characters.rate:6.2f}  {result.decode_s:7.2f}"
        )
    return "\n".join(lines)


def explain_differences(results: Sequence[ComparedSearch], *, lattice: LatticeKind | None = None) -> list[str]:
    """Findings from the differences between the searches, each with its likely cause and the cure in a sentence or two.

    `lattice` is the kind of lattice that the transducer head was trained with; None: unknown.
    """
    is_cured = lattice in ("modified", "constrained")
    results = [result for result in results if not result.search.ngram_scale]
    by_transducer = [result for result in results if result.search.method in ("greedy", "beam")]
    one = _best(result for result in by_transducer if result.search.max_symbols_per_frame == 1)
    several = _best(result for result in by_transducer if result.search.max_symbols_per_frame > 1)
    transducer = _best(result for result in (one, several) if result is not None)
    by_ctc = _best(result for result in results if result.search.method in ("ctc_greedy", "ctc_beam"))
    findings = []
    if one is not None and several is not None and _is_notable(one, several):
        what = "the transducer needs several symbols a frame" if is_cured else "the transducer emits words in bursts"
        cure = "" if is_cured else ", or train with --set model.transducer.lattice=modified"
        findings.append(
            f"{what}: one symbol a frame gives {one.wer:.1f} % WER ({one.deletions:.1f} % deleted), several a frame "
            f"{several.wer:.1f} %. Search with --max-symbols-per-frame {several.search.max_symbols_per_frame}{cure}"
        )
    if transducer is not None and by_ctc is not None and _is_notable(transducer, by_ctc):
        cause = "it learns more slowly on little data. Train longer, or give more data"
        if not is_cured:
            known = "it was" if lattice is not None else "if it was"
            cause = (
                f"{known} trained with the lattice `regular`, under which it may not learn from little data when to emit a "
                "label. Train with --set model.transducer.lattice=modified"
            )
        findings.append(
            f"the transducer head has {transducer.wer:.1f} % WER ({transducer.deletions:.1f} % deleted) where CTC has "
            f"{by_ctc.wer:.1f} %: {cause}"
        )
    elif transducer is not None and by_ctc is not None and _is_notable(by_ctc, transducer):
        together = _best(result for result in results if result.search.method == "joint")
        is_best = together is not None and _num_errors(together) < _num_errors(transducer)
        advice = "times" if is_best else "search with the transducer. Times"
        findings.append(
            f"the CTC head has {by_ctc.wer:.1f} % WER where the transducer has {transducer.wer:.1f} %: {advice} of words "
            "come from the CTC head and may be off where it is wrong"
        )
    return findings


def _best(results: Iterable[ComparedSearch]) -> ComparedSearch | None:
    return min(results, key=_num_errors, default=None)


def _num_errors(result: ComparedSearch) -> int:
    return result.errors.words.total


def _is_notable(worse: ComparedSearch, better: ComparedSearch) -> bool:
    """Whether one makes more errors than the other, by more than chance and by more than a tenth."""
    difference = _num_errors(worse) - _num_errors(better)
    return difference >= NOTABLE_WORDS and difference > NOTABLE_SHARE * _num_errors(better)
