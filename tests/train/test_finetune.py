"""Finetuning. Run: new words are learned, with the checkpoint's vocabulary and with another one; interruptions change
nothing. Law: shared rows and frozen parts keep their bits, a merged model computes what the adapted one does. Contract: the
resolved configuration, what is printed, and every error."""

import copy
import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.train.recipes import ctc_recipe
from tests.train.runs import run, stop_after_batches
from tests.train.tones import NEW_WORDS, WORDS, minute_config, vocabulary, with_attention, write_tones
from zipasr.baselines import SqueezeformerConfig
from zipasr.baselines.blocks import MaskedBatchNorm
from zipasr.checkpoint import CheckpointFolder
from zipasr.cli import main
from zipasr.config import to_json
from zipasr.encoder.zipformer import ZipformerConfig
from zipasr.errors import CheckpointError, ConfigError, DataError
from zipasr.hub import original_key
from zipasr.model import AsrModel
from zipasr.nn.lora import lora_layers, merged_copy
from zipasr.tokenizer import Tokenizer
from zipasr.tokenizer.byte_text import to_characters
from zipasr.train import finetune
from zipasr.train.config import AdamConfig, FinetuneConfig, TrainConfig
from zipasr.train.data import read_cuts
from zipasr.train.finetune import VOCABULARY_LAYERS, begin, trained_groups
from zipasr.train.resolve import resolve
from zipasr.train.source import Source
from zipasr.train.state import AVERAGE_FILE, LORA_FILE, TENSORS_FILE, checkpoint_folders
from zipasr.train.validation import validate, validation_batches

SAME_LETTERS = {"MOP": (1500, 800), "NOD": (600, 1800), "WILD": (2500, 1200)}
"""Words made of the letters of the old words."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`old`, `new` and `same` hold data of the three sets of words; `few` holds little data of the new words."""
    folder = tmp_path_factory.mktemp("finetune")
    write_tones(folder / "old")
    write_tones(folder / "new", num_train=24, sounds=NEW_WORDS, prefix="new-")
    write_tones(folder / "same", num_train=24, sounds=SAME_LETTERS, prefix="same-")
    write_tones(folder / "few", num_train=8, num_dev=2, sounds=NEW_WORDS, prefix="few-")
    return folder


