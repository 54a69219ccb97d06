"""Loss and error rates of the averaged model on the dev set, while training goes on."""

from collections.abc import Sequence
from typing import Any

import kaldialign
import torch

from zipasr.data.batching import Batch, BatchConfig, BatchReader, Item
from zipasr.features import PADDING_VALUE
from zipasr.model import AsrModel
from zipasr.recognizer import TAIL_PADDING_FRAMES
from zipasr.search.greedy import ctc_greedy_search, greedy_search
from zipasr.tokenizer import Tokenizer
from zipasr.train.config import TrainConfig


@torch.no_grad()
def validate(
    model: AsrModel, batches: Sequence[Batch], texts: dict[str, str], tokenizer: Tokenizer, device: torch.device
) -> dict[str, float]:
    """Losses per second of sound, of every head there is, and word error rates in percent, by greedy search with each.

    With a vocabulary of characters without spaces, every character counts as a word, as is usual for Mandarin.
    The attention decoder has no search of its own: its loss is reported, its rescoring is for `zipasr evaluate`.

    Args:
        model: in eval mode, on `device`.
        batches: the dev set, without augmentation and with the tail padding of decoding.
        texts: reference by utterance id.
        tokenizer: makes words of labels.
        device: where the model is.
    """
    totals: dict[str, float] = {}
    audio_s, num_words = 0.0, 0
    errors = {"transducer": 0, "ctc": 0}
    for batch in batches:
        features, lens = batch.features.to(device), batch.feature_lens.to(device)
        labels, label_lens = batch.labels.to(device), batch.label_lens.to(device)
        encoded = model.encode(features, lens)
        for name, loss in model.head_losses(encoded, labels, label_lens).items():
            totals[name] = totals.get(name, 0.0) + loss.item()
        found = {}
        if model.has_transducer:
            found["transducer"] = greedy_search(model, encoded, unk_id=tokenizer.unk_id)
        if model.has_ctc:
            found["ctc"] = ctc_greedy_search(model, encoded)
        for head, hypotheses in found.items():
            for name, hypothesis in zip(batch.ids, hypotheses, strict=True):
                reference, words = _words(texts[name], tokenizer), _words(tokenizer.decode(hypothesis.ids), tokenizer)
                errors[head] += kaldialign.edit_distance(reference, words)["total"]
        num_words += sum(len(_words(texts[name], tokenizer)) for name in batch.ids)
        audio_s += batch.audio_s
    result = {f"{name}_loss": total / max(audio_s, 1e-9) for name, total in totals.items()}
    for head, is_on in (("ctc", model.has_ctc), ("transducer", model.has_transducer)):
        if is_on:
            result[f"{head}_wer"] = 100.0 * errors[head] / max(num_words, 1)
    result["wer"] = result["transducer_wer" if model.has_transducer else "ctc_wer"]
    return result


def _words(text: str, tokenizer: Tokenizer) -> list[str]:
    """What errors are counted in: words, or characters where the vocabulary knows no spaces."""
    return list("".join(text.split())) if tokenizer.is_spaceless else text.split()


def validation_batches(cuts: Any, tokenizer: Tokenizer, config: TrainConfig) -> list[Batch]:
    """Cuts in batches sorted by length, not augmented, each utterance followed by the padding that decoding gives it."""
    plain = BatchConfig(max_duration_s=config.batch.max_duration_s, speed_factors=(1.0,), spec_augment=None)
    reader = BatchReader(cuts, tokenizer, config.model.features, plain, seed=config.seed)
    order = sorted(range(len(cuts)), key=lambda i: cuts[i].duration)
    batches, group = [], order
    while group:
        size = max(1, int(plain.max_duration_s / max(cuts[group[-1]].duration, 0.1)))
        chosen, group = group[-size:], group[:-size]
        batch = reader[0, 0, tuple(Item((i,), 1.0) for i in chosen)]
        padded = torch.nn.functional.pad(batch.features, (0, 0, 0, TAIL_PADDING_FRAMES), value=PADDING_VALUE)
        batches.append(batch._replace(features=padded))
    return batches
