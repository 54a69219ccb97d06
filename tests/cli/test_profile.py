"""Contract: `zipasr profile` on presets and folders, the whole table, its JSON and figure, and refused arguments."""

import json
from pathlib import Path

import pytest

from tests.tiny_model import save_tiny
from zipasr import presets, profile
from zipasr.cli import main
from zipasr.errors import ZipasrError
from zipasr.model import AsrConfig
from zipasr.presets import TABLE_2
from zipasr.profile import Measured


def pretend(config: AsrConfig, **options: int | float | str) -> Measured:
    """A fake measurement that takes no time."""
    batch, seconds = options.get("batch", 1), options.get("seconds", 30.0)
    return Measured(device="cpu", batch=batch, seconds=seconds, threads=2, time_s=1.25, min_s=1.0, max_s=1.5, peak_mib=123.4)


def test_one_model_with_its_time(capsys: pytest.CaptureFixture) -> None:
    options = ["--batch", "2", "--seconds", "1.5", "--threads", "1", "--device", "cpu"]
    assert main(["profile", "tiny", "--json", *options]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures.keys() >= {"name", "params", "encoder_params", "gflops", "published", "measured"}
    assert (figures["name"], figures["params"], figures["published"]) == ("tiny", 2_112_677, None)
    assert 0 < figures["measured"]["time_s"] < 10
    assert figures["measured"]["peak_mib"] > 0
    assert [figures["measured"][name] for name in ("batch", "seconds", "threads", "device")] == [2, 1.5, 1, "cpu"]


def test_table_with_the_papers_figures(capsys: pytest.CaptureFixture) -> None:
    assert main(["profile", "zipformer-s", "--no-time"]) == 0
    captured = capsys.readouterr()
    row = next(line for line in captured.out.splitlines() if line.startswith("Zipformer-S"))
    assert row.split() == "Zipformer-S pruned transducer 23.3 23.29 -0.1 % 40.8 40.75 -0.1 %".split()
    assert "MiB" not in captured.out
    assert "Conformer" not in captured.out


@pytest.mark.parametrize("place", ["run", "run/model"])
def test_folders(place: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save_tiny(tmp_path / "run" / "model", has_ctc=False)
    assert main(["profile", str(tmp_path / place), "--json", "--no-time"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["name"] == str(tmp_path / place)
    assert figures["params"] > figures["encoder_params"] == 224_608
    assert figures["measured"] is None


def no_flops(encoder: object, **options: int) -> int:
    """A fake count; tests/test_profile.py counts the operations of every model."""
    return 10**9


def test_all_with_figure(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "profile_encoder", pretend)
    monkeypatch.setattr(profile, "count_flops", no_flops)
    assert main(["profile", "--all", "--batch", "3", "--plot", str(tmp_path / "costs.png")]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    titles = [published.title for published in TABLE_2.values()]
    assert [line.split()[0] for line in lines[2:17]] == titles
    assert all(line.endswith("  1.250       123") for line in lines[2:17])
    assert "a different transducer head" in captured.out
    assert "3 x 30 s on cpu, 2 threads" in captured.out
    assert (tmp_path / "costs.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert str(tmp_path / "costs.png") in captured.err


def test_all_as_json_continues_after_a_failure(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_for_ctc(config: AsrConfig, **options: int | float | str) -> Measured:
        if config.vocab_size == 128:
            raise ZipasrError("no memory left")
        return pretend(config, **options)

    names = ["conformer-s", "squeezeformer-xs", "zipformer-s"]
    monkeypatch.setattr(presets, "TABLE_2", {name: TABLE_2[name] for name in names})
    monkeypatch.setattr(profile, "profile_encoder", fail_for_ctc)
    monkeypatch.setattr(profile, "count_flops", no_flops)
    assert main(["profile", "--all", "--json"]) == 1
    captured = capsys.readouterr()
    figures = json.loads(captured.out)
    assert [row["name"] for row in figures] == names
    assert [row["name"] for row in figures if row["measured"] is None] == ["squeezeformer-xs"]
    assert "error: squeezeformer-xs: no memory left" in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either NAME_OR_FOLDER or --all"),
        (["tiny", "--all"], "either NAME_OR_FOLDER or --all"),
        (["branchfromer"], "did you mean branchformer"),
        (["tiny", "--batch", "0"], "batch must be at least 1"),
        (["tiny", "--threads", "0"], "threads must be at least 1"),
        (["tiny", "--device", "abacus"], "device must be"),
        (["tiny", "--no-time", "--batch", "2", "--device", "cpu"], "--batch, --device would have no effect"),
        (["tiny", "--plot", "costs.png"], "use it with --all"),
        (["--all", "--no-time", "--plot", "costs.png"], "without --no-time"),
        (["--all", "--plot", "no/such/folder/costs.png"], "in an existing folder"),
    ],
)
def test_misuse(arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["profile", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_a_folder_without_a_model_fails(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["profile", str(tmp_path)]) == 1
    assert "must be a model folder" in capsys.readouterr().err
