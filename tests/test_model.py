"""Golden: the original's whole model, encoder output, CTC output, losses and gradients of the heads. Contract: published
parameter counts, checkpoint round trip, refused weights, the Scorer's methods. Law: the content of padding changes
nothing."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.golden_files import assert_close_to, attention_config, encoder_config, load_golden, seeded, weights
from zipasr.checkpoint import load_weights
from zipasr.encoder.zipformer import ZipformerConfig
from zipasr.errors import CheckpointError, ConfigError
from zipasr.features import FbankConfig
from zipasr.heads.attention import AttentionConfig
from zipasr.heads.ctc import CtcConfig
from zipasr.heads.transducer import TransducerConfig
from zipasr.hub import rename_state_dict
from zipasr.model import WEIGHTS_FILE, AsrConfig, AsrModel, large, medium, small, tiny
from zipasr.nn.encoded import Encoded
from zipasr.nn.lora import LoraConfig, add_lora, lora_layers, merged_copy
from zipasr.nn.schedule import set_step
from zipasr.tokenizer import Tokenizer


def golden_model() -> AsrModel:
    """The original's model with transducer, CTC and attention decoder."""
    meta, golden = load_golden("e_asr_model")
    config = AsrConfig(
        vocab_size=meta["vocab_size"],
        encoder=encoder_config(meta),
        transducer=TransducerConfig(predictor_dim=meta["decoder_dim"], joiner_dim=meta["joiner_dim"]),
        ctc=CtcConfig(),
        attention=attention_config(meta),
    )
    model = AsrModel(config)
    load_weights(model, rename_state_dict(weights(golden)), source="e_asr_model")
    return model.eval()


def small_config(vocab_size: int = 12) -> AsrConfig:
    encoder = ZipformerConfig(
        num_features=20,
        conv_channels=(2, 4, 8),
        channels=(16, 24, 16),
        unmasked_channels=(16, 16, 16),
        num_layers=(1, 1, 1),
        downsample=(1, 2, 8),
        feedforward=(16, 24, 16),
        num_heads=(2, 2, 2),
        kernel_sizes=(7, 5, 5),
        query_head_dim=4,
        value_head_dim=4,
        pos_dim=8,
    )
    return AsrConfig(
        vocab_size=vocab_size,
        features=FbankConfig(num_mel_bins=20),
        encoder=encoder,
        transducer=TransducerConfig(predictor_dim=8, joiner_dim=16),
        ctc=CtcConfig(),
        attention=AttentionConfig(num_layers=2, dim=16, attention_dim=8, num_heads=2, feedforward=24),
    )


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["HELLO WORLD", "OH HELLO"], kind="char", vocab_size=12)


# Goldens


def test_encoder_and_ctc_outputs_equal_golden() -> None:
    model = golden_model()
    _, golden = load_golden("e_asr_model")
    with torch.no_grad():
        encoded = model.encode(golden["in.x"], golden["in.x_lens"])
        log_probs = model.ctc_log_probs(encoded.frames)
    torch.testing.assert_close(encoded.frames, golden["out.encoder_out"], rtol=0.0, atol=3e-4)
    assert torch.equal(encoded.lens, golden["out.encoder_out_lens"])
    torch.testing.assert_close(log_probs, golden["out.ctc_output"], rtol=0.0, atol=3e-4)


GOLDEN_NAMES = {"simple": "simple", "pruned": "pruned", "ctc": "ctc", "attention": "aed", "consistency": "cr"}


def golden_losses(num_views: int = 1) -> tuple[AsrModel, dict[str, Tensor], dict[str, Tensor]]:
    """The model, its losses for one view or two equal views, and the golden tensors."""
    model = golden_model()
    meta, golden = load_golden("e_asr_losses")
    tokens = [torch.tensor(ids) for ids in meta["tokens"]]
    labels = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
    label_lens = torch.tensor([len(ids) for ids in tokens])
    features, lens = golden["in.x"].repeat(num_views, 1, 1), golden["in.x_lens"].repeat(num_views)
    return model, model(features, lens, labels, label_lens), golden


