"""Models of byte-level pieces as other projects train them."""

import io

import sentencepiece

from zipasr.text import spaced
from zipasr.tokenizer.byte_text import to_characters


def icefall_model(texts: list[str], vocab_size: int = 60) -> bytes:
    """A model as the published recipes train it, on text with a space around every Chinese character."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([to_characters(spaced(text)) for text in texts]),
        model_writer=model,
        model_type="unigram",
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        character_coverage=1.0,
        user_defined_symbols=["<blk>", "<sos/eos>"],
        unk_id=2,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()
