"""RLMRec (Ren et al., WWW 2024): node vectors and text vectors of the same node are brought to agree, in one of two ways.

    Con    L_kd = NCE(u, p(t_u); all users) + NCE(i, p(t_i); the batch), over positives and negatives    p: text -> nodes
    Gen    some nodes enter the backbone as one learned token; g(e_v) is to tell their text among the others': g: nodes -> text

NCE is the mean of -log softmax of cosines over a temperature.  What a batch has twice is a false negative, as in their code.
Departures: text is centred and reduced (`braidrec.collaborative.node_text`); their code reads 1,536 columns as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pydantic import Field as Setting
from torch import Tensor, nn

from braidrec.collaborative.contracts import Enhancer, Parts, Propagated, Widths
from braidrec.collaborative.node_text import NodeText, TextConfig, projector
from braidrec.collaborative.pairs import PairBatch
from braidrec.objectives.info_nce import info_nce
from braidrec.objectives.next_item import full_cross_entropy
from braidrec.registry import Spec
from braidrec.strict import Strict, because


class ConConfig(Strict):
    """weight: of the loss    temperature: what cosines are divided by"""

    weight: float = Setting(default=0.01, ge=0)
    temperature: float = Setting(default=0.2, gt=0)
    text: TextConfig = TextConfig()

    def idle(self) -> Mapping[str, str]:
        return because((not self.weight, "weight = 0", "temperature"))


class GenConfig(Strict):
    """weight, temperature: likewise    masked: share of the nodes that a step hides"""

    weight: float = Setting(default=0.1, ge=0)
    temperature: float = Setting(default=0.5, gt=0)
    masked: float = Setting(default=0.15, gt=0, lt=1)
    text: TextConfig = TextConfig()

    def idle(self) -> Mapping[str, str]:
        return because((not self.weight, "weight = 0", "temperature masked"))


class Contrastive(nn.Module, Enhancer):
    """RLMRec-Con."""

    knows_by_text = True
    reads_negatives = True
    stand_in = "as the mean of the items whose vectors are most like what its text is projected to"

    def __init__(self, config: ConConfig, parts: Parts, nodes: Widths):
        super().__init__()
        self.config = config
        self.text = NodeText(config.text, parts)
        self.project = projector(self.text.width, nodes.outputs)
        self.knows_by_text = config.weight > 0  # else nothing brings text and nodes together

    @property
    def weights(self) -> Mapping[str, float]:
        return {"alignment": self.config.weight} if self.config.weight else {}

    def losses(
        self, propagated: Propagated, batch: PairBatch, kept: Tensor | None, rng: torch.Generator
    ) -> Mapping[str, Tensor]:
        if not self.weights:
            return {}
        text, nodes, heat = self.text.known, propagated.nodes, self.config.temperature
        users = F.normalize(self.project(self.text.users), eps=1e-8)
        own = F.normalize(nodes[batch.user], eps=1e-8) / heat
        loss = full_cross_entropy(own, F.pad(users, (0, 0, 1, 0)), batch.user + 1)
        for items in (batch.item, *batch.negative.T):
            loss = loss + info_nce(nodes[items], self.project(text[items]), temperature=heat)
        return {"alignment": loss}

    def export(self, nodes: Tensor) -> None:
        self.text.nodes = None

    def item_vectors_of(self, text: Tensor, items: Tensor) -> Tensor:
        return self.text.near(self.project(self.text.of_items(text)), items, items)


class Generative(nn.Module, Enhancer):
    """RLMRec-Gen.  keys (I, R): the text that items' vectors are read as, once training is over."""

    knows_by_text = True
    stand_in = "as the mean of the items whose vectors are read as the text most like its own"

    keys: Tensor | None

    def __init__(self, config: GenConfig, parts: Parts, nodes: Widths):
        super().__init__()
        self.config = config
        self.text = NodeText(config.text, parts)
        self.token = nn.Parameter(torch.zeros(nodes.inputs))
        self.read = projector(nodes.outputs, self.text.width)
        self.register_buffer("keys", None)
        self.knows_by_text = config.weight > 0  # likewise

    @property
    def weights(self) -> Mapping[str, float]:
        return {"reconstruction": self.config.weight} if self.config.weight else {}

    def inputs(self, nodes: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        if not self.weights:
            return nodes, None
        count = max(1, int(self.config.masked * len(nodes)))
        hidden = torch.randperm(len(nodes), generator=rng)[:count].to(nodes.device)
        return nodes.index_copy(0, hidden, self.token.expand(count, -1)), hidden

    def losses(
        self, propagated: Propagated, batch: PairBatch, kept: Tensor | None, rng: torch.Generator
    ) -> Mapping[str, Tensor]:
        if not self.weights:
            return {}
        assert kept is not None
        found = self.read(propagated.nodes[kept])
        return {"reconstruction": info_nce(found, self.text.known[kept], temperature=self.config.temperature)}

    @torch.no_grad()
    def export(self, nodes: Tensor) -> None:
        if self.text.nodes is not None:
            self.keys = self.read(nodes[self.text.num_users :])
            self.text.nodes = None

    def item_vectors_of(self, text: Tensor, items: Tensor) -> Tensor:
        assert self.keys is not None
        return self.text.near(self.text.of_items(text), self.keys, items)


# Their values on Amazon-book with LightGCN; those of other backbones there stand in the rows of experiments.
SPEC = Spec("rlmrec-con", "RLMRec-Con", ConConfig, Contrastive, presets={"authors": {}}, reads_text=True)
GEN = Spec("rlmrec-gen", "RLMRec-Gen", GenConfig, Generative, presets={"authors": {}}, reads_text=True)