def assert_golden_gradients(model: AsrModel, golden: dict[str, Tensor], kind: str) -> None:
    """Check gradients of the heads closely; the original's encoder rounds the derivative of Swoosh to 8 bits at random."""
    meta, _ = load_golden("e_asr_losses")
    norms = rename_state_dict(dict(zip(meta["names"], golden[f"grad.{kind}.norms"], strict=True)))
    stored = rename_state_dict(weights(golden, f"grad.{kind}.w."))
    num_heads, num_stored = 0, 0
    for name, parameter in model.named_parameters():
        if name.endswith(("unused_scale", "attention.key.bias")):  # attention does not depend on the latter
            continue
        assert parameter.grad is not None, name
        is_head = not name.startswith("encoder.")
        scale = norms[name].item()
        assert parameter.grad.norm().item() == pytest.approx(scale, rel=1e-4 if is_head else 2e-2, abs=2e-4), name
        if is_head and name in stored:
            assert_close_to(parameter.grad, stored[name], 2e-4, name)
        num_heads, num_stored = num_heads + is_head, num_stored + (is_head and name in stored)
    assert num_heads == 14 + 3 + 2 * 24
    assert num_stored >= {"plain": 40, "cr": 1}[kind]


def test_losses_and_gradients_equal_golden() -> None:
    model, losses, golden = golden_losses()
    assert losses.keys() == {"simple", "pruned", "ctc", "attention"}
    for name, loss in losses.items():
        assert_close_to(loss, golden[f"out.plain.{GOLDEN_NAMES[name]}"], 1e-5, name)
    (0.5 * losses["simple"] + losses["pruned"] + 0.1 * losses["ctc"] + 0.9 * losses["attention"]).backward()
    assert_golden_gradients(model, golden, "plain")


def test_losses_and_gradients_of_two_views_equal_golden() -> None:
    """The views are equal, as in the golden file: their consistency is 0, the other losses are those of one view."""
    model, losses, golden = golden_losses(num_views=2)
    assert losses.keys() == GOLDEN_NAMES.keys()
    for name, loss in losses.items():
        expected = golden[f"out.cr.{GOLDEN_NAMES[name]}"]
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5, msg=name)
    total = 0.5 * losses["simple"] + losses["pruned"] + 0.1 * losses["ctc"] + 0.9 * losses["attention"]
    (total + 0.2 * losses["consistency"]).backward()
    assert_golden_gradients(model, golden, "cr")


def test_scores_of_the_attention_decoder_equal_golden() -> None:
    model = golden_model()
    meta, golden = load_golden("e_asr_model")
    tokens = [torch.tensor(ids) for ids in meta["aed_tokens"]]
    labels = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
    label_lens = torch.tensor([len(ids) for ids in tokens])
    encoded = Encoded(golden["out.encoder_out"], golden["out.encoder_out_lens"])
    found = model.attention_log_probs(encoded, labels.unsqueeze(1), label_lens.unsqueeze(1)).squeeze(1)
    assert_close_to(found, -golden["out.aed_nll"])


# Parameter counts


def with_heads(config: AsrConfig, transducer: bool, ctc: bool, attention: bool = False) -> AsrConfig:
    return dataclasses.replace(
        config,
        transducer=config.transducer if transducer else None,
        ctc=CtcConfig() if ctc else None,
        attention=AttentionConfig() if attention else None,
    )


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (small(), 23_285_615),
        (medium(), 65_549_011),
        (large(), 148_439_574),
        (with_heads(small(), True, True), 23_414_115),
        (with_heads(medium(), True, True), 65_805_511),
        (with_heads(large(), True, True), 148_824_074),
        (with_heads(small(), False, True), 22_118_279),
        (with_heads(medium(), False, True), 64_250_603),
        (with_heads(large(), False, True), 147_010_094),
        (with_heads(small(), False, True, True), 46_282_107),
        (with_heads(medium(), False, True, True), 89_987_295),
        (with_heads(large(), False, True, True), 174_319_650),
        (with_heads(small(), True, True, True), 47_577_943),
        (with_heads(medium(), True, True, True), 91_542_203),
        (dataclasses.replace(small(), encoder=dataclasses.replace(small().encoder, is_causal=True)), 23_627_887),
        (dataclasses.replace(medium(), encoder=dataclasses.replace(medium().encoder, is_causal=True)), 66_110_931),
        (dataclasses.replace(large(), encoder=dataclasses.replace(large().encoder, is_causal=True)), 149_281_046),
        (
            dataclasses.replace(medium(), vocab_size=4336, transducer=TransducerConfig(context_size=1)),
            73_412_551,
        ),
        (dataclasses.replace(medium(), vocab_size=5537), 75_879_898),
    ],
    ids=[
        *(f"{size} {heads}" for heads in ("transducer", "both", "ctc", "ctc + attention") for size in "SML"),
        *(f"{size} all heads" for size in "SM"),
        *(f"{size} causal" for size in "SML"),
        "AISHELL M",
        "WenetSpeech M",
    ],
)
def test_number_of_parameters_is_the_published_one(config: AsrConfig, count: int) -> None:
    with torch.device("meta"):
        model = AsrModel(config)
    assert sum(p.numel() for p in model.parameters()) == count


