"""Recognizer. Law: results depend neither on the batch nor on the order. Contract: folders, empty audio, settings."""

import dataclasses
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import zipasr
from tests.recognizer.causal_models import causal_model
from tests.tiny_model import noise, save_tiny, tiny_asr_model, tiny_recognizer, tiny_tokenizer
from zipasr.encoder.rates import FRAME_S_25HZ
from zipasr.errors import AudioError, CheckpointError, ConfigError
from zipasr.features import Fbank
from zipasr.recognizer import ChunkConfig, Hotword, LongRecordingConfig, Recognizer, SearchConfig
from zipasr.recognizer.transcripts import to_transcript
from zipasr.search.confidence import Calibration, write_calibration
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.prefix import ctc_prefix_search
from zipasr.search.rescoring import attention_scores
from zipasr.tokenizer import Tokenizer
from zipasr.transcript import Transcript

METHODS = ("beam", "greedy", "ctc_greedy", "ctc_beam", "joint", "attention_rescoring")
DURATIONS_S = (1.3, 0.4, 2.9, 0.7, 2.1)


def assert_same(found: Transcript, expected: Transcript) -> None:
    assert found.text == expected.text
    assert [(t.text, t.start_s, t.end_s) for t in found.tokens] == [(t.text, t.start_s, t.end_s) for t in expected.tokens]
    assert [t.log_prob for t in found.tokens] == pytest.approx([t.log_prob for t in expected.tokens], abs=1e-3)
    assert found.score == pytest.approx(expected.score, abs=1e-2)
    assert found.duration_s == expected.duration_s


@pytest.mark.parametrize("method", METHODS)
def test_results_do_not_depend_on_the_batch(method: str) -> None:
    recognizer = tiny_recognizer(method)
    recordings = [noise(duration_s, seed) for seed, duration_s in enumerate(DURATIONS_S)]
    together = recognizer.transcribe_many(recordings)
    assert any(transcript.text for transcript in together)
    alone = [recognizer.transcribe(samples) for samples in recordings]
    in_pairs = recognizer.transcribe_many(recordings[::-1], max_batch_s=6.5)[::-1]
    for a, b, c in zip(together, alone, in_pairs, strict=True):
        assert_same(a, b)
        assert_same(c, b)


def test_encoder_frames_do_not_depend_on_the_batch() -> None:
    """With the padding they agree up to rounding; without it, as in the original, the ends of short utterances differ."""
    features = [Fbank()(noise(duration_s, seed)) for seed, duration_s in enumerate(DURATIONS_S)]
    differences = {}
    for tail_padding_frames in (0, 32):
        recognizer = Recognizer(tiny_asr_model(), tiny_tokenizer(), tail_padding_frames=tail_padding_frames)
        together = recognizer.engine.encode(features)
        differences[tail_padding_frames] = max(
            (recognizer.engine.encode([frames]).frames[0, :length] - together.frames[n, :length]).abs().max().item()
            for n, (frames, length) in enumerate(zip(features, together.lens.tolist(), strict=True))
        )
    assert differences[32] < 2e-5
    assert differences[0] > 1e-3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_samples", [0, 1, 160, 800, 1300])
def test_too_short_for_words_is_empty(method: str, num_samples: int) -> None:
    transcript = tiny_recognizer(method).transcribe(np.full(num_samples, 0.1, np.float32))
    assert transcript == Transcript("", duration_s=num_samples / 16_000)


def test_nothing_and_mixed_lengths() -> None:
    recognizer = tiny_recognizer()
    assert recognizer.transcribe_many([]) == []
    found = recognizer.transcribe_many([np.zeros(0, np.float32), noise(1.0), np.zeros(100, np.float32)])
    assert [transcript.duration_s for transcript in found] == [0.0, 1.0, 100 / 16_000]
    assert found[0].text == found[2].text == ""
    assert_same(found[1], recognizer.transcribe(noise(1.0)))


def test_silence_is_no_crash() -> None:
    assert isinstance(tiny_recognizer().transcribe(np.zeros(16_000, np.float32)).text, str)


