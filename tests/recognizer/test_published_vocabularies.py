"""Vocabularies of other projects from the search to the user: lists of tokens that can only be decoded, bytes in them, and
mixed scripts. Contract: what works, and what raises. Law: words, partial results and tokens spell the text."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.recognizer.causal_models import causal_model
from tests.recognizer.pieces import in_pieces
from tests.tiny_model import TEXTS, noise, sharpened_model, tiny_asr_model, tiny_tokenizer
from tests.tokenizer.published import BYTES, write_scores, write_tokens
from zipasr.alignment.ctc import Alignment
from zipasr.alignment.word_times import energy_db, token_spans
from zipasr.errors import ConfigError
from zipasr.evaluate.style import describe_style
from zipasr.lm.ngram import TokenNgram, WordNgram, load_ngram
from zipasr.lm.training import default_config, train_language_model, train_ngram
from zipasr.recipes.prompts import tiny
from zipasr.recognizer import Recognizer, SearchConfig
from zipasr.recognizer.file_alignment import align_text
from zipasr.recognizer.transcripts import to_transcript
from zipasr.search.hotwords import encode_hotwords, is_writable
from zipasr.search.hypothesis import Hypothesis
from zipasr.serve.hints import writable_phrases
from zipasr.tokenizer import Tokenizer
from zipasr.train.resolve import resolve

REFUSED = r"must be cut into the model's tokens, but the model came with only the list of its 48 tokens \(tokens\.txt\)"
SPECIAL = ["<blk>", "<sos/eos>", "<unk>"]
CHINESE = [*"你好世界今天", "▁今", "▁HE", "LLO", "▁"]


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    """A model whose vocabulary is known from a list of its tokens only."""
    file = write_tokens(tmp_path_factory.mktemp("listed") / "tokens.txt", tiny_tokenizer().pieces)
    return Recognizer(tiny_asr_model(), Tokenizer.from_file(file, num_outputs=48))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Pieces of Chinese and English and bytes, as in the table of the authors' package."""
    folder = tmp_path_factory.mktemp("mixed")
    return Tokenizer.from_file(write_tokens(folder / "tokens.txt", [*SPECIAL, *CHINESE, *BYTES]))


# A list of tokens


def test_a_list_of_tokens_decodes_as_its_model(listed: Recognizer) -> None:
    samples = noise(3.0)
    expected = Recognizer(tiny_asr_model(), tiny_tokenizer()).transcribe(samples)
    found = listed.transcribe(samples)
    assert found == expected and found.text and found.words


def test_hotwords_need_encoding(listed: Recognizer) -> None:
    with pytest.raises(ConfigError, match=f"hotword 'FOX' {REFUSED}"):
        listed.transcribe(noise(1.0), hotwords=["FOX"])
    with pytest.raises(ConfigError, match=REFUSED):
        listed.stream(hotwords=["FOX"])
    with pytest.raises(ConfigError, match=REFUSED):
        Recognizer(listed.engine.scorer, listed.engine.tokenizer, hotwords=["FOX"])
    assert not listed.can_use_hotwords and listed.transcribe(noise(1.0), hotwords=[]) is not None
    assert Recognizer(tiny_asr_model(), tiny_tokenizer()).can_use_hotwords


def test_alignment_needs_encoding(listed: Recognizer) -> None:
    with pytest.raises(ConfigError, match=f"the text to align {REFUSED}"):
        align_text(listed, noise(1.0), "THE FOX")


def test_models_of_words_need_no_encoding_and_models_of_tokens_do(listed: Recognizer, tmp_path: Path) -> None:
    text, tokenizer = tmp_path / "text", listed.engine.tokenizer
    text.write_text("\n".join(TEXTS * 5), encoding="utf-8")
    with pytest.raises(ConfigError, match=f"the text of a language model {REFUSED}"):
        train_ngram([text], tokenizer, tmp_path / "token.arpa", order=2, unit="token", dev=[text])
    with pytest.raises(ConfigError, match=f"the text of a language model {REFUSED}"):
        train_language_model([text], tokenizer, tmp_path / "lm", default_config("lstm"), dev=[text], is_quiet=True)
    train_ngram([text], tokenizer, tmp_path / "word.arpa", order=2, unit="word", dev=[text])
    assert isinstance(load_ngram(tmp_path / "word.arpa", tokenizer), WordNgram)
    train_ngram([text], tiny_tokenizer(), tmp_path / "token.arpa", order=2, unit="token", dev=[text])
    assert isinstance(load_ngram(tmp_path / "token.arpa", tokenizer), TokenNgram)


