"""Contract: `zipasr evaluate` on a tiny random model and synthetic audio."""

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import soundfile

from tests.tiny_model import noise, save_tiny, tiny_tokenizer
from tests.watchdog import WATCHDOG_S
from zipasr.cli import main
from zipasr.lm import NGRAM_FILE, ngram_of_texts, write_ngram


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_tiny(folder / "model")
    return folder


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

    folder = tmp_path_factory.mktemp("data")
    made = []
    for i in range(4):
        soundfile.write(folder / f"{i}.flac", noise(0.5 + 0.2 * i, i), 16_000)
        recording = Recording.from_file(folder / f"{i}.flac", recording_id=str(i))
        supervision = SupervisionSegment(str(i), str(i), 0.0, recording.duration, text="THE LAZY DOG")
        made.append(MonoCut(str(i), 0.0, recording.duration, 0, supervisions=[supervision], recording=recording))
    (folder / "3.flac").write_bytes((folder / "3.flac").read_bytes()[:500])
    CutSet.from_cuts(made).to_file(folder / "damaged_cuts.jsonl.gz")
    CutSet.from_cuts(made[:3]).to_file(folder / "test_cuts.jsonl.gz")
    return folder / "test_cuts.jsonl.gz"


@pytest.fixture(scope="module")
def damaged_cuts(cuts: Path) -> Path:
    """The same cuts and one whose recording is damaged."""
    return cuts.with_name("damaged_cuts.jsonl.gz")


def test_prints_rates_speed_and_worst(run_folder: Path, cuts: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["evaluate", str(run_folder), str(cuts)]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].startswith("WER ")
    assert "/ 9 words" in lines[0]
    assert lines[1].startswith("CER ")
    assert "/ 30 characters" in lines[1]
    assert lines[2].startswith("3 utterances")
    assert "real-time factor" in lines[2]
    assert "ref: THE LAZY DOG" in captured.out
    assert "skipped" not in captured.out + captured.err


@pytest.mark.parametrize("options", [[], ["--json"], ["--calibration"], ["--tune", "blank_penalty=0"]])
def test_unreadable_recordings_are_named_and_the_exit_code_is_1(
    run_folder: Path, damaged_cuts: Path, options: list[str], capsys: pytest.CaptureFixture
) -> None:
    assert main(["evaluate", str(run_folder), str(damaged_cuts), *options]) == 1
    captured = capsys.readouterr()
    assert "zipasr: skipped 3: " in captured.err
    if not options:
        assert captured.out.splitlines()[2].startswith("3 utterances")
        assert captured.out.splitlines()[3] == "1 skipped because they cannot be read"
    if "--json" in options:
        assert json.loads(captured.out)["num_unreadable"] == 1


def write_source(kind: str, folder: Path) -> Path:
    """Three recordings with texts, as a folder, a manifest or a Kaldi directory; one of them is damaged."""
    folder.mkdir()
    for i, suffix in enumerate(("wav", "mp3", "wav")):
        soundfile.write(folder / f"{i}.{suffix}", noise(0.5 + 0.2 * i, i), 16_000)
    (folder / "2.wav").write_bytes(b"RIFF")
    names = ["0.wav", "1.mp3", "2.wav"]
    if kind == "folder":
        for i in range(3):
            (folder / f"{i}.txt").write_text("The lazy dog.")
        return folder
    if kind == "kaldi":
        (folder / "wav.scp").write_text("".join(f"{i} {folder / name}\n" for i, name in enumerate(names)))
        (folder / "text").write_text("".join(f"{i} The lazy dog.\n" for i in range(3)))
        return folder
    rows = [json.dumps({"id": str(i), "audio": name, "text": "The lazy dog."}) for i, name in enumerate(names)]
    (folder / "mine.jsonl").write_text("\n".join(rows))
    return folder / "mine.jsonl"