@pytest.mark.parametrize("use_true_times", [False, True])
def test_transcript_times_and_text_agree(use_true_times: bool) -> None:
    search = SearchConfig(method="greedy")
    recognizer = Recognizer(tiny_asr_model(), tiny_tokenizer(), search=search, use_true_times=use_true_times)
    transcript = recognizer.transcribe(noise(2.0))
    starts = [token.start_s for token in transcript.tokens]
    assert starts == sorted(starts)
    assert 0.0 <= starts[0]
    assert transcript.tokens[-1].end_s <= transcript.duration_s
    if not use_true_times:
        assert all(token.end_s == pytest.approx(token.start_s + FRAME_S_25HZ) for token in transcript.tokens)
    assert all(a.end_s <= b.start_s + 1e-9 for a, b in itertools.pairwise(transcript.tokens))
    assert " ".join(word.text for word in transcript.words) == transcript.text


@pytest.mark.parametrize("method", ["beam", "ctc_beam", "attention_rescoring"])
def test_alternatives_are_the_next_best_hypotheses(method: str) -> None:
    model = tiny_asr_model(has_attention=method == "attention_rescoring")
    search = SearchConfig(method=method, num_best=3)
    several = Recognizer(model, tiny_tokenizer(), search=search).transcribe_many([noise(1.3), noise(0.01)])
    assert_same(several[0], tiny_recognizer(method).transcribe(noise(1.3)))
    hypotheses = [several[0], *several[0].alternatives]
    assert len({tuple(token.text for token in hypothesis.tokens) for hypothesis in hypotheses}) == 3
    assert several[1] == Transcript("", duration_s=0.01)


@pytest.mark.parametrize("use_vad", [False, True])
def test_a_long_recording_in_pieces_gives_the_text_of_its_parts(use_vad: bool) -> None:
    """Random weights emit tokens even in silence, so the parts are compared where their pieces are the same."""
    long = LongRecordingConfig(max_piece_s=8.0, overlap_s=1.0, use_vad=use_vad)
    recognizer = Recognizer(tiny_asr_model(), tiny_tokenizer(), long_recordings=long)
    samples, progress = noise(21.0), []
    transcript = recognizer.transcribe(samples, on_progress=progress.append)
    assert transcript.duration_s == 21.0
    assert transcript.alternatives == ()
    starts = [word.start_s for word in transcript.words]
    assert starts == sorted(starts)
    assert all(0 <= word.start_s <= word.end_s <= 21.0 for word in transcript.words)
    assert " ".join(word.text for word in transcript.words) == transcript.text
    if not use_vad:
        assert transcript.text
        assert progress[-1] == pytest.approx(21.0)
    assert_same(recognizer.transcribe(samples[:128_000]), recognizer.transcribe_many([samples[:128_000]])[0])


def test_files_come_in_order_and_bad_ones_stop_nothing(tmp_path: Path) -> None:
    long = LongRecordingConfig(max_piece_s=8.0, overlap_s=1.0, use_vad=False)
    recognizer = Recognizer(tiny_asr_model(), tiny_tokenizer(), long_recordings=long)
    sounds = {"a.wav": noise(1.0), "b.wav": noise(9.0), "d.wav": noise(0.5)}
    for name, samples in sounds.items():
        soundfile.write(tmp_path / name, samples, 16_000, subtype="FLOAT")
    (tmp_path / "c.wav").write_text("no sound")
    paths = [tmp_path / name for name in ("a.wav", "missing.wav", "b.wav", "c.wav", "d.wav")]
    results = list(recognizer.transcribe_files(paths))
    assert [result.path for result in results] == [str(path) for path in paths]
    for result, path in zip(results, paths, strict=True):
        if path.name in sounds:
            assert result.transcript is not None
            assert_same(result.transcript, recognizer.transcribe(path))
        else:
            assert isinstance(result.error, AudioError)
            assert result.transcript is None
    assert list(recognizer.transcribe_files([])) == []


def test_two_speakers_on_two_channels(tmp_path: Path) -> None:
    recognizer = tiny_recognizer()
    call = np.stack([noise(1.5, seed=1), noise(1.5, seed=2)], axis=1)
    soundfile.write(tmp_path / "call.wav", call, 16_000, subtype="FLOAT")
    first, second = recognizer.transcribe_channels(tmp_path / "call.wav")
    assert (first.channel, second.channel) == (0, 1)
    assert first.text != second.text
    for transcript, samples in ((first, call[:, 0]), (second, call[:, 1])):
        assert_same(transcript, recognizer.transcribe(np.ascontiguousarray(samples)))
    found = list(recognizer.transcribe_files([tmp_path / "call.wav"], is_per_channel=True))
    for result, expected in zip(found, (first, second), strict=True):
        assert result.transcript is not None
        assert result.transcript.channel == expected.channel
        assert_same(result.transcript, expected)


