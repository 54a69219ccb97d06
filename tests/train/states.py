"""Training states of a small model, and steps on random batches."""

import dataclasses

import torch

from tests.train.tones import WORDS, minute_config
from zipasr.model import AsrModel
from zipasr.optim import Eden, ScaledAdam
from zipasr.tokenizer import Tokenizer
from zipasr.train.averaging import RunningAverage
from zipasr.train.state import Position, TrainState

TOKENIZER = Tokenizer.train(list(WORDS), kind="char", vocab_size=14)


def new_state(seed: int = 0) -> TrainState:
    """The state at the start of a run, with random weights."""
    torch.manual_seed(seed)
    model = AsrModel(dataclasses.replace(minute_config().model, vocab_size=TOKENIZER.vocab_size))
    optimizer = ScaledAdam(list(model.named_parameters()), lr=0.05, clipping_scale=2.0)
    scheduler = Eden(optimizer, lr_batches=10.0, lr_epochs=2.0, warmup_batches=2.0)
    return TrainState(model, optimizer, scheduler, RunningAverage(model, 2), Position())


def train(state: TrainState, num_batches: int) -> None:
    """Train on random batches, which depend only on the random state."""
    for _ in range(num_batches):
        state.position.num_steps += 1
        state.model.train()
        labels = torch.randint(3, TOKENIZER.vocab_size, (2, 3))
        losses = state.model(torch.randn(2, 60, 80), torch.tensor([60, 50]), labels, torch.tensor([3, 2]))
        torch.stack(list(losses.values())).sum().backward()
        state.scheduler.step_batch(state.position.num_steps)
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.average.update(state.model, state.position.num_steps)