def test_the_style_of_references_is_checked_by_letters(listed: Recognizer) -> None:
    pairs = [("The quick fox.", "THE QUICK FOX")]
    hint = describe_style(pairs, listed.engine.tokenizer)
    assert hint is not None and hint == describe_style(pairs, tiny_tokenizer())
    assert describe_style([("THE FOX", "THE FOX")], listed.engine.tokenizer) is None


def test_training_on_needs_encoding_or_a_new_vocabulary(listed: Recognizer, tmp_path: Path) -> None:
    tiny_asr_model().save(tmp_path / "model", listed.engine.tokenizer)
    with pytest.raises(ConfigError, match=f"the texts to train on {REFUSED}.*finetune.vocabulary=new"):
        resolve(tiny(), [], checkpoint=str(tmp_path / "model"))
    config = resolve(tiny(), ["finetune.vocabulary=new"], checkpoint=str(tmp_path / "model"))
    assert config.finetune is not None


def test_a_folder_keeps_what_can_be_done(listed: Recognizer, tmp_path: Path) -> None:
    listed.engine.scorer.save(tmp_path / "model", listed.engine.tokenizer)  # type: ignore[union-attr, attr-defined]
    opened = Recognizer.load(tmp_path / "model")
    assert not opened.engine.tokenizer.can_encode
    assert opened.transcribe(noise(2.0)).text == listed.transcribe(noise(2.0)).text


# Mixed scripts and bytes


def transcript_of(ids: list[int], tokenizer: Tokenizer) -> tuple[str, list[str], list[str]]:
    """The text, the words and the tokens of ids."""
    hypothesis = Hypothesis(tuple(ids), tuple(2 * i for i in range(len(ids))), (-0.5,) * len(ids), 0.0)
    transcript = to_transcript(hypothesis, 100.0, tokenizer=tokenizer)
    return transcript.text, [word.text for word in transcript.words], [token.text for token in transcript.tokens]


def ids_of(text: str, tokenizer: Tokenizer) -> list[int]:
    """The ids of single pieces, with ▁ as written; bytes for others."""
    ids: list[int] = []
    while text:
        piece = max((p for p in tokenizer.pieces if text.startswith(p)), key=len, default=text[0])
        ids += [tokenizer.pieces.index(p) for p in ([piece] if piece in tokenizer.pieces else map(_byte, piece.encode()))]
        text = text[len(piece) :]
    return ids


def _byte(byte: int) -> str:
    return BYTES[byte]


@pytest.mark.parametrize(
    ("spelled", "text", "words"),
    [
        ("▁你好世界", "你好世界", [*"你好世界"]),
        ("▁HELLO▁你好▁HELLO", "HELLO 你好 HELLO", ["HELLO", "你", "好", "HELLO"]),
        ("▁今天▁今天", "今天今天", [*"今天今天"]),  # ▁ before some characters, as X-ASR has it
        ("▁HELLO你好", "HELLO你好", ["HELLO你", "好"]),
        ("▁你龘好", "你龘好", [*"你龘好"]),  # bytes
        ("▁HELLO▁龘龘", "HELLO 龘龘", ["HELLO", "龘", "龘"]),
        ("▁你é好", "你é好", ["你é好"]),
    ],
)
def test_words_of_mixed_scripts(mixed: Tokenizer, spelled: str, text: str, words: list[str]) -> None:
    assert transcript_of(ids_of(spelled, mixed), mixed)[:2] == (text, words)