def recognized_word(recognizer: Recognizer) -> str:
    """A word that the recognizer finds without hotwords, spelled like the tokenizer's, so that a boost raises its score."""
    recognized = {word for seed in range(4) for word in recognizer.transcribe(noise(1.3, seed)).text.split()}
    return next(word for word in ("THE", *sorted(recognized)) if word in recognized)


def test_hotwords_of_a_request_and_of_the_recognizer() -> None:
    plain = tiny_recognizer()
    hotword = Hotword(recognized_word(plain), 5.0)
    recognized = plain.transcribe(noise(1.3))
    boosted = plain.transcribe(noise(1.3), hotwords=[hotword])
    assert hotword.text in boosted.text.split()
    assert boosted.score > recognized.score + 4.0
    assert_same(recognized, plain.transcribe(noise(1.3), hotwords=[]))
    own = Recognizer(tiny_asr_model(), tiny_tokenizer(), hotwords=[hotword])
    assert_same(own.transcribe(noise(1.3)), boosted)
    assert_same(own.transcribe(noise(1.3), hotwords=()), recognized)
    with pytest.raises(ConfigError, match="'Ω' must be writable"):
        plain.transcribe(noise(0.5), hotwords=["THE", "Ω"])


def test_boost_of_hotwords_is_that_of_the_search() -> None:
    plain = tiny_recognizer()
    word = recognized_word(plain)
    default = SearchConfig(method="beam", hotword_boost=5.0)
    found = Recognizer(tiny_asr_model(), tiny_tokenizer(), default_search=default, hotwords=[word])
    assert_same(found.transcribe(noise(1.3)), plain.transcribe(noise(1.3), hotwords=[Hotword(word, 5.0)]))


def test_one_string_is_no_list_of_phrases() -> None:
    recognizer = tiny_recognizer()
    for call in (
        lambda: recognizer.transcribe(noise(0.5), hotwords="THE"),
        lambda: recognizer.spotter("THE"),
        lambda: Recognizer(tiny_asr_model(), tiny_tokenizer(), hotwords="THE"),
    ):
        with pytest.raises(ValueError, match=r"must be a list, but are one string; write \['THE'\]"):
            call()


def test_hotwords_turn_an_automatic_ctc_search_into_a_beam() -> None:
    only_ctc = tiny_asr_model(7, has_transducer=False)  # emits words
    recognizer = Recognizer(only_ctc, tiny_tokenizer())
    assert recognizer.search.method == "ctc_greedy"
    beam = Recognizer(only_ctc, tiny_tokenizer(), search=SearchConfig(method="ctc_beam"))
    hotword = Hotword(beam.transcribe(noise(1.3)).text.split()[0], 2.0)
    found = recognizer.transcribe(noise(1.3), hotwords=[hotword])
    assert_same(found, beam.transcribe(noise(1.3), hotwords=[hotword]))
    assert found.score != beam.transcribe(noise(1.3)).score
    greedy = Recognizer(only_ctc, tiny_tokenizer(), search=SearchConfig(method="ctc_greedy"))
    with pytest.raises(ConfigError, match="ctc_greedy cannot use hotwords"):
        greedy.transcribe(noise(1.3), hotwords=["JUMPS"])


