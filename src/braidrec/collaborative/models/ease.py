"""EASE: every item from all others by ridge regression, solved at once (Steck, WWW 2019); with text where there is any.

    G = X^T X    S = E E^T, E (I, S) unit rows of centred text vectors    lambda penalty    w weight    kappa pull
    none         min ||X - X B||^2 + lambda ||B||^2, diag(B) = 0:    P = (G + lambda I)^-1, B_ij = -P_ij / P_jj
    stack        the same on G + w S: text rows stand under the interactions (CEASE; Jeunen et al., RecSys 2020)
    regularise   + kappa ||B - B_S||^2, B_S the EASE of S with text_penalty (the form of L3AE):
                 P = (G + (lambda + kappa) I)^-1, B = EASE by P + Q - P diag(Q_jj / P_jj), Q = kappa P B_S

An item that came later has the column that the same problem gives an item of its text that nobody has.  The scores of both are
small beside those of items with behaviour; ``cold`` multiplies them.
Explanation: what item i brings to the score of j is B_ij; its text share is what text alone puts into it, for the right-hand
side of the normal equations is a sum of what users did and what text says.
Low rank, where the dense matrices are larger than ``memory_gib``, or by ``rank``: the same with G's leading eigenvectors V and
f = e / (e + lambda) of its eigenvalues e alone: B = (V diag(f) V^T - diag(d)) diag(1 / (1 - d)), d_j = sum_k f_k V_jk^2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field as Setting
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from braidrec.collaborative.contracts import Parts
from braidrec.collaborative.graph import Graph
from braidrec.collaborative.item_weights import ItemWeights, TextSide, TextWeights
from braidrec.collaborative.sizes import GIB, check_bytes, matrix_bytes
from braidrec.evaluation.closed_form import ease_weights, gram, gram_times, inverse, leading_vectors
from braidrec.layers.text import TextTable
from braidrec.registry import Spec
from braidrec.strict import LONGEST, Strict, because
from braidrec.training.stages import AnyStage, Fitted, put_fitted

COLD = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
HIDDEN = 0.1  # of the items, for the weight of those that nobody has
OWN_RANK = 512  # where the exact form does not fit


class EASEConfig(Strict):
    """text: how text is read; where a run has a knowledge base, "stack" unless something else is said."""

    text: Literal["stack", "regularise", "none"] = "none"
    penalty: PositiveFloat = 100.0
    weight: NonNegativeFloat = 10.0  # of the text rows, stacked
    text_penalty: PositiveFloat = 1.0  # of B_S
    pull: NonNegativeFloat = 50.0  # towards B_S
    cold: PositiveFloat | Literal["valid"] = 1.0  # times the score of items that nobody has; valid: as validation chooses
    rank: int | None = Setting(default=None, ge=1, le=LONGEST)  # None: exact where it fits
    memory_gib: PositiveFloat = 8.0  # what the item-item matrices may take

    def idle(self) -> Mapping[str, str]:
        return because(
            (self.text == "none", "text = 'none'", "weight cold"),
            (self.text != "regularise", f"text = '{self.text}'", "text_penalty pull"),
            (self.text == "regularise", "text = 'regularise'", "weight rank"),
            (self.text != "regularise" and self.rank is not None, f"rank = {self.rank}", "memory_gib"),
        )


class TextEASE(TextWeights):
    """diagonal (I + 1,) of P, where it is exact    by_text (I + 1, I + 1): the part of B that is text's, regularised
    solver (S, S) = (E^T E + text_penalty I)^-1, by which B_S has a column for any text, regularised
    """

    diagonal: Tensor | None
    by_text: Tensor | None
    solver: Tensor | None

    def __init__(self, num_items: int, config: EASEConfig):
        super().__init__(num_items)
        self.config = config
        for name in ("diagonal", "by_text", "solver"):
            self.register_buffer(name, None)

    @property
    def remarks(self) -> Sequence[str]:
        return remarks_of(self.config, self.num_items)

    def text_column(self, vectors: Tensor) -> Tensor:
        if self.solver is not None:
            return self.config.pull * self._precision_times(self.text.vectors @ (self.solver @ vectors.T))
        return self.config.weight * self._precision_times(self.text.vectors @ vectors.T)

    def text_among(self, vectors: Tensor) -> Tensor:
        """By the problem that holds the catalogue and two of them."""
        if self.solver is not None:
            alike = vectors @ (self.solver @ vectors.T)
            return alike / (1 + alike.diagonal())[:, None] * (self.config.pull / (self.config.pull + self.config.penalty))
        similar = self.text.vectors @ vectors.T
        own = self.config.weight * (vectors @ vectors.T - self.config.weight * similar.T @ self._precision_times(similar))
        return own / (own.diagonal().clamp_min(0) + self.config.penalty)[:, None]  # below 0 by low rank alone

    def text_shares(self, items: Tensor, target: int) -> Tensor | None:
        if target > self.num_items:
            return self.column_of(items, target)
        late = items > self.num_items
        if bool(late.any()):  # what is known of these is text alone
            known = self.text_shares(items[~late], target)
            if known is None:
                return None
            found = self.column_of(items, target)
            found[~late] = known
            return found
        scale = 1.0 if self.boost is None else self.boost[target]
        if self.by_text is not None:
            return scale * self.by_text[items, target]
        if self.dense is None or self.diagonal is None:
            return None
        similar = self.text.vectors @ self.text.vectors[target]
        similar[target] = 0
        own = self._precision_rows(torch.cat([items, items.new_tensor([target])]))
        along = own @ similar
        return scale * self.config.weight * (along[:-1] - own[:-1, target] * along[-1] / own[-1, target])

    def _precision_rows(self, items: Tensor) -> Tensor:
        """P's rows (n, I + 1), which B and P's diagonal tell."""
        assert self.dense is not None
        assert self.diagonal is not None
        rows = -self.dense[items] * self.diagonal
        rows[torch.arange(len(items), device=items.device), items] = self.diagonal[items]
        return rows

    def _precision_times(self, columns: Tensor) -> Tensor:
        """P times (I + 1, m)."""
        if self.dense is None:  # low rank: P = (I - V diag(f) V^T) / penalty, right and left of `fit_low_rank`
            assert self.left is not None
            assert self.right is not None
            assert self.less is not None
            vectors = self.right / (1 + self.less)[:, None]
            return (columns - self.left @ (vectors.T @ columns)) / self.config.penalty
        assert self.diagonal is not None
        scaled = self.diagonal[:, None] * columns
        found = scaled - self.dense @ scaled
        return found if self.by_text is None else found + self.by_text @ scaled


class EASE(ItemWeights):
    """Without text."""

    def __init__(self, num_items: int, config: EASEConfig):
        super().__init__(num_items)
        self.config = config

    @property
    def remarks(self) -> Sequence[str]:
        return remarks_of(self.config, self.num_items)


def remarks_of(config: EASEConfig, num_items: int) -> list[str]:
    """That a form of low rank stands in, and for how much; how much it loses is the data's own."""
    rank = None if config.text == "regularise" else low_rank(config, num_items)
    if rank is None:
        return []
    exact = f"the exact form holds two item-item matrices, {matrix_bytes(num_items, 2):,} bytes for {num_items:,} items"
    remedy = "compare it with ials, or raise model.backbone.memory_gib where the machine has the memory"
    return [f"EASE of rank {rank}: {exact}; low rank can lose much of the quality, so {remedy}"]