@pytest.fixture(scope="module")
def base(folder: Path) -> Path:
    """The folder of a run on the old words."""
    report = run(ctc_recipe(folder / "old"), folder / "base")
    assert report.wer < 10
    return folder / "base"


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with all three heads, random weights, and the vocabulary of the old words."""
    torch.manual_seed(0)
    config = dataclasses.replace(with_attention(minute_config()).model, vocab_size=14)
    model = AsrModel(config)
    return model.save(tmp_path_factory.mktemp("untrained") / "model", vocabulary(WORDS))


def started(config: TrainConfig, tokenizer: Tokenizer, seed: int = 1) -> tuple[AsrModel, list[str]]:
    """The model with which a run starts, and the report on it."""
    torch.manual_seed(seed)
    model = AsrModel(dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size))
    config = dataclasses.replace(config, model=model.config)
    return model, begin(model, config, tokenizer)


def fresh(config: TrainConfig, tokenizer: Tokenizer, seed: int = 1) -> AsrModel:
    torch.manual_seed(seed)
    return AsrModel(dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size))


def wer_on(data: Path, model_folder: Path) -> float:
    model, tokenizer = AsrModel.load(model_folder)
    cuts = read_cuts(data / "dev_cuts.jsonl.gz")
    batches = validation_batches(cuts, tokenizer, ctc_recipe(data))
    return validate(model, batches, {c.id: c.supervisions[0].text for c in cuts}, tokenizer, torch.device("cpu")).metrics[
        "wer"
    ]


# Learning


def test_learns_new_words_with_a_new_vocabulary(folder: Path, base: Path, tmp_path: Path) -> None:
    config = resolve(ctc_recipe(folder / "new", num_epochs=8, lr=0.3), ["finetune.vocabulary=new"], str(base))
    assert config.lr == pytest.approx(0.03)
    before, _ = started(config, vocabulary(NEW_WORDS))
    before.save(tmp_path / "before", vocabulary(NEW_WORDS))
    assert wer_on(folder / "new", tmp_path / "before") > 80
    assert run(config, tmp_path / "run").wer < 20


MAX_FORGOTTEN = 10.0
"""Percent by which the WER on the old words may rise while new words are learned, with half of the audio being old."""


def test_learns_new_words_and_forgets_the_old_ones_unless_they_are_mixed_in(
    folder: Path, base: Path, tmp_path: Path
) -> None:
    """The vocabulary stays the same."""
    mix = json.dumps([{"data": str(folder / "old"), "share": 0.5}])
    before = {name: wer_on(folder / name, base / "model") for name in ("same", "old")}
    assert before["same"] > 80
    after = {}
    for name, settings in (("alone", []), ("mixed", [f"mix={mix}"])):
        config = resolve(ctc_recipe(folder / "same", num_epochs=8, lr=0.3), settings, str(base))
        assert run(config, tmp_path / name).wer < 30
        after[name] = wer_on(folder / "old", tmp_path / name / "model")
        tokenizer = Tokenizer.load(tmp_path / name / "tokenizer")
        assert tokenizer.to_bytes() == Tokenizer.load(base / "tokenizer").to_bytes()
    assert after["alone"] > before["old"] + 15
    assert after["mixed"] <= before["old"] + MAX_FORGOTTEN


def test_texts_that_the_vocabulary_cannot_write_are_refused(folder: Path, base: Path, tmp_path: Path) -> None:
    config = resolve(ctc_recipe(folder / "new", num_epochs=1), [], str(base))
    with pytest.raises(DataError, match=r"have: A E F R S T; the model .* --set finetune.vocabulary=new"):
        run(config, tmp_path / "run")
    run(resolve(ctc_recipe(folder / "few", num_epochs=1), ["finetune.vocabulary=new"], str(base)), tmp_path / "run")


def test_a_new_vocabulary_is_made_of_all_that_is_read(folder: Path, base: Path, tmp_path: Path) -> None:
    """Texts of mixed-in data can thus be spelled, and every old piece keeps its row."""
    mix = json.dumps([{"data": str(folder / "old"), "share": 0.5}])
    settings = ["finetune.vocabulary=new", f"mix={mix}", "num_epochs=1"]
    run(resolve(ctc_recipe(folder / "few"), settings, str(base)), tmp_path)
    assert set(Tokenizer.load(tmp_path / "tokenizer").pieces) == {*vocabulary(WORDS).pieces, *vocabulary(NEW_WORDS).pieces}


def test_learns_faster_than_from_random_weights(folder: Path, base: Path, tmp_path: Path) -> None:
    """A pretrained encoder alone helps: a model that starts at random has learned less after the same number of steps."""
    config = resolve(ctc_recipe(folder / "new", num_epochs=5, lr=0.3), ["finetune.parts=encoder"], str(base))
    wer = run(config, tmp_path / "encoder").wer
    assert wer < 40
    assert run(ctc_recipe(folder / "new", num_epochs=5), tmp_path / "nothing").wer > wer + 30


def test_adapters_learn(folder: Path, base: Path, tmp_path: Path) -> None:
    """Adapters and a new output layer learn the new words; the other trained weights do not change by a bit."""
    settings = ["finetune.vocabulary=new", "finetune.lora={}", "lr=0.1"]
    config = resolve(ctc_recipe(folder / "new", num_epochs=8), settings, str(base))
    assert run(config, tmp_path).wer < 30
    old, found = AsrModel.load(base / "model")[0].state_dict(), AsrModel.load(tmp_path / "model")[0].state_dict()
    model, _ = started(config, vocabulary(NEW_WORDS))
    adapted = {f"{name}.weight" for name in lora_layers(model)}
    assert len(adapted) == 20 and adapted < old.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, old[name]) == (name not in adapted and not name.startswith("ctc.")), name
    newest = list(checkpoint_folders(tmp_path).values())[-1]
    for name, tensor in CheckpointFolder(newest).tensors(LORA_FILE).items():
        if name.endswith(".base.weight"):
            assert torch.equal(tensor, old[name.replace(".base.", ".")]), name
    assert AsrModel.load(newest)[0].config == AsrModel.load(tmp_path / "model")[0].config  # can be evaluated directly


# Weights


def test_shared_rows_keep_their_bits_and_the_rest_is_new(untrained: Path) -> None:
    """This holds for all seven layers, weight and bias, wherever the pieces are in either vocabulary."""
    old, old_tokenizer = AsrModel.load(untrained)
    tokenizer = vocabulary(NEW_WORDS)
    config = resolve(minute_config(), ["finetune.vocabulary=new"], str(untrained))
    model, lines = started(config, tokenizer)
    untouched, known = fresh(config, tokenizer).state_dict(), old.state_dict()
    shared = [piece for piece in tokenizer.pieces if piece in old_tokenizer.pieces]
    assert 4 <= len(shared) < tokenizer.vocab_size and any(
        tokenizer.pieces.index(piece) != old_tokenizer.pieces.index(piece) for piece in shared
    )
    num_layers = 0
    for name, tensor in model.state_dict().items():
        if name.rpartition(".")[0] not in VOCABULARY_LAYERS:
            assert torch.equal(tensor, known[name]), name
            continue
        num_layers += 1
        for i, piece in enumerate(tokenizer.pieces):
            row = known[name][old_tokenizer.pieces.index(piece)] if piece in shared else untouched[name][i]
            assert torch.equal(tensor[i], row), (name, piece)
            assert piece not in shared or not torch.equal(tensor[i], untouched[name][i])
    assert num_layers == 2 * len(VOCABULARY_LAYERS) - 2  # two embeddings have no bias
    (line,) = (line for line in lines if line.startswith("vocabulary"))
    added = [piece for piece in tokenizer.pieces if piece not in shared]
    assert f"{len(shared)} of {tokenizer.vocab_size} pieces keep their rows of {', '.join(VOCABULARY_LAYERS)}" in line
    assert f"{len(added)} are new: {' '.join(added)}" in line


def test_same_vocabulary_takes_everything(untrained: Path) -> None:
    old, tokenizer = AsrModel.load(untrained)
    model, lines = started(resolve(minute_config(), [], str(untrained)), tokenizer)
    for name, tensor in old.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert lines == [
        f"started from encoder, transducer, ctc, attention of {untrained}",
        "lr 0.0045, schedules inside the model from step 100000 on",
    ]


def test_encoder_only(untrained: Path) -> None:
    config = resolve(minute_config(), ["finetune.parts=encoder"], str(untrained))
    tokenizer = vocabulary(NEW_WORDS)
    model, lines = started(config, tokenizer)
    old, untouched = AsrModel.load(untrained)[0].state_dict(), fresh(config, tokenizer).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, (old if name.startswith("encoder.") else untouched)[name]), name
    assert lines[0] == f"started from encoder of {untrained}; new: transducer, ctc"
    assert config.model.attention is None  # only the checkpoint has that head


def test_a_head_of_the_recipe_starts_at_random(base: Path) -> None:
    recipe_ = minute_config()
    config = resolve(recipe_, [], str(base))
    assert config.model.transducer == recipe_.model.transducer and config.model.ctc is not None
    assert config.loss_warmup_batches == recipe_.loss_warmup_batches  # there is something to warm up
    _, lines = started(config, AsrModel.load(base / "model")[1])
    assert lines[0] == f"started from encoder, ctc of {base / 'model'}; new: transducer"


def test_part_of_a_part(untrained: Path) -> None:
    config = resolve(minute_config(), ["finetune.parts=encoder.frontend,ctc"], str(untrained))
    tokenizer = AsrModel.load(untrained)[1]
    model, lines = started(config, tokenizer)
    old, untouched = AsrModel.load(untrained)[0].state_dict(), fresh(config, tokenizer).state_dict()
    for name, tensor in model.state_dict().items():
        is_taken = name.startswith(("encoder.frontend.", "ctc."))
        assert torch.equal(tensor, (old if is_taken else untouched)[name]), name
    assert "encoder.stacks.0" in lines[0] and "new: encoder," not in lines[0]


def test_icefall_file_with_its_vocabulary_beside_it(tmp_path: Path) -> None:
    old, tokenizer = published_heads_model(), vocabulary(WORDS)
    tensors = {original_key(name): tensor for name, tensor in old.state_dict().items()}
    for name, tensor in tensors.items():
        if "convnext.pointwise" in name and tensor.dim() == 2:  # where the original has convolutions
            tensors[name] = tensor[:, :, None, None]
    path = tmp_path / "exp" / "pretrained.pt"
    path.parent.mkdir()
    torch.save({"model": tensors}, path)
    with pytest.raises(CheckpointError, match=r"since none lies .* --set finetune.tokenizer=PATH/bpe.model"):
        resolve(minute_config(), [], str(path))
    places = [tmp_path / "own.model", tmp_path / "data" / "lang_bpe_14" / "bpe.model", tmp_path / "exp" / "bpe.model"]
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(tokenizer.to_bytes())
        settings = [f"finetune.tokenizer={place}"] if place == places[0] else []
        config = resolve(minute_config(), settings, str(path))
        assert config.model == old.config
        model, lines = started(config, tokenizer)
        assert lines[0] == f"started from encoder, transducer, ctc of {path}"
        for name, tensor in old.state_dict().items():
            assert torch.equal(tensor, model.state_dict()[name]), name
    places[2].unlink()
    places[0].unlink()
    shutil.copytree(places[1].parent, tmp_path / "data" / "lang_bpe_500")
    assert resolve(minute_config(), [], str(path)).model == old.config, "both are the same"
    (tmp_path / "data" / "lang_bpe_500" / "bpe.model").write_bytes(
        vocabulary([word.translate({ord("O"): "Q"}) for word in WORDS]).to_bytes()
    )
    with pytest.raises(ConfigError, match=r"but .*lang_bpe_14.*, .*lang_bpe_500.* all have so many.*tokenizer=FILE"):
        resolve(minute_config(), [], str(path))


def published_heads_model() -> AsrModel:
    """A model whose attention heads have the published widths, so that its shapes determine everything."""
    config = minute_config().model
    assert isinstance(config.encoder, ZipformerConfig)
    heads = {"query_head_dim": 32, "value_head_dim": 12, "pos_head_dim": 4, "pos_dim": 48}
    torch.manual_seed(0)
    return AsrModel(dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, **heads), vocab_size=14))


# Trained parts


def test_frozen_parts_keep_their_bits(folder: Path, base: Path, tmp_path: Path) -> None:
    frozen = "encoder.frontend,encoder.stacks.0"
    config = resolve(ctc_recipe(folder / "few", num_epochs=2, lr=0.3), [f"finetune.frozen={frozen}"], str(base))
    config = resolve(config, ["finetune.vocabulary=new"])
    _, lines = started(config, vocabulary(NEW_WORDS))
    assert lines[2] == "frozen: encoder.frontend, encoder.stacks.0"
    run(config, tmp_path)
    old, found = AsrModel.load(base / "model")[0].state_dict(), AsrModel.load(tmp_path / "model")[0].state_dict()
    for name in old.keys() & found.keys():
        if name.startswith(tuple(frozen.split(","))) or "unused_scale" in name:
            assert torch.equal(old[name], found[name]), name
        elif not name.startswith("ctc."):
            assert not torch.equal(old[name], found[name]), name


def test_frozen_batch_norms_keep_their_averages(tmp_path: Path) -> None:
    encoder = SqueezeformerConfig(
        num_layers=4, reduce_at=1, recover_at=3, channels=16, num_heads=2, feedforward=32, kernel_size=3
    )
    model_config = dataclasses.replace(minute_config().model, encoder=encoder, transducer=None, vocab_size=14)
    tokenizer = vocabulary(WORDS)
    path = AsrModel(model_config).save(tmp_path / "model", tokenizer)
    config = resolve(minute_config(), ["finetune.frozen=encoder.first_blocks"], str(path))
    model, _ = started(config, tokenizer)
    before = copy.deepcopy(model.state_dict())
    model.train()(torch.randn(2, 80, 80), torch.tensor([80, 80]), torch.full((2, 3), 4), torch.tensor([3, 3]))
    norms = [name for name, module in model.named_modules() if isinstance(module, MaskedBatchNorm)]
    assert len(norms) == 4
    for name in norms:
        is_same = torch.equal(before[f"{name}.running_mean"], model.state_dict()[f"{name}.running_mean"])
        assert is_same == name.startswith("encoder.first_blocks."), name


def test_adapters_change_nothing_at_first_and_are_merged_exactly_enough(untrained: Path) -> None:
    old, tokenizer = AsrModel.load(untrained)
    config = resolve(minute_config(), ["finetune.lora={}"], str(untrained))
    model, lines = started(config, tokenizer)
    assert lines[1].startswith("adapters of rank 8 on 20 layers")
    features, lens = torch.randn(2, 80, 80), torch.tensor([80, 77])
    with torch.no_grad():
        assert torch.equal(model.eval().encode(features, lens).frames, old.encode(features, lens).frames)
        for layer in lora_layers(model).values():
            layer.lora_b.normal_(std=0.3)
        expected, found = model.encode(features, lens).frames, merged_copy(model).encode(features, lens).frames
    assert not torch.allclose(expected, old.encode(features, lens).frames, atol=1e-2)
    assert (expected - found).abs().max() <= 1e-5 * expected.abs().max()


def test_only_adapters_and_what_is_new_train(base: Path) -> None:
    tokenizer = AsrModel.load(base / "model")[1]
    settings = ["finetune.lora={}", "finetune.frozen=encoder.stacks.1"]
    config = resolve(minute_config(), settings, str(base))  # whose transducer is new
    model, _ = started(config, tokenizer)
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in names} == {"encoder", "transducer"}
    assert all(name.endswith((".lora_a", ".lora_b")) and "stacks.0" in name for name in names if name.startswith("encoder"))
    groups = trained_groups(model)
    assert {name for group in groups for name, _ in group["params"]} == names
    assert all(name.endswith("lora_b") for name, _ in groups[1]["params"]) and len(groups[1]["params"]) == 10
    assert groups[1]["param_min_rms"] == pytest.approx(8**0.5 / 8.0)


@pytest.mark.parametrize("settings", [["finetune.lora={}"], ["finetune.frozen=encoder.frontend"]])
def test_a_stopped_run_resumes_as_if_it_had_not_stopped(
    folder: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str]
) -> None:
    config = resolve(ctc_recipe(folder / "few", num_epochs=3, lr=0.3), [*settings, "finetune.vocabulary=new"], str(base))
    run(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after_batches(patch, 2)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            run(config, tmp_path / "stopped")
    assert len(checkpoint_folders(tmp_path / "stopped")) == 1
    run(config, tmp_path / "stopped")
    (number, whole) = list(checkpoint_folders(tmp_path / "whole").items())[-1]
    stopped = checkpoint_folders(tmp_path / "stopped")[number]
    names = [TENSORS_FILE, AVERAGE_FILE, "model.safetensors", *([LORA_FILE] if "lora" in settings[0] else [])]
    for file in names:
        expected, found = CheckpointFolder(whole).tensors(file), CheckpointFolder(stopped).tensors(file)
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            assert torch.equal(tensor, found[name]), (file, name)
    model_files = [tmp_path / name / "model" / "model.safetensors" for name in ("whole", "stopped")]
    assert model_files[0].read_bytes() == model_files[1].read_bytes()


# Configuration


def test_what_the_configuration_becomes(untrained: Path) -> None:
    """The checkpoint's architecture and a tenth of the rate, held constant; explicit settings take precedence."""
    model = AsrModel.load(untrained)[0]
    published = resolve(TrainConfig(), [], str(untrained))
    assert published.model == model.config
    assert (published.lr, published.lr_batches, published.lr_epochs) == (0.0045, 100_000.0, 100.0)
    by_hours = resolve(TrainConfig(lr_epochs=None, lr_hours=50_000.0), [], str(untrained))
    assert (by_hours.lr_epochs, by_hours.lr_hours) == (100.0, None)
    assert resolve(TrainConfig(), ["lr_hours=7"], str(untrained)).lr_hours == 7.0
    assert published.loss_warmup_batches == 0.0
    assert published.finetune is not None and published.finetune.step_offset == 100_000.0
    files = json.loads((untrained / "checksums.json").read_text())["sha256"]
    assert published.finetune.sha256 == files["model.safetensors"]
    chosen = resolve(TrainConfig(), ["lr=0.02", "model.ctc.dropout=0.3", "loss_warmup_batches=7"], str(untrained))
    assert (chosen.lr, chosen.loss_warmup_batches) == (0.02, 7.0)
    assert chosen.model.ctc is not None and chosen.model.ctc.dropout == 0.3
    adam = resolve(TrainConfig(adam=AdamConfig()), [], str(untrained)).adam
    assert adam is not None and adam.factor == pytest.approx(0.75)
    assert resolve(TrainConfig(), ["lr=0.01"]) == TrainConfig(lr=0.01)


