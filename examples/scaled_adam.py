"""Train a PyTorch model that has nothing to do with zipasr with ScaledAdam and Eden.

python examples/scaled_adam.py
"""

import torch
from torch import nn

from zipasr.optim import Eden, ScaledAdam

NUM_EPOCHS, BATCH_SIZE = 6, 32


def main() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(d_model=32, nhead=4, dim_feedforward=64, dropout=0.0, batch_first=True)
    model = nn.Sequential(nn.Embedding(10, 32), nn.TransformerEncoder(layer, num_layers=2), nn.Linear(32, 2))
    digits = torch.randint(10, (512, 8))  # (N, T): is each digit above the mean of its row?
    targets = (digits > digits.float().mean(dim=1, keepdim=True)).long()

    optimizer = ScaledAdam(model.named_parameters(), lr=0.03, clipping_scale=2.0)  # clips by the median of past norms
    scheduler = Eden(optimizer, lr_batches=100, lr_epochs=3, warmup_batches=20)
    batch = 0
    for epoch in range(NUM_EPOCHS):
        scheduler.step_epoch(epoch)
        total = 0.0
        for rows in torch.randperm(len(digits)).split(BATCH_SIZE):
            batch += 1
            loss = nn.functional.cross_entropy(model(digits[rows]).flatten(0, 1), targets[rows].flatten())
            optimizer.zero_grad()
            loss.backward()
            scheduler.step_batch(batch)
            optimizer.step()
            total += loss.item() * len(rows)
        print(f"epoch {epoch + 1}: loss {total / len(digits):.3f} nats, lr {scheduler.get_last_lr()[0]:.4f}")


if __name__ == "__main__":
    main()
