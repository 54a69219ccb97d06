"""Use the Zipformer encoder in a model of your own: a classifier of utterances, trained on random features.

python examples/zipformer_encoder.py
"""

import torch
from torch import Tensor, nn

from zipasr.encoder import Zipformer, ZipformerConfig
from zipasr.nn import set_step

NUM_CLASSES, NUM_BATCHES, BATCH_SIZE, NUM_FRAMES = 4, 30, 16, 60  # 60 frames at 100 Hz: 0.6 s


class UtteranceClassifier(nn.Module):
    """The mean of the encoder's frames, mapped to classes."""

    def __init__(self, config: ZipformerConfig, num_classes: int) -> None:
        super().__init__()
        self.encoder = Zipformer(config)
        self.output = nn.Linear(self.encoder.output_channels, num_classes)

    def forward(self, features: Tensor, lens: Tensor) -> Tensor:
        """Logits (N, classes) of log-mel features (N, T, F) at 100 Hz with (N,) valid frames."""
        encoded = self.encoder(features, lens)  # frames (N, T', D) at 25 Hz, and how many of them are valid
        frames = encoded.frames.masked_fill(encoded.is_padding_NT.unsqueeze(-1), 0.0)
        return self.output(frames.sum(dim=1) / encoded.lens.unsqueeze(1))


def random_batch() -> tuple[Tensor, Tensor, Tensor]:
    """Noise that is louder in one quarter of the mel bins, which is the class: features, lens and classes."""
    classes = torch.randint(NUM_CLASSES, (BATCH_SIZE,))
    features = torch.randn(BATCH_SIZE, NUM_FRAMES, 80)
    for row, label in enumerate(classes.tolist()):
        features[row, :, 20 * label : 20 * (label + 1)] += 2.0
    return features, torch.randint(NUM_FRAMES // 2, NUM_FRAMES + 1, (BATCH_SIZE,)), classes


def main() -> None:
    torch.manual_seed(0)
    config = ZipformerConfig(  # one entry per stack; the defaults are the published medium encoder
        conv_channels=(4, 8, 16),
        channels=(32, 48),
        unmasked_channels=(32, 32),
        num_layers=(1, 1),
        downsample=(1, 2),
        feedforward=(64, 96),
        num_heads=(2, 2),
        kernel_sizes=(7, 7),
    )
    model = UtteranceClassifier(config, NUM_CLASSES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for batch in range(NUM_BATCHES):
        # Dropout, layer skips and constraints fall over training, counted in steps of 600 s of audio. A run this short
        # takes their final values; a long one calls set_step(model, batch * seconds_per_batch / 600).
        set_step(model, 100_000)
        features, lens, classes = random_batch()
        loss = nn.functional.cross_entropy(model(features, lens), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if batch % 10 == 9:
            print(f"batch {batch + 1}: loss {loss.item():.3f} nats")

    model.eval()
    features, lens, classes = random_batch()
    with torch.no_grad():
        accuracy = (model(features, lens).argmax(dim=1) == classes).float().mean()
    print(f"accuracy {accuracy:.2f}")


if __name__ == "__main__":
    main()
