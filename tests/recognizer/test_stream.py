"""Streams. Law: the result of a stream, in any pieces and batches and over resets, is what the search finds in the whole
recording under the same chunk mask; a chunk is encoded as soon as its audio is there. Contract: sizes, rates, wrong samples,
ends, refusals."""

import dataclasses
import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import soxr
import torch
from torch import Tensor

from tests.recognizer.causal_models import causal_model, causal_recognizer
from tests.recognizer.pieces import in_pieces
from tests.search.toy_prior import ToyPrior
from tests.tiny_model import noise, tiny_asr_model, tiny_tokenizer
from zipasr.alignment.word_times import emission_spans
from zipasr.encoder.ablation import AblationConfig
from zipasr.encoder.rates import FRAME_S_25HZ
from zipasr.encoder.zipformer import ZipformerConfig
from zipasr.errors import ConfigError
from zipasr.features import PADDING_VALUE
from zipasr.model import AsrModel, tiny
from zipasr.nn.encoded import Encoded
from zipasr.recognizer import EndpointConfig, EndpointRule, Recognizer, SearchConfig, Stream
from zipasr.recognizer.chunks import STREAM_TAIL_FRAMES, choose_sizes
from zipasr.search.confidence import Calibration
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.strategy import LanguageModels, make_prior
from zipasr.search.two_pass import make_stream_search
from zipasr.transcript import Transcript

METHODS = ("beam", "greedy", "ctc_greedy", "ctc_beam", "joint")
DURATIONS_S = (2.3, 0.0, 0.01, 4.1, 0.6)
HOTWORDS = ("THE", "BROWN FOX", "OVER")


def whole_encoded(recognizer: Recognizer, samples: np.ndarray, chunk: int, left: int) -> Encoded:
    """Frames of a recording under the chunk mask: with the tail that counts, and padding that does not."""
    features = recognizer.engine.fbank(samples)
    if recognizer.engine.scorer.output_length(len(features)):
        features = torch.cat([features, torch.full((STREAM_TAIL_FRAMES, features.shape[1]), PADDING_VALUE)])
    padded = torch.full((max(len(features) + 32, 2 * chunk + 9), features.shape[1]), PADDING_VALUE)
    padded[: len(features)] = features
    with torch.inference_mode():
        return recognizer.engine.scorer.encode(
            padded.unsqueeze(0),
            torch.tensor([len(features)]),
            chunk_frames_50hz=chunk,
            left_context_frames_50hz=left,
        )


def assert_emits(found: Transcript, expected: Hypothesis, start_frame: int = 0) -> None:
    """Check tokens of a hypothesis and their frames, or parts of them; those in the padding are at the end of the audio."""
    assert found.text == tiny_tokenizer().decode(expected.ids)
    triples = zip(expected.ids, emission_spans(expected.frames), expected.log_probs, strict=True)
    spoken = [triple for triple in triples if triple[0] != tiny_tokenizer().sos_eos_id]
    assert [token.text for token in found.tokens] == [tiny_tokenizer().pieces[label] for label, _, _ in spoken]
    starts_s = [min((start_frame + span.start_frame) * FRAME_S_25HZ, found.duration_s) for _, span, _ in spoken]
    assert all(a.end_s <= b.start_s + 1e-9 for a, b in itertools.pairwise(found.tokens))
    assert [token.start_s for token in found.tokens] == pytest.approx(starts_s)
    assert [token.log_prob for token in found.tokens] == pytest.approx([log_prob for *_, log_prob in spoken], abs=1e-2)


def run(
    recognizer: Recognizer,
    streams: Sequence[Stream],
    recordings: Sequence[np.ndarray],
    seed: int,
    on_step: Callable[[], None] = lambda: None,
) -> None:
    """Give recordings to streams in random pieces, and decode all streams that are ready in one batch."""
    generator = random.Random(seed)
    arriving = [in_pieces(samples, generator) for samples in recordings]
    ended = [False] * len(streams)
    while not all(ended) or any(stream.is_ready() for stream in streams):
        for n, stream in enumerate(streams):
            if generator.random() < 0.5 and arriving[n]:
                stream.accept_waveform(arriving[n].pop(0))
            elif not arriving[n] and not ended[n] and generator.random() < 0.5:
                stream.input_finished()
                ended[n] = True
        chosen = generator.sample(list(streams), generator.randint(1, len(streams)))
        ready = [stream for stream in chosen if stream.is_ready()]
        assert recognizer.decode_streams(chosen) == len(ready)
        on_step()


