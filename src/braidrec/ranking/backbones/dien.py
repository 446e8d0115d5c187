"""DIEN: interests drawn from behaviours one after another, and how they evolve towards the candidate (Zhou et al., AAAI 2019).

    extraction: g_t = GRU(k_1 .. k_t)                                           section 4.2
    attention:  a = softmax_t(g_t . (W q)) (bilinear; W starts as identity), softmax_t(g_t . q) (dot), or a softmax of DIN's MLP
    evolution:  h = the last state of a GRU over g_t that a_t drives            section 4.3
        augru  a_t scales the update gate    agru  a_t is the update gate    aigru  a_t scales g_t    gru  a second GRU whose
        states are what is attended to and pooled by a, so that nothing of it depends on the candidate
    y = MLP([fields ; h ; sum_t a_t l_t ; extras]),  l_t = label vector of behaviour t
    auxiliary:  mean over t < L of -log s(g_t, k_{t+1}) - log(1 - s(g_t, k-)), s the sigmoid of a product (paper) or of an MLP
        (the authors' code); k- is uniform among the distinct items of the batch's histories that the row's own has not
q is the candidate's vector of the kind that k_t is: the item id's ("id") or all item fields' side by side ("all").  Behaviours
are read as histories give them: oldest first, or by ``semantic_topk`` most similar first.
Extraction runs once for all rows whose histories begin at the same event; an empty history gives zeros.
Departures: label vectors join as one more field, as in DIN; no sum of the behaviours stands beside h, which the authors' code
adds and the paper does not have.
``paper`` is the paper's, with its auxiliary loss at weight 1.  ``textbook`` reads all item fields and goes without that loss,
as open toolkits do by default, and so do ``ours`` and ``authors``: DisCo's tables name a DIEN and no code of it is published;
it has the norm of their other backbones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field as Setting
from torch import Tensor, nn

from braidrec.layers.attention import ActivationUnit, Attended, Behaviours, BilinearAttention, PerSample, Sequences
from braidrec.layers.kept import ANEW, Anew
from braidrec.layers.mlp import MLP, Columns, Norm, initialise
from braidrec.layers.recurrent import Gate, Recurrence, Steps
from braidrec.ranking.contracts import ItemRead, Needs, RankingInput, Scored, Sizes
from braidrec.ranking.parts import PATTERNS_INSTEAD, Beside, Idle, PoolingConfig, idle_layers
from braidrec.registry import Spec
from braidrec.strict import Width
from braidrec.training.seeding import spawn

AUXILIARY = "auxiliary"


class DIENConfig(PoolingConfig):
    """auxiliary_weight: 0 leaves the loss out, and what it alone trains"""

    gru: Gate = "augru"
    attention: Literal["bilinear", "dot", "mlp"] = "bilinear"
    history_fields: ItemRead = "id"
    auxiliary: Literal["dot", "mlp"] = "dot"
    auxiliary_weight: float = Setting(default=0.0, ge=0)
    mlp: tuple[Width, ...] = (128, 64)
    norm: Norm = "none"
    dropout: float = Setting(default=0.0, ge=0, lt=1)

    def idle_beside(self, beside: Beside) -> Idle:
        found = dict(idle_layers(self.mlp, self.norm, self.dropout))
        if not beside.own_history:
            own = ("gru", "attention", "history_fields", "auxiliary", "auxiliary_weight")
            return found | dict.fromkeys(own, PATTERNS_INSTEAD)
        return found if self.auxiliary_weight else {**found, "auxiliary": "auxiliary_weight = 0 leaves that loss out"}


class DotAttention(nn.Module):
    """Softmax over k . q, shapes as in `BilinearAttention`."""

    def forward(self, target: Tensor, items: Tensor, past: Behaviours) -> Attended:
        return past.attend(items, target[:, None])


class Interest(nn.Module):
    """Extraction and evolution.  target (B, W), items (n, W), the behaviours among them -> h (B, W), what was attended to, and
    the states of extraction (S + 1, W) with their steps.
    """

    def __init__(self, width: int, gru: Gate, attention: Literal["bilinear", "dot", "mlp"]):
        super().__init__()
        self.extraction, self.evolution = Recurrence(width, width), Recurrence(width, width, gru)
        self.attention: nn.Module = DotAttention()
        if attention == "bilinear":
            self.attention = BilinearAttention(width, width)
            nn.init.eye_(self.attention.query.weight)
        elif attention == "mlp":
            self.attention = ActivationUnit(width, softmax=True)

    def forward(
        self, target: Tensor, items: Tensor, past: Behaviours, kept: Anew = ANEW
    ) -> tuple[Tensor, Attended, Tensor, Steps]:
        windows, mask = past.sequences, past.mask
        steps = Steps.of(windows.length, windows.index.shape[1])
        states = extracted = self.extraction(items, windows.index.flatten()[steps.rows], steps, kept=kept)
        if self.evolution.gate == "gru":
            states = self.evolution(states, steps.place.flatten()[steps.rows], steps)
        place = steps.place if windows.of is None else steps.place[windows.of] * mask
        attended: Attended = self.attention(target, states, PerSample(place, mask, past.signals, past.num_signals))
        if self.evolution.gate == "gru":
            return attended.pooled[:, 0], attended, extracted, steps
        own = steps if windows.of is None else Steps.of(mask.sum(dim=1), mask.shape[1])
        weights = attended.weights()[:, 0].flatten()[own.rows]
        evolved = self.evolution(states, place.flatten()[own.rows], own, weights)
        return evolved.index_select(0, own.last), attended, extracted, steps


class NextBehaviour(nn.Module):
    """The auxiliary loss: how well g_t tells the behaviour that came next from one that never came.

    Its weights are drawn by ``seed``, and so are its negatives, by a generator that checkpoints keep.
    """

    def __init__(self, width: int, form: Literal["dot", "mlp"], seed: int):
        super().__init__()
        self.mlp: nn.Sequential | None = None
        if form == "mlp":
            with torch.random.fork_rng(devices=[]):  # the term's own weights shift no other initialisation
                torch.manual_seed(seed)
                layers = (nn.Linear(2 * width, 100), nn.Sigmoid(), nn.Linear(100, 50), nn.Sigmoid(), nn.Linear(50, 1))
                self.mlp = initialise(nn.Sequential(*layers))
        self._generator = torch.Generator().manual_seed(seed)

    def generators(self) -> Mapping[str, torch.Generator]:
        return {"negatives": self._generator}

    def forward(self, states: Tensor, steps: Steps, items: Tensor, windows: Sequences) -> Tensor:
        """states (S + 1, W) of extraction, items (n, W) -> ()"""
        negatives, there = unmet(windows.index, windows.length, self._generator)
        later = torch.arange(1, windows.index.shape[1], device=there.device) < windows.length[:, None]
        pairs = (later & there[:, None]).nonzero(as_tuple=True)
        told = states.index_select(0, steps.place[pairs])
        right, wrong = (self._logits(told, items.index_select(0, of[pairs])) for of in (windows.index[:, 1:], negatives[:, 1:]))
        return (F.softplus(-right) + F.softplus(wrong)).sum() / max(len(told), 1)

    def _logits(self, states: Tensor, items: Tensor) -> Tensor:
        if self.mlp is None:
            return (states * items).sum(dim=1)
        found: Tensor = self.mlp(torch.cat([states, items], dim=1)).squeeze(1)
        return found


def unmet(index: Tensor, length: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """For each place of histories a uniform item that some history of the batch has and its own has not.

    index (W, K) int64 rows of a table, length (W,) -> rows (W, K), and whether a history leaves any (W,); where not, a row
    means nothing.
    """
    mask = torch.arange(index.shape[1], device=index.device) < length[:, None]
    pool = index[mask].unique()
    seats = torch.where(mask, torch.searchsorted(pool, index), len(pool)).sort(dim=1).values
    again = seats.diff(dim=1, prepend=seats.new_full((len(seats), 1), -1)) == 0
    seats = seats.masked_fill(again, len(pool)).sort(dim=1).values  # distinct ones, then len(pool)
    left = len(pool) - (seats < len(pool)).sum(dim=1)
    draws = torch.randint(2**62, index.shape, generator=generator, device=generator.device).to(index.device)
    draws = draws % left.clamp_min(1)[:, None]
    # the d-th seat that is not taken stands behind as many taken ones as have at most d free seats before them
    free = torch.where(seats < len(pool), seats - torch.arange(index.shape[1], device=index.device), len(pool))
    chosen = draws + torch.searchsorted(free, draws, right=True)
    return (pool[chosen.clamp_max(len(pool) - 1)] if len(pool) else torch.zeros_like(index)), left > 0


class DIEN(nn.Module):
    def __init__(self, config: DIENConfig, sizes: Sizes):
        super().__init__()
        self.needs = Needs(history=sizes.own_history, mixed=True, users_apart=True)
        self.read, self.auxiliary_weight = config.history_fields, config.auxiliary_weight
        width = sizes.of_items(self.read)
        self.interest = Interest(width, config.gru, config.attention) if sizes.own_history else None
        whole = sizes.side_by_side(width if sizes.own_history else None)
        self.mlp = MLP(whole, config.mlp, out=1, norm=config.norm, dropout=config.dropout)
        self.auxiliary: NextBehaviour | None = None
        if sizes.own_history and config.auxiliary_weight:
            self.auxiliary = NextBehaviour(width, config.auxiliary, spawn(sizes.seed, AUXILIARY))

    @property
    def weights(self) -> Mapping[str, float]:
        return {} if self.auxiliary is None else {AUXILIARY: self.auxiliary_weight}

    def forward(self, inputs: RankingInput) -> Tensor | Scored:
        history = inputs.history
        if self.interest is None or history is None:
            return self._logits(inputs, ())
        target, items = history.asked(self.read), history.rows(self.read)
        evolved, attended, states, steps = self.interest(target, items, history.past, history.kept)
        logits = self._logits(inputs, (evolved, history.said(attended.by_signal[:, 0])))
        auxiliary = self.auxiliary
        if auxiliary is None:
            return logits
        return Scored(logits, lambda: {AUXILIARY: auxiliary(states, steps, items, history.past.sequences)})

    def _logits(self, inputs: RankingInput, own: tuple[Columns, ...]) -> Tensor:
        out: Tensor = self.mlp((*inputs.columns, *own), inputs.kept).squeeze(1)
        return out


SPEC = Spec(
    "dien",
    "DIEN",
    DIENConfig,
    DIEN,
    presets={
        "ours": {},
        "paper": {"auxiliary_weight": 1.0},
        "authors": {"norm": "ln_post"},
        "textbook": {"history_fields": "all"},
    },
)
