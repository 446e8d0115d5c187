"""The rankings without learning that stand beside every ranking model.

A baseline's ``Spec.build(config) -> Callable[[RankingLog], Baseline]``: scores of the held-out rows from the log alone.
"""

from __future__ import annotations

from braidrec.evaluation.baselines import item_mean, item_mean_user_residual, popularity
from braidrec.registry import Spec
from braidrec.strict import Strict


class NoSettings(Strict):
    """Nothing to set."""


POPULARITY = Spec("popularity", "popularity", NoSettings, lambda config: popularity)
ITEM_MEAN = Spec("item-mean", "item mean", NoSettings, lambda config: item_mean)
USER_RESIDUAL = Spec("item-mean-user-residual", "item mean + user residual", NoSettings, lambda config: item_mean_user_residual)
