"""`TrainConfig`: the complete configuration of a training run, written into its folder as JSON."""

from dataclasses import dataclass, field
from typing import Literal

from zipasr.config import require_fields
from zipasr.data.batching import BatchConfig
from zipasr.errors import ConfigError
from zipasr.lm.estimate import MAX_ORDER
from zipasr.model import AsrConfig
from zipasr.nn.lora import LoraConfig
from zipasr.search.strategy import CTC_METHODS, GRAPH_METHODS, TRANSDUCER_METHODS, SearchConfig
from zipasr.tokenizer import TokenizerKind


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Kind and size of the vocabulary that is learned from the training texts, or a file that contains one."""

    kind: TokenizerKind = "unigram"
    """Pieces by unigram model (as published), by merges, single characters and the space, single characters of a script
    without spaces (as published for Mandarin), or byte-level pieces by unigram model (`bbpe`, as published for Mandarin, and
    for Mandarin with English)."""
    vocab_size: int | None = 500
    """Number of pieces; reduced if the texts allow fewer. None, for single characters only: all characters of the texts."""
    file: str | None = None
    """An existing vocabulary, which replaces the two above: the `tokens.txt` of an icefall `lang_char` folder, a
    sentencepiece model such as `bpe.model`, `bbpe.model` or `tokenizer.model`, or pieces with scores (`*.vocab`). None:
    learned from the texts."""
    max_texts: int | None = 500_000
    """Texts, spread evenly over the manifest, from which it is learned; None: all, as published, which takes more memory. A
    vocabulary of all characters is the same either way."""

    def __post_init__(self) -> None:
        if self.max_texts is not None and self.max_texts < 1:
            raise ConfigError(f"max_texts must be at least 1, or none for all texts, but is {self.max_texts}")


@dataclass(frozen=True, kw_only=True)
class AdamConfig:
    """Adam under the Noam schedule, the baseline of the paper."""

    factor: float = 7.5
    """The rate is factor · 512^(-1/2) · min(b^(-1/2), b · warmup_batches^(-3/2)) at batch b."""
    warmup_batches: float = 10_000.0
    """Batches until the highest rate."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Decay of the running means of the gradient and of its square."""
    max_grad_norm: float | None = None
    """Norm to which the gradients of a batch are clipped; None: no clipping, as in the paper. Losses are sums over the
    batch, and the norm grows with it: a limit below the usual norm gives the gradients of all batches the same norm."""

    def __post_init__(self) -> None:
        require_fields(self, "positive", "factor", "max_grad_norm")
        require_fields(self, "at least 1e-9", "warmup_batches")
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ConfigError(f"betas must be within 0 and 1, but are {self.betas}")


