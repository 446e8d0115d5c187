"""DaRec: what behaviour and text share is aligned as structure, what each alone knows is kept apart.

    E_C (N, D) -> what the backbone scores by    E_L (N, R) -> frozen text    four MLPs: shared and specific of both sides
    L_or    the parts of a side are at right angles, eq. 2        L_uni   specific parts are spread, eq. 3
    L_glo   shared parts have the same Gram matrix, eqs. 4-5      L_loc   their clusters' centres, matched, agree, eqs. 6-10
    L = L_backbone + lambda (L_or + L_uni + L_glo + L_loc), eq. 11, on a fresh sample of rows, the same ones on both sides

Inference is the backbone alone.  No code of the authors is known; the paper leaves open what stands here as a default.
Departures: eq. 5 over rows of length 1 and as a mean (``literal`` is as printed), for its sum over millions of pairs is solved
by shrinking both sides to zero; eq. 9 with the first side in its numerator, which the print lacks; text that is centred and
reduced (`braidrec.collaborative.node_text`); the backbone's L2 of "all" has the four MLPs in it, as RLMRec's code has its own.
Eq. 11 may as well be read as the backbone's loss and nothing else in it: l2_on = "backbone".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field as Setting
from torch import Tensor, nn

from braidrec.collaborative.contracts import Enhancer, Parts, Propagated, Widths
from braidrec.collaborative.node_text import NodeText, TextConfig, projector
from braidrec.collaborative.pairs import PairBatch
from braidrec.objectives.structure import (
    centres,
    global_structure,
    kmeans,
    local_structure,
    matched,
    orthogonality,
    uniformity,
)
from braidrec.registry import Spec
from braidrec.strict import LONGEST, WIDEST, Strict, because

Term = Literal["orthogonality", "uniformity", "global", "local"]


class DaRecConfig(Strict):
    """weight: lambda    width: of the four parts    clusters: K, of fewer rows as many    sample: rows of a step, at most all
    terms: those that are left    uniformity_rows: as many of the sample are paired with one another; None: all
    literal: equation 5 as printed, of rows of any length and as a sum; clusters are then of rows of any length, too
    """

    weight: float = Setting(default=0.1, ge=0)
    width: int = Setting(default=32, ge=1, le=WIDEST)
    clusters: int = Setting(default=5, ge=2, le=LONGEST)
    sample: int = Setting(default=4096, ge=4, le=LONGEST)
    uniformity_rows: int | None = Setting(default=None, ge=2, le=LONGEST)
    terms: tuple[Term, ...] = ("orthogonality", "uniformity", "global", "local")
    literal: bool = False
    text: TextConfig = TextConfig()

    def idle(self) -> Mapping[str, str]:
        here, rows = {*self.terms}, self.uniformity_rows or 0
        return because(
            (not self.weight, "weight = 0", "terms clusters sample uniformity_rows literal"),
            (not here, "terms is empty", "weight clusters sample uniformity_rows literal"),
            ("uniformity" not in here, "terms has no 'uniformity'", "uniformity_rows"),
            ("local" not in here, "terms has no 'local'", "clusters"),
            (not here & {"global", "local"}, "terms has neither 'global' nor 'local'", "literal"),
            (rows >= self.sample, f"a step has sample = {self.sample} rows", "uniformity_rows"),
        )


class DaRec(nn.Module, Enhancer):
    """Once training is over: keys (I, width), shared text parts of items    parts (4, N, width), all four, to be looked at"""

    knows_by_text = True
    stand_in = "as the mean of the items whose shared text part is most like its own"

    keys: Tensor | None
    parts: Tensor | None

    def __init__(self, config: DaRecConfig, parts: Parts, nodes: Widths):
        super().__init__()
        self.config = config
        self.text = NodeText(config.text, parts)
        sides = {"": nodes.outputs, "text_": self.text.width}
        self.maps = nn.ModuleDict(
            {
                f"{side}{part}": projector(width, config.width)
                for side, width in sides.items()
                for part in ("shared", "specific")
            }
        )
        for name in ("keys", "parts"):
            self.register_buffer(name, None)

    @property
    def weights(self) -> Mapping[str, float]:
        return dict.fromkeys(self.config.terms, self.config.weight) if self.config.weight else {}

    def losses(
        self, propagated: Propagated, batch: PairBatch, kept: Tensor | None, rng: torch.Generator
    ) -> Mapping[str, Tensor]:
        if not self.weights:
            return {}
        config, text = self.config, self.text.known
        rows = torch.randperm(len(text), generator=rng)[: config.sample].to(text.device)
        given = {"": propagated.nodes.index_select(0, rows), "text_": text.index_select(0, rows)}

        def made(part: str) -> list[Tensor]:
            return [self.maps[f"{side}{part}"](own) for side, own in given.items()]

        specific = made("specific") if {"orthogonality", "uniformity"} & {*config.terms} else []
        shared = made("shared") if {*config.terms} - {"uniformity"} else []
        found: dict[str, Tensor] = {}
        if "orthogonality" in config.terms:
            own, read = map(orthogonality, specific, shared)
            found["orthogonality"] = own + read
        if "uniformity" in config.terms:
            own, read = (uniformity(part[: config.uniformity_rows]) for part in specific)
            found["uniformity"] = own + read
        if "global" in config.terms:
            found["global"] = global_structure(*shared, normalised=not config.literal, mean=not config.literal)
        if "local" in config.terms:
            found["local"] = self._local(*(side if config.literal else F.normalize(side, eps=1e-8) for side in shared), rng=rng)
        return found

    def _local(self, *shared: Tensor, rng: torch.Generator) -> Tensor:
        """Of the centres of both sides' own clusters; which rows make a cluster has no gradient, their mean has."""
        clusters = min(self.config.clusters, len(shared[0]))
        own = (centres(side, kmeans(side, clusters, rng), clusters) for side in shared)
        return local_structure(*matched(*own))

    # -- once training is over ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def export(self, nodes: Tensor) -> None:
        if self.text.nodes is not None:
            made = {name: one(self.text.known if name.startswith("text_") else nodes) for name, one in self.maps.items()}
            self.keys, self.parts = made["text_shared"][self.text.num_users :].clone(), torch.stack([*made.values()])
            self.text.nodes = None

    def spaces(self) -> Mapping[str, Tensor]:
        return {} if self.parts is None else dict(zip(self.maps, self.parts, strict=True))

    def item_vectors_of(self, text: Tensor, items: Tensor) -> Tensor:
        assert self.keys is not None
        return self.text.near(self.maps["text_shared"](self.text.of_items(text)), self.keys, items)


# `ours`: the uniformity drives the specific parts of neighbours apart, and cost more on validation than the others brought.
OURS = {"weight": 1.0, "sample": 1024, "terms": ["orthogonality", "global", "local"]}
SPEC = Spec("darec", "DaRec", DaRecConfig, DaRec, presets={"ours": OURS, "paper": {}, "authors": {}}, reads_text=True)
