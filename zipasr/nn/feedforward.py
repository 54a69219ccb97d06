"""The feed-forward module of the Zipformer block, and that of other blocks: (N, T, D) -> (N, T, D)."""

from torch import Tensor, nn
from torch.nn import functional

from zipasr.nn.attention import whitening_limit
from zipasr.nn.constraint import Balancer, Whiten
from zipasr.nn.dropout import DROPOUT
from zipasr.nn.schedule import Schedule
from zipasr.nn.swoosh import ActivationKind, SwooshLinear


class FeedForward(nn.Module):
    """Feed-forward module: Linear, SwooshL, dropout shared over time, Linear."""

    def __init__(
        self,
        channels: int,
        hidden_channels: int,
        *,
        dropout: Schedule | float = DROPOUT,
        activation: ActivationKind = "swoosh_left",
    ) -> None:
        super().__init__()
        self.in_proj = nn.Linear(channels, hidden_channels)
        self.hidden_balancer = Balancer(min_positive=0.3, max_positive=1.0, min_abs=0.75, max_abs=5.0)
        self.out_proj = SwooshLinear(hidden_channels, channels, activation, dropout=dropout, init_scale=0.1)
        self.out_whiten = Whiten(whitening_limit(7.5, 2.0))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, D) to (N, T, D)."""
        return self.out_whiten(self.out_proj(self.hidden_balancer(self.in_proj(x))))


class SwishFeedForward(nn.Module):
    """Feed-forward module of Conformer and Transformer: Linear, Swish, dropout, Linear, dropout."""

    def __init__(self, channels: int, hidden_channels: int, *, dropout: float) -> None:
        super().__init__()
        self.in_proj = nn.Linear(channels, hidden_channels)
        self.out_proj = nn.Linear(hidden_channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, D) to (N, T, D)."""
        return self.dropout(self.out_proj(self.dropout(functional.silu(self.in_proj(x)))))
