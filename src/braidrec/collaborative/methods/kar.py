"""KAR (Xi et al., RecSys 2024) on a graph: a hybrid-expert adaptor makes a short vector of a node's text, which joins its row.

    a_v = sum_k gate_k(t_v) expert_k(t_v)    experts: some shared by users and items, the others of one kind alone
    e_v' = W [e_v; a_v] + b                  what the backbone reads, in training and at inference

Departures: KAR is a method for click prediction; how DaRec's Table IV attaches it is in no available code, and this is ours.
Its text is that of the other methods instead of prompts of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field as Setting
from torch import Tensor, nn

from braidrec.collaborative.contracts import Enhancer, Parts, Propagated, Widths
from braidrec.collaborative.node_text import NodeText, TextConfig, xavier
from braidrec.collaborative.pairs import PairBatch
from braidrec.registry import Spec
from braidrec.strict import DEEPEST, WIDEST, Strict


class KARConfig(Strict):
    """shared, own: experts of both kinds, and of users and of items alone    hidden: width inside    fuse: how a_v joins e_v"""

    shared: int = Setting(default=2, ge=0, le=DEEPEST)
    own: int = Setting(default=6, ge=1, le=DEEPEST)
    hidden: int = Setting(default=128, ge=1, le=WIDEST)
    fuse: Literal["concat", "sum"] = "concat"
    text: TextConfig = TextConfig()


class KAR(nn.Module, Enhancer):
    """keys (I, d): what the adaptor makes of items, once training is over."""

    at_inference = True
    knows_by_text = True
    stand_in = "as the mean of the items that the adaptor says most alike of"

    keys: Tensor | None

    def __init__(self, config: KARConfig, parts: Parts, nodes: Widths):
        super().__init__()
        self.config, dim = config, nodes.inputs
        self.text = NodeText(config.text, parts)

        def experts(count: int) -> nn.ModuleList:
            layers = ((nn.Linear(self.text.width, config.hidden), nn.Linear(config.hidden, dim)) for _ in range(count))
            return nn.ModuleList(xavier(nn.Sequential(one, nn.ReLU(), two, nn.ReLU())) for one, two in layers)

        self.shared, self.users, self.items = experts(config.shared), experts(config.own), experts(config.own)
        self.gates = nn.ModuleList(xavier(nn.Linear(self.text.width, config.shared + config.own)) for _ in range(2))
        self.fuse = xavier(nn.Linear(2 * dim, dim)) if config.fuse == "concat" else None
        self.register_buffer("keys", None)

    @property
    def weights(self) -> Mapping[str, float]:
        return {}

    def inputs(self, nodes: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        made = torch.cat([self.adapted(self.text.users, items=False), self.adapted(self.text.items, items=True)])
        return nodes + made if self.fuse is None else self.fuse(torch.cat([nodes, made], dim=1)), None

    def adapted(self, text: Tensor, *, items: bool) -> Tensor:
        """(n, R) -> (n, d)."""
        said = torch.stack([expert(text) for expert in (*self.shared, *(self.items if items else self.users))], dim=1)
        return (self.gates[items](text).softmax(dim=1)[:, :, None] * said).sum(dim=1)

    def losses(
        self, propagated: Propagated, batch: PairBatch, kept: Tensor | None, rng: torch.Generator
    ) -> Mapping[str, Tensor]:
        return {}

    @torch.no_grad()
    def export(self, nodes: Tensor) -> None:
        if self.text.nodes is not None:
            self.keys = self.adapted(self.text.items, items=True)
            self.text.nodes = None

    def item_vectors_of(self, text: Tensor, items: Tensor) -> Tensor:
        assert self.keys is not None
        return self.text.near(self.adapted(self.text.of_items(text), items=True), self.keys, items)


SPEC = Spec("kar", "KAR", KARConfig, KAR, presets={"authors": {}}, reads_text=True)
