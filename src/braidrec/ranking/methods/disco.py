"""DisCo: towards Disentangled and Complementary item patterns for CTR (KDD 2024).

    h^T_j = Phi_T(X_j)                 (8)    tabular space: the item's fields, embedded
    h^S_j = MLP(KB[X_j])               (7)    semantic space: its text, read once by a language model
    h_j = [h_jI, h_jC]                 (9-10) half for patterns inside a space, half for patterns across
    A = softmax(Q W_Q (K W_K)^T / sqrt(d)),  H = A V W_V,  L' = A L     (14-16), L = Phi_Y of the behaviours' labels
    P_TT, P_SS                         (17-20) query and keys of one space, from the intra halves
    P_ST = Attn(h^S_C, h^T_C),  P_TS = Attn(h^T_C, h^S_C)               (21-24) query of one space, keys of the other
    l_Suf = sum over T, S of E[-log D(h_i, H_i+) - log(1 - D(h_i, H_i-))]   (25)
    l_Dis = I_vCLUB(H_TT; H_SS) + I_vCLUB(H_TS; H_ST)                       (27)
    L = l_pred + alpha l_Suf + beta l_Dis                                   (30)

The eight vectors (H, L') x (TT, SS, TS, ST) stand beside the fields of any backbone.

How it is computed.  Each distinct item of a batch is embedded once, in both spaces, as one row [T_I, T_C, S_I, S_C].
Scores are re-associated, (q W_Q)(k W_K)^T = (q W_Q W_K^T) k^T, and values likewise, A (V W_V) = (A V) W_V, so the
history is gathered once, read twice, and never projected; the four blocks are four heads over the same rows, each
reading its own quarter.  Where no term reads the patterns and a backbone reads extras by its first layer alone
(`Needs.mixed`), they are not made: the layer W meets what was pooled, (A V W_V) W = (A V) (W_V W), in training as in
answers.  Where rows of one user stand together, both terms take an anchor's partners from other users.

Departures
- (25) is printed with ``1 - log D(negative)``, which has no lower end; this is ``log(1 - D(negative))``.  Mean, not sum.
- (27) as printed has no lower end either: the model lowers the estimate faster than the estimator learns, the pattern
  norms run away, and ranking is lost.  The stable form divides the estimate by the width and gives no reward below zero
  (`objectives.club`); an estimate that sits at zero constrains nothing.  ``paper`` keeps the literal form.
- ``ours`` is the attention patterns alone, alpha = beta = 0.  On ML-1M, in runs and at the rate that validation prefers, the
  second term, at its floor, changes validation AUC by -.0006 (DCN) to +.0002 (DIN with rates) over three seeds, the first by
  less on DIN, in one; in single samples, at a lower rate, the first cost .002 (tables disco/tuned, disco/ablations).
- ``replaces``: the papers' harness lets the patterns take the place of the mean history that plain backbones get ("mean"), the
  released code also of DIN's own attention ("history").  ``ours`` keeps what the backbone has beside the patterns ("nothing").
- The authors' released code crosses the blocks' inputs, lets the main optimiser train the estimators and selects on test
  results; none of that is followed, in any preset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field as Setting
from torch import Tensor, nn

from braidrec.data.batches import RankingBatch
from braidrec.errors import ConfigError
from braidrec.layers.attention import Attended, Behaviours, gather
from braidrec.layers.embedding import FieldEmbedding, ItemTable
from braidrec.layers.mlp import Mixed, initialise
from braidrec.layers.text import TextReader, TextTable
from braidrec.objectives.club import Estimator, Groups, VClub
from braidrec.objectives.sufficiency import BilinearDiscriminator, sufficiency
from braidrec.ranking.contracts import Patterns, PatternSource, SourceContext
from braidrec.ranking.parts import Beside, Idle, Replaced, SourceConfig
from braidrec.registry import Spec
from braidrec.strict import DEEPEST, WIDEST
from braidrec.training.seeding import spawn
from braidrec.training.stages import Group

if TYPE_CHECKING:
    from braidrec.task import Added

Block = Literal["TT", "SS", "TS", "ST"]
GROUP = "estimators"  # their optimiser, under the name that checkpoints of earlier versions have
# Quarter of an item row that a block reads its keys from, and the quarter its query comes from.
_QUARTERS = {"TI": 0, "TC": 1, "SI": 2, "SC": 3}
_KEYS: dict[str, str] = {"TT": "TI", "ST": "TC", "SS": "SI", "TS": "SC"}
_QUERIES: dict[str, str] = {"TT": "TI", "ST": "SC", "SS": "SI", "TS": "TC"}


class DisCoConfig(SourceConfig):
    """Hyper-parameters (spec section 4-5); widths of the data come from the data set."""

    inter: bool = True  # False: intra patterns only (Table 4's two-tower)
    sufficiency_weight: float = Setting(default=0.02, ge=0)  # alpha
    disentangle_weight: float = Setting(default=0.01, ge=0)  # beta
    item_fusion: Literal["concat_linear", "id_only"] = "concat_linear"  # Phi_T
    semantic_hidden: int = Setting(default=128, ge=0, le=WIDEST)  # 0: one linear layer
    semantic_norm: bool = True  # LayerNorm of the raw text vectors, whose scales differ by orders of magnitude
    attention_bias: bool = False
    attention_scale: bool = True
    sufficiency_scope: Literal["intra", "all"] = "intra"
    sufficiency_anchor: Literal["candidate", "history"] = "candidate"
    disentangle_scope: Literal["H", "H+L"] = "H"
    estimator: Estimator = "gaussian"
    estimator_lr: float = Setting(default=1e-3, gt=0)
    estimator_steps: int = Setting(default=1, ge=1, le=DEEPEST)
    club_normalise: bool = False
    club_per_dimension: bool = True
    club_floor: bool = True
    replaces: Replaced = "nothing"  # what else of the history the patterns make superfluous

    @property
    def takes_place_of(self) -> Replaced:
        return self.replaces

    def idle_beside(self, beside: Beside) -> Idle:
        found: dict[str, str] = {}
        if not self.sufficiency_weight:
            why = "sufficiency_weight = 0 leaves that term out"
            found |= dict.fromkeys(("sufficiency_scope", "sufficiency_anchor"), why)
        elif not self.inter:
            found["sufficiency_scope"] = "inter = False leaves intra patterns alone"
        if not self.disentangle_weight:
            own = ("disentangle_scope", *(key for key in type(self).model_fields if key.startswith(("estimator", "club_"))))
            found |= dict.fromkeys(own, "disentangle_weight = 0 leaves that term out")
        if not (beside.mean or (beside.pooled and self.replaces == "history")):
            found["replaces"] = f"this backbone has nothing of the history for which {self.replaces!r} could stand"
        return found


class SemanticItems(TextReader):
    """h^S: the frozen knowledge base through a small trained MLP; after `export` a table of width D and the MLP alone.

    knowledge: (I + 1, S) float, row 0 zero, or the table of them that others read, too.
    """

    def __init__(self, knowledge: TextTable | Tensor | None, semantic_width: int, dim: int, *, hidden: int, norm: bool):
        layers = (
            [nn.Linear(semantic_width, hidden), nn.ReLU(), nn.Linear(hidden, dim)]
            if hidden
            else [nn.Linear(semantic_width, dim)]
        )
        super().__init__(TextTable.of(knowledge), initialise(nn.Sequential(*layers)), "normed" if norm else "plain")
        self.semantic_width = semantic_width

    def read(self, rows: Tensor) -> Tensor:
        whole = len(rows) == self.num_rows  # then rows count up from 0
        vectors: Tensor = self.mlp(self.text(None if whole else rows))
        return vectors


class PatternAttention(nn.Module):
    """The four (or two) attention blocks, (12)-(24), as heads over one history.

    items (n, 2D) rows [T_I, T_C, S_I, S_C]; candidate (B,) int64 into them; past: the behaviours among them
    -> H (B, blocks, D) and what was attended to, heads in the order of ``blocks``
    """

    def __init__(self, dim: int, blocks: tuple[Block, ...], *, bias: bool, scale: bool):
        super().__init__()
        half, count = dim // 2, len(blocks)
        self.blocks, self._half = blocks, half
        self.scale = dim**-0.5 if scale else 1.0
        self.query = nn.Parameter(torch.empty(count, half, dim))
        self.key = nn.Parameter(torch.empty(count, half, dim))
        self.value = nn.Parameter(torch.empty(count, half, dim))
        for stack in (self.query, self.key, self.value):
            for matrix in stack:
                nn.init.xavier_normal_(matrix)
        # A key bias shifts all scores of a row alike, so softmax does not see it: only the others exist.
        self.query_bias = nn.Parameter(torch.zeros(count, dim)) if bias else None
        self.value_bias = nn.Parameter(torch.zeros(count, dim)) if bias else None
        self._from = [_QUARTERS[_QUERIES[block]] for block in blocks]
        self.over = [_QUARTERS[_KEYS[block]] for block in blocks]

    def forward(self, items: Tensor, candidate: Tensor, past: Behaviours) -> tuple[Tensor, Attended]:
        found = past.attend(items, self.asked(items.index_select(0, candidate)), self.over)
        return self.values(found.pooled, past.some), found

    def asked(self, rows: Tensor) -> Tensor:
        """Queries (n, blocks, D/2) of rows (n, 2D), in the keys' own space."""
        quarters = rows.unflatten(1, (4, self._half)).unbind(1)
        own = torch.stack([quarters[at] for at in self._from])  # (blocks, n, D/2)
        queries = own @ self.query
        if self.query_bias is not None:
            queries = queries + self.query_bias[:, None]
        return ((queries @ self.key.transpose(1, 2)) * self.scale).transpose(0, 1)

    def values(self, pooled: Tensor, some: Tensor) -> Tensor:
        """(B, blocks, D) of what was pooled (B, blocks, D/2), where there is any behaviour (B,)."""
        found = pooled.transpose(0, 1).contiguous() @ self.value
        if self.value_bias is not None:
            found = found + self.value_bias[:, None] * some[None, :, None]
        return found.transpose(0, 1)