def test_a_recipe_made_for_finetuning_keeps_its_rate(untrained: Path) -> None:
    made = TrainConfig(lr=0.07, finetune=FinetuneConfig(checkpoint="elsewhere", frozen=("ctc",)))
    config = resolve(made, [], str(untrained))
    assert config.lr == 0.07
    assert config.finetune is not None
    assert (config.finetune.checkpoint, config.finetune.frozen) == (str(untrained), ("ctc",))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["finetune.parts=encodr"], r"'encodr' matches none; the nearest are encoder"),
        (["finetune.frozen=encoder.frontnd"], r"finetune.frozen: 'encoder.frontnd' .* nearest names are encoder.frontend"),
        (
            ["finetune.frozen=encoder,transducer,ctc,attention"],
            "finetune.frozen: at least one parameter must be trainable",
        ),
        (["finetune.lora={}", "finetune.lora.targets=decoder.*"], r"'decoder.\*' matches none; the nearest layers are"),
        (["finetune.lora={}", "finetune.lora.rank=0"], "rank must be at least 1"),
        (["tokenizer.kind=bpe"], r"tokenizer.kind=bpe would have no effect.*--set finetune.vocabulary=new"),
        (["finetune.tokenizer=bpe.model"], "finetune.tokenizer is for .pt files"),
        (["finetune.step_offset=-1"], "step_offset must be 0 or more"),
        (
            ["model.encoder.feedforward=64,128"],
            r"must have the shape of .* but encoder.stacks.1.* leave out what sets model",
        ),
        (["model.encoder.num_layers=1,2"], r"is not in the checkpoint"),
        (["model.features.num_mel_bins=40"], "num_features must equal features.num_mel_bins, 40"),
        (["model.features.low_freq_hz=100"], r"the features must be those of the checkpoint"),
        (["finetune.vocabluary=new"], "did you mean finetune.vocabulary"),
    ],
)
def test_what_cannot_be(untrained: Path, settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        started(resolve(minute_config(), settings, str(untrained)), AsrModel.load(untrained)[1])


def test_a_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"to begin with .* but there is no such file or folder"):
        resolve(minute_config(), [], str(tmp_path / "none"))
    with pytest.raises(CheckpointError, match="must be a model folder"):
        resolve(minute_config(), [], str(tmp_path))


