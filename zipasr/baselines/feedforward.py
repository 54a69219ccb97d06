"""The feed-forward module of the comparison encoders: (N, T, D) -> (N, T, D)."""

from torch import Tensor, nn
from torch.nn import functional


class FeedForward(nn.Module):
    """Linear, Swish, dropout, Linear, dropout."""

    def __init__(self, channels: int, hidden_channels: int, *, dropout: float) -> None:
        super().__init__()
        self.in_proj = nn.Linear(channels, hidden_channels)
        self.out_proj = nn.Linear(hidden_channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, D) to (N, T, D)."""
        return self.dropout(self.out_proj(self.dropout(functional.silu(self.in_proj(x)))))
