"""SDRL: semi-disentangled representations of users and items by autoencoders (arXiv 2010.13282).

    z^b_u = Enc_b(R[u, :])    z^b_i = Enc'_b(R[:, i])    z = z^internal | z^external | z^other           (4)-(7)
    recon_users, recon_items: BCE(R[u, :], Dec(z_u)), BCE(R[:, i], Dec'(z_i))                            (8), (9)
    recon_ratings: BCE(R[u, i], sigma(z_u . z_i + b0))                                                   (9)
    internal: BCE(C, sigma(W z^internal + b)), C the categories of items and what users think of them    (11), (12)
    external: BCE(R[u, i], sigma(z^external_u . z^external_i + b1))                                      (13)
    loss = the sum of them    score(u, i) = sum_b w_b z^b_u . z^b_i
BCE is minus the printed (10), which would be maximised.  A mean over all entries of R, rated or not; no rating is 0.

Blocks are a table: each has a size, and what it is taught by: categories of a column of the catalogue, ratings, or nothing.
What the paper leaves open: one hidden layer of 256 with tanh, codes without activation (sigmoid codes make every product
positive, so no zero could be fitted without b0), one head for users and items, 256 of each in a step.
`ours` departs: rows of 1 for what was rated, scaled to length 1 and most of it dropped; in place of (13) and the third term of
(9) the softmax of a user's scores (Liang et al., WWW 2018), which ranks.  `kl` makes encoders variational (section 3.3.1).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, cast

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field as Setting
from pydantic import NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor, nn

from braidrec.collaborative.answers import Answering, of_people
from braidrec.collaborative.baskets import Baskets
from braidrec.collaborative.cells import CellBatch, CellBatches, Rows
from braidrec.collaborative.contracts import MatrixModel, Parts
from braidrec.collaborative.graph import Graph
from braidrec.collaborative.labels import NOT_SAID, Categories, Normalisation, held_items, scaled_ratings
from braidrec.registry import Spec
from braidrec.strict import WIDEST, Count, Strict, Width, because
from braidrec.task import Share
from braidrec.training.config import TrainingConfig
from braidrec.training.devices import place_of
from braidrec.training.seeding import spawn
from braidrec.training.stages import AnyStage, Stage, main_group
from braidrec.training.step import Step

STAGE = "train"
_PIECES = 16  # of the way from nothing to what somebody has, along which reasons are summed
_ENCODED = 4096  # rows at a time


class Block(Strict):
    """One part of every code.

    size: columns; 0 leaves the block out    weight: of its part of a score
    taught: what its loss is by    strength: the weight of that loss
    column, separator, without: whose values the categories are, see `braidrec.collaborative.labels.categories_of`
    labelled: share of the items with a category whose categories are shown to it; the others, and users who rated none of the
        labelled, are in no loss of the block
    """

    size: int = Setting(ge=0, le=WIDEST)
    taught: Literal["categories", "ratings", "nothing"] = "nothing"
    weight: float = 1.0
    strength: NonNegativeFloat = 1.0
    column: str | None = None
    separator: str | None = None
    without: tuple[str, ...] = NOT_SAID
    labelled: float = Setting(default=1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        of_categories = {"column": None, "separator": None, "without": NOT_SAID, "labelled": 1.0}
        if self.taught != "categories" and any(getattr(self, name) != value for name, value in of_categories.items()):
            raise ValueError(f"{', '.join(of_categories)} belong to taught = 'categories', not '{self.taught}'; leave them out")
        if self.taught == "nothing" and self.strength != 1:
            raise ValueError("strength weighs the loss of what a block is taught, and taught = 'nothing'; leave it at 1")
        return self


_BLOCKS: dict[str, dict[str, Any]] = {
    "internal": {"size": 64, "taught": "categories"},
    "external": {"size": 32, "taught": "ratings"},
    "other": {"size": 32},
}


class SDRLConfig(Strict):
    """blocks: by name, in the order of a code's columns    hidden: width of the layer before and behind the code
    inputs: R is of ratings over the best one, liked or not, or of 1 for each positive
    unit: whether rows are scaled to length 1    dropout: of inputs
    scale: the best rating there is; None for the best of training
    code: what a code ends with    bias: b0 and b1    heads: of categories: one, or one of users and one of items
    preference: how C_U is normalised
    match: what pairs of codes are fitted by: each entry alone, or a user's against one another
    kl: weight of the variational term; None: encoders give codes, not distributions of them
    zeros: of entries without a rating, how many for each rated one are drawn in the two reconstructions of rows; None: all
    items_per_step: c; users per step are training.batch_size
    """

    blocks: Mapping[str, Block] = Setting(default_factory=lambda: {name: Block(**own) for name, own in _BLOCKS.items()})
    hidden: Width = 256
    inputs: Literal["ratings", "ones"] = "ratings"
    scale: PositiveFloat | None = None
    unit: bool = False
    dropout: float = Setting(default=0.0, ge=0, lt=1)
    code: Literal["linear", "sigmoid"] = "linear"
    bias: bool = True
    heads: Literal["shared", "apart"] = "shared"
    preference: Normalisation = "l1"
    match: Literal["bce", "softmax"] = "bce"
    reconstruction: NonNegativeFloat = 1.0
    kl: NonNegativeFloat | None = None
    zeros: PositiveFloat | None = None
    items_per_step: Count = 256

    @model_validator(mode="after")
    def _has_blocks(self) -> Self:
        for name in self.blocks:
            if not name.isidentifier() or name.startswith("recon_") or name == "kl":
                raise ValueError(
                    f"blocks: '{name}' names a block and its loss; accepted: letters, digits and '_', neither recon_... nor kl"
                )
        if not self.own:
            raise ValueError("blocks: all of them have size = 0; one at least needs columns")
        if self.code == "sigmoid" and not self.bias:
            raise ValueError("code = 'sigmoid' without bias fits no zero: every product is above 0; set bias = true")
        return self

    def idle(self) -> Mapping[str, str]:
        taught = {block.taught for block in self.own.values()}
        return because(
            ("categories" not in taught, "no block is taught categories", "heads preference"),
            ("categories" not in taught and self.inputs == "ones", "inputs = 'ones' and no block reads ratings", "scale"),
            (self.match == "softmax", "match = 'softmax'", "bias"),
            (not self.reconstruction, "reconstruction = 0", "zeros"),
        )

    @property
    def own(self) -> dict[str, Block]:
        """Those that have columns."""
        return {name: block for name, block in self.blocks.items() if block.size}

    @property
    def size(self) -> int:
        """k."""
        return sum(block.size for block in self.blocks.values())


def proportioned(size: int, *shares: float) -> tuple[int, ...]:
    """Sizes of blocks in the proportion of ``shares`` that add up to ``size``, by largest remainders; the first wins a tie."""
    exact = np.array(shares) / sum(shares) * size
    found = np.floor(exact).astype(int)
    for at in np.argsort(found - exact, kind="stable")[: size - int(found.sum())]:
        found[at] += 1
    return tuple(found.tolist())


# -- losses ---------------------------------------------------------------------------------------------------------------


def entropy(values: Tensor) -> Tensor:
    """() mean binary entropy of soft targets: what `bce` reaches where predictions are equal to them, in nats."""
    return -(torch.xlogy(values, values) + torch.xlogy(1 - values, 1 - values)).mean()


def rows_bce(logits: Tensor, rows: Rows) -> Tensor:
    """() mean over all entries (b, width) of the binary cross-entropy of ``rows``, never made dense; no value is 0."""
    return (F.softplus(logits).sum() - (rows.value * logits[rows.owner, rows.column]).sum()) / logits.numel()


def user_softmax(logits: Tensor, block: Tensor) -> Tensor:
    """() mean over users with a rating in ``block`` (b, c) of the cross-entropy between ratings and the softmax of scores."""
    own = block.sum(dim=1)
    each = -(block * F.log_softmax(logits, dim=1)).sum(dim=1) / own.clamp_min(torch.finfo(block.dtype).tiny)
    return each.sum() / (own > 0).sum().clamp_min(1)


# -- the network ----------------------------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """Rows of ``width`` columns to codes, or to means and log variances of them.  first (width, h)"""

    def __init__(self, width: int, hidden: int, size: int):
        super().__init__()
        self.first = nn.Parameter(nn.init.xavier_uniform_(torch.empty(width, hidden)))
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.last = _linear(hidden, size)

    def forward(self, rows: Rows) -> Tensor:
        found: Tensor = self.last(torch.tanh(rows.times(self.first) + self.bias))
        return found


class Side(nn.Module):
    """Users, or items: an encoder for each block, all of the same rows, and a decoder, ``last(hidden(z))``."""

    def __init__(self, width: int, config: SDRLConfig):
        super().__init__()
        times = 1 if config.kl is None else 2
        self.encoders = nn.ModuleDict({name: Encoder(width, config.hidden, times * b.size) for name, b in config.own.items()})
        self.hidden = nn.Sequential(_linear(config.size, config.hidden), nn.Tanh())
        self.last = _linear(config.hidden, width)


class SDRL(Answering["BlockVectors"]):
    """A `MatrixTrainer`; in evaluation it answers by the codes of all users and items of training."""

    def __init__(self, config: SDRLConfig, parts: Parts):
        super().__init__()
        assert parts.labels is not None
        self.config = config
        shape = (parts.num_users + 1, parts.num_items + 1)
        labels = parts.labels
        self._categories = {
            name: self._shown(parts, block) for name, block in config.own.items() if block.taught == "categories"
        }
        ratings: Any = None  # where nothing reads them they may be anything
        if config.inputs == "ratings" or self._categories:
            ratings = scaled_ratings(labels.user, labels.item, labels.rating, shape, config.scale)
        self._entries = ratings if config.inputs == "ratings" else parts.graph.matrix  # (U + 1, I + 1)
        self.users, self.items = Side(parts.num_items, config), Side(parts.num_users, config)
        self.heads = nn.ModuleDict(
            {
                name: nn.ModuleList(
                    _linear(config.blocks[name].size, len(own.names)) for _ in range(1 if config.heads == "shared" else 2)
                )
                for name, own in self._categories.items()
            }
        )
        matched = ["recon_ratings", *(name for name, block in config.own.items() if block.taught == "ratings")]
        start = float(torch.logit(torch.tensor(self._entries.sum() / (parts.num_users * parts.num_items)), eps=1e-6))
        has_bias = config.bias and config.match == "bce"
        self.biases = nn.ParameterDict({name: torch.tensor(start) for name in matched} if has_bias else {})
        for name, own in self._categories.items():
            users, rated = own.of_users(ratings, config.preference)
            for side, said, known in (("users", users, rated), ("items", own.of_items, own.known)):
                self.register_buffer(f"labels_{name}_{side}", torch.from_numpy(said), persistent=False)
                self.register_buffer(f"known_{name}_{side}", torch.from_numpy(known), persistent=False)
        self._draws = {
            name: torch.Generator().manual_seed(spawn(parts.seed, "sdrl", name)) for name in ("drop", "zeros", "code")
        }

    @staticmethod
    def _shown(parts: Parts, block: Block) -> Categories:
        assert parts.labels is not None
        assert parts.labels.categories is not None
        found = parts.labels.categories(block.column, block.separator, block.without)
        return found if block.labelled == 1 else found.without(held_items(found, 1 - block.labelled))

    # -- training -----------------------------------------------------------------------------------------------------

    @property
    def weights(self) -> Mapping[str, float]:
        """Of everything that ``step`` returns."""
        config = self.config
        found = dict.fromkeys(("recon_users", "recon_items", "recon_ratings"), 1.0)
        found |= {"recon_users": config.reconstruction, "recon_items": config.reconstruction}
        found |= {name: block.strength for name, block in config.own.items() if block.taught != "nothing"}
        return found if config.kl is None else {**found, "kl": config.kl}

    def generators(self) -> Mapping[str, torch.Generator]:
        return self._draws

    def batches(self, graph: Graph, training: TrainingConfig, seed: int) -> CellBatches:
        return CellBatches(self._entries, training.batch_size, self.config.items_per_step, seed=seed)

    def step(self, batch: CellBatch) -> Step:
        losses = self.losses(batch)
        return Step(lambda: losses)

    def losses(self, batch: CellBatch) -> dict[str, Tensor]:
        """Unweighted, by the names of `weights`."""
        config = self.config
        (users, of_users), (items, of_items) = self._codes(self.users, batch.users), self._codes(self.items, batch.items)
        found = {
            "recon_users": self._rows_loss(self.users, users, batch.users),
            "recon_items": self._rows_loss(self.items, items, batch.items),
            "recon_ratings": self._match("recon_ratings", _joined(users), _joined(items), batch.block),
        }
        for name, block in config.own.items():
            if block.taught == "ratings":
                found[name] = self._match(name, users[name], items[name], batch.block)
            elif block.taught == "categories":
                found[name] = self._taught(name, (users[name], batch.user), (items[name], batch.item))
        return found if config.kl is None else {**found, "kl": (of_users + of_items) / 2}

    def _codes(self, side: Side, rows: Rows) -> tuple[dict[str, Tensor], Tensor]:
        """By block, and () the mean divergence from the standard normal by column."""
        given, codes, divergence = self._read(rows), {}, []
        for name, encoder in side.encoders.items():
            code = encoder(given)
            if self.config.kl is not None:
                mean, log_variance = code.chunk(2, dim=1)
                noise = torch.randn(mean.shape, generator=self._draws["code"]).to(mean.device) if self.training else 0.0
                code = mean + noise * torch.exp(log_variance / 2)
                divergence.append((mean.square() + log_variance.exp() - 1 - log_variance) / 2)
            codes[name] = torch.sigmoid(code) if self.config.code == "sigmoid" else code
        return codes, torch.cat(divergence, dim=1).mean() if divergence else torch.zeros(())

    def _read(self, rows: Rows) -> Rows:
        config = self.config
        if config.unit:
            rows = rows.unit()
        if not (config.dropout and self.training):
            return rows
        kept = (torch.rand(len(rows.value), generator=self._draws["drop"]) >= config.dropout).to(rows.value.device)
        return rows.with_values(rows.value * kept / (1 - config.dropout))

    def _rows_loss(self, side: Side, codes: Mapping[str, Tensor], rows: Rows) -> Tensor:
        """() BCE of rows and what the decoder makes of their codes, a mean over all entries, or an estimate of it."""
        hidden = side.hidden(_joined(codes))
        if self.config.zeros is None:
            return rows_bce(side.last(hidden), rows)
        return drawn_bce(hidden, side.last, rows, self.config.zeros, self._draws["zeros"])

    def _match(self, name: str, users: Tensor, items: Tensor, block: Tensor) -> Tensor:
        logits = users @ items.T
        if self.config.match == "softmax":
            return user_softmax(logits, block)
        if name in self.biases:
            logits = logits + self.biases[name]
        return F.binary_cross_entropy_with_logits(logits, block)

    def _taught(self, name: str, *sides: tuple[Tensor, Tensor]) -> Tensor:
        """() BCE of the block's codes (b, size) and the categories of those rows (b,), a mean over all that is known."""
        heads, total, entries = cast(nn.ModuleList, self.heads[name]), torch.zeros((), device=sides[0][0].device), 0
        for at, (side, (code, rows)) in enumerate(zip(("users", "items"), sides, strict=True)):
            known = self.get_buffer(f"known_{name}_{side}")[rows].nonzero().squeeze(1)
            labels = self.get_buffer(f"labels_{name}_{side}")[rows][known]
            logits = heads[min(at, len(heads) - 1)](code)[known]
            total = total + F.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
            entries += labels.numel()
        return total / max(entries, 1)

    # -- answers ------------------------------------------------------------------------------------------------------

    def answer(self) -> BlockVectors:
        return BlockVectors(self.config).put(self)

    @torch.no_grad()
    def codes(self, which: Literal["users", "items"]) -> Tensor:
        """(U + 1, k) or (I + 1, k) of all of training, zeros in row 0; nothing is drawn."""
        side: Side = getattr(self, which)
        rows = self._entries[1:, 1:]
        rows = rows.tocsr() if which == "users" else rows.T.tocsr()
        mode, place = self.training, place_of(self)
        nn.Module.train(self, False)
        parts = [
            _joined(self._codes(side, Rows.of(rows[first : first + _ENCODED]).to(place))[0])
            for first in range(0, rows.shape[0], _ENCODED)
        ]
        nn.Module.train(self, mode)
        return F.pad(torch.cat(parts), (0, 0, 1, 0))


