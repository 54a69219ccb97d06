"""Neural language models. Law: scoring label by label equals scoring the whole; batching, padding and pruned hypotheses
change nothing. Reference: attention by hand. Contract: folders, vocabularies, errors."""

import gc
import math
import weakref
from pathlib import Path

import pytest
import torch

from tests.tiny_model import save_tiny, tiny_tokenizer
from zipasr.checkpoint import load_weights
from zipasr.errors import CheckpointError, ConfigError, DataError
from zipasr.lm import (
    LmConfig,
    LstmConfig,
    NeuralLm,
    NeuralPrior,
    TokenNgram,
    TransformerConfig,
    estimate_ngram,
    load_language_model,
)
from zipasr.lm.neural import CONFIG_FILE, WEIGHTS_FILE, LmState
from zipasr.nn.lora import LoraConfig, add_lora, lora_layers, merged_copy
from zipasr.tokenizer import Tokenizer

NETWORKS = {
    "lstm": LstmConfig(dim=16, num_layers=2),
    "lstm of one layer": LstmConfig(dim=16, num_layers=1),
    "transformer": TransformerConfig(dim=16, num_layers=2, num_heads=2, feedforward=32, context_labels=4),
    "transformer with a long view": TransformerConfig(dim=16, num_layers=2, num_heads=4, feedforward=32),
}


def make(name: str) -> NeuralLm:
    torch.manual_seed(1)
    model = NeuralLm(LmConfig(vocab_size=tiny_tokenizer().vocab_size, network=NETWORKS[name])).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture(params=list(NETWORKS))
def model(request: pytest.FixtureRequest) -> NeuralLm:
    return make(request.param)


def random_rows(seed: int, lens: tuple[int, ...] = (0, 1, 3, 5, 12, 30)) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    vocab_size = tiny_tokenizer().vocab_size
    return [torch.randint(3, vocab_size, (n,), generator=generator).tolist() for n in lens]


def whole(model: NeuralLm, row: list[int]) -> list[float]:
    """log P of each label and of the end, from one pass over the whole sequence."""
    inputs = torch.tensor([[tiny_tokenizer().sos_eos_id, *row]])
    with torch.no_grad():
        log_probs = model(inputs)[0].log_softmax(-1)
    return [float(log_probs[t, label]) for t, label in enumerate([*row, tiny_tokenizer().sos_eos_id])]


def test_label_by_label_equals_the_whole(model: NeuralLm) -> None:
    prior = NeuralPrior(model, tiny_tokenizer(), use_end_score=True)
    for row in random_rows(0):
        state, scores = prior.start(), []
        for label in row:
            (state,), added = prior.extend([state], [label])
            scores += added
        scores += prior.finish([state])
        assert scores == pytest.approx(whole(model, row), abs=2e-5)


def test_batches_of_any_kind_change_nothing(model: NeuralLm) -> None:
    """Sequences of all lengths share one call, next to pruned ones and several copies of the same state."""
    prior, rows = NeuralPrior(model, tiny_tokenizer()), random_rows(1)
    states, totals = [prior.start() for _ in rows], [0.0] * len(rows)
    turn = 0
    progress = [0] * len(rows)
    while any(done < len(row) for done, row in zip(progress, rows, strict=True)):
        live = [i for i, row in enumerate(rows) if progress[i] < len(row) and (i + turn) % 3]
        asked = [states[i] for i in live] * 2
        labels = [rows[i][progress[i]] for i in live] + [3 + turn % 5] * len(live)
        after, added = prior.extend(asked, labels)
        for i, state, score in zip(live, after, added, strict=False):
            states[i], totals[i], progress[i] = state, totals[i] + score, progress[i] + 1
        turn += 1
    for row, total in zip(rows, totals, strict=True):
        assert total == pytest.approx(sum(whole(model, row)[:-1]), abs=1e-4)
    assert prior.extend([], []) == ([], [])


def test_rescore_equals_each_alone(model: NeuralLm, monkeypatch: pytest.MonkeyPatch) -> None:
    prior, rows = NeuralPrior(model, tiny_tokenizer()), random_rows(2)
    expected = [sum(whole(model, row)) for row in rows]
    assert prior.rescore(rows) == pytest.approx(expected, abs=1e-4)
    monkeypatch.setattr("zipasr.lm.neural._RESCORE_LABELS", 20)
    assert prior.rescore(rows) == pytest.approx(expected, abs=1e-4)
    assert prior.rescore([]) == []


