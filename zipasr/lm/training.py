"""Training language models: `train_language_model` (LSTM, Transformer) and `train_ngram`, each from files of text.

A run of a neural model is a folder: `train_lm.json` (its configuration), `checkpoint/` (to go on from, after every epoch)
and `model/` (the best so far). The same command on the same folder resumes the run, with bit-identical results.
Perplexities are per token (label or word), ends of lines included, on lines that were not learned from.
"""

import hashlib
import json
import math
import os
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zipasr import checkpoint
from zipasr.config import differences, from_json, to_json
from zipasr.device import fast_matmul, select_device
from zipasr.errors import CheckpointError, ConfigError, ZipasrError
from zipasr.lines import parse_json
from zipasr.lm.arpa import read_arpa, require_kaldilm
from zipasr.lm.estimate import estimate_graph, estimate_ngram
from zipasr.lm.neural import MODEL_SUBFOLDER, WEIGHTS_FILE, LmConfig, LstmConfig, NeuralLm, TransformerConfig
from zipasr.lm.ngram import NgramModel
from zipasr.lm.ngram_file import is_ngram_file, write_ngram
from zipasr.lm.texts import HeldOutConfig, LabelLines, Paths, batches, encode_lines, read_and_split
from zipasr.progress import track, write_line
from zipasr.randomness import random_state, set_random_state, stable_seed
from zipasr.text import split_words
from zipasr.tokenizer import Tokenizer

CONFIG_FILE = "train_lm.json"
CHECKPOINT_SUBFOLDER = "checkpoint"
_TRAINING_FILE, _TENSORS_FILE = "training.json", "training.safetensors"
_MAX_LOSS = 700.0
"""Largest mean loss in nats that counts as finite: exp of little more overflows, and no perplexity is near."""
_MAY_CHANGE = ("num_epochs", "patience_epochs", "device")
"""Fields that a resumed run may change: none of them affects what an epoch does."""