def stages(config: EASEConfig, parts: Parts) -> list[AnyStage]:
    module: ItemWeights = (EASE if config.text == "none" else TextEASE)(parts.num_items, config)

    def fit() -> Mapping[str, Tensor]:
        if config.text == "none":
            return fit_form(parts, None, config)
        side = TextSide.tensors(_text(parts))
        cold = calibrated(parts, side, config) if config.cold == "valid" else config.cold
        boost = {} if cold == 1 else {"boost": boost_of(parts.graph, cold)}
        return side | fit_form(parts, side["text.vectors"], config) | boost

    return [Fitted("fit", module, fit)]


def fit_form(parts: Parts, text: Tensor | None, config: EASEConfig) -> dict[str, Tensor]:
    if config.text == "regularise":
        check_bytes("ease, text = 'regularise'", parts.num_items, 3, config.memory_gib, "text = 'stack'")
        assert text is not None
        return fit_regularised(parts, text, config)
    rank = low_rank(config, parts.num_items)
    return fit_exact(parts, text, config) if rank is None else fit_low_rank(parts, text, config, rank)


def boost_of(graph: Graph, cold: float) -> Tensor:
    """(I + 2,) ``cold`` for items that nobody has, and for those that come later."""
    return torch.from_numpy(np.where(np.append(graph.item_counts, 0) == 0, cold, 1.0).astype(np.float32))