def test_a_character_lasts_from_its_first_byte_to_its_last(mixed: Tokenizer) -> None:
    ids = ids_of("▁你龘好", mixed)
    hypothesis = Hypothesis(tuple(ids), tuple(10 * i for i in range(len(ids))), (-0.5,) * len(ids), 0.0)
    words = to_transcript(hypothesis, 100.0, tokenizer=mixed).words
    assert [(word.start_s, word.end_s) for word in words] == [
        pytest.approx((0.0, 0.44)),
        pytest.approx((0.8, 1.64)),
        pytest.approx((2.0, 2.04)),
    ]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_words_and_tokens_spell_the_text(mixed: Tokenizer, data: st.DataObject) -> None:
    some = [*range(3, 3 + len(CHINESE)), *(len(SPECIAL) + len(CHINESE) + byte for byte in "龘é".encode())]
    ids = data.draw(st.lists(st.sampled_from(some), max_size=14))
    text, words, tokens = transcript_of(ids, mixed)
    assert text == mixed.decode(ids)
    assert mixed.word_joiner.join(words) == text
    assert mixed.word_joiner.join("".join(tokens).replace("▁", " ").split()) == text
    count = len(ids)
    alignment = Alignment(tuple(range(0, 5 * count, 5)), tuple(range(5, 5 * count + 5, 5)), (-0.1,) * count, 0.0)
    features = _loud(20 * count + 20)
    spans = token_spans(ids, alignment, features, tokenizer=mixed)
    hypothesis = Hypothesis(tuple(ids), tuple(range(count)), (-0.1,) * count, 0.0)
    aligned = to_transcript(hypothesis, 1000.0, tokenizer=mixed, spans=spans)
    assert [word.text for word in aligned.words] == words
    times = [time for word in aligned.words for time in (word.start_s, word.end_s)]
    assert times == sorted(times)


def _loud(num_frames: int):  # type: ignore[no-untyped-def]
    import torch

    return energy_db(torch.zeros(num_frames, 80))


@pytest.mark.parametrize("method", ["ctc_greedy", "ctc_beam"])
def test_partial_results_hold_whole_characters(mixed: Tokenizer, method: str) -> None:
    """Random weights emit bytes in any order."""
    model = sharpened_model(causal_model().config.for_vocabulary(mixed), seed=0)
    search = SearchConfig(method=method, blank_penalty=6.0, num_best=1 if method == "ctc_greedy" else 4)  # type: ignore[arg-type]
    recognizer = Recognizer(model, mixed, search=search)
    stream, samples, partial = recognizer.stream(chunk_frames_50hz=32), noise(4.0), set()
    for piece in in_pieces(samples, random.Random(3)):
        stream.accept_waveform(piece)
        while stream.is_ready():
            recognizer.decode_streams([stream])
            text, result = stream.text, stream.result()
            assert "\ufffd" not in text and result.text == text
            assert mixed.word_joiner.join(word.text for word in result.words) == text
            partial.add(text)
    assert len(partial) > 3
    for transcript in (best := recognizer.transcribe(samples), *best.alternatives):
        assert mixed.word_joiner.join(word.text for word in transcript.words) == transcript.text


# Hotwords in mixed scripts


def test_a_hotword_may_follow_a_character_without_a_space(tmp_path: Path) -> None:
    special = ["<blk>", "<sos>", "<eos>", "<pad>", "<unk>", *BYTES]
    own = [("▁", -3.0), ("▁WORLD", -4.0), *((c, -8.0) for c in "今天气很好WORLD")]
    tokenizer = Tokenizer.from_file(write_scores(tmp_path / "zh.vocab", [(piece, 0) for piece in special] + own))
    graph = encode_hotwords(["天气", "world"], tokenizer, default_boost=2.0)

    def bonus(text: str) -> float:
        state, total = graph.start(), 0.0
        for label in tokenizer.encode(text):
            (state,), (score,) = graph.extend([state], [label])
            total += score
        return total + graph.finish([state])[0]

    assert bonus("今天气很好") == bonus("今天气") == pytest.approx(4.0)
    assert bonus("天气") == pytest.approx(6.0)  # with ▁
    assert bonus("今 WORLD 好") == pytest.approx(2.0)
    assert bonus("今天很好") == bonus("气天") == 0.0
    assert is_writable("龘", tokenizer) and writable_phrases(["天气, World!"], tokenizer)


def test_a_hotword_is_found_with_word_starts_before_its_characters(tmp_path: Path) -> None:
    """As X-ASR emits them, although sentencepiece cuts the phrase without."""
    own = [("▁", -3.0), *((c, -9.0) for c in "今天气很好"), *((f"▁{c}", -10.0) for c in "今天气很好")]
    file = write_scores(tmp_path / "bpe.vocab", [*((piece, 0.0) for piece in SPECIAL), *own])
    tokenizer = Tokenizer.from_file(file)
    graph = encode_hotwords(["天气"], tokenizer, default_boost=2.0)
    for emitted in (["▁今", "▁天", "▁气", "▁好"], ["▁今", "天", "气", "好"], ["▁", "天", "气"]):
        state, total = graph.start(), 0.0
        for piece in emitted:
            (state,), (score,) = graph.extend([state], [tokenizer.pieces.index(piece)])
            total += score
        assert total + graph.finish([state])[0] >= 4.0, emitted
