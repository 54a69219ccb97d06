"""Contract: `zipasr diagnose` prints the worst modules first, then label emission, all of it as JSON on request, and
explains what is wrong with its input."""

import dataclasses
import json
from pathlib import Path

import pytest

from tests.train.tones import minute_config, minute_model, without_heads, write_cuts, write_tones
from zipasr.alignment.emission import EmissionStats
from zipasr.cli import main
from zipasr.model import AsrModel
from zipasr.search.comparison import ComparedSearch
from zipasr.search.edits import ErrorRates, Errors
from zipasr.search.strategy import SearchConfig
from zipasr.tokenizer import Tokenizer
from zipasr.train.emission import EmissionReport


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diagnose")
    write_tones(folder / "data", num_train=1, num_dev=4)
    tokenizer = Tokenizer.train(["LO MID HI UP DOWN"], kind="char", vocab_size=None)
    minute_model(vocab_size=tokenizer.vocab_size).save(folder / "model", tokenizer)
    return folder


def test_table(folder: Path, capsys: pytest.CaptureFixture) -> None:
    argv = ["diagnose", str(folder / "model"), str(folder / "data" / "dev_cuts.jsonl.gz"), "--device", "cpu"]
    assert main([*argv, "--rows", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "4 utterances" in lines[0] and "the end of training" in lines[0]
    assert all(line.startswith("! ") for line in lines[2:5])
    assert "modules are outside their limits" in lines[5] and "not shown, --rows 0 shows all" in lines[5]
    assert lines[6].startswith("emission of ") and "emit more than one" in lines[6] and "relative to CTC" in lines[6]
    assert lines[7].split() == "search WER % deleted % inserted % substituted %".split()
    names = [line.split("  ")[1] for line in lines[8:11]]
    assert names == ["greedy", "greedy, max_symbols_per_frame 5", "ctc_greedy"]
    assert all(len(line.split()) >= 5 for line in lines[8:11])
    assert main([*argv, "--rows", "0", "--utterances", "2"]) == 0
    out = capsys.readouterr().out
    assert "whiteness" in out and "entropy" in out and "2 utterances" in out
    assert "not shown" not in out


def test_json(folder: Path, capsys: pytest.CaptureFixture) -> None:
    argv = ["diagnose", str(folder / "model"), str(folder / "data" / "dev_cuts.jsonl.gz"), "--json"]
    assert main([*argv, "--outputs"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["num_utterances"] == 4 and document["step"] == "inf"
    badness = [module["badness"] for module in document["modules"]]
    assert badness == sorted(badness, reverse=True)
    assert {module["kind"] for module in document["modules"]} == {"balancer", "whiten", "attention", "output"}
    emission = document["emission"]
    assert 0.0 <= emission["burst_share"] <= 1.0 and 0.0 <= emission["burst_frame_share"] <= 1.0
    assert isinstance(emission["delay_s"], float) and emission["lattice"] == "regular"
    limits = [(search["method"], search["max_symbols_per_frame"]) for search in emission["searches"]]
    assert limits == [("greedy", 1), ("greedy", 5), ("ctc_greedy", None)]
    for search in emission["searches"]:
        assert search["wer"] == pytest.approx(search["deletions"] + search["insertions"] + search["substitutions"], abs=1e-3)


def test_what_was_measured_is_printed(folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    stats = EmissionStats(20, 10, 10, 4, num_compared_labels=20, delay_frames=-25, num_unaligned=1)
    searches = {
        SearchConfig(method="greedy"): Errors(1, 60, 2, 200),
        SearchConfig(method="greedy", max_symbols_per_frame=5): Errors(4, 2, 3, 200),
        SearchConfig(method="ctc_greedy"): Errors(5, 3, 7, 200),
    }
    compared = [ComparedSearch(search=s, errors=ErrorRates(words=e), decode_s=0.0) for s, e in searches.items()]
    report = EmissionReport(stats=stats, searches=tuple(compared), lattice="regular")
    monkeypatch.setattr("zipasr.train.emission.diagnose_emission", lambda *_: report)
    argv = ["diagnose", str(folder / "model"), str(folder / "data" / "dev_cuts.jsonl.gz"), "--rows", "1"]
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()[4:]
    assert lines[0] == (
        "emission of 20 labels: 40.0 % of the frames with labels emit more than one; 50.0 % of the labels are not the first "
        "of their frame; delay relative to CTC -0.050 s"
    )
    assert lines[1].startswith("1 utterances could not be aligned")
    assert [line.split()[-4:] for line in lines[3:6]] == [
        ["31.50", "30.00", "0.50", "1.00"],
        ["4.50", "1.00", "2.00", "1.50"],
        ["7.50", "1.50", "2.50", "3.50"],
    ]
    assert lines[6:] == [f"! {finding}" for finding in report.findings]
    assert "--set model.transducer.lattice=modified" in lines[6]


def test_models_without_a_transducer(folder: Path, capsys: pytest.CaptureFixture) -> None:
    tokenizer = Tokenizer.train(["LO MID HI UP DOWN"], kind="char", vocab_size=None)
    config = without_heads(minute_config(), has_transducer=False, has_ctc=True).model
    AsrModel(dataclasses.replace(config, vocab_size=tokenizer.vocab_size)).save(folder / "ctc", tokenizer)
    argv = ["diagnose", str(folder / "ctc"), str(folder / "data" / "dev_cuts.jsonl.gz"), "--utterances", "1"]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "outside their limits" in out.splitlines()[-1] and "emission" not in out
    assert main([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["emission"] is None


@pytest.mark.parametrize(
    ("model", "cuts", "more", "code", "message"),
    [
        ("no", "data/dev_cuts.jsonl.gz", [], 1, "must be a model folder"),
        ("model", "data/no.jsonl.gz", [], 1, "there is no such file"),
        ("model", "data/empty.jsonl.gz", [], 1, "holds none with a text"),
        ("model", "data/dev_cuts.jsonl.gz", ["--utterances", "0"], 2, "--utterances must be 1 or more"),
        ("model", "data/dev_cuts.jsonl.gz", ["--rows", "-1"], 2, "--rows must be 0 or more"),
    ],
)
def test_refuses(
    folder: Path, capsys: pytest.CaptureFixture, model: str, cuts: str, more: list[str], code: int, message: str
) -> None:
    write_cuts(folder / "data" / "empty.jsonl.gz", [])
    assert main(["diagnose", str(folder / model), str(folder / cuts), *more]) == code
    captured = capsys.readouterr()
    assert message in captured.err and captured.out == ""
    assert "Traceback" not in captured.err
