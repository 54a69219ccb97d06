"""Why words are missing. Reference: a model that emits bursts by construction, counted by hand. Contract: the content of the
JSON; models without one of the heads, and empty dev sets."""

import dataclasses
import json
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from tests.search.toy_scorer import ToyScorer
from tests.train.tones import minute_config, without_heads
from zipasr.alignment.emission import EmissionStats
from zipasr.data.batching import Batch
from zipasr.losses.lattice import LatticeKind
from zipasr.model import AsrModel
from zipasr.nn.encoded import Encoded
from zipasr.search.comparison import ComparedSearch
from zipasr.search.edits import ErrorRates, Errors
from zipasr.search.strategy import SearchConfig
from zipasr.tokenizer import Tokenizer
from zipasr.train.emission import EmissionReport, diagnose_emission

TOKENIZER = Tokenizer.train(["ABCD"], kind="char", vocab_size=None)
WORD = TOKENIZER.encode("ABCD")
BURST_FRAME = 3


class BurstingModel(ToyScorer):
    """Emits ABCD label by label in one frame, and blanks otherwise; its CTC head has a label in each of frames 0 to 4."""

    def __init__(self, lattice: LatticeKind = "regular") -> None:
        super().__init__(TOKENIZER.vocab_size)
        self.table_CVV = torch.zeros(2, self.vocab_size, self.vocab_size)
        for label, following in zip([0, *WORD], [*WORD, 0], strict=True):
            self.table_CVV[1, label, following] = 30.0
        self.transducer = SimpleNamespace(config=SimpleNamespace(lattice=lattice))
        self.lens: list[int] = []

    @property
    def vocab_size(self) -> int:
        return TOKENIZER.vocab_size

    def parameters(self) -> Iterator[nn.Parameter]:
        return iter([nn.Parameter(torch.zeros(()))])

    def encode(self, features: Tensor, lens: Tensor, **_: int | None) -> Encoded:  # type: ignore[override]
        self.lens.append(features.shape[1])
        frames = torch.full((len(features), 8, self.vocab_size), -60.0)
        frames[..., 0] = 0.0
        frames[:, BURST_FRAME, 1:] = 10.0
        return Encoded(frames, torch.full((len(features),), 8))

    def ctc_log_probs(self, frames_NTD: Tensor) -> Tensor:
        best = torch.tensor([*WORD, 0, 0, 0])
        return (30.0 * nn.functional.one_hot(best, self.vocab_size)).log_softmax(-1).expand(len(frames_NTD), -1, -1)


def batch_of(num_utterances: int) -> Batch:
    labels = torch.tensor([WORD] * num_utterances)
    lens = torch.full((num_utterances,), 40)
    return Batch(
        torch.zeros(num_utterances, 40, 80),
        lens,
        labels,
        torch.full((num_utterances,), len(WORD)),
        ("u",) * num_utterances,
        1.0,
    )


def test_bursts_are_found_with_what_they_cost() -> None:
    model = BurstingModel()
    report = diagnose_emission(model, [batch_of(4), batch_of(1)], TOKENIZER)  # type: ignore[arg-type]
    assert model.lens == [72, 72]  # 40 frames and the padding of decoding
    assert len(WORD) == 5  # the space before the word is a label
    assert report.stats.num_labels == 25 and report.stats.num_burst_labels == 20
    assert report.stats.burst_share == 0.8 and report.stats.burst_frame_share == 1.0
    assert report.stats.delay_s == pytest.approx(0.04)  # frames 3, 3, 3, 3, 3 against 0, 1, 2, 3, 4
    assert [str(result.search) for result in report.searches] == ["greedy", "greedy, max_symbols_per_frame 5", "ctc_greedy"]
    assert [result.errors.words for result in report.searches] == [
        Errors(deletions=5, num_reference=5),
        Errors(num_reference=5),
        Errors(num_reference=5),
    ]
    finding = report.findings[0]
    for part in ("bursts", "100.0 %", "--set model.transducer.lattice=modified", "--max-symbols-per-frame 5"):
        assert part in finding


def test_paths_are_those_of_the_lattice_of_the_head() -> None:
    report = diagnose_emission(BurstingModel("modified"), [batch_of(1)], TOKENIZER)  # type: ignore[arg-type]
    assert report.lattice == "modified"
    assert report.stats.num_labels == 5 and report.stats.num_burst_labels == 0


def compared(search: SearchConfig, *, insertions: int, deletions: int, substitutions: int) -> ComparedSearch:
    words = Errors(insertions, deletions, substitutions, num_reference=200)
    return ComparedSearch(search=search, errors=ErrorRates(words=words), decode_s=0.0)


def test_report_as_json() -> None:
    greedy, several = SearchConfig(method="greedy"), SearchConfig(method="greedy", max_symbols_per_frame=5)
    report = EmissionReport(
        stats=EmissionStats(20, 10, 10, 4, num_compared_labels=20, delay_frames=-25, num_unaligned=1),
        searches=(
            compared(greedy, insertions=1, deletions=60, substitutions=2),
            compared(several, insertions=4, deletions=2, substitutions=3),
            compared(SearchConfig(method="ctc_greedy"), insertions=5, deletions=3, substitutions=1),
        ),
        lattice="regular",
    )
    document = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert document["burst_share"] == 0.5 and document["burst_frame_share"] == 0.4
    assert document["delay_s"] == pytest.approx(-0.05) and document["num_unaligned"] == 1
    names = ("method", "max_symbols_per_frame", "wer", "deletions", "insertions", "substitutions")
    assert [tuple(search[name] for name in names) for search in document["searches"]] == [
        ("greedy", 1, 31.5, 30.0, 0.5, 1.0),
        ("greedy", 5, 4.5, 1.0, 2.0, 1.5),
        ("ctc_greedy", None, 4.5, 1.5, 2.5, 0.5),
    ]
    assert document["findings"] == report.findings and len(report.findings) == 1


def test_models_without_heads() -> None:
    config = minute_config()
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=TOKENIZER.vocab_size))
    torch.manual_seed(0)
    no_ctc = AsrModel(without_heads(config, has_transducer=True, has_ctc=False).model).eval()
    batch = batch_of(1)
    report = diagnose_emission(no_ctc, [batch], TOKENIZER)
    assert [result.search.max_symbols_per_frame for result in report.searches] == [1, 5]
    assert report.stats.num_labels == 5 and report.stats.delay_s is None
    no_transducer = AsrModel(without_heads(config, has_transducer=False, has_ctc=True).model).eval()
    with pytest.raises(ValueError, match="no transducer head"):
        diagnose_emission(no_transducer, [batch], TOKENIZER)


def test_no_speech_gives_nothing_to_say() -> None:
    report = diagnose_emission(BurstingModel(), [], TOKENIZER)  # type: ignore[arg-type]
    assert report.findings == []
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["burst_share"] is None
