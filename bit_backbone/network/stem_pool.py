"""The stem's max-pooling, with BiT's own border."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bit_backbone import kernels
from bit_backbone.network.padding import pad_same

torch.fx.wrap("pad_same")


@torch.fx.wrap
def max_pool_in_zero_ring(x: Tensor) -> Tensor:
    """3x3 max-pooling with stride 2 of ``x`` inside a one-pixel ring of zeros.

    BiT pads with zeros and then pools. ``max_pool2d(padding=1)`` pads with -inf, which differs at
    negative borders. This function uses that pooling, and then a lower bound of 0 for the windows
    that reach the ring. So it makes no padded copy, and ONNX Runtime, which fuses a zero pad into
    the pooling as if it were -inf, computes it correctly.

    Args:
        x: [N, C, H, W].

    Returns:
        [N, C, (H + 1) // 2, (W + 1) // 2].
    """
    return bound_at_ring(kernels.max_pool(x), x.shape[-2], x.shape[-1])


def bound_at_ring(pooled: Tensor, height: int, width: int) -> Tensor:
    """Returns what was pooled, and 0 where that is less and the window reaches the ring.

    Args:
        pooled: [N, C, h, w].
        height: Of what was pooled.
        width: Of what was pooled.
    """
    rows = torch.arange(pooled.shape[-2], device=pooled.device)
    columns = torch.arange(pooled.shape[-1], device=pooled.device)
    # Window i covers 2i - 1 .. 2i + 1; the ring is at -1 and at the size.
    rows_touch = (rows == 0) | (2 * rows + 1 == height)
    columns_touch = (columns == 0) | (2 * columns + 1 == width)
    bound = torch.where(rows_touch[:, None] | columns_touch, 0.0, -float("inf"))
    return torch.maximum(pooled, bound.to(pooled.dtype))


class StemPool(nn.Module):
    """The stem's 3x3 max-pooling with stride 2.

    Args:
        padding: None: BiT's ring of zeros. "same": TensorFlow's, with -inf. "valid": none.
    """

    def __init__(self, padding: str | None) -> None:
        super().__init__()
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """Pools [N, C, H, W]."""
        if self.padding is None:
            return max_pool_in_zero_ring(x)
        if self.padding == "same":
            x = pad_same(x, 3, 2, 1, -float("inf"))
        return F.max_pool2d(x, 3, stride=2)

    def extra_repr(self) -> str:
        """Shows the padding when printed."""
        return f"padding={self.padding!r}"