@dataclass(frozen=True, kw_only=True)
class ConsistencyConfig:
    """Consistency of two views (CR-CTC): each batch is read twice with different masks, and each view learns from the other.

    A batch then takes twice the memory and time; the published runs halve `batch.max_duration_s`.
    """

    scale: float | None = None
    """Weight of the consistency loss; None: the published 0.2 for CTC alone, 0.02 with other heads."""
    has_warmup: bool = True
    """Whether the weight rises from 0 over `loss_warmup_batches`, as in icefall since March 2026. The published runs, of
    October 2024 and July 2025, have the full weight from the first batch on."""
    time_mask_ratio: float = 2.5
    """Factor on the number of time masks, and on their share of the frames, relative to `batch.spec_augment`."""

    def __post_init__(self) -> None:
        require_fields(self, "positive", "scale", "time_mask_ratio")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Start from the weights of another model; see docs/finetuning.md. `zipasr train --from` creates one."""

    checkpoint: str
    """A model folder, the folder of a run, one of its checkpoints, a .pt file of icefall, or hf:OWNER/NAME on the hub."""
    tokenizer: str | None = None
    """Vocabulary of a .pt file: its bpe.model, bbpe.model or tokens.txt. None: the file where published models have it."""
    sha256: str | None = None
    """SHA-256 of the checkpoint's weights, so that a resumed run uses the same ones; `resolve` sets it."""
    vocabulary: Literal["same", "new"] | None = None
    """`same`: the checkpoint's; `new`: learned as configured by `tokenizer`; None: same if any head is taken over."""
    parts: tuple[str, ...] = ()
    """Names of modules whose weights are taken over, `encoder` for the encoder only; empty: all. Others start at random."""
    frozen: tuple[str, ...] = ()
    """Names of modules or parameters that are not trained."""
    lora: LoraConfig | None = None
    """Adapters that are trained instead of the weights taken over, or None."""
    step_offset: float = 100_000.0
    """Progress at which the schedules inside the model start, in units of `ref_duration_s`: beyond their ends, as
    published."""

    def __post_init__(self) -> None:
        if not self.checkpoint:
            raise ConfigError("finetune.checkpoint must name a model, but is empty; give one with --from")
        if not self.step_offset >= 0.0:
            raise ConfigError(f"finetune.step_offset must be 0 or more, but is {self.step_offset}")


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """Additional data to mix in, such as old data in finetuning, so that the model does not forget it."""

    data: str
    """Prepared folder whose `train_cuts.jsonl.gz` is read."""
    share: float
    """Share of this data in the hours of an epoch. Each epoch draws other utterances without repetition, or all if fewer."""

    def __post_init__(self) -> None:
        if not 0.0 < self.share < 1.0:
            raise ConfigError(f"mix.share must be between 0 and 1, but is {self.share}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Configuration of a training run. The defaults are the published LibriSpeech recipe unless stated otherwise."""

    ALTERNATIVES = (("lr_epochs", "lr_hours"),)

    data: str = ""
    """Folder with `train_cuts.jsonl.gz` and `dev_cuts.jsonl.gz`, as written by `zipasr prepare`."""
    mix: tuple[MixConfig, ...] = ()
    """Other data to mix in; an epoch contains `data` exactly once."""
    model: AsrConfig = field(default_factory=AsrConfig)
    """The model; its vocabulary size follows from the tokenizer."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """Vocabulary of the run."""
    batch: BatchConfig = field(default_factory=BatchConfig)
    """Batches and augmentation."""
    finetune: FinetuneConfig | None = None
    """The model to start from; None: random weights."""

    num_epochs: int = 50
    """Number of epochs."""
    max_batches: int | None = None
    """Steps after which the run ends, even within an epoch; None: only `num_epochs` counts."""
    lr: float = 0.045
    """Base learning rate of ScaledAdam."""
    lr_batches: float = 7500.0
    """Eden: batches after which the rate falls noticeably."""
    lr_epochs: float | None = 3.5
    """Eden: epochs after which the rate falls noticeably; None: `lr_hours` instead."""
    lr_hours: float | None = None
    """Eden: hours of audio, in place of epochs, after which the rate falls noticeably; `--set lr_hours=...` sets `lr_epochs`
    to None. The audio of all processes counts, at the speed it is trained at, without padding, and once if it has two
    views."""
    lr_warmup_batches: float = 500.0
    """Eden: batches over which the rate rises from `lr_warmup_start`."""
    lr_warmup_start: float = 0.5
    """Eden: share of the rate at the first batch; 0.5 in all published runs, 0.1 in icefall's LibriSpeech trainer since
    January 2025."""
    clipping_scale: float = 2.0
    """Gradients are clipped to this multiple of their median norm."""
    adam: AdamConfig | None = None
    """Adam with the Noam schedule instead of ScaledAdam with Eden and its fields above (lr to clipping_scale)."""

    simple_loss_scale: float = 0.5
    """Weight of the simple transducer loss after its warm-up."""
    ctc_loss_scale: float = 0.2
    """Weight of the CTC loss with another head; alone its weight is 1. The published CTC/AED runs have 0.1."""
    attention_loss_scale: float = 0.8
    """Weight of the attention decoder's loss. Without a transducer, it and `ctc_loss_scale` must sum to 1."""
    consistency: ConsistencyConfig | None = None
    """Train on two views of every batch, or None."""
    loss_warmup_batches: float = 2000.0
    """Batches over which the weight shifts from the simple to the pruned loss, and the consistency loss may warm up."""
    ref_duration_s: float = 600.0
    """Seconds of audio that advance the schedules inside the model by 1."""

    min_duration_s: float = 1.0
    """Shorter utterances are skipped in training."""
    max_duration_s: float = 20.0
    """Longer utterances are skipped in training."""
    use_copy_limits: bool = False
    """Whether the limits on duration and tokens apply to each copy of an utterance after its speed is changed, as in the
    published runs: an utterance may then lose its slow copy, or have only a fast one. Otherwise durations are those of the
    utterance, which is skipped at all speeds if its fastest copy has too many tokens."""
    use_token_limit: bool = True
    """Whether utterances with fewer encoder frames than tokens are skipped in training. The published GigaSpeech run keeps
    them, which only a transducer with the lattice `regular` can train on."""
    max_lost_share: float = 0.2
    """A run does not start if more than this share of its utterances cannot be used; 1: unless none can be used."""
    max_unknown_share: float = 0.2
    """A run does not start if more than this share of its utterances have characters that its vocabulary lacks. Rare letters
    and digits occur in fewer, and texts in another case or script have such characters nearly everywhere."""

    average_period: int = 200
    """Batches between two models of the running average."""
    average_share: float = 0.3
    """Share of the run so far over which the evaluated model is averaged."""
    search: SearchConfig | None = None
    """Search of the run's models: the default of their folders. If it is attention_rescoring, each validation chooses its
    `attention_scale`. None: each validation compares several searches, and the best is the default."""
    valid_interval: int = 3000
    """Batches between validations."""
    save_interval: int = 4000
    """Batches between checkpoints."""
    keep_checkpoints: int = 30
    """Number of newest checkpoints to keep."""
    keep_best: int = 3
    """Number of averaged models to keep, those with the lowest error rates in validation; 0: only the last."""
    selection: Literal["last", "best"] = "last"
    """Model that a finished run has in `model/`: that of its last validation, as published, or of the kept ones the one with
    the lowest error rate in validation, which is safer with little data."""
    ngram_order: int | None = None
    """Order of an n-gram model of the tokens of the training texts, which validation tries in the beam searches and which is
    kept beside the weights; None: there is none, as published. Of the texts of `mix`, it has about as many as an epoch."""
    log_interval: int = 50
    """Batches between lines of the log."""

    seed: int = 42
    """Random seed of weights, order, augmentation and dropout."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the encoder; weights and losses are always float32. float16 is for GPUs without bfloat16."""
    accumulate_batches: int = 1
    """Batches whose gradients each process sums before a step; everything counted in batches counts steps."""
    use_activation_checkpointing: bool = False
    """Whether encoder blocks are recomputed in the backward pass, with the same gradients: a third more time, much less
    memory."""
    use_compile: bool = False
    """Whether the encoder blocks are compiled with torch.compile; pays off on a GPU in long runs."""
    use_onednn_matmul: bool = True
    """Whether a CPU uses oneDNN for matrix products if that is exact: faster for larger models, but each new shape costs a
    compilation, which does not pay off for a tiny model on batches of varying lengths."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    num_workers: int = 2
    """Number of processes that prefetch data."""

    max_skipped_batches: int = 10
    """Number of consecutive steps with a non-finite loss or gradient after which the run rolls back to a checkpoint."""
    rollback_lr_factor: float = 0.5
    """Factor on the learning rate at each rollback."""
    max_rollbacks: int = 3
    """Maximum number of rollbacks before the run stops with a diagnosis."""
    rank_timeout_s: float = 1800.0
    """Timeout of a distributed run: seconds that one process may keep the others waiting in a step."""

    def __post_init__(self) -> None:
        counts = ("num_epochs", "average_period", "valid_interval", "save_interval", "keep_checkpoints", "log_interval")
        require_fields(self, "at least 1", *counts, "accumulate_batches", "max_skipped_batches")
        if self.max_batches is not None and self.max_batches < 1:
            raise ConfigError(f"max_batches must be at least 1, or none, but is {self.max_batches}")
        require_fields(self, "positive", "lr", "clipping_scale", "rank_timeout_s")
        require_fields(self, "at least 1e-9", "lr_batches", "lr_epochs", "lr_hours", "ref_duration_s")
        if self.lr_epochs is not None and self.lr_hours is not None:
            raise ConfigError(
                f"one of lr_epochs and lr_hours must be None, but they are {self.lr_epochs} and {self.lr_hours}; set one"
            )
        scales = ("simple_loss_scale", "ctc_loss_scale", "attention_loss_scale")
        warmups = ("lr_warmup_batches", "loss_warmup_batches")
        require_fields(self, "0 or more", *scales, *warmups, "num_workers", "keep_best", "max_rollbacks")
        require_fields(self, "within 0 and 1", "lr_warmup_start", "max_lost_share", "max_unknown_share")
        if not 0.0 < self.rollback_lr_factor <= 1.0:
            raise ConfigError(f"rollback_lr_factor must be above 0 and at most 1, but is {self.rollback_lr_factor}")
        if self.ngram_order is not None and not 1 <= self.ngram_order <= MAX_ORDER:
            raise ConfigError(f"ngram_order must be from 1 to {MAX_ORDER}, or none, but is {self.ngram_order}")
        if self.selection == "best" and not self.keep_best:
            raise ConfigError("keep_best must be at least 1 if selection is best, but is 0; set it, or selection=last")
        if not 0.0 < self.average_share <= 1.0:
            raise ConfigError(f"average_share must be above 0 and at most 1, but is {self.average_share}")
        if sum(part.share for part in self.mix) >= 1.0:
            shares = ", ".join(f"{part.share:g}" for part in self.mix)
            raise ConfigError(f"the shares of mix must sum to less than 1, the rest being data, but are {shares}")
        if not 0.0 <= self.min_duration_s < self.max_duration_s:
            raise ConfigError(
                f"min_duration_s must be below max_duration_s, but they are {self.min_duration_s} and {self.max_duration_s}"
            )
        transducer = self.model.transducer
        if not self.use_token_limit and (
            self.model.ctc is not None or transducer is None or transducer.lattice != "regular"
        ):
            raise ConfigError(
                "use_token_limit must be true with a CTC head or a transducer that emits one token a frame at most, but is "
                "false; only a transducer with the lattice `regular` can have more tokens than frames"
            )
        if self.search is not None:
            self._check_search(self.search)
        if self.consistency is not None and self.model.ctc is None:
            raise ConfigError("consistency compares the CTC head's outputs, but model.ctc is None; set model.ctc={} first")
        if self.consistency is not None and self.batch.spec_augment is None:
            raise ConfigError(
                "consistency needs two views that differ, but batch.spec_augment is None; set batch.spec_augment={} first"
            )

    def _check_search(self, search: SearchConfig) -> None:
        if search.method in ("auto", *GRAPH_METHODS) or search.num_best > 1:
            raise ConfigError(
                f"search must name a method with one hypothesis and no graph, but is {search}; set "
                'search={"method": "joint"} or another one, or leave it out (search=none) for the best of all'
            )
        needed = {
            "ctc": search.method in (*CTC_METHODS, "joint"),
            "transducer": search.method in TRANSDUCER_METHODS,
            "attention": search.method == "attention_rescoring",
        }
        for head in (name for name, is_needed in needed.items() if is_needed and getattr(self.model, name) is None):
            raise ConfigError(
                f"the search {search.method} needs the head model.{head}, but it is None; set search=none first, or another "
                "search"
            )

    def schedule_progress(self, num_steps: int, *, batches_per_step: int = 1) -> float:
        """Progress of the schedules inside the model after `num_steps` optimizer steps, in units of `ref_duration_s`.

        `batches_per_step` is that of the ranks, without `accumulate_batches`.
        """
        duration_s = self.batch.max_duration_s * self.accumulate_batches * batches_per_step
        offset = self.finetune.step_offset if self.finetune is not None else 0.0
        return offset + num_steps * duration_s / self.ref_duration_s

    def check_complete(self) -> None:
        """Check what fields mean together. A run calls this at its start, because `--set` cannot set two fields at once.

        Raises:
            ConfigError: see `check_loss_scales`, or Eden has neither epochs nor hours, or the search needs the n-gram of the
                texts, but the run makes none.
        """
        self.check_loss_scales()
        if self.lr_epochs is None and self.lr_hours is None and self.adam is None:
            raise ConfigError("one of lr_epochs and lr_hours must be a number, but both are None; set one of them")
        if self.search is not None and self.search.ngram_scale > 0.0 and self.ngram_order is None:
            raise ConfigError(
                "search.ngram_scale is the weight of the n-gram of the training texts, but ngram_order is None, so there is "
                "none; set ngram_order=6, or leave search.ngram_scale out"
            )

    def check_loss_scales(self) -> None:
        """Check that without a transducer the weights of CTC and attention decoder sum to 1, as published.

        Raises:
            ConfigError: the weights do not sum to 1.
        """
        model, total = self.model, self.ctc_loss_scale + self.attention_loss_scale
        if model.transducer is None and model.attention is not None and abs(total - 1.0) > 1e-6:
            raise ConfigError(
                "without a transducer head, ctc_loss_scale and attention_loss_scale must sum to 1, but they are "
                f"{self.ctc_loss_scale} and {self.attention_loss_scale}; the published runs have 0.1 and 0.9"
            )
