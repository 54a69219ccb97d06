"""Reference: graphs in icefall's form give here what they give in sherpa-onnx. Law: types, precisions, lengths and batches
change nothing, and streams in any pieces give what whole recordings give. Contract: they open wherever a model is taken."""

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
import torch

import zipasr
from tests.export.models import causal_model, random_model
from tests.export.sherpa import SEARCHES, sherpa_recognizer, sherpa_results, sherpa_tokens
from tests.export.traces import traced_once
from tests.onnx_runtime import icefall
from tests.onnx_runtime.small_graphs import (
    INT32,
    decoder_graph,
    joiner_graph,
    offline_graph,
    transducer,
    write,
    zipformer1_graph,
)
from tests.recognizer.pieces import in_pieces
from tests.tiny_model import noise, tiny_tokenizer
from zipasr.cli import main
from zipasr.features import Fbank
from zipasr.nn.encoded import Encoded
from zipasr.onnx_runtime import OnnxStreamingModel
from zipasr.recognizer import Recognizer, SearchConfig
from zipasr.search.finding import find_hypotheses
from zipasr.search.greedy import greedy_search

CHUNK, LEFT = 16, 64
RECORDINGS = [noise(duration_s, seed) for seed, duration_s in enumerate((2.0, 1.1, 3.3, 1.1, 0.3))]
METHODS = {"transducer": ("greedy", "beam"), "ctc": ("ctc_greedy",)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of traced models, offline and online, with either head, and of a hand-built Zipformer 1."""
    root, tokenizer = tmp_path_factory.mktemp("icefall"), tiny_tokenizer()
    with traced_once():
        offline = icefall.export_offline(random_model(), tokenizer, root / "offline")
        online = icefall.export_online(causal_model(), tokenizer, root / "online", chunk=CHUNK, left=LEFT)
    v1 = write(root / "v1", encoder=zipformer1_graph(), decoder=decoder_graph(), joiner=joiner_graph())
    named = {
        f"{kind}-{head}": folder
        for kind, made in (("offline", offline), ("online", online))
        for head, folder in made.items()
    }
    return named | {"online-v1": v1}


def said(folder: Path, method: str) -> list[list[str]]:
    """The tokens that we find in whole recordings, as sherpa-onnx names them; it never emits <unk> with a transducer."""
    recognizer = zipasr.load(folder, search=SearchConfig(method=method))  # type: ignore[arg-type]
    transcripts = recognizer.transcribe_many(RECORDINGS)
    return [[token.text.replace("\u2581", " ") for token in transcript.tokens] for transcript in transcripts]


def without_specials(tokens: list[str]) -> list[str]:
    """Tokens without those that our transcripts leave out."""
    return [token for token in tokens if token not in ("<sos/eos>", "<unk>")]


@pytest.mark.parametrize(("head", "method"), [(head, method) for head in METHODS for method in METHODS[head]])
def test_whole_utterances_give_what_sherpa_gives(head: str, method: str, folders: dict[str, Path]) -> None:
    assert method in SEARCHES
    folder = folders[f"offline-{head}"]
    expected = [without_specials(result.tokens) for result in sherpa_results(folder, RECORDINGS, method)]
    assert [without_specials(tokens) for tokens in said(folder, method)] == expected
    assert sum(map(len, expected)) > 10


@pytest.mark.parametrize(
    ("name", "method"),
    [("online-transducer", "greedy"), ("online-transducer", "beam"), ("online-ctc", "ctc_greedy"), ("online-v1", "greedy")],
)
def test_streams_give_what_sherpa_gives(name: str, method: str, folders: dict[str, Path]) -> None:
    folder = folders[name]
    recordings = [RECORDINGS[i] for i in (0, 1, 4)]
    found = sherpa_tokens(sherpa_recognizer(folder, method), recordings)
    recognizer = zipasr.load(folder, search=SearchConfig(method=method))  # type: ignore[arg-type]
    scorer, tokenizer = recognizer.engine.scorer, recognizer.engine.tokenizer
    assert isinstance(scorer, OnnxStreamingModel)
    num_tokens = 0
    for samples, tokens in zip(recordings, found, strict=True):
        encoded = windows_of_sherpa(scorer, samples)
        if encoded is None:
            assert not tokens
            continue
        ((best, *_),) = find_hypotheses(scorer, encoded, recognizer.search, unk_id=tokenizer.unk_id)
        assert [tokenizer.pieces[i].replace("\u2581", " ") for i in best.ids] == tokens
        num_tokens += len(tokens)
    assert num_tokens > 5


def windows_of_sherpa(scorer: OnnxStreamingModel, samples: np.ndarray) -> Encoded | None:
    """Frames of all windows that sherpa-onnx processes in a recording: it waits for one more feature than a window."""
    features, window, hop = Fbank()(samples), scorer.window_frames, 2 * scorer.chunk_frames_50hz
    sizes = {"chunk_frames_50hz": scorer.chunk_frames_50hz, "left_context_frames_50hz": scorer.left_context_frames_50hz}
    states, frames = [scorer.initial_state(1, **sizes)], []
    for start in range(0, len(features) - window, hop):
        part = features[start : start + window].unsqueeze(0)
        encoded, states = scorer.encode_chunks(part, torch.tensor([window]), states)
        frames.append(encoded.frames)
    whole = torch.cat(frames, dim=1) if frames else None
    return None if whole is None else Encoded(whole, torch.tensor([whole.shape[1]]))


@pytest.mark.parametrize("name", ["online-transducer", "online-ctc", "online-v1"])
def test_streams_in_any_pieces_and_batches_give_what_whole_recordings_give(name: str, folders: dict[str, Path]) -> None:
    recognizer, generator = zipasr.load(folders[name]), random.Random(0)
    expected = [transcript.text for transcript in recognizer.transcribe_many(RECORDINGS)]
    assert [recognizer.transcribe(samples).text for samples in RECORDINGS] == expected
    streams = [recognizer.stream() for _ in RECORDINGS]
    arriving = [in_pieces(samples, generator) for samples in RECORDINGS]
    while any(arriving):
        for stream, pieces in zip(streams, arriving, strict=True):
            if pieces and generator.random() < 0.5:
                stream.accept_waveform(pieces.pop(0))
        recognizer.decode_streams(generator.sample(streams, 3))
    assert [stream.finish().text for stream in streams] == expected
    assert all(expected[:3])


def test_windows_of_zipformer_1_are_shorter(folders: dict[str, Path]) -> None:
    latencies = {name: zipasr.load(folders[name]).stream().latency_ms for name in ("online-transducer", "online-v1")}
    assert latencies == {"online-transducer": 320 + 137.5, "online-v1": 320 + 77.5}


@pytest.mark.parametrize("name", ["offline-transducer", "offline-ctc", "online-v1"])
def test_int32_and_missing_lengths_change_nothing(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    method = METHODS["ctc" if name == "offline-ctc" else "transducer"][0]
    expected = said(folders[name], method)
    narrow = icefall.changed(folders[name], tmp_path / "int32", icefall.take_int32)
    assert INT32 in [value.type.tensor_type.elem_type for value in onnx.load(next(narrow.glob("[ec]*.onnx"))).graph.input]
    assert said(narrow, method) == expected
    if name != "online-v1":
        assert said(icefall.changed(narrow, tmp_path / "x only", icefall.take_no_lengths), method) == expected


@pytest.mark.parametrize("kind", [("int8", "int8", "fp16"), ("fp16", "fp16", "int8"), ("fp16", "fp16", "fp16")])
def test_precisions_mix(kind: tuple[str, str, str], tmp_path: Path) -> None:
    """Any graph may be there in 8 or 16 bits only."""
    source = write(tmp_path / "all", **transducer())
    icefall.quantize(source)
    icefall.halve(source)
    folder = write(tmp_path / "some")
    for part, precision in zip(("encoder", "decoder", "joiner"), kind, strict=True):
        name = f"{part}.{precision}.onnx"
        (folder / name).write_bytes((source / name).read_bytes())
    engine = zipasr.load(folder).engine
    found = []
    for samples in RECORDINGS:
        # A joiner in 8 bits scales all frames of a call together; sherpa-onnx gives it one at a time, the search up to 8.
        encoded = engine.encode([engine.fbank(samples)])
        (hypothesis,) = greedy_search(engine.scorer, encoded, unk_id=engine.tokenizer.unk_id, window_frames_25hz=1)
        found.append([engine.tokenizer.pieces[i].replace("\u2581", " ") for i in hypothesis.ids])
    assert found == [result.tokens for result in sherpa_results(folder, RECORDINGS, "greedy")]
    assert sum(map(len, found)) > 10


def test_the_batch_does_not_matter(folders: dict[str, Path]) -> None:
    """Though the graph takes no batch that is longer than its longest utterance, and looks at padding."""
    recognizer = zipasr.load(folders["offline-transducer"])
    alone = [recognizer.transcribe(samples) for samples in RECORDINGS]
    assert recognizer.transcribe_many(RECORDINGS) == alone
    scorer = recognizer.engine.scorer
    features, lens = 3 * torch.randn(3, 200, 80) - 8, torch.tensor([150, 150, 9])
    together = scorer.encode(features, lens)
    assert together.lens.tolist() == [scorer.output_length(n) for n in (150, 150, 9)]
    for n, length in enumerate(lens.tolist()):
        one = scorer.encode(features[n : n + 1, :length], lens[n : n + 1])
        torch.testing.assert_close(together.frames[n : n + 1, : one.frames.shape[1]], one.frames)


@pytest.mark.parametrize("head", METHODS)
def test_graphs_that_take_only_some_lengths_get_them(head: str, tmp_path: Path) -> None:
    """Exports of a causal model may need a multiple of 8 frames at 50 Hz; the frames that padding adds are cut off."""
    if head == "ctc":
        graphs = [{"model": offline_graph(is_ctc=True, step=step)} for step in (1, 16)]
    else:
        graphs = [transducer(step=step) for step in (1, 16)]
    folders = [write(tmp_path / str(i), **parts) for i, parts in enumerate(graphs)]
    every, some = (said(folder, METHODS[head][0]) for folder in folders)
    assert every == some
    assert all(some[:4])


def test_searches_hotwords_and_language_models_work(folders: dict[str, Path], tmp_path: Path) -> None:
    folder, samples = folders["offline-transducer"], RECORDINGS[0]
    texts = {
        method: zipasr.load(folder, search=SearchConfig(method=method)).transcribe(samples).text  # type: ignore[arg-type]
        for method in ("greedy", "beam")
    }
    wide = SearchConfig(method="beam", beam=60, hotword_boost=100.0)
    assert "DOZEN" in zipasr.load(folder, search=wide).transcribe(samples, hotwords=["DOZEN"]).text
    assert not any("DOZEN" in text for text in texts.values())
    (tmp_path / "texts.txt").write_text("THE LAZY DOG\nONE TWO THREE FOUR\n" * 3)
    argv = ["train-lm", str(tmp_path / "texts.txt"), "--model", str(folder), "--out", str(tmp_path / "lm.arpa")]
    assert main([*argv, "--kind", "ngram", "--unit", "token"]) == 0
    with_lm = Recognizer.load(folder, lm=tmp_path / "lm.arpa", search=SearchConfig(method="beam", lm_scale=2.0))
    assert with_lm.transcribe(samples).text != texts["beam"]
    for method, needed in (("ctc_greedy", "CTC head"), ("attention_rescoring", "CTC head")):
        with pytest.raises(zipasr.errors.ConfigError, match=f"needs a {needed}"):
            zipasr.load(folder, search=SearchConfig(method=method))  # type: ignore[arg-type]
    ctc = folders["offline-ctc"]
    with pytest.raises(zipasr.errors.ConfigError, match="needs an attention decoder"):
        zipasr.load(ctc, search=SearchConfig(method="attention_rescoring"))
    beam = zipasr.load(ctc, search=SearchConfig(method="ctc_beam", num_best=3)).transcribe(samples)
    assert len(beam.alternatives) == 2


def test_on_the_command_line(folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    soundfile.write(tmp_path / "a.wav", RECORDINGS[0], 16_000, subtype="FLOAT")
    for name in ("offline-transducer", "online-ctc"):
        assert main(["transcribe", str(folders[name]), str(tmp_path / "a.wav")]) == 0
        assert capsys.readouterr().out.strip() == zipasr.load(folders[name]).transcribe(RECORDINGS[0]).text
    for argv, said_so in (
        (["export", folders["offline-ctc"], "--out", tmp_path / "out"], "ONNX"),
        (["average", "--checkpoints", folders["online-ctc"], folders["online-v1"], "--out", tmp_path / "out"], "ONNX"),
        (["transcribe", folders["offline-ctc"], tmp_path / "a.wav", "--chunk-ms", 320], "encode whole utterances"),
        (["transcribe", folders["online-ctc"], tmp_path / "a.wav", "--chunk-ms", 640], "chunks of 16 frames"),
        (["transcribe", folders["online-ctc"], tmp_path / "a.wav", "--device", "cuda"], "run on the CPU"),
    ):
        assert main([*map(str, argv)]) in (1, 2)
        assert said_so in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