def calibrated(parts: Parts, side: Mapping[str, Tensor], config: EASEConfig) -> float:
    """The multiple of ``COLD`` that serves validation best where a tenth of the items, at random, are hidden from training."""
    assert parts.judge is not None
    graph = parts.graph
    met = np.flatnonzero(graph.item_counts)
    hidden = np.random.default_rng(0).permutation(met)[: max(1, round(HIDDEN * len(met)))]
    known = graph.masked(~np.isin(graph.item, hidden))
    module = TextEASE(parts.num_items, config)
    put_fitted(module, {**side, **fit_form(replace(parts, data=known), side["text.vectors"], config)})
    values = {}
    for cold in COLD:
        put_fitted(module, {"boost": boost_of(known, cold)})
        values[cold] = parts.judge(module, known)
    return max(values, key=lambda cold: values[cold])


def low_rank(config: EASEConfig, num_items: int) -> int | None:
    """The rank that stands in for the exact form; None where this fits and nothing else is asked for."""
    fits = matrix_bytes(num_items, 2) <= config.memory_gib * GIB
    return config.rank if config.rank is not None or fits else min(OWN_RANK, num_items)


def fit_exact(parts: Parts, text: Tensor | None, config: EASEConfig) -> dict[str, Tensor]:
    """EASE on G, or on G + w S."""
    found = gram(parts.graph.matrix).to(parts.device)
    if text is not None and config.weight:
        own = text.to(parts.device)
        found.addmm_(own, own.T, alpha=config.weight)
    found.diagonal().add_(config.penalty)
    precision = inverse(found, "penalty")
    diagonal = precision.diagonal().clone()
    weights = ease_weights(precision).cpu()
    return {"dense": weights} if text is None else {"dense": weights, "diagonal": diagonal.cpu()}


def fit_regularised(parts: Parts, text: Tensor, config: EASEConfig) -> dict[str, Tensor]:
    """EASE pulled towards that of the texts, which is ridge regression on them item by item."""
    own = text.to(parts.device)
    inner = own.T @ own
    inner.diagonal().add_(config.text_penalty)
    solver = inverse(inner, "text_penalty")
    found = gram(parts.graph.matrix).to(parts.device)
    found.diagonal().add_(config.penalty + config.pull)
    precision = inverse(found, "penalty")
    # of S the precision is (I - E solver E^T) / text_penalty, so B_S needs no matrix of its own to be inverted
    semantic = own @ (solver @ own.T)
    semantic.div_(1 - semantic.diagonal().clone())
    semantic.diagonal().zero_()
    by_text = torch.mm(precision, semantic).mul_(config.pull)
    by_text.sub_(precision * (by_text.diagonal() / precision.diagonal()))
    by_text.diagonal().zero_()
    diagonal = precision.diagonal().clone()
    weights = ease_weights(precision).add_(by_text)
    tensors = {"dense": weights, "by_text": by_text, "solver": solver, "diagonal": diagonal}
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def fit_low_rank(parts: Parts, text: Tensor | None, config: EASEConfig, rank: int) -> dict[str, Tensor]:
    """By the leading eigenvectors of G + w S, which is never formed."""
    matrix = parts.graph.matrix
    behaviour = gram_times(matrix)

    def product(vectors: Tensor) -> Tensor:
        found = behaviour(vectors)
        return found if text is None else found.addmm_(text, text.T @ vectors, alpha=config.weight)

    values, vectors = leading_vectors(product, matrix.shape[1], rank)
    kept = values / (values + config.penalty)
    own = (vectors.square() @ kept).clamp_max(1 - 1e-6)
    return {"left": vectors * kept, "right": vectors / (1 - own)[:, None], "less": own / (1 - own)}


def _text(parts: Parts) -> TextTable:
    assert parts.text is not None
    return parts.text


SPEC = Spec(
    "ease",
    lambda config: {"none": "EASE", "stack": "EASE with text", "regularise": "EASE pulled to text"}[config.text],
    EASEConfig,
    stages,
    informed={"text": "stack"},
    reads_text=lambda config: config.text != "none",
    fitted=True,
    tried=(
        *({"text": "none", "penalty": penalty} for penalty in (20.0, 50.0, 100.0, 200.0, 500.0)),
        *(
            {"text": "stack", "penalty": penalty, "weight": weight}
            for penalty in (100.0, 200.0)
            for weight in (2.0, 10.0, 30.0)
        ),
        *({"text": "regularise", "penalty": penalty, "pull": pull} for penalty in (50.0, 150.0) for pull in (50.0, 200.0)),
    ),
)