@dataclass(frozen=True, kw_only=True)
class LmTrainConfig:
    """Configuration of a run. Defaults were tuned on the telephone prompts, for two cores and up to some million lines."""

    network: LstmConfig | TransformerConfig = field(default_factory=LstmConfig)
    """The model's shape."""
    held_out: HeldOutConfig = field(default_factory=HeldOutConfig)
    """Lines to hold out for evaluation if no other text is given."""
    lr: float = 3e-3
    """Learning rate after the warm-up."""
    warmup_batches: int = 100
    """Batches over which the rate rises to `lr`."""
    lr_factor: float = 0.5
    """Factor on the learning rate after an epoch without a new best perplexity."""
    weight_decay: float = 0.01
    """Weight decay."""
    max_grad_norm: float = 1.0
    """Maximum norm of the gradients; larger ones are scaled down to it."""
    batch_labels: int = 512
    """Labels of a batch, including padding. For millions of lines 4096 is faster, and there are still enough steps."""
    max_line_labels: int = 256
    """Maximum labels of a line; longer lines are split."""
    max_unknown_share: float = 0.01
    """Maximum share of characters that are not in the vocabulary."""
    num_epochs: int = 40
    """Maximum number of passes over the lines."""
    patience_epochs: int = 4
    """Epochs without a new best perplexity after which training ends."""
    seed: int = 0
    """Random seed of weights, order and dropout."""
    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:N or mps."""

    def __post_init__(self) -> None:
        for name in ("batch_labels", "max_line_labels", "num_epochs", "patience_epochs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, but is {getattr(self, name)}")
        for name in ("lr", "max_grad_norm", "lr_factor"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be > 0, but is {getattr(self, name)}")
        for name in ("warmup_batches", "weight_decay", "max_unknown_share"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must be >= 0, but is {getattr(self, name)}")
        if self.lr_factor > 1:
            raise ConfigError(f"lr_factor must be at most 1, but is {self.lr_factor}")


class LmReport(NamedTuple):
    """Result of a training."""

    model: Path
    """The folder or file of the model."""
    perplexity: float
    """Perplexity per token, including ends of lines, on the held-out lines."""
    num_held_out_lines: int
    unit: str
    """Unit of the perplexity: tokens or words."""
    description: str
    """Description of the model and its training."""


def default_config(kind: str) -> LmTrainConfig:
    """The default configuration for a network of this kind."""
    return LmTrainConfig(network=TransformerConfig() if kind == TransformerConfig.kind else LstmConfig())


def train_language_model(
    texts: Paths,
    tokenizer: Tokenizer,
    out: str | os.PathLike[str],
    config: LmTrainConfig,
    *,
    dev: Paths = (),
    is_quiet: bool = False,
) -> LmReport:
    """Train a neural language model of a recognizer's labels in the folder `out`, or resume the run that is there.

    Args:
        texts: files of text or manifests.
        tokenizer: the recognizer's.
        out: the run folder; the best model is in its `model/`.
        config: configuration of the run; if `out` already holds a run, it must be the same except for a few fields.
        dev: files for evaluation; none: some of the lines are held out.
        is_quiet: whether to hide the progress bar.
    Raises:
        DataError: a file cannot be read or holds no text.
        ConfigError: the text is in another script or case, the tokenizer cannot encode, or `out` holds another run or
            something else.
        CheckpointError: a checkpoint cannot be written or read.
        ZipasrError: the loss was not finite.
    """
    out = Path(out)
    _check_folder(out)
    device = select_device(config.device)
    tokenizer.require_encoding("the text of a language model")
    share = config.max_unknown_share
    read = read_and_split(texts, dev, tokenizer, config.held_out, max_unknown_share=share, is_share_settable=True)
    train, held_out = (encode_lines(part, tokenizer, max_labels=config.max_line_labels) for part in read)
    with checkpoint.locked(out), fast_matmul(device) if device.type == "cpu" else nullcontext():
        _open_run(out, config, tokenizer, train, held_out)
        torch.manual_seed(config.seed)
        run = _LmRun(config, tokenizer, out, device)
        run.load()
        run.train(train, held_out, is_quiet=is_quiet)
    network = "Transformer" if isinstance(config.network, TransformerConfig) else "LSTM"
    num_parameters = sum(p.numel() for p in run.model.parameters())
    description = (
        f"{network} of {num_parameters / 1e6:.2f} M parameters, {run.progress.epoch} epochs of {train.num_predicted} labels"
    )
    return LmReport(out / MODEL_SUBFOLDER, run.progress.best, len(read.held_out), "token", description)


def train_ngram(
    texts: Paths,
    tokenizer: Tokenizer,
    out: str | os.PathLike[str],
    *,
    order: int,
    unit: str,
    dev: Paths = (),
) -> LmReport:
    """Estimate an n-gram model of a recognizer's tokens, or of words, and write it as an ARPA file.

    Args:
        texts: files of text or manifests.
        tokenizer: the recognizer's.
        out: the file: ARPA if its name ends in .arpa or .arpa.gz, or .safetensors, which needs no kaldilm; of tokens only.
        order: length of the longest n-grams.
        unit: unit of the n-grams: token or word.
        dev: files for evaluation; none: some of the lines are held out.
    Raises:
        DataError: a file cannot be read, holds no text or cannot be written, or kaldilm is not installed.
        ConfigError: the text is in another script or case, the order is out of range, or `out` has another extension.
    """
    out = Path(out)
    is_own = is_ngram_file(out)
    if not is_own and not out.name.endswith((".arpa", ".arpa.gz")):
        raise ConfigError(f"an n-gram model is a file, so --out must end in .arpa, .arpa.gz or .safetensors, but is {out}")
    if unit not in ("token", "word"):
        raise ConfigError(f"unit must be token or word, but is {unit!r}")
    if is_own and unit == "word":
        raise ConfigError(
            f"an n-gram model of words is an ARPA file, but --out is {out}; end it in .arpa, or use --unit token"
        )
    if unit == "word" and tokenizer.is_spaceless:
        raise ConfigError("the recognizer's tokenizer has characters and no words; use --unit token")
    if unit == "token":
        tokenizer.require_encoding("the text of a language model")
    if not is_own:
        require_kaldilm()
    config = LmTrainConfig()
    read = read_and_split(texts, dev, tokenizer, config.held_out, max_unknown_share=config.max_unknown_share)
    train, others = ([_symbols(text, tokenizer, unit) for text in part] for part in read)
    if is_own:
        graph, counts = estimate_graph(train, order=order)
        write_ngram(graph, out)
    else:
        counts = estimate_ngram(train, out, order=order)
        graph = read_arpa(out)
    model = NgramModel(graph)
    total = sum(model.sentence_log_prob(line) for line in others)
    num_predicted = sum(len(line) + 1 for line in others)
    known = set(model.known_symbols)
    num_unknown = sum(symbol not in known for line in others for symbol in line)
    unknown = f", {num_unknown} of the {num_predicted} held-out {unit}s unknown" if num_unknown else ""
    description = f"{len(counts)}-gram of {unit}s with {' + '.join(map(str, counts))} n-grams{unknown}"
    return LmReport(out, math.exp(-total / num_predicted), len(others), unit, description)


def _symbols(text: str, tokenizer: Tokenizer, unit: str) -> list[str]:
    if unit == "word":
        return split_words(tokenizer.respelled(text), tokenizer.word_joiner)
    return [tokenizer.pieces[i] for i in tokenizer.encode(text)]


@dataclass
class _Progress:
    """Progress of a run."""

    epoch: int = 0
    """Epochs finished."""
    num_steps: int = 0
    """Steps since the start."""
    best: float = math.inf
    """Best perplexity so far."""
    num_bad: int = 0
    """Epochs since then."""
    lr_scale: float = 1.0
    """Current learning rate relative to the initial one."""


class _LmRun:
    """State of a run in progress: model, optimizer and progress."""

    def __init__(self, config: LmTrainConfig, tokenizer: Tokenizer, out: Path, device: torch.device) -> None:
        self.config, self.tokenizer, self.out, self.device = config, tokenizer, out, device
        self.model = NeuralLm(
            LmConfig(vocab_size=tokenizer.vocab_size, sos_eos_id=tokenizer.sos_eos_id, network=config.network)
        ).to(device)
        # ScaledAdam was not better on the telephone prompts at its best rate (perplexity 2.49 and 3.84 for LSTM and
        # Transformer, AdamW 2.52 and 3.65), and AdamW is the standard in language modeling.
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        self.progress = _Progress()

    def train(self, lines: LabelLines, held_out: LabelLines, *, is_quiet: bool) -> None:
        """Train until the perplexity stops improving, with a checkpoint after every epoch."""
        config, progress = self.config, self.progress
        while progress.epoch < config.num_epochs and progress.num_bad < config.patience_epochs:
            loss = self._epoch(lines, is_quiet=is_quiet)
            perplexity = self.perplexity(held_out)
            progress.epoch += 1
            progress.num_bad = 0 if perplexity < progress.best else progress.num_bad + 1
            if progress.num_bad:
                progress.lr_scale *= config.lr_factor
            else:
                progress.best = perplexity
                self.model.save(self.out / MODEL_SUBFOLDER, self.tokenizer)
            self._save()
            if not is_quiet:
                learned = f"{math.exp(loss):.2f} on the text, {perplexity:.2f} held out, best {progress.best:.2f}"
                write_line(f"epoch {progress.epoch}: perplexity {learned}")

    def perplexity(self, lines: LabelLines) -> float:
        """Perplexity per label, ends of lines included."""
        self.model.eval()
        total = 0.0
        with torch.no_grad():
            for batch in batches(lines, batch_labels=self.config.batch_labels):
                total += float(self._nll(lines, batch).double().sum())
        return math.exp(self._checked(total / lines.num_predicted))

    def _epoch(self, lines: LabelLines, *, is_quiet: bool) -> float:
        """One pass over the lines; the mean loss in nats per label."""
        self.model.train()
        seed = stable_seed(self.config.seed, self.progress.epoch)
        parts = list(batches(lines, batch_labels=self.config.batch_labels, seed=seed))
        total = torch.zeros((), dtype=torch.float64)
        name = f"epoch {self.progress.epoch + 1}"
        for batch in track(parts, name, unit="batches", is_hidden=is_quiet):
            nll_N = self._nll(lines, batch)
            num_predicted = len(batch) + int(lines.lens_of(batch).sum())
            self._set_rate()
            self.optimizer.zero_grad()
            (nll_N.sum() / num_predicted).backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
            self.optimizer.step()
            total += nll_N.detach().double().sum().cpu()
        return self._checked(float(total) / lines.num_predicted)

    def _nll(self, lines: LabelLines, batch: Any) -> Tensor:
        labels_NS, lens = lines.batch(batch)
        return self.model.nll(labels_NS.to(self.device), lens.to(self.device))

    def _set_rate(self) -> None:
        self.progress.num_steps += 1
        warmup = min(1.0, self.progress.num_steps / max(1, self.config.warmup_batches))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * self.progress.lr_scale * warmup

    def _checked(self, loss: float) -> float:
        """A mean loss in nats per label, checked for having a perplexity."""
        if not loss <= _MAX_LOSS:  # not-a-number too
            limit = f"at most {_MAX_LOSS:g} nats per label" if math.isfinite(loss) else "finite"
            raise ZipasrError(
                f"the loss must be {limit}, but is {loss:g} in epoch {self.progress.epoch + 1}; lower the learning rate "
                f"with --set lr={self.config.lr / 4:g} and another --out"
            )
        return loss

    def _save(self) -> None:
        documents, tensors, blobs = self.model.to_files(self.tokenizer)
        named = {f"random.{name}": state for name, state in random_state(self.device).items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            named |= {f"optimizer.{i}.{key}": value for key, value in state.items()}
        documents[_TRAINING_FILE] = asdict(self.progress)
        tensors[_TENSORS_FILE] = named
        checkpoint.write_folder(self.out / CHECKPOINT_SUBFOLDER, documents=documents, tensors=tensors, blobs=blobs)

    def load(self) -> None:
        """Resume from the checkpoint, if there is one.

        Raises:
            CheckpointError: the checkpoint is damaged.
        """
        folder = self.out / CHECKPOINT_SUBFOLDER
        if not folder.exists():
            return
        files = checkpoint.CheckpointFolder(folder)
        checkpoint.load_weights(self.model, files.tensors(WEIGHTS_FILE), source=str(folder / WEIGHTS_FILE))
        named = files.tensors(_TENSORS_FILE)
        states: dict[int, dict[str, Tensor]] = {}
        for name, tensor in named.items():
            if name.startswith("optimizer."):
                _, i, key = name.split(".")
                states.setdefault(int(i), {})[key] = tensor
        try:
            self.progress = _Progress(**files.document(_TRAINING_FILE))
            self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": states})
        except (TypeError, ValueError, KeyError) as error:
            raise CheckpointError(f"{folder} is of another version of zipasr: {error!r}; choose another --out") from error
        random = {name.removeprefix("random."): t for name, t in named.items() if name.startswith("random.")}
        set_random_state(random, self.device)


def _check_folder(out: Path) -> None:
    """Raise if the folder contains something other than a run."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out must be the folder of a run, but {out} is a file; an n-gram needs --kind ngram")
    if out.is_dir() and not (out / CONFIG_FILE).exists():
        others = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
        if others:
            raise ConfigError(
                f"{out} must be empty or the folder of a language model's run, but holds {', '.join(others[:5])}; choose "
                "another --out"
            )


