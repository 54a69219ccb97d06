"""Why words are missing. Reference: a model that bursts by construction, counted by hand. Contract: the verdict and its cure
come when bursts cost words, and only then; models without a head, and no speech.
"""

import dataclasses
import json
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from tests.search.toy_scorer import ToyScorer
from tests.train.tones import minute_config, without_heads
from zipasr.data.batching import Batch
from zipasr.losses.lattice import LatticeKind
from zipasr.model import AsrModel
from zipasr.nn.encoded import Encoded
from zipasr.search.emission import EmissionStats
from zipasr.tokenizer import Tokenizer
from zipasr.train.emission import EmissionReport, SearchErrors, diagnose_emission

TOKENIZER = Tokenizer.train(["ABCD"], kind="char", vocab_size=None)
WORD = TOKENIZER.encode("ABCD")
BURST_FRAME = 3


class BurstingModel(ToyScorer):
    """Emits ABCD label by label in one frame, and is silent otherwise; its CTC head has a label in each of frames 0 to 4."""

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
    report = diagnose_emission(model, [batch_of(2), batch_of(1)], TOKENIZER)  # type: ignore[arg-type]
    assert model.lens == [72, 72]  # 40 frames and the padding of decoding
    assert len(WORD) == 5  # the space before the word is a label
    assert report.stats.num_labels == 15 and report.stats.num_burst_labels == 12
    assert report.stats.burst_share == 0.8 and report.stats.burst_frame_share == 1.0
    assert report.stats.delay_s == pytest.approx(0.04)  # frames 3, 3, 3, 3, 3 against 0, 1, 2, 3, 4
    assert report.searches == (
        SearchErrors("greedy", 1, num_words=3, num_deleted=3),
        SearchErrors("greedy", 5, num_words=3),
        SearchErrors("ctc_greedy", None, num_words=3),
    )
    assert report.are_words_lost_to_bursts
    assert report.verdict is not None
    for part in (
        "deletes 100.0 %",
        "one of 5 0.0 %",
        "--set model.transducer.lattice=modified",
        "--max-symbols-per-frame 5",
    ):
        assert part in report.verdict
    document = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert document["burst_share"] == 0.8 and document["searches"][0]["deletions"] == 100.0


def test_paths_are_those_of_the_lattice_of_the_head() -> None:
    report = diagnose_emission(BurstingModel("modified"), [batch_of(1)], TOKENIZER)  # type: ignore[arg-type]
    assert report.lattice == "modified"
    assert report.stats.num_labels == 5 and report.stats.num_burst_labels == 0
    assert report.verdict is None


def report_of(one: tuple[int, int, int], several: tuple[int, int, int], num_burst_labels: int = 10) -> EmissionReport:
    """Deletions, insertions and substitutions of two searches in 200 words."""
    searches = (SearchErrors("greedy", 1, 200, *one), SearchErrors("greedy", 5, 200, *several))
    return EmissionReport(stats=EmissionStats(100, num_burst_labels, 90, 10), searches=searches, lattice="regular")


@pytest.mark.parametrize(
    ("one", "several", "num_burst_labels", "expected"),
    [
        ((20, 0, 0), (2, 0, 0), 10, True),
        ((20, 0, 0), (2, 0, 0), 0, False),  # no bursts
        ((2, 0, 0), (0, 0, 0), 10, False),  # two words in 200
        ((3, 0, 0), (0, 0, 0), 10, True),
        ((20, 0, 100), (10, 0, 100), 10, False),  # less than a tenth of the errors
        ((20, 0, 0), (2, 30, 0), 10, False),  # deletions became insertions
        ((2, 30, 0), (2, 0, 0), 10, False),  # deletions are as many
        ((0, 0, 0), (0, 0, 0), 10, False),
    ],
)
def test_verdict_needs_bursts_that_cost_words(
    one: tuple[int, int, int], several: tuple[int, int, int], num_burst_labels: int, expected: bool
) -> None:
    report = report_of(one, several, num_burst_labels)
    assert report.are_words_lost_to_bursts == expected
    assert (report.verdict is not None) == expected


def test_models_without_heads() -> None:
    config = minute_config()
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=TOKENIZER.vocab_size))
    torch.manual_seed(0)
    no_ctc = AsrModel(without_heads(config, has_transducer=True, has_ctc=False).model).eval()
    batch = batch_of(1)
    report = diagnose_emission(no_ctc, [batch], TOKENIZER)
    assert [errors.max_symbols_per_frame for errors in report.searches] == [1, 5]
    assert report.stats.num_labels == 5 and report.stats.delay_s is None
    no_transducer = AsrModel(without_heads(config, has_transducer=False, has_ctc=True).model).eval()
    with pytest.raises(ValueError, match="no transducer head"):
        diagnose_emission(no_transducer, [batch], TOKENIZER)


def test_no_speech_gives_nothing_to_say() -> None:
    report = diagnose_emission(BurstingModel(), [], TOKENIZER)  # type: ignore[arg-type]
    assert report.verdict is None
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["burst_share"] is None