def test_confidences_are_calibrated_by_the_search_they_were_measured_with(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    plain = zipasr.load(folder, search=SearchConfig(method="greedy")).transcribe(noise(1.3))
    write_calibration(folder, "greedy", Calibration(temperature=2.0, offset=-1.0))
    calibrated = zipasr.load(folder, search=SearchConfig(method="greedy")).transcribe(noise(1.3))
    other = zipasr.load(folder, search=SearchConfig(method="ctc_greedy"))
    assert other.engine.calibrations.keys() == {"greedy"}
    assert calibrated.text == plain.text
    expected = [Calibration(temperature=2.0, offset=-1.0).apply(word.confidence) for word in plain.words]
    assert [word.confidence for word in calibrated.words] == pytest.approx(expected)
    (folder / "confidence.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"confidence\.json"):
        zipasr.load(folder)


def test_audio_of_any_kind(tmp_path: Path) -> None:
    recognizer = tiny_recognizer()
    samples = (noise(1.0) * 32768).astype(np.int16)
    path = tmp_path / "a.wav"
    soundfile.write(path, samples, 16_000)
    expected = recognizer.transcribe(samples)
    assert_same(recognizer.transcribe(path), expected)
    assert_same(recognizer.transcribe(path.read_bytes()), expected)
    assert_same(recognizer.transcribe(samples.tobytes(), format="s16le", sample_rate_hz=16_000), expected)
    assert_same(recognizer.transcribe(np.stack([samples, 0 * samples]), channel=0), expected)
    with pytest.raises(AudioError, match="no such file"):
        recognizer.transcribe(tmp_path / "missing.wav")


def test_unknown_label_is_never_written() -> None:
    model = tiny_asr_model()
    assert model.transducer is not None
    with torch.no_grad():
        model.transducer.joiner.output.bias[tiny_tokenizer().unk_id] += 1e4
    for method in ("greedy", "beam"):
        recognizer = Recognizer(model, tiny_tokenizer(), search=SearchConfig(method=method))
        assert recognizer.transcribe(noise(1.0)).text == ""


def test_load_takes_model_and_run_folders(tmp_path: Path) -> None:
    save_tiny(tmp_path / "run" / "model")
    expected = tiny_recognizer().transcribe(noise(1.0))
    assert_same(zipasr.load(tmp_path / "run", device="cpu").transcribe(noise(1.0)), expected)
    assert_same(zipasr.load(str(tmp_path / "run" / "model")).transcribe(noise(1.0)), expected)
    greedy = zipasr.load(tmp_path / "run", search=SearchConfig(method="greedy"))
    assert greedy.search.method == "greedy"


def test_load_says_what_it_expected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"must be a model folder .* but there is no such folder"):
        zipasr.load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"must be a model folder .* but it is not"):
        zipasr.load(tmp_path)
    folder = save_tiny(tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        zipasr.load(folder)


def test_unknown_device_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="device must be"):
        zipasr.load(save_tiny(tmp_path / "model"), device="abacus")


def test_search_follows_the_heads() -> None:
    tokenizer = tiny_tokenizer()
    only_ctc, only_transducer = tiny_asr_model(has_transducer=False), tiny_asr_model(has_ctc=False)
    assert Recognizer(only_ctc, tokenizer).search.method == "ctc_greedy"
    assert Recognizer(only_transducer, tokenizer).search.method == "beam"
    assert Recognizer(tiny_asr_model(has_attention=True), tokenizer).search.method == "beam"
    ctc_attention = tiny_asr_model(has_transducer=False, has_attention=True)
    assert Recognizer(ctc_attention, tokenizer).search.method == "attention_rescoring"
    for method in ("beam", "greedy"):
        with pytest.raises(ConfigError, match="needs a transducer head"):
            Recognizer(only_ctc, tokenizer, search=SearchConfig(method=method))
    for method in ("ctc_greedy", "ctc_beam", "attention_rescoring"):
        with pytest.raises(ConfigError, match=f"{method} needs a CTC head"):
            Recognizer(only_transducer, tokenizer, search=SearchConfig(method=method))
    with pytest.raises(ConfigError, match="attention_rescoring needs an attention decoder"):
        Recognizer(only_ctc, tokenizer, search=SearchConfig(method="attention_rescoring"))
    with pytest.raises(ConfigError, match="beam has no effect on the search ctc_greedy"):
        Recognizer(only_ctc, tokenizer, search=SearchConfig(method="ctc_greedy", beam=8))
    assert Recognizer(only_ctc, tokenizer, search=SearchConfig(beam=8)).search.method == "ctc_beam"
    for model in (only_ctc, only_transducer):
        with pytest.raises(ConfigError, match="attention_scale has no effect on the search"):
            Recognizer(model, tokenizer, search=SearchConfig(attention_scale=0.5))
    search = SearchConfig(attention_scale=0.5, beam=8)
    assert Recognizer(ctc_attention, tokenizer, search=search).search.attention_scale == 0.5


