"""Golden: the original's whole model, encoder output, CTC output, losses and gradients of the heads. Contract: published
parameter counts, checkpoint round trip, refused weights, the Scorer's methods. Law: data of padding."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.golden_files import assert_close_to, encoder_config, load_golden, seeded, weights
from zipasr.encoder.zipformer import ZipformerConfig
from zipasr.errors import CheckpointError, ConfigError
from zipasr.features import FbankConfig
from zipasr.heads.ctc import CtcConfig
from zipasr.heads.transducer import TransducerConfig
from zipasr.interop import rename_state_dict
from zipasr.model import WEIGHTS_FILE, AsrConfig, AsrModel, large, load_weights, medium, small, tiny
from zipasr.nn.schedule import set_step
from zipasr.tokenizer import Tokenizer


def golden_model() -> AsrModel:
    """The original's transducer + CTC model; its attention decoder is left out."""
    meta, golden = load_golden("e_asr_model")
    config = AsrConfig(
        vocab_size=meta["vocab_size"],
        encoder=encoder_config(meta),
        transducer=TransducerConfig(predictor_dim=meta["decoder_dim"], joiner_dim=meta["joiner_dim"]),
        ctc=CtcConfig(),
    )
    model = AsrModel(config)
    load_weights(model, ours(weights(golden)), source="e_asr_model")
    return model.eval()


def ours(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return rename_state_dict({k: v for k, v in tensors.items() if not k.startswith("attention_decoder.")})


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


def golden_losses() -> tuple[AsrModel, dict[str, Tensor], dict[str, Tensor]]:
    """The model, the losses that it gives and the golden tensors."""
    model = golden_model()
    meta, golden = load_golden("e_asr_losses")
    tokens = [torch.tensor(ids) for ids in meta["tokens"]]
    labels = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
    label_lens = torch.tensor([len(ids) for ids in tokens])
    return model, model(golden["in.x"], golden["in.x_lens"], labels, label_lens), golden


def test_losses_equal_golden() -> None:
    _, losses, golden = golden_losses()
    assert losses.keys() == {"simple", "pruned", "ctc"}
    for name, loss in losses.items():
        assert_close_to(loss, golden[f"out.plain.{name}"], 1e-5, name)


def test_gradients_of_the_heads_equal_golden() -> None:
    """Those of the encoder also hold the attention decoder's part, which this model lacks."""
    model, losses, golden = golden_losses()
    (0.5 * losses["simple"] + losses["pruned"] + 0.1 * losses["ctc"]).backward()
    meta, _ = load_golden("e_asr_losses")
    norms = ours(dict(zip(meta["names"], golden["grad.plain.norms"], strict=True)))
    stored = ours(weights(golden, "grad.plain.w."))
    heads = {name: p for name, p in model.named_parameters() if not name.startswith("encoder.")}
    assert len(heads) == 14
    for name, parameter in heads.items():
        assert parameter.grad is not None, name
        assert parameter.grad.norm().item() == pytest.approx(norms[name].item(), rel=1e-4), name
        if name in stored:
            assert_close_to(parameter.grad, stored[name], 2e-4, name)
    assert sum(name in stored for name in heads) >= 5
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


# Parameter counts


def with_heads(config: AsrConfig, transducer: bool, ctc: bool) -> AsrConfig:
    return dataclasses.replace(
        config, transducer=config.transducer if transducer else None, ctc=CtcConfig() if ctc else None
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
        *(f"{size} {heads}" for heads in ("transducer", "both", "ctc", "causal") for size in "SML"),
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
        ({"vocab_size": 1}, "vocab_size must be at least 2"),
        ({"features": FbankConfig(num_mel_bins=40)}, "num_features must equal features.num_mel_bins, 40"),
    ],
)
def test_impossible_configurations_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AsrConfig(**settings)  # type: ignore[arg-type]


# Training


@pytest.mark.parametrize("step", [None, 0.0, 5000.0])
def test_a_training_step_gives_finite_losses_and_gradients(step: float | None) -> None:
    torch.manual_seed(0)
    model = AsrModel(small_config()).train()
    if step is not None:
        set_step(model, step)
    losses = model(seeded(2, 60, 20), torch.tensor([60, 45]), torch.tensor([[3, 4, 5], [6, 0, 0]]), torch.tensor([3, 1]))
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all(), name


def test_losses_of_absent_heads_are_absent() -> None:
    arguments = (seeded(1, 60, 20), torch.tensor([60]), torch.tensor([[3, 4]]), torch.tensor([2]))
    both = small_config()
    assert AsrModel(dataclasses.replace(both, ctc=None))(*arguments).keys() == {"simple", "pruned"}
    assert AsrModel(dataclasses.replace(both, transducer=None))(*arguments).keys() == {"ctc"}


# Scorer


def test_scores_of_the_parts_are_those_of_the_head() -> None:
    model = golden_model()
    _, golden = load_golden("e_asr_model")
    assert (model.blank_id, model.context_size, model.has_transducer, model.has_ctc) == (0, 2, True, True)
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


@pytest.mark.parametrize("length", range(30, 47))
def test_padding_that_lens_do_not_count_makes_results_independent_of_the_batch(length: int) -> None:
    """As `AsrModel.encode` promises: 24 frames of padding hide what else is in the batch."""
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


def test_a_tokenizer_of_another_size_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = AsrModel(small_config(tokenizer.vocab_size + 1))
    with pytest.raises(ConfigError, match=f"{tokenizer.vocab_size + 1} entries, but has {tokenizer.vocab_size}"):
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
    with pytest.raises(CheckpointError, match=r"here\.safetensors does not fit") as error:
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
