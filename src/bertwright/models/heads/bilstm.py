"""A bidirectional LSTM over padded rows, made of operations that every engine knows.

Shapes: B batch, L length, D input width, H width of the LSTM in each direction.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["BiLSTM"]


class BiLSTM(nn.Module):
    """Layers of two LSTMs each: one reads the row, one reads its real part backwards.

    Equal to `nn.LSTM(bidirectional=True)` on packed sequences. Packing does not trace to graphs of
    dynamic shape, so a gather reverses the real part of each row instead; padding then comes last
    in both directions, where it cannot influence what is before it.

    Source: Graves & Schmidhuber 2005.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, dropout: float = 0.0
    ) -> None:
        """Build `num_layers` layers of width `hidden_size` in each direction.

        Args:
            input_size: D.
            hidden_size: H.
            num_layers: layers on top of each other.
            dropout: rate between layers, as in `nn.LSTM`.
        """
        super().__init__()
        widths = [input_size] + [2 * hidden_size] * (num_layers - 1)
        self.ahead = nn.ModuleList([nn.LSTM(w, hidden_size, batch_first=True) for w in widths])
        self.back = nn.ModuleList([nn.LSTM(w, hidden_size, batch_first=True) for w in widths])
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return [B, L, 2H] (ahead, then back) from [B, L, D]; 0 at padding.

        Args:
            hidden: [B, L, D]; any finite numbers at padding.
            mask: [B, L], true or 1 at real positions; padded on the right only.
        """
        padding = mask[..., None] == 0
        mirrored = _mirrored_places(mask)
        for number, (ahead, back) in enumerate(zip(self.ahead, self.back, strict=True)):
            if number:
                hidden = self.dropout(hidden)
            read, _ = ahead(hidden)
            read_back, _ = back(_at_places(hidden, mirrored))
            hidden = torch.cat([read, _at_places(read_back, mirrored)], dim=2)
            hidden = hidden.masked_fill(padding, 0.0)
        return hidden


def _mirrored_places(mask: Tensor) -> Tensor:
    """Return where to read so that real parts are reversed, [B, L]; padding reads place 0."""
    real = mask.long()
    return real.sum(dim=1, keepdim=True) - real.cumsum(dim=1)


def _at_places(hidden: Tensor, places: Tensor) -> Tensor:
    return hidden.gather(1, places[..., None].expand_as(hidden))
