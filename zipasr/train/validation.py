"""Loss and error rates of the averaged model on the dev set, while training goes on."""

from collections.abc import Sequence

import kaldialign
import torch

from zipasr.data.batching import Batch
from zipasr.model import AsrModel
from zipasr.search.greedy import ctc_greedy_search, greedy_search
from zipasr.tokenizer import Tokenizer


@torch.no_grad()
def validate(
    model: AsrModel, batches: Sequence[Batch], texts: dict[str, str], tokenizer: Tokenizer, device: torch.device
) -> dict[str, float]:
    """Losses per second of sound and word error rates in percent, by greedy search with every head there is.

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
                reference, words = texts[name].split(), tokenizer.decode(hypothesis.ids).split()
                errors[head] += kaldialign.edit_distance(reference, words)["total"]
        num_words += sum(len(texts[name].split()) for name in batch.ids)
        audio_s += batch.audio_s
    result = {f"{name}_loss": total / max(audio_s, 1e-9) for name, total in totals.items()}
    for head, is_on in (("ctc", model.has_ctc), ("transducer", model.has_transducer)):
        if is_on:
            result[f"{head}_wer"] = 100.0 * errors[head] / max(num_words, 1)
    result["wer"] = result["transducer_wer" if model.has_transducer else "ctc_wer"]
    return result
