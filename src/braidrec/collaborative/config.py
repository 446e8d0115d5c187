"""The keys of a collaborative model's [model] table that no single model owns, and those that all backbones of nodes have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field as Setting
from pydantic import NonNegativeFloat, PositiveFloat, model_validator

from braidrec.config import ModelConfig
from braidrec.strict import LONGEST, Strict, Width, because

# What `ours` sets in every backbone with a choice of loss.  Validation Recall@20 of LightGCN, one seed: on RLMRec's Amazon-book
# .1433 by BPR (width 32, `authors`), .1653 by the softmax at width 64, .1764 at 256; on MovieLens-latest-small .2234, .2755 and
# .2867.  At width 64 the latter gets .2742 with pairs in any order, in 2.5 times the time; MF gets .2849 there, GCCF .2816.
# What SGL, SimGCL, DCCF and AutoCF set besides was not searched: contrasts stand low, for the softmax spreads items already.
OURS: Mapping[str, Any] = {"dim": 256, "loss": "softmax", "negatives": 0, "by_user": True}


class CollaborativeConfig(ModelConfig):
    """One model of who has what.  monitor: the validation metric that is kept beside a model, and watched while one trains."""

    monitor: Literal["recall@20", "ndcg@20"] = "recall@20"

    def all_idle(self, enhancers: Mapping[str, Strict]) -> Mapping[str, str]:
        found = super().all_idle(enhancers)
        if enhancers or getattr(self.backbone, "l2_on", None) != "backbone":
            return found
        return {"backbone.l2_on": "without a method there are no other networks than the backbone's", **found}


class NodesConfig(Strict):
    """What every backbone of nodes has.

    dim: d of the node table    negatives: drawn for each pair; contrasts of some backbones and methods read them, too
    l2, l2_on: weight of the sum of squares of all that trains, a method's networks among it ("all", as in RLMRec's code), of
        all but those ("backbone"), or of half that of the batch's own rows of the table, by their number ("batch", as the
        authors of LightGCN have it)
    """

    dim: Width = 64
    negatives: int = Setting(default=1, ge=0, le=LONGEST)
    l2: NonNegativeFloat = 1e-6
    l2_on: Literal["all", "backbone", "batch"] = "all"

    @property
    def gathered(self) -> bool:
        """Whether the pairs of a user come beside one another."""
        return False

    @property
    def reads_negatives(self) -> bool:
        """Whether the losses that go with every backbone read the negatives of a batch."""
        return self.l2_on == "batch" and self.l2 > 0

    def idle(self) -> Mapping[str, str]:
        return because((not self.l2, "l2 = 0", "l2_on"))


class PairwiseConfig(NodesConfig):
    """loss: "bpr", -log sigmoid of a pair's score less a negative's (Rendle et al., UAI 2009), or "softmax", -log of its share
    among: whose: "all" items, or those of the "batch", each score less the logarithm of how many of training's pairs the item
        has, since it is among them that often (Yi et al., RecSys 2019), but for those of the user's other pairs in the batch
    cosine: whether the softmax reads cosines instead of scores    temperature: what either is divided by there
    by_user: whether the pairs of a user come beside one another, so that the softmax is worked out for few users a batch
    """

    loss: Literal["bpr", "softmax"] = "softmax"
    among: Literal["all", "batch"] = "all"
    cosine: bool = False
    temperature: PositiveFloat = Setting(default=1.0)
    by_user: bool = False

    @property
    def gathered(self) -> bool:
        return self.by_user

    @property
    def reads_negatives(self) -> bool:
        return self.loss == "bpr" or super().reads_negatives

    @model_validator(mode="after")
    def _has_negatives(self) -> Self:
        if self.loss == "bpr" and not self.negatives:
            raise ValueError("negatives = 0: loss = 'bpr' compares each item with one at least that its user has not")
        if self.loss == "bpr" and (self.cosine or self.temperature != 1 or self.among != "all"):
            raise ValueError("among, cosine and temperature belong to loss = 'softmax'; drop them")
        return self
