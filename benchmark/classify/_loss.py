"""The loss of a batch whose labels may be hard, soft or negative."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def target_loss(
    logits: Tensor,
    targets: Tensor,
    label_smoothing: float,
    reduction: Literal["mean", "none"] = "mean",
) -> Tensor:
    """Cross-entropy, and -log(1 - p_c) of an image that is not of class c.

    The second is negative learning's (Kim et al. 2019, arXiv:1908.07387, equation 2); label
    smoothing, which spreads weight over all classes, is for the first alone.

    Args:
        logits: float [B, C].
        targets: int64 [B], or float [B, C]: rows of weights that sum to 1, or one -1 among
            zeros.
    """
    if not targets.is_floating_point():
        return cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction=reduction)
    struck = targets < 0
    soft = cross_entropy(
        logits, targets.clamp(min=0), label_smoothing=label_smoothing, reduction="none"
    )
    others = logits.masked_fill(struck, -torch.inf).logsumexp(dim=1)  # log of the sum without c
    negative = logits.logsumexp(dim=1) - others
    losses = torch.where(struck.any(dim=1), negative, soft)
    return losses.mean() if reduction == "mean" else losses