@pytest.mark.parametrize(("method", "max_symbols"), [*((method, 1) for method in METHODS), ("beam", 3), ("greedy", 3)])
@pytest.mark.parametrize(("chunk", "left"), [(16, 64), (32, 128), (8, 256)])
def test_streams_give_the_results_of_the_whole(method: str, max_symbols: int, chunk: int, left: int) -> None:
    recognizer = causal_recognizer(method, max_symbols)
    recordings = [noise(duration_s, seed) for seed, duration_s in enumerate(DURATIONS_S)]
    streams = [recognizer.stream(chunk_frames_50hz=chunk, left_context_frames_50hz=left) for _ in recordings]
    run(recognizer, streams, recordings, seed=chunk)
    found = [stream.finish() for stream in streams]
    assert found[0].text and found[3].text
    most = 0
    for transcript, samples in zip(found, recordings, strict=True):
        (expected,), *_ = recognizer.engine.find(whole_encoded(recognizer, samples, chunk, left), recognizer.search)
        assert_emits(transcript, expected)
        most = max([most, *(expected.frames.count(frame) for frame in expected.frames)])
        assert transcript.score == pytest.approx(expected.score, abs=0.1)
        assert transcript.duration_s == len(samples) / 16_000
    assert most == max_symbols


@pytest.mark.parametrize("method", ["beam", "greedy", "ctc_beam", "joint"])
def test_hotwords_of_each_stream(method: str) -> None:
    recognizer = causal_recognizer(method)
    recordings, hotwords = [noise(2.0, 5)] * 3, [(), HOTWORDS, ("LAZY DOG",)]
    streams = [recognizer.stream(hotwords=phrases) for phrases in hotwords]
    run(recognizer, streams, recordings, seed=1)
    sizes = streams[0].sizes
    encoded = whole_encoded(recognizer, recordings[0], *sizes)
    for stream, phrases in zip(streams, hotwords, strict=True):
        (expected,), *_ = recognizer.engine.find(encoded, recognizer.search, hotwords=recognizer.hotword_graph(phrases))
        found = stream.finish()
        assert_emits(found, expected)
        assert found.score == pytest.approx(expected.score, abs=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_resets_cut_nothing_and_forget_nothing(method: str) -> None:
    """Utterances that end at random are what the search finds when it is restarted there, over frames of the whole.

    Before the end of the decoded audio, nothing tells a search by both heads that an utterance is over.
    """
    recognizer, generator = causal_recognizer(method), random.Random(3)
    recordings = [noise(5.0, 1), noise(4.0, 2)]
    streams = [recognizer.stream(chunk_frames_50hz=16) for _ in recordings]
    utterances: list[list[tuple[int, bool, Transcript]]] = [[], []]

    def reset_sometimes() -> None:
        for stream, ended in zip(streams, utterances, strict=True):
            if generator.random() < 0.2:
                end, is_last = stream._segment_start_frame + stream._search_state.num_frames, not stream._is_open
                ended.append((end, is_last and not stream.is_ready(), stream.result()))
                segment, has_text = stream.segment, bool(stream.result().tokens)
                stream.reset()
                assert stream.text == ""
                assert stream.segment == segment + has_text

    run(recognizer, streams, recordings, seed=4, on_step=reset_sometimes)
    for stream, samples, ended in zip(streams, recordings, utterances, strict=True):
        encoded, start = whole_encoded(recognizer, samples, *stream.sizes), 0
        ended.append((int(encoded.lens), True, stream.finish()))
        assert sum(bool(transcript.text) for *_, transcript in ended) > 2
        search: Any = make_stream_search(recognizer.engine.scorer, recognizer.search, unk_id=tiny_tokenizer().unk_id)
        find_early = search.partial_hypotheses if method == "joint" else search.hypotheses
        state = search.start(make_prior(recognizer.search))
        for end, is_over, transcript in ended:
            search.advance([state], Encoded(encoded.frames[:, start:end], torch.tensor([end - start])))
            ((expected, *_),) = (search.hypotheses if is_over else find_early)([state], 1)
            assert_emits(transcript, expected, start)
            state, start = search.restart(state), end


def test_streams_of_all_kinds_in_one_call() -> None:
    """Streams with other sizes and searches form batches of their own."""
    only_ctc = Recognizer(causal_model(has_transducer=False), tiny_tokenizer())
    streams = [only_ctc.stream(), only_ctc.stream(hotwords=HOTWORDS), only_ctc.stream(chunk_frames_50hz=16)]
    assert [stream.search_config.method for stream in streams] == ["ctc_greedy", "ctc_beam", "ctc_greedy"]
    for stream in streams:
        stream.accept_waveform(noise(1.5))
    assert only_ctc.decode_streams([*streams, *streams, streams[0]]) == 3
    alone = [only_ctc.stream(), only_ctc.stream(hotwords=HOTWORDS), only_ctc.stream(chunk_frames_50hz=16)]
    for stream, other in zip(streams, alone, strict=True):
        other.accept_waveform(noise(1.5))
        assert other.finish().text == stream.finish().text
    assert only_ctc.decode_streams(streams) == 0
    with pytest.raises(ValueError, match="must be those of this recognizer"):
        causal_recognizer().decode_streams(streams)


def test_language_models_are_asked_once_a_frame_for_all_streams() -> None:
    lm = ToyPrior(tiny_tokenizer().vocab_size)
    recognizer = Recognizer(causal_model(), tiny_tokenizer(), language_models=LanguageModels(lm))
    streams = [recognizer.stream(chunk_frames_50hz=16) for _ in range(3)]
    for seed, stream in enumerate(streams):
        stream.accept_waveform(noise(1.0, seed))
    assert recognizer.decode_streams(streams) == 3
    assert 0 < lm.num_calls <= 8
    assert all(stream.text for stream in streams)


def test_simple_use_and_partial_results() -> None:
    recognizer, texts = causal_recognizer(), []
    stream = recognizer.stream()
    for piece in np.split(noise(4.0), 16):
        stream.accept_waveform(piece)
        stream.decode()
        texts.append(stream.text)
        assert stream.result().text == stream.text
        assert stream.result().duration_s == pytest.approx(len(texts) * 0.25)
    assert texts[0] == ""
    assert len(set(texts)) > 3
    last = stream.finish()
    assert last == stream.result()
    assert len(last.text) >= len(texts[-1]) > 0
    starts_s = [token.start_s for token in last.tokens]
    assert starts_s == sorted(starts_s)
    assert " ".join(word.text for word in last.words) == last.text


@pytest.mark.parametrize("chunk", [8, 32])
def test_a_chunk_is_ready_when_its_latency_has_passed(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is encoded before that."""
    recognizer = causal_recognizer()
    stream = recognizer.stream(chunk_frames_50hz=chunk)
    assert stream.latency_ms == chunk * 20 + 137.5
    num_samples = round(stream.latency_ms * 16)
    with monkeypatch.context() as patch:
        patch.setattr(AsrModel, "encode_chunk", None)
        stream.accept_waveform(noise(2.0)[: num_samples - 1])
        assert not stream.is_ready()
        stream.decode()
        stream.accept_waveform(noise(2.0)[num_samples - 1 : num_samples])
        assert stream.is_ready()
    assert recognizer.decode_streams([stream]) == 1
    assert stream._search_state.num_frames == chunk // 2
    assert not stream.is_ready()


def test_samples_of_all_types_and_rates() -> None:
    recognizer = causal_recognizer()
    codes = (noise(1.5) * 32768).astype(np.int16)

    def streamed(samples: np.ndarray | Tensor, pieces: int, **rate: int) -> Transcript:
        stream = recognizer.stream()
        for i in range(pieces):
            stream.accept_waveform(samples[len(samples) * i // pieces : len(samples) * (i + 1) // pieces], **rate)
        return stream.finish()

    expected = streamed(codes, 1)
    assert expected.text
    for samples in (
        codes / 32768,
        (codes / 32768).astype(np.float32),
        torch.from_numpy(codes),
        codes.astype(np.int32) << 16,
    ):
        assert streamed(samples, 7) == expected
    for rate_hz in (8_000, 44_100):
        samples = noise(1.5)[: rate_hz * 3 // 2]
        whole = soxr.resample(samples, rate_hz, 16_000, quality="VHQ")
        resampled, direct = streamed(samples, 23, sample_rate_hz=rate_hz), streamed(whole, 1)
        assert resampled.text == direct.text
        assert resampled.duration_s == len(samples) / rate_hz


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((b"\0\0" * 100,), r"are bytes; for 16-bit PCM pass numpy.frombuffer\(samples, numpy.int16\)"),
        ((bytearray(200), 8000), "are bytearray"),
        ((16_000, np.zeros(100, np.float32)), r"the samples come first: accept_waveform\(samples, sample_rate_hz\)"),
        ((16_000.0, torch.zeros(100)), "the samples come first"),
        ((np.zeros(100, np.float32), np.zeros(100)), "sample_rate_hz must be a number, but is ndarray"),
        ((np.zeros(100, np.float32), None), "sample_rate_hz must be a number, but is NoneType"),
        ((None,), "the samples come first"),
    ],
)
def test_arguments_of_other_recognizers_are_explained(arguments: tuple[Any, ...], message: str) -> None:
    stream = causal_recognizer().stream()
    with pytest.raises(ValueError, match=message):
        stream.accept_waveform(*arguments)
    stream.accept_waveform(noise(0.5))
    assert stream.finish().duration_s == 0.5


def test_wrong_samples_leave_a_stream_as_it_was() -> None:
    recognizer, samples = causal_recognizer(), noise(1.5)
    stream, plain = recognizer.stream(), recognizer.stream()
    bad = samples[:100].copy()
    for value, cure in (
        (np.nan, "drop it"),
        (np.inf, "drop it"),
        (-12000, "if it is int16 as floats, divide by 32768"),
    ):
        bad[7] = value
        with pytest.raises(ValueError, match=rf"sample 7 of 100 is {value:g}; {cure}"):
            stream.accept_waveform(bad)
    stream.accept_waveform(np.full(1, 9.9))  # a loud master
    plain.accept_waveform(np.full(1, 9.9))
    stream.accept_waveform(samples[:5000])
    with pytest.raises(ValueError, match="sample 7 of 100"):
        stream.accept_waveform(bad)
    with pytest.raises(ValueError, match=r"must be \(samples,\), but have shape \(50, 2\)"):
        stream.accept_waveform(bad.reshape(50, 2))
    with pytest.raises(ValueError, match="samples must be floats or integers"):
        stream.accept_waveform(np.array(["a"]))
    with pytest.raises(ValueError, match="must be the same in all calls, 16000, but is 8000"):
        stream.accept_waveform(samples[:10], sample_rate_hz=8000)
    stream.accept_waveform(samples[5000:])
    plain.accept_waveform(samples)
    assert stream.finish() == plain.finish()
    for rate_hz in (0, -16_000, 10_000_000):
        with pytest.raises(ValueError, match="sample_rate_hz must be from 1000"):
            recognizer.stream().accept_waveform(samples, sample_rate_hz=rate_hz)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_samples", [None, 0, 1, 160, 1300])
def test_too_short_for_words_is_empty(method: str, num_samples: int | None) -> None:
    stream = causal_recognizer(method).stream()
    if num_samples is not None:
        stream.accept_waveform(np.full(num_samples, 0.1, np.float32))
    stream.decode()
    assert stream.text == ""
    assert not stream.is_endpoint()
    assert stream.finish() == Transcript("", duration_s=(num_samples or 0) / 16_000, joiner=" ")


def test_an_end_is_an_end() -> None:
    stream = causal_recognizer().stream()
    stream.accept_waveform(noise(1.0))
    stream.input_finished()
    with pytest.raises(RuntimeError, match="takes no more audio; start another"):
        stream.accept_waveform(noise(1.0))
    with pytest.raises(RuntimeError, match="finished only once; start another"):
        stream.input_finished()
    last = stream.finish()
    assert last.text
    for again in (stream.finish, stream.reset):
        with pytest.raises(RuntimeError, match=r"a (finished )?stream"):
            again()
    assert stream.result() == last
    assert not stream.is_ready()


def silent_recognizer() -> Recognizer:
    """A recognizer that emits only blanks."""
    model = AsrModel(causal_model().config).eval()
    assert model.transducer is not None
    with torch.no_grad():
        model.transducer.joiner.output.bias[0] += 1e4
    return Recognizer(model, tiny_tokenizer())


def test_endpoint_after_silence() -> None:
    """Rule 1 applies after 2.4 s of decoded audio, and again after a reset; no speech means no segment."""
    stream = silent_recognizer().stream(chunk_frames_50hz=16)
    times_s = []
    for i in range(60):
        stream.accept_waveform(np.zeros(1600, np.float32))
        stream.decode()
        if stream.is_endpoint():
            assert stream.is_endpoint()
            times_s.append((i + 1) / 10)
            stream.reset()
            assert not stream.is_endpoint()
    assert times_s == [2.7, 5.3]  # 8 chunks are 2.56 s, 16 are 5.12 s; the look-ahead is 137.5 ms
    assert stream.segment == 0
    assert stream.finish().text == ""


def test_endpoint_rules_of_ones_own() -> None:
    rule = EndpointRule(must_contain_nonsilence=True, min_trailing_silence_s=0.0, min_utterance_length_s=1.0)
    stream = causal_recognizer().stream(chunk_frames_50hz=16, endpoint=dataclasses.replace(EndpointConfig(), rule3=rule))
    found, starts_s = [], []
    for piece in np.split(noise(6.0), 60):
        stream.accept_waveform(piece)
        stream.decode()
        if stream.is_endpoint():
            found.append(stream.result())
            stream.reset()
    found.append(stream.finish())
    assert len(found) == 5  # 4 chunks each, 1.28 s
    assert stream.segment == 4
    starts_s = [transcript.tokens[0].start_s for transcript in found]
    assert all(1.28 * i <= start_s < 1.28 * (i + 1) for i, start_s in enumerate(starts_s))
    assert all(a.tokens[-1].end_s <= b.tokens[0].start_s + 1e-9 for a, b in itertools.pairwise(found))


def test_alternatives_and_calibrated_confidence() -> None:
    recognizer = Recognizer(
        causal_model(),
        tiny_tokenizer(),
        search=SearchConfig(num_best=3),
        calibrations={"beam": Calibration(temperature=2.0, offset=-1.0)},
    )
    plain = causal_recognizer().stream()
    stream = recognizer.stream()
    for one in (plain, stream):
        one.accept_waveform(noise(1.5))
    found, expected = stream.finish(), plain.finish()
    assert found.text == expected.text
    assert len(found.alternatives) == 2
    confidences = [Calibration(temperature=2.0, offset=-1.0).apply(word.confidence) for word in expected.words]
    assert [word.confidence for word in found.words] == pytest.approx(confidences)


def test_a_stream_keeps_nothing_of_its_batch_and_little_of_its_past() -> None:
    recognizer = causal_recognizer()
    for num_streams in (8, 2):
        streams = [recognizer.stream() for _ in range(num_streams)]
        for seed, stream in enumerate(streams):
            stream.accept_waveform(noise(4.0, seed))
            stream.decode()
            assert stream._buffer._num_frames < stream._buffer.window_frames
            stream.accept_waveform(noise(1.0))
        assert recognizer.decode_streams(streams) == num_streams
        if num_streams == 8:
            paused = streams[3]  # the others are gone
    batch, row = paused._slot.place
    assert (batch.state.batch_size, row) == (1, 0)
    for tensor in batch.state.to_flat():
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_attention_decoder_chooses_at_the_end_of_a_stream() -> None:
    model = causal_model(has_transducer=False, has_attention=True)
    search = SearchConfig(method="attention_rescoring", attention_scale=50.0, num_best=4)
    recognizer = Recognizer(model, tiny_tokenizer(), search=search)
    stream = recognizer.stream()
    stream.accept_waveform(noise(2.0))
    stream.decode()
    by_ctc = stream.text
    found = stream.finish()
    (ranked,) = recognizer.engine.find(whole_encoded(recognizer, noise(2.0), *stream.sizes), search)
    for transcript, expected in zip((found, *found.alternatives), ranked, strict=True):
        assert_emits(transcript, expected)
        assert transcript.score == pytest.approx(expected.score, abs=0.1)
    (alone,) = recognizer.engine.find(whole_encoded(recognizer, noise(2.0), *stream.sizes), SearchConfig(method="ctc_beam"))
    assert found.text != tiny_tokenizer().decode(alone[0].ids) != ""
    assert by_ctc and found.text.split()[0] != by_ctc


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_decoded_input_that_has_ended_is_over_before_finish(scale: float) -> None:
    search = SearchConfig(method="joint", ctc_scale=scale)
    stream = Recognizer(causal_model(), tiny_tokenizer(), search=search).stream()
    stream.accept_waveform(noise(2.0))
    stream.decode()
    assert stream.text
    stream.input_finished()
    stream.decode()
    before = stream.result()
    assert stream.finish() == before


def test_models_and_searches_that_cannot_stream() -> None:
    with pytest.raises(ConfigError, match=r"causal Zipformer, but .*sees the future; train one with .*is_causal=true"):
        Recognizer(tiny_asr_model(), tiny_tokenizer()).stream()
    ablation = AblationConfig(has_nonlin_attention=False)
    with pytest.raises(ConfigError, match=r"this model cannot stream: .*; use transcribe"):
        Recognizer(causal_model(ablation=ablation), tiny_tokenizer()).stream()
    for sizes in ({"chunk_frames_50hz": 0}, {"left_context_frames_50hz": 0}):
        with pytest.raises(ConfigError, match=r"frames_50hz must be a multiple of .*, but is 0"):
            causal_recognizer().stream(**sizes)
    with pytest.raises(ConfigError, match="'Ω' must be writable"):
        causal_recognizer().stream(hotwords=["Ω"])


def test_sizes() -> None:
    encoder = dataclasses.replace(tiny().encoder, is_causal=True)
    assert isinstance(encoder, ZipformerConfig)
    assert choose_sizes(encoder, None, None) == (32, 128)
    assert choose_sizes(encoder, 64, None) == (64, 128)
    assert choose_sizes(encoder, 24, None) == (24, 144)
    assert choose_sizes(encoder, 256, None) == (256, 256)
    assert choose_sizes(encoder, 16, 64) == (16, 64)
    whole = dataclasses.replace(encoder, chunk_frames_50hz=(-1,), left_context_frames_50hz=(-1,))
    assert choose_sizes(whole, None, None) == (32, 128)
    large = dataclasses.replace(encoder, chunk_frames_50hz=(64, 128), left_context_frames_50hz=(256, 512))
    assert choose_sizes(large, None, None) == (64, 256)
    for chunk in (0, -1, 12, -8):
        with pytest.raises(ConfigError, match=r"must be a multiple of 8 frames \(160 ms\).*trained with 16, 32, 64"):
            choose_sizes(encoder, chunk, None)
    for left in (0, -1, 32, 72):
        with pytest.raises(ConfigError, match="must be a multiple of the chunk, 16, from 64 frames on"):
            choose_sizes(encoder, 16, left)