def test_a_search_may_be_named_by_its_method_alone(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    assert zipasr.load(folder, search="ctc_beam").search == SearchConfig(method="ctc_beam")
    with pytest.raises(ConfigError, match=r"the search must be one of auto, beam.*but is 'viterbi'"):
        zipasr.load(folder, search="viterbi")  # type: ignore[arg-type]


def test_streams_and_simulated_ones_have_the_default_of_the_folder() -> None:
    joint = SearchConfig(method="joint", ctc_scale=1.0)
    for chunks in (None, ChunkConfig(chunk_frames_50hz=16, simulate_streaming=True)):
        recognizer = Recognizer(causal_model(), tiny_tokenizer(), default_search=joint, chunks=chunks)
        assert recognizer.search == recognizer.stream().search_config == joint


def test_search_settings_have_an_effect() -> None:
    model, tokenizer = tiny_asr_model(), tiny_tokenizer()
    counts = [
        len(Recognizer(model, tokenizer, search=SearchConfig(blank_penalty=p)).transcribe(noise(2.0)).tokens)
        for p in (-20.0, 20.0)
    ]
    assert counts[0] < counts[1]
    scores = [
        Recognizer(model, tokenizer, search=SearchConfig(temperature=t)).transcribe(noise(2.0)).score for t in (1.0, 3.0)
    ]
    assert scores[0] != scores[1]


def test_rescoring_chooses_by_both_scores() -> None:
    """A scale near 0 keeps the order of CTC; a huge one leaves the choice to the attention decoder alone."""
    model, tokenizer, samples = tiny_asr_model(has_attention=True), tiny_tokenizer(), noise(1.0)

    def best(method: str, **settings: float) -> Transcript:
        return Recognizer(model, tokenizer, search=SearchConfig(method=method, beam=8, **settings)).transcribe(samples)

    by_ctc, rescored = best("ctc_beam"), best("attention_rescoring", attention_scale=1e-9)
    # The search for hypotheses to rescore follows more labels of the best sequences, and so sums up more of their paths.
    assert by_ctc.score < rescored.score < by_ctc.score + 0.1
    assert_same(dataclasses.replace(rescored, score=by_ctc.score), by_ctc)
    recognizer = Recognizer(model, tokenizer)
    encoded = recognizer.engine.encode([recognizer.engine.fbank(samples)])
    (hypotheses,) = ctc_prefix_search(model, encoded, beam=8)
    (scores,) = attention_scores(model, encoded, [hypotheses])
    chosen = hypotheses[max(range(8), key=scores.__getitem__)]
    assert chosen.ids != hypotheses[0].ids
    by_attention = best("attention_rescoring", attention_scale=1e6)
    assert by_attention.text == tokenizer.decode(chosen.ids)
    assert by_attention.score == pytest.approx(chosen.score + 1e6 * max(scores), rel=1e-5)


def test_wrong_settings() -> None:
    with pytest.raises(ConfigError, match="beam must be at least 1, but is 0"):
        SearchConfig(beam=0)
    with pytest.raises(ConfigError, match="temperature must be positive"):
        SearchConfig(temperature=0.0)
    with pytest.raises(ConfigError, match=r"attention_scale must be positive, but is 0\.0; without it use ctc_beam"):
        SearchConfig(attention_scale=0.0)
    with pytest.raises(ConfigError, match="attention_scale has no effect on the search ctc_beam"):
        SearchConfig(method="ctc_beam", attention_scale=2.0)
    with pytest.raises(ValueError, match="tail_padding_frames must be 0 or more, but is -1"):
        Recognizer(tiny_asr_model(), tiny_tokenizer(), tail_padding_frames=-1)
    with pytest.raises(ValueError, match="max_batch_s must be positive"):
        tiny_recognizer().transcribe_many([noise(0.5)], max_batch_s=0.0)


def test_root_is_lazy_and_complete() -> None:
    assert zipasr.Recognizer is Recognizer
    assert zipasr.__version__.count(".") == 2
    assert set(zipasr.__all__) <= set(dir(zipasr))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'; it offers"):
        zipasr.nonsense  # noqa: B018
    code = "import sys, zipasr; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_character_is_a_word_where_there_are_no_spaces() -> None:
    tokenizer = Tokenizer.train(["今天好"], kind="spaceless", vocab_size=None)
    ids = tuple(tokenizer.encode("今天好"))
    transcript = to_transcript(Hypothesis(ids, (2, 5, 6), (-0.1, -0.2, -0.3), -0.6), 1.0, tokenizer=tokenizer)
    assert transcript.text == "今天好"
    assert [(word.text, word.start_s) for word in transcript.words] == [("今", 0.08), ("天", 0.2), ("好", 0.24)]