def test_tiny_is_small_enough_for_two_cores() -> None:
    assert 1_000_000 < sum(p.numel() for p in AsrModel(tiny()).parameters()) < 3_000_000


# Configuration


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"transducer": None}, "must have a head"),
        ({"transducer": None, "attention": AttentionConfig()}, "only rescores their hypotheses"),
        ({"vocab_size": 1}, "vocab_size must be at least 2"),
        ({"features": FbankConfig(num_mel_bins=40)}, "num_features must equal features.num_mel_bins, 40"),
    ],
)
def test_impossible_configurations_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AsrConfig(**settings)  # type: ignore[arg-type]


# Training


LABELS, LABEL_LENS = torch.tensor([[3, 4, 5], [6, 0, 0]]), torch.tensor([3, 1])


@pytest.mark.parametrize("num_views", [1, 2])
@pytest.mark.parametrize("step", [None, 0.0, 5000.0])
def test_a_training_step_gives_finite_losses_and_gradients(step: float | None, num_views: int) -> None:
    torch.manual_seed(0)
    model = AsrModel(small_config()).train()
    if step is not None:
        set_step(model, step)
    features, lens = seeded(2 * num_views, 60, 20), torch.tensor([60, 45]).repeat(num_views)
    losses = model(features, lens, LABELS, LABEL_LENS)
    assert losses.keys() == {"simple", "pruned", "ctc", "attention"} | ({"consistency"} if num_views == 2 else set())
    assert all(loss > 0 for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all(), name
    assert all(p.grad is not None for name, p in model.named_parameters() if not name.startswith("encoder."))


def test_two_views_are_the_mean_of_each() -> None:
    model, (_, golden) = golden_model(), load_golden("e_asr_model")
    views, lens = [golden["in.x"][:2], golden["in.x"][:2].flip(2)], golden["in.x_lens"][:2]
    one, other = (model(view, lens, LABELS, LABEL_LENS) for view in views)
    both = model(torch.cat(views), lens.repeat(2), LABELS, LABEL_LENS)
    for name in one:
        # the simple loss also contains label frequencies over the batch: the same here, as the views share their labels
        torch.testing.assert_close(both[name], 0.5 * (one[name] + other[name]), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        log_probs = [model.ctc_log_probs(model.encode(view, lens).frames) for view in views]
    valid = torch.arange(log_probs[0].shape[1]) < model.encode(views[0], lens).lens.unsqueeze(1)
    difference = log_probs[0] - log_probs[1]
    divergence = ((log_probs[0].exp() - log_probs[1].exp()) * difference).sum(-1)[valid].sum()
    torch.testing.assert_close(both["consistency"], 0.5 * divergence, rtol=1e-5, atol=1e-5)
    assert both["consistency"] > 1.0


def test_views_that_cannot_be_are_refused() -> None:
    model = AsrModel(small_config()).eval()
    with pytest.raises(ValueError, match=r"one or two views of 2 labeled utterances, but 3 rows"):
        model(seeded(3, 60, 20), torch.tensor([60, 60, 60]), LABELS, LABEL_LENS)
    model = AsrModel(dataclasses.replace(small_config(), ctc=None)).eval()
    with pytest.raises(ValueError, match="compared by the CTC head"):
        model(seeded(4, 60, 20), torch.tensor([60, 60, 60, 60]), LABELS, LABEL_LENS)


def test_losses_of_absent_heads_are_absent() -> None:
    arguments = (seeded(1, 60, 20), torch.tensor([60]), torch.tensor([[3, 4]]), torch.tensor([2]))
    names = {"transducer": {"simple", "pruned"}, "ctc": {"ctc"}, "attention": {"attention"}}
    for absent in ({"ctc"}, {"transducer"}, {"attention"}, {"ctc", "attention"}, {"transducer", "attention"}):
        config = dataclasses.replace(small_config(), **dict.fromkeys(absent))
        expected = set().union(*(names[head] for head in names.keys() - absent))
        assert AsrModel(config)(*arguments).keys() == expected


# Scorer


def test_scores_of_the_parts_are_those_of_the_head() -> None:
    model = golden_model()
    _, golden = load_golden("e_asr_model")
    assert (model.blank_id, model.context_size) == (0, 2)
    assert model.has_transducer and model.has_ctc and model.has_attention
    assert model.transducer is not None
    frames = model.project_frames(golden["out.encoder_out"])
    contexts = model.predict(golden["in.dec_y2"])
    assert contexts.shape == (3, 40)
    assert_close_to(contexts, model.transducer.joiner.predictor_proj(golden["out.decoder_nopad"][:, 0]))
    logits = model.join(frames[:, 0], contexts)
    assert logits.shape == (3, 30)
    torch.testing.assert_close(model.join(frames, contexts.unsqueeze(1))[:, 0], logits)
    assert model.output_length(131) == golden["out.encoder_out_lens"][0]


def test_scores_of_a_missing_head_are_refused() -> None:
    frames = torch.zeros(1, 2, 24)
    model = AsrModel(dataclasses.replace(small_config(), transducer=None))
    assert (model.context_size, model.has_transducer) == (0, False)
    with pytest.raises(ValueError, match="no transducer head"):
        model.project_frames(frames)
    with pytest.raises(ValueError, match="no CTC head"):
        AsrModel(dataclasses.replace(small_config(), ctc=None)).ctc_log_probs(frames)
    model = AsrModel(dataclasses.replace(small_config(), attention=None))
    assert not model.has_attention
    with pytest.raises(ValueError, match="no attention decoder"):
        model.attention_log_probs(Encoded(frames, torch.tensor([2])), torch.zeros(1, 1, 1), torch.ones(1, 1))


@pytest.mark.parametrize("length", range(30, 47))
def test_padding_that_lens_do_not_count_makes_results_independent_of_the_batch(length: int) -> None:
    """As `AsrModel.encode` promises, 24 frames of padding hide the rest of the batch."""
    torch.manual_seed(0)
    model = AsrModel(small_config()).eval()
    padding, features = -23.025850929940457, seeded(2, 90, 20)
    features[0, length:] = padding
    with torch.no_grad():
        together = model.encode(features, torch.tensor([length, 66]))
        alone = model.encode(features[:1, : length + 24], torch.tensor([length]))
    valid = int(alone.lens[0])
    torch.testing.assert_close(together.frames[0, :valid], alone.frames[0, :valid], rtol=0.0, atol=1e-5)


# Folder on disk


def test_round_trip_is_bit_identical(tmp_path: Path, tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    model = AsrModel(small_config(tokenizer.vocab_size)).eval()
    model.save(tmp_path / "model", tokenizer)
    loaded, loaded_tokenizer = AsrModel.load(tmp_path / "model")
    assert loaded.config == model.config
    assert loaded_tokenizer.pieces == tokenizer.pieces
    assert not loaded.training
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype
        assert torch.equal(tensor, after[name]), name
    features, lens = seeded(1, 60, 20), torch.tensor([60])
    assert torch.equal(model.encode(features, lens).frames, loaded.encode(features, lens).frames)


def test_a_model_saved_while_training_is_the_same(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = AsrModel(small_config(tokenizer.vocab_size)).train()
    set_step(model, 10.0)
    model.save(tmp_path / "model", tokenizer)
    assert model.training
    loaded, _ = AsrModel.load(tmp_path / "model")
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_a_model_with_adapters_is_saved_without(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = AsrModel(small_config(tokenizer.vocab_size)).eval()
    add_lora(model, LoraConfig(rank=2))
    for layer in lora_layers(model).values():
        torch.nn.init.normal_(layer.lora_b, std=0.3)
    model.save(tmp_path / "model", tokenizer)
    loaded, _ = AsrModel.load(tmp_path / "model")
    expected = merged_copy(model).state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


def test_a_tokenizer_of_another_size_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = AsrModel(small_config(tokenizer.vocab_size + 1))
    with pytest.raises(ConfigError, match=f"{tokenizer.vocab_size + 1} entries, but has {tokenizer.vocab_size}.*fitted"):
        model.save(tmp_path / "model", tokenizer)
    assert not (tmp_path / "model").exists()


def test_weights_that_do_not_fit_are_refused_and_change_nothing() -> None:
    torch.manual_seed(0)
    model = AsrModel(small_config())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wrong = {name: tensor + 1.0 for name, tensor in before.items()}
    del wrong["ctc.output.bias"]
    wrong["transducer.simple_am.bias"] = torch.zeros(13)
    wrong["ctc.output.scale"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"here\.safetensors does not match") as error:
        load_weights(model, wrong, source="here.safetensors")
    for part in ("ctc.output.bias is missing", "ctc.output.scale is unknown", "must be (12,), but is (13,)"):
        assert part in str(error.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_long_lists_of_wrong_weights_are_cut() -> None:
    with pytest.raises(CheckpointError, match=r"and \d+ more$"):
        load_weights(AsrModel(small_config()), {}, source="nothing")


def test_a_damaged_folder_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = AsrModel(small_config(tokenizer.vocab_size)).save(tmp_path / "model", tokenizer)
    content = bytearray((folder / WEIGHTS_FILE).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        AsrModel.load(folder)