class DisCo(nn.Module, PatternSource):
    """A pattern source: E = 8 extra fields (4 without ``inter``) and the two constraints.

    knowledge: (I + 1, S) text vectors by catalogue row, row 0 zero; None to load an exported model.
    seed: of the private generator that draws the sufficiency pairs, so switching the term off moves no other random number.
    """

    name = "disco"

    def __init__(
        self,
        config: DisCoConfig,
        *,
        dim: int,
        num_item_fields: int,
        semantic_width: int,
        knowledge: TextTable | Tensor | None,
        seed: int = 0,
    ):
        super().__init__()
        if dim % 2:
            raise ConfigError(f"model.dim = {dim}: DisCo halves its item vectors, so dim must be even")
        self.config, half = config, dim // 2
        self.blocks: tuple[Block, ...] = ("TT", "SS", "TS", "ST") if config.inter else ("TT", "SS")
        self.num_extras = 2 * len(self.blocks)
        self.fuse = initialise(nn.Linear(num_item_fields * dim, dim)) if config.item_fusion == "concat_linear" else None
        self.semantic = SemanticItems(knowledge, semantic_width, dim, hidden=config.semantic_hidden, norm=config.semantic_norm)
        self.attention = PatternAttention(dim, self.blocks, bias=config.attention_bias, scale=config.attention_scale)
        self.discriminators = nn.ModuleDict()
        self.estimators = nn.ModuleDict()
        with torch.random.fork_rng(devices=[]):  # the terms' own weights shift no other initialisation
            torch.manual_seed(seed)
            if config.sufficiency_weight:
                scope = self.blocks if config.sufficiency_scope == "all" else ("TT", "SS")
                self.discriminators.update({block: BilinearDiscriminator(half, dim) for block in scope})
            if config.disentangle_weight:
                self.estimators.update({name: self._estimator(dim) for name in self._pairs()})
        self._pairs_generator = torch.Generator().manual_seed(seed)

    @property
    def weights(self) -> Mapping[str, float]:
        """alpha and beta by the losses' names."""
        found = {"sufficiency": self.config.sufficiency_weight, "disentanglement": self.config.disentangle_weight}
        return {name: weight for name, weight in found.items() if weight}

    @property
    def replaces(self) -> Replaced:
        return self.config.replaces

    @property
    def semantic_width(self) -> int:
        return self.semantic.semantic_width

    def groups(self) -> Sequence[Group]:
        weights = list(self.estimators.parameters())
        config = self.config
        return [Group(GROUP, weights, config.estimator_lr, 0.0, config.estimator_steps)] if weights else []

    def generators(self) -> Mapping[str, torch.Generator]:
        return {"pairs": self._pairs_generator}

    def forward(self, batch: RankingBatch, items: ItemTable, embed: FieldEmbedding) -> Patterns:
        attention, past = self.attention, items.past
        # (n, 2D): [T_I, T_C, S_I, S_C]
        rows = items.kept.of(self, "rows", lambda: torch.cat([self._tabular(items), self.semantic(items.rows)], dim=1))
        if items.kept.still or not self.weights:  # no loss reads the patterns
            found = self._attended(rows, items)
            return Patterns(self._mixed(found, items, embed), monitors=self._norms(found.pooled, past.some))
        patterns, attended = attention(rows, items.candidate, past)
        labels = embed.labels(attended.by_signal)
        extras = torch.stack([patterns, labels], dim=2).flatten(1, 2)  # H_TT, L_TT, H_SS, L_SS, ...
        by_block: dict[str, Tensor] = dict(zip(self.blocks, patterns.unbind(1), strict=True))
        by_label: dict[str, Tensor] = dict(zip(self.blocks, labels.unbind(1), strict=True))

        def losses() -> Mapping[str, Tensor]:
            terms: dict[str, Tensor] = {}
            if len(self.discriminators):
                terms["sufficiency"] = self._sufficiency(rows, items, by_block, batch)
            if len(self.estimators):
                groups = None if past.user is None else Groups.of(past.user)
                terms["disentanglement"] = torch.stack(
                    [
                        self._club(name).value(x, y, self._pairs_generator, groups)
                        for name, (x, y) in self._joined(by_block, by_label).items()
                    ]
                ).sum()
            return terms

        def learn() -> Tensor:
            sides = self._joined(by_block, by_label).items()
            return torch.stack([self._club(name).learning_loss(x.detach(), y.detach()) for name, (x, y) in sides]).sum()

        monitors = self._lengths(patterns.detach()) if self.training else {}
        return Patterns(extras, losses, {GROUP: learn} if len(self.estimators) else {}, monitors)

    @torch.no_grad()
    def _norms(self, pooled: Tensor, some: Tensor) -> Mapping[str, Tensor]:
        return self._lengths(self.attention.values(pooled, some)) if self.training else {}

    def _lengths(self, patterns: Tensor) -> Mapping[str, Tensor]:
        """What tells a run whose patterns run away, or die."""
        return {f"norm {block}": value.norm(dim=1).mean() for block, value in zip(self.blocks, patterns.unbind(1), strict=True)}

    def _attended(self, rows: Tensor, items: ItemTable) -> Attended:
        attention = self.attention
        if not items.kept.still:
            queries = attention.asked(rows.index_select(0, items.candidate))
        else:
            asked = items.kept.of(attention, "asked", lambda: attention.asked(rows).contiguous())
            queries = asked.index_select(0, items.candidate)
        return items.past.attend(rows, queries, attention.over)

    def _mixed(self, attended: Attended, items: ItemTable, embed: FieldEmbedding) -> Mixed:
        """The extras side by side, as what was pooled and how much weight each signal got, of each block."""
        attention, some = self.attention, items.past.some

        def basis() -> Tensor:
            """(blocks * (D/2 + R + 1), blocks * 2D), and one row more where values have a bias."""
            own = [torch.block_diag(value, embed.label_vectors) for value in attention.value]
            if attention.value_bias is None:
                return torch.block_diag(*own)
            bias = torch.cat([attention.value_bias, torch.zeros_like(attention.value_bias)], dim=1)
            return torch.cat([torch.block_diag(*own), bias.flatten()[None]])

        def dense() -> Tensor:
            values = attention.values(attended.pooled, some)
            return torch.stack([values, embed.labels(attended.by_signal)], dim=2).flatten(1)

        rows = attended.both.flatten(1)
        if attention.value_bias is not None:
            rows = torch.cat([rows, some[:, None]], dim=1)
        return Mixed(rows, items.kept.of(attention, "basis", basis), dense)

    def export(self) -> None:
        """Drop what inference does not need: the knowledge base (for its reduced table), discriminators, estimators."""
        self.semantic.export()
        self.discriminators, self.estimators = nn.ModuleDict(), nn.ModuleDict()

    def add(self, added: Added) -> None:
        self.semantic.add(added.vectors)

    def spaces(self, items: ItemTable) -> Mapping[str, Tensor]:
        """h^T and h^S."""
        return {"tabular": self._tabular(items), "text": self.semantic(items.rows)}

    def _tabular(self, items: ItemTable) -> Tensor:
        vectors: Tensor = items.fields[:, 0] if self.fuse is None else self.fuse(items.fields.flatten(1))
        return vectors

    def _sufficiency(self, rows: Tensor, items: ItemTable, patterns: Mapping[str, Tensor], batch: RankingBatch) -> Tensor:
        quarters = rows.unflatten(1, (4, -1))
        terms = []
        for block, discriminator in self.discriminators.items():
            anchors = quarters[:, _QUARTERS[_QUERIES[block]]]
            if self.config.sufficiency_anchor == "candidate":
                chosen, mask = anchors.index_select(0, items.candidate), None
            else:
                chosen, mask = gather(anchors, items.past.index), items.past.mask
            terms.append(
                sufficiency(chosen, patterns[block], batch.label, discriminator, self._pairs_generator, mask, items.past.user)
            )
        return torch.stack(terms).sum()

    def _pairs(self) -> tuple[str, ...]:
        intra_inter = ("TT|SS", "TS|ST") if self.config.inter else ("TT|SS",)
        labels = tuple(f"L {pair}" for pair in intra_inter) if self.config.disentangle_scope == "H+L" else ()
        return intra_inter + labels

    def _joined(self, patterns: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """The two sides of each pair that should share little."""
        joined = {}
        for name in self.estimators:
            first, second = name.removeprefix("L ").split("|")
            side = labels if name.startswith("L ") else patterns
            joined[name] = (side[first], side[second])
        return joined

    def _club(self, name: str) -> VClub:
        estimator = self.estimators[name]
        assert isinstance(estimator, VClub)
        return estimator

    def _estimator(self, dim: int) -> VClub:
        config = self.config
        return VClub(
            dim,
            estimator=config.estimator,
            normalise=config.club_normalise,
            per_dimension=config.club_per_dimension,
            floor=config.club_floor,
        )


def _build(config: DisCoConfig, context: SourceContext) -> DisCo:
    material = context.material
    return DisCo(
        config,
        dim=context.settings.dim,
        num_item_fields=material.layout.num_item_fields,
        semantic_width=material.semantic_width,
        knowledge=material.text,
        seed=spawn(material.seed, "pairs"),
    )


SPEC = Spec(
    "disco",
    "DisCo",
    DisCoConfig,
    _build,
    presets={
        "ours": {"sufficiency_weight": 0.0, "disentangle_weight": 0.0},
        "paper": {"club_per_dimension": False, "club_floor": False, "replaces": "mean"},
        # What the released code sets out to do, without its bugs (listed above).
        "authors": {
            "club_per_dimension": False,
            "club_floor": False,
            "semantic_hidden": 0,
            "attention_bias": True,
            "attention_scale": False,
            "sufficiency_scope": "all",
            "sufficiency_anchor": "history",
            "disentangle_scope": "H+L",
            "sufficiency_weight": 0.2,
            "disentangle_weight": 0.2,
            "replaces": "history",
        },
    },
    reads_text=True,
)