def test_nll_ignores_padding(model: NeuralLm) -> None:
    labels, lens = torch.tensor([[5, 6, 7], [8, 9, 9]]), torch.tensor([3, 1])
    other = torch.tensor([[5, 6, 7], [8, 0, 44]])
    torch.testing.assert_close(model.nll(labels, lens), model.nll(other, lens))
    assert model.nll(labels, lens).tolist() == pytest.approx([-sum(whole(model, row)) for row in ([5, 6, 7], [8])], abs=1e-4)


def test_the_end_adds_nothing_by_default(model: NeuralLm) -> None:
    prior = NeuralPrior(model, tiny_tokenizer())
    (state,), _ = prior.extend([prior.start()], [5])
    assert prior.finish([prior.start(), state]) == [0.0, 0.0]
    prior.use_end_score = True
    assert prior.finish([state]) == pytest.approx([whole(model, [5])[-1]], abs=1e-5)


def test_pruned_hypotheses_are_not_evaluated(model: NeuralLm) -> None:
    prior, sizes = NeuralPrior(model, tiny_tokenizer()), []
    step = model.step
    model.step = lambda inputs, memories: sizes.append(len(inputs)) or step(inputs, memories)  # type: ignore[method-assign]
    states, _ = prior.extend([prior.start()] * 20, list(range(3, 23)))
    prior.extend(states[:2] * 2, [4, 5, 6, 7])
    assert sizes == [1, 2]


def test_the_past_is_released(model: NeuralLm) -> None:
    """However long a stream is, the current states do not keep the states of the distant past alive."""

    class Watched(LmState):
        __slots__ = ("__weakref__",)

    prior, first = NeuralPrior(model, tiny_tokenizer()), Watched(tiny_tokenizer().sos_eos_id, None)
    reference, state = weakref.ref(first), first
    for label in (4, 5, 6):
        (state,), _ = prior.extend([state], [label])
    del first
    gc.collect()
    assert reference() is None