class BlockVectors(nn.Module, MatrixModel):
    """What a run keeps: the codes of training, and the encoders of users for who comes later.

    users (U + 1, k), items (I + 1, k)    known (U + 1,), met (I + 1,): whether training had a rating of them
    fill (): what an item counts as whose rating nobody says    for each block with categories: its names (JSON, uint8), the
    categories of items as far as it was shown them, and its head; for each block the encoder of users, by catalogue row
    """

    users: Tensor
    items: Tensor
    known: Tensor
    met: Tensor
    fill: Tensor

    def __init__(self, config: SDRLConfig):
        super().__init__()
        self.config = config
        for name in ("users", "items", "known", "met", "fill"):
            self.register_buffer(name, None)
        for name, block in config.own.items():
            for part in ("first", "bias", "last", "last_bias"):
                self.register_buffer(f"{part}_{name}", None)
            for part in ("names", "labels", "head", "head_bias") if block.taught == "categories" else ():
                self.register_buffer(f"{part}_{name}", None)

    @torch.no_grad()
    def put(self, model: SDRL) -> Self:
        """What ``model`` makes of its training data."""
        entries, place = model._entries, place_of(model)
        self.users, self.items = model.codes("users"), model.codes("items")
        self.known = torch.from_numpy(np.diff(entries.indptr) > 0).to(place)
        self.met = torch.from_numpy(np.bincount(entries.indices, minlength=entries.shape[1]) > 0).to(place)
        self.fill = torch.tensor(float(entries.data.mean()), device=place)
        for name in self.config.own:
            encoder: Any = model.users.encoders[name]
            size = self.config.blocks[name].size
            self._set(f"first_{name}", F.pad(encoder.first, (0, 0, 1, 0)))
            self._set(f"bias_{name}", encoder.bias)
            self._set(f"last_{name}", encoder.last.weight[:size])  # of a distribution: the mean
            self._set(f"last_bias_{name}", encoder.last.bias[:size])
        for name, own in model._categories.items():
            text = json.dumps(own.names).encode()
            self._set(f"names_{name}", torch.tensor(list(text), dtype=torch.uint8, device=place))
            self._set(f"labels_{name}", torch.from_numpy(own.of_items > 0).to(place))
            head: Any = model.heads[name][0]  # type: ignore[index]
            self._set(f"head_{name}", head.weight)
            self._set(f"head_bias_{name}", head.bias)
        return self.eval()

    def _set(self, name: str, value: Tensor) -> None:
        setattr(self, name, value.detach().clone())

    @property
    def known_user(self) -> str:
        return (
            "a known user is answered by their code as of training, which what came later does not change; given with newer "
            "items, they count as somebody new who has those and theirs; items behind a score are those of somebody new who "
            "has the same"
        )

    @property
    def new_user(self) -> str:
        how = "1" if self.config.inputs == "ones" else f"the mean rating of training, {float(self.fill):.2f} of the best"
        return f"a new user is encoded by the items given, each as {how}; without any, the items that most have come first"

    @property
    def remarks(self) -> Sequence[str]:
        missing = int((~self.met[1:]).sum())
        some = "1 item was" if missing == 1 else f"{missing:,} items were"
        return [f"{some} rated by nobody in training; they come last"] if missing else []

    @property
    def num_rows(self) -> int:
        return len(self.items)

    def scores(self, baskets: Baskets) -> Tensor:
        found = self._people(baskets) * self._weights @ self.items.T
        if not bool(self.met[1:].all()):
            found[:, ~self.met] = found.amin(dim=1, keepdim=True) - 1
        return found

    @property
    def _weights(self) -> Tensor:
        """(k,)"""
        own = self.config.own.values()
        return torch.cat([torch.full((block.size,), block.weight, device=self.items.device) for block in own])

    def _people(self, baskets: Baskets) -> Tensor:
        """(b, k) of known users their own, of others by what they have."""
        return of_people(baskets, self.users, self.known, self.folded)

    def folded(self, baskets: Baskets) -> Tensor:
        """(b, k) codes of who has these items, their ratings unknown."""
        size = self._length(baskets.counts)[:, None]
        codes = [self._coded(name, baskets.times(self.get_buffer(f"first_{name}")) * size) for name in self.config.own]
        return torch.cat(codes, dim=1)

    def _length(self, counts: Tensor) -> Tensor:
        """What each of so many items counts as in a row."""
        return 1 / counts.clamp_min(1).sqrt() if self.config.unit else self.fill.expand(len(counts))

    def _coded(self, name: str, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(inputs + self.get_buffer(f"bias_{name}"))
        found = F.linear(hidden, self.get_buffer(f"last_{name}"), self.get_buffer(f"last_bias_{name}"))
        return torch.sigmoid(found) if self.config.code == "sigmoid" else found

    def shares(self, items: Tensor, target: int) -> tuple[Tensor, Tensor | None]:
        """Integrated gradients (Sundararajan et al., ICML 2017): what each item brings on the way from nothing to all of them.

        They add up to what the target scores above the mean of all items, since nothing else ranks it; what of that is there
        without any item, and the rounding of the sum, is laid on all of them alike.
        """
        value = self._length(items.new_tensor([len(items)]))
        wanted, offset = self._above(target), 0
        found = torch.zeros(len(items), device=items.device)
        whole = (self.folded(Baskets(items.new_tensor([0, len(items)]), items)) @ wanted)[0]
        for name, block in self.config.own.items():
            first, last = self.get_buffer(f"first_{name}")[items] * value, self.get_buffer(f"last_{name}")
            along = (torch.arange(_PIECES, device=items.device) + 0.5) / _PIECES
            hidden = torch.tanh(along[:, None] * first.sum(dim=0) + self.get_buffer(f"bias_{name}"))
            out = wanted[offset : offset + block.size].expand(_PIECES, -1)
            if self.config.code == "sigmoid":
                code = torch.sigmoid(F.linear(hidden, last, self.get_buffer(f"last_bias_{name}")))
                out = out * code * (1 - code)
            found += first @ ((out @ last) * (1 - hidden.square())).mean(dim=0)
            offset += block.size
        return found + (whole - found.sum()) / max(len(items), 1), None

    def divided(self, baskets: Baskets, target: int) -> list[Share]:
        """What each block brings to what ``target`` scores above the mean of all items, for one person.

        Of a block of categories also what the item is, each with how much of the person's taste, by the block, is for that.
        """
        person, wanted, offset, found = self._people(baskets)[0], self._above(target), 0, list[Share]()
        for name, block in self.config.own.items():
            own = slice(offset, offset + block.size)
            value = float(person[own] @ wanted[own])
            found.append(Share(name, value, self._says(name, person[own], target) if block.taught == "categories" else ()))
            offset += block.size
        return found

    def _above(self, target: int) -> Tensor:
        """(k,) what a person's code is multiplied with, less the mean of the items of training."""
        return (self.items[target] - self.items[self.met].mean(dim=0)) * self._weights

    def _says(self, name: str, code: Tensor, target: int) -> tuple[tuple[str, float], ...]:
        taste = torch.sigmoid(F.linear(code, self.get_buffer(f"head_{name}"), self.get_buffer(f"head_bias_{name}")))
        taste = taste / taste.sum().clamp_min(1e-12)
        names = self.names(name)
        own = self.get_buffer(f"labels_{name}")[target].nonzero().squeeze(1).tolist()
        return tuple(sorted(((names[at], float(taste[at])) for at in own), key=lambda each: -each[1]))

    def names(self, block: str) -> list[str]:
        """Of the categories of a block."""
        found: list[str] = json.loads(bytes(self.get_buffer(f"names_{block}").cpu().tolist()))
        return found

    def item_vectors(self) -> Mapping[str, Tensor]:
        return self._by_block(self.items)

    def user_vectors(self) -> Mapping[str, Tensor]:
        return self._by_block(self.users)

    def _by_block(self, codes: Tensor) -> Mapping[str, Tensor]:
        """The whole code, and each block's."""
        own = self.config.own
        return {"code": codes, **dict(zip(own, codes.split([block.size for block in own.values()], dim=1), strict=True))}


def drawn_bce(hidden: Tensor, last: nn.Linear, rows: Rows, zeros: float, rng: torch.Generator) -> Tensor:
    """An unbiased estimate of `rows_bce` of ``last(hidden)``, hidden (b, h): rated entries, and ``zeros`` times as many of all.

    Columns are drawn uniformly; a drawn one that is rated counts nothing, so the others stand for the unrated, each for
    width / (drawn in the row) of them.
    """
    drawn = (zeros * rows.start.diff()).round().long().clamp_min(1)
    owner = torch.repeat_interleave(drawn)
    column = torch.randint(rows.width, (len(owner),), generator=rng).to(owner.device)
    keys = rows.owner * rows.width + rows.column
    unrated = ~torch.isin(owner * rows.width + column, keys)
    every, at = torch.cat([rows.owner, owner]), torch.cat([rows.column, column])
    logits = (hidden[every] * last.weight[at]).sum(dim=1) + last.bias[at]
    counts = torch.cat([torch.ones_like(rows.value), unrated * (rows.width / drawn)[owner]])
    values = torch.cat([rows.value, torch.zeros_like(column, dtype=rows.value.dtype)])
    return (counts * F.binary_cross_entropy_with_logits(logits, values, reduction="none")).sum() / (len(hidden) * rows.width)


def _linear(width: int, size: int) -> nn.Linear:
    found = nn.Linear(width, size)
    nn.init.xavier_uniform_(found.weight)
    nn.init.zeros_(found.bias)
    return found


def _joined(codes: Mapping[str, Tensor]) -> Tensor:
    return torch.cat(list(codes.values()), dim=1)


def stages(config: SDRLConfig, parts: Parts) -> list[AnyStage]:
    if parts.data is None:
        return [Stage(STAGE, BlockVectors(config), {}, [])]
    model = SDRL(config, parts)
    return [Stage(STAGE, model, model.weights, [main_group(model)])]


_TRAINING = {
    "batch_size": 256,
    "lr": 2e-3,
    "weight_decay": 0.0,
    "max_epochs": 200,
    "min_epochs": 80,
    "patience": 40,
    "epochs_per_check": 1,
    "checks_per_epoch": 1,
    "average_epochs": 20.0,
}
SPEC = Spec(
    "sdrl",
    "SDRL",
    SDRLConfig,
    stages,
    values={"blocks": _BLOCKS},
    presets={
        "authors": {},
        "ours": {
            "blocks": {"external": {"strength": 0.2}},
            "inputs": "ones",
            "unit": True,
            "dropout": 0.6,
            "match": "softmax",
            "items_per_step": 4096,
        },
    },
    training={
        "authors": _TRAINING,
        "ours": {**_TRAINING, "lr": 1e-3, "max_epochs": 300, "min_epochs": 100, "patience": 40, "average_epochs": 30.0},
    },
)
