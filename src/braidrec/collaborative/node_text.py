"""The text of users and items as methods read it: frozen, users first, each kind less its own mean, reduced once.

x_v = P^T unit(t_v - mean of its kind)    P (S, R): the leading principal directions of all nodes

Sentence vectors share a large common part, which alignment would have to learn away, and a vector of thousands of columns
costs an MLP more than everything else in a step.  A node that nothing is known of (zeros, or the mean that stands in for
missing text) has zeros, and no say in the mean.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field as Setting
from torch import Tensor, nn

from braidrec.collaborative.contracts import Parts
from braidrec.layers.mlp import Part
from braidrec.layers.text import NO_TEXT, prepare
from braidrec.strict import WIDEST, Strict

NEAR = 20  # items by which one that nobody has is known


class TextConfig(Strict):
    """centred: less the mean of users or of items, at length 1    width: leading directions that are kept; None: as it is"""

    centred: bool = True
    width: int | None = Setting(default=128, ge=1, le=WIDEST)


class NodeText(nn.Module):
    """nodes (N, R): in no state_dict, None once training is over    centre (S,) of items    directions (S, R)
    met (I,): items that training has users of
    """

    nodes: Tensor | None
    met: Tensor
    centre: Tensor
    directions: Tensor | None

    def __init__(self, config: TextConfig, parts: Parts):
        super().__init__()
        self.config, self.num_users = config, parts.num_users
        given = parts.text_width if parts.text is None else parts.text.width
        self.width = given if config.width is None else min(given, config.width)
        centre, directions, nodes = torch.zeros(given), torch.zeros(given, self.width), None
        if parts.text is not None:
            read = parts.node_text().split([parts.num_users, parts.num_items])
            centre = _told(read[1]).mean(dim=0)
            nodes = torch.cat([_away(kind) if config.centred else kind for kind in read])
            if self.width < given:
                directions = _directions(nodes, self.width)
                nodes = nodes @ directions
        counts = torch.zeros(parts.num_items + 1) if parts.data is None else torch.from_numpy(parts.graph.item_counts)
        self.register_buffer("met", counts[1:] > 0)
        self.register_buffer("centre", centre)
        self.register_buffer("directions", directions if self.width < given else None)
        self.register_buffer("nodes", nodes, persistent=False)

    @property
    def known(self) -> Tensor:
        """(N, R), asked for in training alone."""
        assert self.nodes is not None
        return self.nodes

    @property
    def users(self) -> Tensor:
        return self.known[: self.num_users]

    @property
    def items(self) -> Tensor:
        return self.known[self.num_users :]

    def near(self, query: Tensor, keys: Tensor, items: Tensor, temperature: float = 0.1) -> Tensor:
        """(m, D): the ``items`` (I or more, D) whose ``keys`` (I, K) are most like ``query`` (m, K), weighed by their softmax.

        What an item that nobody has is taken for; of items that training met, `NEAR` are asked.
        """
        cosines = F.normalize(query) @ F.normalize(keys[: len(self.met)]).T
        top = cosines.masked_fill(~self.met, -torch.inf).topk(min(NEAR, int(self.met.sum())))
        return torch.einsum("mk,mkd->md", F.softmax(top.values / temperature, dim=1), items[top.indices])

    def of_items(self, vectors: Tensor) -> Tensor:
        """(m, S) of items that come later -> (m, R)."""
        given = vectors.to(self.centre)
        said = given.any(dim=1, keepdim=True)
        own = prepare(given, "centred", self.centre).masked_fill(~said, 0.0) if self.config.centred else given
        return own if self.directions is None else own @ self.directions


def _told(vectors: Tensor) -> Tensor:
    """The rows that say something, all of them where none does: users with nothing in training have zeros for a text."""
    some = vectors.any(dim=1)
    return vectors if bool(some.all()) or not bool(some.any()) else vectors[some]


def _away(vectors: Tensor) -> Tensor:
    """Rows less their mean at length 1; zeros for one of zeros, and for one next to the mean: it had no text and got that."""
    told = _told(vectors)
    mean = told.mean(dim=0)
    away = vectors - mean
    length, usual = away.norm(dim=1, keepdim=True), (told - mean).norm(dim=1).median()
    silent = (length < NO_TEXT * usual) | ~vectors.any(dim=1, keepdim=True)
    return torch.where(silent, 0.0, away / length.clamp_min(1e-12))


def _directions(rows: Tensor, width: int) -> Tensor:
    """(S, R) the leading eigenvectors of rows^T rows, each with its largest entry above zero, so that a sign is no accident."""
    found = torch.linalg.eigh((rows.T @ rows).double()).eigenvectors[:, -width:].flip(1)
    largest = found.gather(0, found.abs().argmax(dim=0, keepdim=True))
    return (found * largest.sign()).float()


def projector(width: int, out: int) -> nn.Sequential:
    """Linear, LeakyReLU, Linear: width -> (width + out) // 2 -> out, as RLMRec has it; Xavier-uniform weights."""
    middle = (width + out) // 2
    return xavier(nn.Sequential(nn.Linear(width, middle), nn.LeakyReLU(), nn.Linear(middle, out)))


def xavier(module: Part) -> Part:
    """Xavier-uniform weights of every linear layer; biases stay as they are drawn."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
    return module