def _open_run(out: Path, config: LmTrainConfig, tokenizer: Tokenizer, train: LabelLines, held_out: LabelLines) -> None:
    """Write the record of a new run, or raise if the existing one differs."""
    path = out / CONFIG_FILE
    texts = hashlib.sha256()
    for lines in (train, held_out):
        texts.update(lines.labels.tobytes() + lines.ends.tobytes())
    now = {
        "config": to_json(config),
        "texts": texts.hexdigest(),
        "tokenizer": hashlib.sha256(tokenizer.to_bytes()).hexdigest(),
    }
    if path.is_file():
        try:
            before = parse_json(path.read_text(encoding="utf-8"))
            old = from_json(LmTrainConfig, before["config"], where=str(path))
            same = before["texts"] == now["texts"], before["tokenizer"] == now["tokenizer"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}; choose another --out") from error
        changed = [
            f"{name} (was {was}, now {value})"
            for name, (was, value) in differences(to_json(old), now["config"]).items()
            if name not in _MAY_CHANGE
        ]
        changed += [name for name, is_same in zip(("the texts", "the tokenizer"), same, strict=True) if not is_same]
        if changed:
            raise ConfigError(
                f"{out} holds a run with other settings: {'; '.join(changed)}. Use the same to go on, or another --out"
            )
    checkpoint.write_text(path, json.dumps(now, indent=1))