@pytest.mark.parametrize("kind", ["folder", "manifest", "kaldi"])
def test_takes_what_prepare_takes_and_hints_at_its_style(
    run_folder: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture
) -> None:
    source = write_source(kind, tmp_path / kind)
    before = sorted(tmp_path.rglob("*"))
    argv = ["evaluate", str(run_folder), str(source), "--json", "--no-compare", "--out", str(tmp_path / "results")]
    assert main(argv) == 1
    captured = capsys.readouterr()
    figures = json.loads(captured.out)
    assert (figures["num_utterances"], figures["num_words"], figures["num_unreadable"]) == (2, 6, 1)
    assert "zipasr: skipped 2: unreadable: " in captured.err
    assert "6 of 6 reference words have lower case and punctuation, which this model never writes" in captured.err
    rows = [json.loads(line) for line in (tmp_path / "results").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["0", "1", "2"] and rows[0]["ref"] == "The lazy dog."
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "results"])
    assert main([*argv, "--scoring", "words"]) == 1
    assert "reference words" not in capsys.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "results").read_text().splitlines()]
    assert rows[0]["ref"] == "THE LAZY DOG"


def test_sets_that_are_several(run_folder: Path, cuts: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for source, message in (
        (str(cuts.parent), "name one of its files: damaged_cuts.jsonl.gz, test_cuts.jsonl.gz"),
        (f"librispeech:{tmp_path}", f"zipasr prepare librispeech:{tmp_path} --out DATA, then name one of DATA/"),
        ("prompts", "prepare them with: zipasr prepare prompts --out DATA"),
    ):
        assert main(["evaluate", str(run_folder), source]) == 1
        assert message in capsys.readouterr().err
    (tmp_path / "0.wav").write_bytes(b"RIFF")
    (tmp_path / "0.txt").write_text("ONE")
    assert main(["evaluate", str(run_folder), str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "all 1 are rejected; for example 0: unreadable" in error and "rejected.jsonl" not in error


def test_scoring(run_folder: Path, cuts: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["evaluate", str(run_folder), str(cuts), "--scoring", "gigaspeech", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_words"] == 9
    assert main(["evaluate", str(run_folder), str(cuts), "--scoring", "gigaspeach"]) == 2
    assert "scoring must be one of as-is, words, gigaspeech" in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--search", "greedy"], ["--search", "ctc_beam"], ["--beam", "2"]])
def test_json(run_folder: Path, cuts: Path, options: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main(["evaluate", str(run_folder / "model"), str(cuts), "--json", "--device", "cpu", *options]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert {"wer", "cer", "num_utterances", "num_words", "insertions", "deletions", "substitutions"} <= figures.keys()
    assert (figures["num_utterances"], figures["num_words"], figures["num_unreadable"]) == (3, 9, 0)
    errors = figures["insertions"] + figures["deletions"] + figures["substitutions"]
    assert figures["wer"] == pytest.approx(100 * errors / 9, abs=1e-3)


def test_blank_penalty_has_an_effect(run_folder: Path, cuts: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["evaluate", str(run_folder), str(cuts), "--json", "--blank-penalty", "-100"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["wer"], figures["deletions"]) == (100.0, 9)


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_symbols_per_frame_have_an_effect(
    method: str, run_folder: Path, cuts: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    num_characters = []
    for num_symbols in ("1", "3"):
        out = tmp_path / f"{num_symbols}.jsonl"
        options = ["--search", method, "--max-symbols-per-frame", num_symbols, "--out", str(out)]
        assert main(["evaluate", str(run_folder), str(cuts), *options]) == 0
        num_characters.append(sum(len(json.loads(line).get("hyp", "")) for line in out.read_text().splitlines()))
    assert num_characters[0] < num_characters[1]
    capsys.readouterr()


def test_attention_scale_has_an_effect(tmp_path: Path, cuts: Path, capsys: pytest.CaptureFixture) -> None:
    save_tiny(tmp_path, has_transducer=False, has_attention=True)
    texts = []
    for scale in ("0.0001", "10000"):
        out = tmp_path / f"{scale}.jsonl"
        options = ["--beam", "8", "--attention-scale", scale, "--out", str(out), "--json"]
        assert main(["evaluate", str(tmp_path), str(cuts), *options]) == 0
        texts.append([json.loads(line).get("hyp") for line in out.read_text().splitlines()])
    assert texts[0] != texts[1]
    capsys.readouterr()


def test_out_file(run_folder: Path, damaged_cuts: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["evaluate", str(run_folder), str(damaged_cuts), "--out", str(tmp_path / "results.jsonl")]) == 1
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["0", "1", "2", "3"]
    assert str(tmp_path / "results.jsonl") in capsys.readouterr().err


def test_out_may_be_a_device_or_a_link(run_folder: Path, cuts: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "results")
    command = ["evaluate", str(run_folder), str(cuts), "--json", "--no-compare", "--out"]
    assert main([*command, str(tmp_path / "link")]) == 0
    assert (tmp_path / "link").is_symlink() and len((tmp_path / "results").read_text().splitlines()) == 3
    os.mkfifo(tmp_path / "pipe")
    received = list[str]()
    reader = threading.Thread(target=lambda: received.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    assert main([*command, str(tmp_path / "pipe")]) == 0
    reader.join(WATCHDOG_S)
    assert received == [(tmp_path / "results").read_text()] and (tmp_path / "pipe").is_fifo()
    capsys.readouterr()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--beam", "0"], 2, "beam must be at least 1"),
        (["--beam", "3", "--search", "greedy"], 2, "beam has no effect on the search greedy"),
        (["--max-symbols-per-frame", "0"], 2, "max_symbols_per_frame must be at least 1, but is 0"),
        (
            ["--max-symbols-per-frame", "2", "--search", "ctc_beam"],
            2,
            "max_symbols_per_frame has no effect on the search ctc_beam; leave it out or use beam or greedy",
        ),
        (["--search", "attention_rescoring"], 2, "needs an attention decoder"),
        (["--attention-scale", "2", "--search", "ctc_beam"], 2, "attention_scale has no effect on the search ctc_beam"),
        (["--device", "abacus"], 2, "device must be"),
    ],
)
def test_misuse(run_folder: Path, cuts: Path, options: list[str], code: int, message: str, capsys) -> None:
    assert main(["evaluate", str(run_folder), str(cuts), *options]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_missing_paths(run_folder: Path, cuts: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["evaluate", str(tmp_path / "nowhere"), str(cuts)]) == 1
    assert "must be a model folder" in capsys.readouterr().err
    assert main(["evaluate", str(run_folder), str(tmp_path / "nothing.jsonl.gz")]) == 1
    assert "must be a file of Lhotse cuts" in capsys.readouterr().err


def test_default_search_is_shown_beside_the_others(run_folder: Path, cuts: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["evaluate", str(run_folder), str(cuts)]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("search on test_cuts.jsonl.gz (3 utterances)"))
    names = [line[2:].split("  ")[0] for line in lines[start + 1 :] if line[:2] in ("  ", "* ")]
    assert {"greedy", "beam", "ctc_greedy", "ctc_beam"} <= set(names)
    assert [line.split()[1] for line in lines[start + 1 :] if line.startswith("* ")] == ["beam"]
    rate = next(float(line.split()[-4]) for line in lines if line.startswith("* "))
    assert f"{rate:6.2f} %" in lines[0]


@pytest.mark.parametrize("options", [["--no-compare"], ["--search", "beam"], ["--hotwords", "WORDS"]])
def test_comparison_is_skipped_if_a_search_is_chosen(
    run_folder: Path, cuts: Path, tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "words.txt").write_text("LAZY\n")
    options = [str(tmp_path / "words.txt") if option == "WORDS" else option for option in options]
    assert main(["evaluate", str(run_folder), str(cuts), "--json", *options]) == 0
    assert "searches" not in json.loads(capsys.readouterr().out)


def test_save_makes_the_best_search_the_default(cuts: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save_tiny(tmp_path / "model")
    assert main(["evaluate", str(tmp_path), str(cuts), "--json", "--save"]) == 0
    captured = capsys.readouterr()
    searches = json.loads(captured.out)["searches"]
    best = min(searches, key=lambda found: (found["wer"], found["cer"]))
    saved = json.loads((tmp_path / "model" / "search.json").read_text())
    assert saved["search"].items() <= best.items()
    assert saved["chosen_on"] == "test_cuts.jsonl.gz (3 utterances)"
    assert "the default search is now" in captured.err
    assert main(["evaluate", str(tmp_path), str(cuts), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["search"] == saved["search"]


def test_tune_can_save_its_best_setting(cuts: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save_tiny(tmp_path)
    options = ["--search", "greedy", "--tune", "blank_penalty=-100,0.5", "--save", "--json"]
    assert main(["evaluate", str(tmp_path), str(cuts), *options]) == 0
    best = json.loads(capsys.readouterr().out)[0]
    saved = json.loads((tmp_path / "search.json").read_text())
    assert saved["search"] == {"method": "greedy", "blank_penalty": best["blank_penalty"]}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--tune", "lm_scale=0.1"], {"ngram_scale": 0.5}),
        (["--search", "ctc_beam", "--tune", "lm_scale=0.1"], {"method": "ctc_beam", "ngram_scale": 0.5}),
        (["--ngram-scale", "0", "--tune", "lm_scale=0.1"], {}),
        (["--tune", "lm_scale=0.1", "ngram_scale=0.25"], {"ngram_scale": 0.25}),
    ],
)
def test_tuning_with_a_language_model_leaves_the_ngram_of_the_default_search(
    cuts: Path, tmp_path: Path, options: list[str], expected: dict[str, Any]
) -> None:
    save_tiny(tmp_path)
    for name in (NGRAM_FILE, "lm.safetensors"):
        write_ngram(ngram_of_texts(["THE LAZY DOG"], tiny_tokenizer(), order=2), tmp_path / name)
    (tmp_path / "search.json").write_text('{"search": {"method": "joint", "ngram_scale": 0.5}}')
    assert main(["evaluate", str(tmp_path), str(cuts), "--lm", str(tmp_path / "lm.safetensors"), *options, "--save"]) == 0
    saved = json.loads((tmp_path / "search.json").read_text())["search"]
    assert saved == {"method": "joint", "lm_scale": 0.1} | expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--save", "--no-compare"], "--no-compare compares none"),
        (["--compare", "--lm", "x"], "leave --lm, --hotwords and --graph out"),
        (["--compare", "--tune"], "--tune tries many settings"),
        (["--save", "--hotwords", "x"], "leave --lm and --hotwords out, or save tuned settings with --tune"),
        (["--search", "beam", "--ctc-scale", "0.3"], "ctc_scale has no effect on the search beam"),
        (["--plot", "x.png"], "--plot has no effect without --calibration"),
    ],
)
def test_flags_that_contradict_each_other(
    run_folder: Path, cuts: Path, options: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(["evaluate", str(run_folder), str(cuts), *options]) == 2
    assert message in capsys.readouterr().err


def test_an_explicit_flag_overrides_the_models_default(cuts: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save_tiny(tmp_path)
    (tmp_path / "search.json").write_text('{"search": {"method": "greedy", "max_symbols_per_frame": 5}}')
    expected = {
        (): {"method": "greedy", "max_symbols_per_frame": 5},
        ("--max-symbols-per-frame", "1"): {"method": "greedy"},
        ("--beam", "4"): {"method": "beam", "max_symbols_per_frame": 5},
        ("--temperature", "2"): {"method": "greedy", "max_symbols_per_frame": 5, "temperature": 2.0},
        ("--ctc-scale", "0.3"): {"method": "joint"},
    }
    for flags, search in expected.items():
        assert main(["evaluate", str(tmp_path), str(cuts), "--json", "--no-compare", *flags]) == 0
        assert json.loads(capsys.readouterr().out)["search"] == search
