"""Run: `zipasr pull`, and a reference to the hub wherever a verb takes a model; the hub is a stand-in."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile

import zipasr
from tests.forked import Forked, verb
from tests.hub.published_layouts import icefall_folder, model_of, sentencepiece_model
from tests.hub.standin import StandIn
from tests.tiny_model import noise, save_tiny, tiny_tokenizer
from tests.watchdog import WATCHDOG_S
from zipasr.cli import main
from zipasr.cli.command import VERBS
from zipasr.hub.local import MAX_GB
from zipasr.lm import LmConfig, NeuralLm
from zipasr.lm.neural import LstmConfig
from zipasr.model import AsrModel
from zipasr.progress import is_terminal

pytest.importorskip("huggingface_hub", reason='needs pip install "zipasr[hub]"')

NAME = "hf:someone/model"


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of ours."""
    return save_tiny(tmp_path_factory.mktemp("ours") / "model")


@pytest.fixture
def hub(ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A hub with our model as someone/model, which the environment names, with an empty cache."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with StandIn() as hub:
        for name, value in hub.environment(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        hub.add("someone/model", ours)
        yield hub


@pytest.fixture
def audio(tmp_path: Path) -> str:
    """A short recording."""
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(1.0), 16_000)
    return str(path)


def run(capsys: pytest.CaptureFixture, *argv: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    code = main(argv)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_pull_prints_the_folder_and_says_what_it_fetched(hub: StandIn, ours: Path, capsys: pytest.CaptureFixture) -> None:
    code, out, error = run(capsys, "pull", NAME)
    folder, commit = Path(out.removesuffix("\n")), hub.repositories["someone/model"].refs["main"]
    assert code == 0
    assert (folder / "model.safetensors").read_bytes() == (ours / "model.safetensors").read_bytes()
    lines = error.splitlines()
    assert lines[0].startswith(f"zipasr: fetching 5 files of {NAME}, ")
    assert lines[1] == f"zipasr: {NAME} is commit {commit}: zipasr, 6 files, {lines[1].split(', ')[2]}, in {folder}"
    assert run(capsys, "pull", NAME, "--quiet") == (0, out, "")


def test_pull_out_copies(hub: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    target = tmp_path / "new" / "model"
    for _ in range(2):  # an earlier copy is replaced
        assert run(capsys, "pull", NAME, "--out", str(target), "--quiet") == (0, f"{target}\n", "")
    AsrModel.load(target)
    (target / "model.safetensors").write_bytes(b"changed")  # the copy is the user's
    AsrModel.load(Path(run(capsys, "pull", NAME, "--quiet")[1].strip()))
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    hub.requests.clear()
    code, out, error = run(capsys, "pull", NAME, "--out", str(other))
    assert (code, out) == (2, "") and "choose another" in error
    assert (other / "thesis.txt").read_text() == "mine"
    assert hub.requests == []


@pytest.mark.parametrize(
    ("reference", "code", "told"),
    [
        ("someone/model", 2, "hf:someone/model"),
        ("https://huggingface.co/someone/model/tree/main", 2, "use hf:someone/model"),
        ("exp/mine/model", 2, "hf:OWNER/NAME"),
        ("hf:someone/model/exp", 2, "hf:someone/model#exp"),
        ("hf:someone/none", 1, "does not exist"),
        ("hf:someone/model@v9", 1, "it has main"),
    ],
)
@pytest.mark.usefixtures("hub")
def test_misuse_and_failure_have_their_exit_codes(
    reference: str, code: int, told: str, capsys: pytest.CaptureFixture
) -> None:
    found, out, error = run(capsys, "pull", reference)
    assert (found, out) == (code, "")
    assert error.startswith("zipasr: error: ") and told in error and error.count("\n") == 1


@pytest.mark.usefixtures("hub")
def test_the_limit_is_that_of_the_help(capsys: pytest.CaptureFixture) -> None:
    assert f"(default: {MAX_GB:g})" in " ".join(run(capsys, "pull", "--help")[1].split())
    code, _, error = run(capsys, "pull", NAME, "--max-gb", "0.0001")
    assert code == 1 and "--max-gb 1" in error
    assert run(capsys, "pull", NAME, "--max-gb", "-1")[0] == 2
    assert run(capsys, "pull", NAME, "--precision", "int8")[0] == 2


def test_every_verb_that_takes_a_model_takes_a_reference(
    hub: StandIn, audio: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "texts.txt").write_text("".join(f"{'ONE TWO ' * n}\n" for n in range(1, 40)))
    (tmp_path / "words.txt").write_text("ONE\nTWO\n")
    folder, recordings = str(tmp_path), tmp_path / "recordings"
    recordings.mkdir()
    soundfile.write(recordings / "a.wav", noise(1.0), 16_000)
    (recordings / "a.txt").write_text("ONE TWO")
    commands = {
        "transcribe": ["transcribe", NAME, audio],
        "evaluate": ["evaluate", NAME, str(recordings), "--no-compare"],
        "align": ["align", NAME, audio, "--text", "ONE"],
        "profile": ["profile", NAME, "--no-time"],
        "average": ["average", "--checkpoints", NAME, "--out", f"{folder}/averaged"],
        "train-lm": ["train-lm", f"{folder}/texts.txt", "--model", NAME, "--kind", "ngram", "--out", f"{folder}/lm.arpa"],
        "compile-graph": ["compile-graph", NAME, f"{folder}/words.txt", "--out", f"{folder}/graph"],
        "export": ["export", NAME, "--out", f"{folder}/exported"],
    }
    assert commands.keys() <= set(VERBS)
    for name, command in commands.items():
        hub.requests.clear()
        code, _, error = run(capsys, *command)
        assert code == 0, f"{name}: {error}"
        listings = [request for request in hub.requests if request.path == "/api/models/someone/model/revision/main"]
        assert len(listings) == 1, name
    code, _, error = run(capsys, "transcribe", "hf:someone/none", audio)
    assert code == 1 and "does not exist" in error


def test_a_language_model_can_be_a_reference(
    hub: StandIn, ours: Path, audio: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    network = LstmConfig(dim=8, num_layers=1)
    lm = NeuralLm(LmConfig(vocab_size=tiny_tokenizer().vocab_size, network=network)).save(tmp_path / "lm", tiny_tokenizer())
    hub.add("someone/lm", lm)
    local = run(capsys, "transcribe", str(ours), audio, "--lm", str(lm), "--quiet")
    assert run(capsys, "transcribe", str(ours), audio, "--lm", "hf:someone/lm", "--quiet") == local
    assert local[0] == 0 and "language_model.safetensors" in hub.fetched()


def test_the_server_names_the_repository(
    hub: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    names = []
    monkeypatch.setattr("zipasr.serve.serve", lambda *_, model_name, **__: names.append(model_name) or True)
    assert run(capsys, "serve", NAME)[0] == 0
    assert names == ["model"]


def test_python_takes_a_reference_and_is_silent(hub: StandIn, audio: str, capsys: pytest.CaptureFixture) -> None:
    assert not is_terminal()
    text = zipasr.load(NAME).transcribe(audio).text
    assert capsys.readouterr() == ("", "")
    assert text == zipasr.load(Path(NAME)).transcribe(audio).text  # a Path, as programs make them of all arguments


def test_training_starts_from_a_reference_and_resumes_when_it_has_moved(
    hub: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from zipasr.train.config import FinetuneConfig
    from zipasr.train.source import pin_source, remember

    commit = hub.repositories["someone/model"].refs["main"]
    config = pin_source(FinetuneConfig(checkpoint=NAME), tmp_path / "run")
    assert config.checkpoint == f"{NAME}@{commit}"
    remember(config, tmp_path / "run")
    hub.add("someone/model", hub.files("someone/model") | {"new.txt": b"x"})
    assert pin_source(FinetuneConfig(checkpoint=NAME), tmp_path / "run") == config
    hub.close()
    assert pin_source(FinetuneConfig(checkpoint=NAME), tmp_path / "run") == config
    assert capsys.readouterr().out == ""


def test_a_folder_needs_no_client(
    audio: str, ours: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for module in ("huggingface_hub", "httpx", "httpx2", "yaml"):
        monkeypatch.setitem(sys.modules, module, None)  # importing it fails
    assert run(capsys, "transcribe", str(ours), audio)[0] == 0
    code, _, error = run(capsys, "transcribe", NAME, audio)
    assert code == 2 and 'pip install "zipasr[hub]"' in error


def test_a_checkpoint_whose_heads_nobody_knows_is_converted_with_settings(
    hub: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    model = model_of(40, num_heads=(2, 4), head_dims=(16, 6, 4))
    hub.add("someone/odd", icefall_folder(tmp_path / "repository", model, sentencepiece_model()))
    code, _, error = run(capsys, "pull", "hf:someone/odd")
    assert code == 2 and "give num_heads" in error and "zipasr convert hf:someone/odd" in error
    assert ": exp/pretrained.pt: " in error  # as in the repository, not where it was for a moment
    out = tmp_path / "out"
    assert run(capsys, "convert", "hf:someone/odd", "--out", str(out), "--num-heads", "2,4")[0] == 0
    assert AsrModel.load(out)[0].config == model.config
    assert json.loads((out / "source.json").read_text())["repository"] == "someone/odd"
    assert run(capsys, "convert", NAME, "--out", str(out))[0] == 2
    assert run(capsys, "convert", "hf:someone/odd", "--out", str(out), "--tokenizer", "x")[0] == 2


def test_two_processes_pull_the_same_model_at_once(hub: StandIn, tmp_path: Path) -> None:
    hub.add("someone/icefall", icefall_folder(tmp_path / "repository", model_of(40), sentencepiece_model()))
    hub.bytes_per_s = 1_000_000
    environment = {**os.environ, **hub.environment(tmp_path / "home")}
    processes = [Forked(verb, "pull", "hf:someone/icefall", cwd=tmp_path, environment=environment) for _ in range(2)]
    (first, _), (second, _) = (process.communicate(timeout=WATCHDOG_S) for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert first == second
    AsrModel.load(first.strip())
    gets = [request.path for request in hub.requests if request.method == "GET" and "/resolve/" in request.path]
    assert len(gets) == len(set(gets))


def test_ctrl_c_stops_a_download_and_the_next_one_succeeds(
    hub: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    hub.held_bytes = 50_000
    process = Forked(verb, "pull", NAME, cwd=tmp_path, environment={**os.environ, **hub.environment(tmp_path / "home")})
    while not any(r.method == "GET" and r.path.endswith("model.safetensors") for r in list(hub.requests)):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=WATCHDOG_S)
    hub.goes_on.set()
    assert process.returncode == 130 and error.splitlines()[-1] == "zipasr: interrupted"
    left = [path.name for path in (tmp_path / "home").rglob("*")]
    assert not [name for name in left if "partial" in name or name.endswith(".incomplete") or name == "source.json"]
    hub.held_bytes = None
    assert json.loads((Path(run(capsys, "pull", NAME)[1].strip()) / "source.json").read_text())["family"] == "zipasr"
