"""What one forward pass hands to the training loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

Losses = Callable[[], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Step:
    """Losses are functions, so that estimators can take their own step between the forward pass and the main loss.

    losses: unweighted scalars by the paper's names, called after every ``first`` group has stepped
    first: optimiser group name -> that group's learning loss, on detached inputs; stepped before the main group
    monitors: detached scalars worth logging (norms, estimates); they carry no gradient
    """

    losses: Losses
    first: Mapping[str, Callable[[], Tensor]] = field(default_factory=dict)
    monitors: Mapping[str, Tensor] = field(default_factory=dict)
