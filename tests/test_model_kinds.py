"""Contract: for small models of every kind, zipasr can do what `capabilities` says, and nothing else; docs/models.md shows
the same as a table. Every cell of it is `test_cell` with the kind and the ability in its name."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

import zipasr
from tests.conftest import REPOSITORY
from tests.export.models import causal_model, random_model
from tests.export.traces import traced_once
from tests.model_kinds import CASES, REFUSED, Case, Made, make
from tests.tiny_model import noise, tiny_tokenizer
from tests.train.runs import run
from tests.train.tones import minute_config, write_tones
from zipasr.errors import ZipasrError
from zipasr.export import export_model
from zipasr.features import FbankConfig
from zipasr.hub.capabilities import ABILITIES, KINDS, capabilities
from zipasr.hub.description import describe_config
from zipasr.hub.inspection import inspect_model
from zipasr.model import AsrModel
from zipasr.search.hotwords import Hotword
from zipasr.search.keywords import read_keywords
from zipasr.search.strategy import SearchConfig
from zipasr.tokenizer import Tokenizer
from zipasr.train.resolve import resolve
from zipasr.train.state import checkpoint_folders

SAMPLES = noise(1.5, seed=3)
_made: dict[str, Made] = {}


def _is_slow(case: Case, ability: str) -> bool:
    is_trained = KINDS[case.kind].conditions[ABILITIES.index("finetunes")].cell != "no"
    return case.is_slow or (is_trained and ability in ("finetunes", "exports"))


CELLS = [
    pytest.param(case, ability, id=f"{case}: {ability}", marks=[pytest.mark.slow] * _is_slow(case, ability))
    for case in CASES
    for ability in ABILITIES
]


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kinds")


@pytest.fixture
def made(case: Case, root: Path) -> Made:
    if str(case) not in _made:
        folder = root / str(len(_made))
        folder.mkdir()
        _made[str(case)] = make(case, folder)
    return _made[str(case)]


def loads(made: Made, tmp_path: Path) -> None:
    assert made.found.vocabulary is not None
    assert zipasr.load(made.usable).engine.tokenizer.vocab_size == made.found.vocabulary.size


def decodes_offline(made: Made, tmp_path: Path) -> None:
    recognizer = zipasr.load(made.usable)
    first, second = recognizer.transcribe_many([SAMPLES, SAMPLES])
    assert first.tokens and first.tokens == second.tokens


def streams(made: Made, tmp_path: Path) -> None:
    stream = zipasr.load(made.usable).stream()
    for start in range(0, len(SAMPLES), 1600):
        stream.accept_waveform(SAMPLES[start : start + 1600])
    assert stream.finish().tokens


def hotwords(made: Made, tmp_path: Path) -> None:
    """A boost above all scores changes what a random model says, with a beam that keeps the words."""
    assert made.found.description is not None
    has_transducer = "transducer" in made.found.description.heads
    recognizer = zipasr.load(made.usable, search=SearchConfig(method="beam" if has_transducer else "ctc_beam", beam=16))
    (plain,) = recognizer.transcribe_many([SAMPLES])
    pieces = recognizer.engine.tokenizer.pieces
    words = {piece[1:] for piece in pieces if piece.startswith("\u2581") and piece[1:].isalpha()} or {"A"}
    chosen = [[Hotword(word, 1e5) for word in sorted(some)] for some in (words, words.difference(plain.text.split()))]
    texts = [recognizer.transcribe_many([SAMPLES], hotwords=hotwords)[0].text for hotwords in chosen]
    assert any(text != plain.text for text in texts)


def finetunes(made: Made, tmp_path: Path) -> None:
    """A run that starts from the model learns with its vocabulary."""
    write_tones(tmp_path / "data", num_train=2, num_dev=1)
    config = resolve(minute_config(tmp_path / "data"), ["max_batches=1", "device=cpu"], str(made.usable))
    run(config, tmp_path / "run")
    trained, tokenizer = AsrModel.load(checkpoint_folders(tmp_path / "run")[1])
    assert tokenizer.pieces == Tokenizer.from_bytes((made.usable / "tokenizer.model").read_bytes()).pieces
    assert trained.config.encoder == AsrModel.load(made.usable)[0].config.encoder


def exports(made: Made, tmp_path: Path) -> None:
    """The graphs find the tokens that the model finds."""
    with traced_once():
        export_model(made.usable, tmp_path / "exported")
    texts = [zipasr.load(folder).transcribe_many([SAMPLES])[0].text for folder in (made.usable, tmp_path / "exported")]
    assert texts[0] == texts[1]


ACTIONS = {
    "loads": loads,
    "decodes offline": decodes_offline,
    "streams": streams,
    "hotwords": hotwords,
    "finetunes": finetunes,
    "exports": exports,
}


@pytest.mark.parametrize(("case", "ability"), CELLS)
def test_cell(case: Case, ability: str, made: Made, tmp_path: Path) -> None:
    """Cells of the table: what zipasr says of a model is what happens."""
    assert not made.found.refused and made.found.kind == case.kind
    capability = made.found.abilities[ability]
    if capability.can:
        ACTIONS[ability](made, tmp_path)
    else:
        assert capability.why_not
        with pytest.raises((ZipasrError, ValueError)):
            ACTIONS[ability](made, tmp_path)


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_kinds_say_what_they_are_and_what_to_do(kind: str, tmp_path: Path) -> None:
    """Cells of the table: kinds that zipasr refuses."""
    found = inspect_model(REFUSED[kind](tmp_path / "model"))
    assert not any(capability.can for capability in found.abilities.values())
    assert re.search(EXPECTED[kind], found.refused) and re.search(r"ONNX|recipe", found.refused)


EXPECTED = {"zipformer 1": "Zipformer 1", "other": "Conformer", "torchscript": "TorchScript"}


def test_a_keyword_model_spots_its_keywords(tmp_path: Path) -> None:
    """What the page says below the table, although random weights find none."""
    (case,) = (case for case in CASES if case.kind == "keywords")
    folder = make(case, tmp_path).usable
    spotter = zipasr.load(folder).spotter(read_keywords(folder / "keywords.txt"))
    stream = spotter.stream()
    stream.accept_waveform(SAMPLES)
    stream.decode()
    assert spotter.keywords.names == ("THE",) and all(event.keyword == "THE" for event in stream.events())


def test_every_kind_has_a_case() -> None:
    assert {case.kind for case in CASES} | set(REFUSED) == set(KINDS)


def rows_of_the_page() -> dict[str, list[str]]:
    """The cells of each row of the table in docs/models.md, by the kind that its title names."""
    text = (REPOSITORY / "docs" / "models.md").read_text(encoding="utf-8")
    table = text.split(f"| model | {' | '.join(ABILITIES)} |\n")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[1:]]
    return {title: cells for title, *cells in rows}


def test_the_page_shows_what_the_code_says() -> None:
    assert rows_of_the_page() == {kind.title: [c.cell for c in kind.conditions] for kind in KINDS.values()}


def test_conditions_in_the_page_hold_for_some_models_and_fail_for_others(root: Path) -> None:
    """Every "if ..." of the table was seen both ways in `test_cell` or follows from the description."""
    causal, whole = (describe_config(model().config, tiny_tokenizer()) for model in (causal_model, random_model))
    mute = replace(whole, vocabulary=replace(whole.vocabulary, can_encode=False))
    other = replace(whole, features=FbankConfig(num_mel_bins=40))
    whisper = replace(whole, features=FbankConfig(kind="whisper"))
    for kind in KINDS.values():
        for condition in kind.conditions:
            seen = {condition.holds(model) for model in (causal, whole, mute, other, whisper)}
            assert seen == ({True} if condition.cell == "yes" else {False} if condition.cell == "no" else {True, False})
            assert condition.why_not or condition.cell == "yes" or kind in [KINDS[name] for name in REFUSED]
    assert not capabilities("zipasr", whisper)["exports"].can
    assert capabilities("zipasr", replace(whisper, is_causal=True))["exports"].can