def test_attention_looks_back_a_fixed_number_of_labels() -> None:
    """With two layers that each see 4 labels, the 7th last label matters and the 8th does not."""
    model = make("transformer")
    rows = torch.randint(3, 40, (1, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        last = model(rows)[0, -1]
        for back, is_seen in ((6, True), (7, False)):
            changed = rows.clone()
            changed[0, -1 - back] = (changed[0, -1 - back] + 1) % 40
            assert torch.equal(model(changed)[0, -1], last) != is_seen


def test_attention_by_hand() -> None:
    config = TransformerConfig(dim=4, num_layers=1, num_heads=1, feedforward=4, context_labels=2, dropout=0.0)
    torch.manual_seed(0)
    model = NeuralLm(LmConfig(vocab_size=8, network=config)).eval()
    ids = [1, 5, 3]
    with torch.no_grad():
        logits = model(torch.tensor([ids]))[0]
        layer, outputs = model.network.layers[0], []
        x = [model.embedding.weight[i] * 2 for i in ids]
        qkv = [layer.query_key_value(layer.attention_norm(v)).split(4) for v in x]
        for t in range(3):
            near = [s for s in (t - 1, t) if s >= 0]
            weights = torch.stack([qkv[t][0] @ qkv[s][1] / 2 - 2**-8 * (t - s) for s in near]).softmax(0)
            y = x[t] + layer.attention_out(sum(w * qkv[s][2] for w, s in zip(weights, near, strict=True)))
            y = y + layer.feedforward(layer.feedforward_norm(y))
            outputs.append(model.embedding.weight @ model.network.output(y) + model.output_bias)
    torch.testing.assert_close(logits, torch.stack(outputs), atol=1e-5, rtol=1e-5)


def test_published_sizes_can_be_built() -> None:
    with torch.device("meta"):
        lstm = NeuralLm(LmConfig(network=LstmConfig(dim=2048, num_layers=3)))
        transformer = NeuralLm(LmConfig(network=TransformerConfig(dim=768, num_layers=16, num_heads=8, feedforward=2048)))
    layer = 4 * (2048 * 4096 + 2 * 2048)
    assert sum(p.numel() for p in lstm.parameters()) == 500 * 2048 + 500 + 3 * layer
    assert sum(p.numel() for p in transformer.parameters()) > 16 * (4 * 768**2 + 2 * 768 * 2048)


# Contract


def test_a_folder_keeps_everything(model: NeuralLm, tmp_path: Path) -> None:
    folder = model.save(tmp_path / "run" / "model", tiny_tokenizer())
    for path in (folder, tmp_path / "run"):
        loaded, tokenizer = NeuralLm.load(path)
        assert loaded.config == model.config and not loaded.training and tokenizer.pieces == tiny_tokenizer().pieces
        assert torch.equal(loaded(torch.tensor([[1, 5, 6]])), model(torch.tensor([[1, 5, 6]])))
        prior = load_language_model(path, tiny_tokenizer(), device=torch.device("cpu"))
        assert isinstance(prior, NeuralPrior)
        assert prior.rescore([[5, 6]]) == NeuralPrior(model, tiny_tokenizer()).rescore([[5, 6]])


def test_a_model_with_adapters_is_saved_without(tmp_path: Path) -> None:
    adapted = make("transformer")
    add_lora(adapted, LoraConfig(rank=2, targets=("*",)))
    for layer in lora_layers(adapted).values():
        torch.nn.init.normal_(layer.lora_b, std=0.3)
    loaded, _ = NeuralLm.load(adapted.save(tmp_path / "model", tiny_tokenizer()))
    expected = merged_copy(adapted).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


def test_a_file_is_an_ngram(tmp_path: Path) -> None:
    pieces = [tiny_tokenizer().pieces[i] for i in tiny_tokenizer().encode("THE FOX")]
    estimate_ngram([pieces], tmp_path / "a.arpa.gz", order=2)
    assert isinstance(load_language_model(tmp_path / "a.arpa.gz", tiny_tokenizer()), TokenNgram)
    with pytest.raises(DataError, match=r"a folder, an ARPA file or ngram\.safetensors, but there is no .*nowhere"):
        load_language_model(tmp_path / "nowhere", tiny_tokenizer())


def test_damaged_and_foreign_folders(tmp_path: Path) -> None:
    folder = make("lstm").save(tmp_path / "lm", tiny_tokenizer())
    weights = folder / WEIGHTS_FILE
    whole_file = weights.read_bytes()
    weights.write_bytes(whole_file[:-1])
    with pytest.raises(CheckpointError, match="is damaged"):
        load_language_model(folder, tiny_tokenizer())
    (folder / CONFIG_FILE).unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_language_model(folder, tiny_tokenizer())
    with pytest.raises(CheckpointError, match=r"must hold a language model .*config\.json.*zipasr train-lm"):
        load_language_model(save_tiny(tmp_path / "asr"), tiny_tokenizer())
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="must be a checkpoint folder"):
        load_language_model(tmp_path / "empty", tiny_tokenizer())


def test_weights_must_fit() -> None:
    model = make("lstm")
    with pytest.raises(CheckpointError, match=r"does not match .*output_bias must be"):
        load_weights(model, {**model.state_dict(), "output_bias": torch.zeros(3)}, source="x")


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    other = Tokenizer.train(["ANOTHER TEXT"], kind="char", vocab_size=None)
    folder = make("lstm").save(tmp_path / "lm", tiny_tokenizer())
    with pytest.raises(ConfigError, match=r"of 48 pieces where the recognizer has 12, and id 3 is .*zipasr train-lm"):
        load_language_model(folder, other)
    with pytest.raises(ConfigError, match="48 entries, but has 12"):
        make("lstm").save(tmp_path / "x", other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": 0}, "dim must be at least 1"),
        ({"dropout": 1.0}, "below 1, but is 1.0"),
        ({"context_labels": 1}, "at least 2"),
        ({"dim": 10, "num_heads": 4}, "a multiple of num_heads, 4, but is 10"),
    ],
)
def test_sizes_are_checked(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TransformerConfig(**settings)


def test_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="eval mode"):
        NeuralPrior(make("lstm").train(), tiny_tokenizer())


def test_untrained_models_have_uniform_perplexity() -> None:
    torch.manual_seed(0)
    model = NeuralLm(LmConfig(vocab_size=48)).eval()
    per_label = -sum(NeuralPrior(model, tiny_tokenizer()).rescore(random_rows(3))) / sum(len(r) + 1 for r in random_rows(3))
    assert per_label == pytest.approx(math.log(48), abs=0.3)