def test_weights_that_changed_since(folder: Path, untrained: Path, tmp_path: Path) -> None:
    """The folder of the run recognizes them by their hash; their path does not matter."""
    source = shutil.copytree(untrained, tmp_path / "source")
    settings = ["finetune.vocabulary=new", "num_epochs=1"]
    first = resolve(minute_config(folder / "few"), settings, str(source))
    run(first, tmp_path / "run")
    moved = source.rename(tmp_path / "moved")
    run(resolve(minute_config(folder / "few"), settings, str(moved)), tmp_path / "run")
    model, tokenizer = AsrModel.load(moved)
    with torch.no_grad():
        next(model.parameters()).add_(0.1)
    model.save(moved, tokenizer)
    with pytest.raises(ConfigError, match=r"holds a run with other settings: finetune\.sha256"):
        run(resolve(minute_config(folder / "few"), settings, str(moved)), tmp_path / "run")
    with pytest.raises(CheckpointError, match="no longer those that this run started from"):
        run(
            dataclasses.replace(first, finetune=dataclasses.replace(first.finetune, checkpoint=str(moved))), tmp_path / "run"
        )


def test_command(folder: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    recipe_file = tmp_path / "tones.py"
    recipe_file.write_text(
        "from tests.train.recipes import ctc_recipe\nfrom zipasr.train.config import TrainConfig\n"
        f"def few() -> TrainConfig:\n    return ctc_recipe({str(folder / 'few')!r}, num_epochs=1)\n"
    )
    argv = ["train", f"{recipe_file}:few", "--from", str(base), "--out", str(tmp_path / "run")]
    assert main([*argv, "--show", "--set", "lr=0.01"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["lr"], shown["finetune"]["checkpoint"]) == (0.01, str(base))
    assert shown["model"] == to_json(AsrModel.load(base / "model")[0].config)
    for is_first in (True, False):
        assert main([*argv, "--no-progress", "--set", "finetune.vocabulary=new"]) == 0
        captured = capsys.readouterr()
        assert captured.out.startswith(f"{tmp_path / 'run' / 'model'}: ")
        assert (f"started from encoder, ctc of {base / 'model'}" in captured.err) == is_first
    assert main(["train", f"{recipe_file}:few", "--from", "nowhere", "--out", str(tmp_path / "other")]) == 1
    assert "nowhere must be a checkpoint to begin with" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_letters_that_look_like_bytes_keep_no_rows() -> None:
    letters = Tokenizer.train(["AB " + to_characters("今天")], kind="char", vocab_size=None)
    pieces = Tokenizer.train(["AB 今天"], kind="bbpe", vocab_size=20)
    config = minute_config().model
    old, new = (AsrModel(config.for_vocabulary(tokenizer)) for tokenizer in (letters, pieces))
    source = Source(Path("old"), old, letters, "")
    alike = {piece for piece in letters.pieces if piece in pieces.pieces}
    assert {"A", "B", "▁"} <= alike and any(not piece.lstrip("▁").isascii() for piece in alike)
    before = copy.deepcopy(new.state_dict())
    _, (line,) = finetune._take_over(new, old.state_dict(), source, pieces, parts=("",))
    kept = {piece for piece in alike if piece.lstrip("▁").isascii()}
    assert f"{len(kept)} of {pieces.vocab_size} pieces keep their rows" in line
    name = next(f"{layer}.weight" for layer in VOCABULARY_LAYERS if f"{layer}.weight" in before)
    for i, piece in enumerate(pieces.pieces):
        row = old.state_dict()[name][letters.pieces.index(piece)] if piece in kept else before[name][i]
        assert torch.equal(new.state_dict()[name][i], row)
