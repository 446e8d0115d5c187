"""EDK: essential and disentangled knowledge, compressed out of old logs into a network that any backbone reads.

    x_f -> id fields of a sample (bags pooled, numbers by a linear layer)    d -> width of knowledge    K -> patterns
    H = H0 + Attention(H0), H0 = Phi_1(x)    m = gates(H P) (B, F, K)                                     (18)-(24)
    H' = Phi_2(x)    s~_j = H' * m_j    s_j = MLP(pool(psi(s~_j)))    c = MLP(mean_j s_j)                 (25)-(31)

1. knowledge   on the old events:  l = CE(c, y) + lambda_1 (alpha l_essential + vCLUB(X; c) + beta l_dis) + lambda_2 l_0   (32)
               l_essential: a summary of the sample's class should be told from one of the other by s_j, (14)
               l_dis: the K patterns of a sample should differ, (16)    l_0: gates that are expected to be open
2. rank        that network stands still, its gates without noise; MLP(s_j) are K more fields of the backbone           (33)

Departures: gates are hard concrete, clamped to [0, 1], with the network's output as logits (printed: a tanh, and a logarithm
of what may be negative).  H keeps H0, heads of psi have a width of their own, closed gates get no attention and no share of the
pool (``gate_attn``).  (14) as in `objectives.sufficiency`, (16) as in `objectives.patterns`; (15) calls vCLUB a lower bound, it
is an upper one, and its X side is detached, so that it presses c and not the table (``detach_x``).  Sums over patterns are
means.  Values that the old events lack share a row of their field, trained by replacing ids with it (``kb_oov``).  A backbone
keeps the mean history that it has without EDK, in every preset, where the paper's have none (``history.mean = false``).
``inject``: K fields, or one, or K vectors that the backbone's MLP alone reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field as Setting
from torch import Tensor, nn

from braidrec.data.batches import RankingBatch, RankingView
from braidrec.data.history import RecentHistory, SharedHistory
from braidrec.errors import ConfigError, RunError, suggest
from braidrec.layers.embedding import FieldEmbedding, ItemTable, TableLayout
from braidrec.layers.gated import LIMIT, GatedEncoder, SetAttention, chance_of_open, drawn_gates, settled_gates
from braidrec.layers.mlp import initialise
from braidrec.objectives.club import VClub
from braidrec.objectives.patterns import pattern_contrast, pattern_infomin
from braidrec.objectives.sufficiency import BilinearDiscriminator, sufficiency
from braidrec.ranking.contracts import Earlier, Patterns, PatternSource, RankingModel, SourceContext
from braidrec.ranking.parts import Beside, Idle, SourceConfig
from braidrec.registry import Spec
from braidrec.strict import DEEPEST, LONGEST, MOST, WIDEST
from braidrec.training.devices import place_of
from braidrec.training.seeding import spawn
from braidrec.training.stages import Group, Stage, main_group
from braidrec.training.step import Step

if TYPE_CHECKING:
    from braidrec.data.dataset import Dataset
    from braidrec.data.splits import Positions

STAGE = "knowledge"
GROUP = "estimators.edk"
_INITIAL = 1e-4  # s.d. of the tables: gates start near one half
_LATER = {"compress", "inject", "with_summary", "cache_mib"}  # settings of the second stage, or of whether there is a first
_OF_INPUT = ("input_weight", "detach_x", "estimator_lr", "estimator_steps", "club_per_dimension", "club_floor")
_OF_DISENTANGLING = ("disentangle_weight", "disentangle", "temperature", "include_positive", "view_dropout")
_LEARNING = ("kb_oov", "oov_rate", "reg_weight", "label_weight", "l0_weight", *_OF_INPUT, *_OF_DISENTANGLING)
_BLOCK = 2048  # rows of which knowledge is read at a time


class EDKConfig(SourceConfig):
    """width: d    patterns: K    head_width: of each head of psi, None for d    leave_out: fields the network does not read, by
    name, or "user" and "item" for their ids
    kb_oov: "row" has values that the old events lack share a row of their field, which is trained; with "untrained" each
    keeps its own, as it was drawn

    label_weight, input_weight, disentangle_weight: of the two parts of the essential principle and of the other one, all times
    reg_weight    mask: "ones" leaves every gate open
    compress: False keeps the network as it was drawn, without the first stage: the control
    cache_mib: up to which the knowledge of all training and validation rows is held (rows x patterns x width float32), so that
    it is read once for all epochs; beyond, and with 0, it is read batch by batch
    """

    width: int = Setting(default=16, ge=1, le=WIDEST)
    patterns: int = Setting(default=20, ge=1, le=LONGEST)
    layers: int = Setting(default=3, ge=1, le=DEEPEST)
    heads: int = Setting(default=3, ge=1, le=DEEPEST)
    head_width: int | None = Setting(default=None, ge=1, le=WIDEST)
    gate_attn: bool = True
    mask: Literal["learned", "ones"] = "learned"
    leave_out: tuple[str, ...] = ()
    kb_oov: Literal["row", "untrained"] = "row"
    oov_rate: float = Setting(default=0.01, ge=0.0, lt=1.0)
    compress: bool = True
    reg_weight: float = Setting(default=0.02, ge=0)  # lambda 1
    label_weight: float = Setting(default=5.0, ge=0)  # alpha
    input_weight: float = Setting(default=1.0, ge=0)
    disentangle_weight: float = Setting(default=1.0, ge=0)  # beta
    l0_weight: float = Setting(default=0.01, ge=0)  # lambda 2
    disentangle: Literal["contrast", "infomin"] = "contrast"
    temperature: float = Setting(default=0.2, gt=0)
    include_positive: bool = False
    view_dropout: float = Setting(default=0.1, ge=0, lt=1)
    detach_x: bool = True
    estimator_lr: float = Setting(default=1e-3, gt=0)
    estimator_steps: int = Setting(default=1, ge=1, le=DEEPEST)
    club_per_dimension: bool = False
    club_floor: bool = False
    inject: Literal["fields", "concat", "mlp"] = "fields"
    with_summary: bool = False
    cache_mib: int = Setting(default=1024, ge=0, le=MOST)

    @property
    def reads_history(self) -> bool:
        return False

    @property
    def deep(self) -> bool:
        return self.inject == "mlp"

    def idle_beside(self, beside: Beside) -> Idle:
        found: dict[str, str] = {}
        if self.inject == "mlp" and not beside.mixed:
            found["inject"] = "fields that stand beside this backbone's own reach its MLP alone as it is"
        if self.inject == "concat" and self.patterns == 1 and not self.with_summary:
            found["inject"] = "patterns = 1 is one vector, and one field, either way"
        if self.mask == "ones":
            found |= dict.fromkeys(("gate_attn", "l0_weight"), "mask = 'ones' leaves every gate open")
        for keys, why in self._left_out():
            found |= {key: why for key in keys if key not in found}
        return found

    def _left_out(self) -> Iterator[tuple[Sequence[str], str]]:
        """Settings of what is not there, the widest reason first."""
        if not self.compress:
            yield _LEARNING, "compress = False leaves the network as it was drawn, without the stage that this is of"
        if self.kb_oov == "untrained":
            yield ("oov_rate",), "kb_oov = 'untrained' replaces no ids"
        elif not self.oov_rate:
            yield ("kb_oov",), "oov_rate = 0 replaces no ids"
        if not self.reg_weight:
            yield ("label_weight", *_OF_INPUT, *_OF_DISENTANGLING), "reg_weight = 0 leaves both principles out"
        if not self.input_weight:
            yield _OF_INPUT[1:], "input_weight = 0 leaves that part out"
        if self.patterns == 1:
            yield _OF_DISENTANGLING, "patterns = 1 has nothing to differ from"
        if not self.disentangle_weight:
            yield _OF_DISENTANGLING[1:], "disentangle_weight = 0 leaves that part out"
        if self.disentangle == "infomin":
            yield ("temperature", "include_positive"), "disentangle = 'infomin' tells views apart by a classifier"


# -- what is read ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """Which fields of a batch are read: places of id fields, of bags, and (first, last) columns of numbers.

    rows: of the ids in the data's own table, padding included    unknown: of each id field and bag the row, behind these, of
    values that the old events lack
    """

    rows: int
    ids: tuple[int, ...]
    bags: tuple[int, ...]
    numbers: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, layout: TableLayout, leave_out: Sequence[str]) -> Reading:
        """Raises ConfigError for a name that no field has, and where nothing would be left."""
        names = [*layout.names, *(name for name, _ in layout.bags), *(name for name, _ in layout.numbers)]
        roles = {"user": layout.names[0], "item": layout.names[layout.item_slice[0]]}
        left = {name if name in names else roles.get(name, name) for name in leave_out}
        for name in left:
            if name not in names:
                raise ConfigError(f"model.edk.leave_out: the data have no field '{name}'{suggest(name, [*names, *roles])}")
        ends = list(accumulate(width for _, width in layout.numbers))
        numbers = [(end - width, end) for end, (_, width) in zip(ends, layout.numbers, strict=True)]
        found = cls(
            layout.rows,
            tuple(at for at, name in enumerate(layout.names) if name not in left),
            tuple(at for at, (name, _) in enumerate(layout.bags) if name not in left),
            tuple(where for where, (name, _) in zip(numbers, layout.numbers, strict=True) if name not in left),
        )
        if not found.num_fields:
            raise ConfigError(f"model.edk.leave_out names every field there is ({', '.join(names)}); keep one at the least")
        return found

    @property
    def num_fields(self) -> int:
        return len(self.ids) + len(self.bags) + len(self.numbers)


@dataclass(frozen=True)
class Read:
    """Rows of the knowledge network's tables: ids (B, F_i), bags (B, M) each; numbers (B, w) each."""

    ids: Tensor
    bags: tuple[Tensor, ...]
    numbers: tuple[Tensor, ...]


class FieldVectors(nn.Module):
    """Phi: a vector (B, F, d) of each field, from a table of its own that starts near zero."""

    def __init__(self, rows: int, numbers: Sequence[int], dim: int, *, sparse: bool):
        super().__init__()
        self.table = nn.Embedding(rows, dim, padding_idx=0, sparse=sparse)
        self.numbers = nn.ModuleList(nn.Linear(width, dim) for width in numbers)
        for weight in self.parameters():
            nn.init.normal_(weight, std=_INITIAL)
        with torch.no_grad():
            self.table.weight[0] = 0.0

    def forward(self, read: Read) -> Tensor:
        parts = [self.table(read.ids)]
        parts += [FieldEmbedding._pool(self.table, bag)[:, None] for bag in read.bags]
        parts += [layer(values)[:, None] for layer, values in zip(self.numbers, read.numbers, strict=True)]
        return torch.cat(parts, dim=1)


# -- the network ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Knowledge:
    """What the network makes of B samples.

    memory (B, F, d)    logits, gates (B, F, K), logits None without learned gates    patterns (B, K, d)    summary (B, d)
    """

    memory: Tensor
    logits: Tensor | None
    gates: Tensor
    patterns: Tensor
    summary: Tensor


class KnowledgeNetwork(nn.Module):
    """The knowledge base itself: extractor and encoder.

    rows (V,) int32: of each row of the data's table its row here, an own unknown one behind V where the old events lack it
    """

    rows: Tensor
    unknown: Tensor

    def __init__(self, config: EDKConfig, layout: TableLayout, *, sparse: bool = False, known: Tensor | None = None):
        """known: (V,) row of each value here; None where each keeps its own, and for a saved model, whose tensors hold it"""
        super().__init__()
        self.config, dim = config, config.width
        self.reading = Reading.of(layout, config.leave_out)
        fields, bags = len(layout.names), len(layout.bags)
        first = layout.rows  # the unknown rows of all id fields, read or not, so that sizes follow from the layout alone
        self.register_buffer("rows", torch.arange(first, dtype=torch.int32) if known is None else known)
        own = [*self.reading.ids, *(fields + at for at in self.reading.bags)]
        self.register_buffer("unknown", first + torch.tensor(own, dtype=torch.int32))
        widths = [last - begin for begin, last in self.reading.numbers]
        size = first + fields + bags
        self.memory = FieldVectors(size, widths, dim, sparse=sparse)
        self.extractor = None
        if config.mask == "learned":
            self.extractor = Extractor(FieldVectors(size, widths, dim, sparse=sparse), dim, config.patterns)
        head_width = config.head_width or dim
        self.encoder = GatedEncoder(
            dim, layers=config.layers, heads=config.heads, head_width=head_width, gated=config.gate_attn
        )
        self.pattern, self.summary = _two_layers(dim, 2 * dim, dim), _two_layers(dim, 2 * dim, dim)

    def forward(self, batch: RankingBatch, noise: torch.Generator | None = None) -> Knowledge:
        """noise: draws the gates, in training, which swaps ids for unknown rows, too; without it nothing is left to chance"""
        read = self.read(batch, swap=noise is not None)
        memory = self.memory(read)
        if self.extractor is None:
            logits, gates = None, memory.new_ones(*memory.shape[:2], self.config.patterns)
        else:
            logits = self.extractor(read)
            gates = settled_gates(logits) if noise is None else drawn_gates(logits, _uniform(logits, noise))
        patterns, summary = self.encode(memory, gates)
        return Knowledge(memory, logits, gates, patterns, summary)

    def encode(self, memory: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
        """memory (B, F, d), gates (B, F, K) -> patterns (B, K, d), summary (B, d)."""
        own = gates.transpose(1, 2)  # (B, K, F)
        members = (memory[:, None] * own[..., None]).flatten(0, 1)
        pooled = self.encoder(members, own.flatten(0, 1))
        patterns: Tensor = self.pattern(pooled).unflatten(0, own.shape[:2])
        return patterns, self.summary(patterns.mean(dim=1))

    def read(self, batch: RankingBatch, *, swap: bool = False) -> Read:
        """The fields that are read, by rows here.  swap: a seeded share of the ids for the unknown row of their field"""
        reading, places = self.reading, self.unknown.unbind()
        ids = self._placed(batch.fields[:, reading.ids], self.unknown[: len(reading.ids)], swap)
        bags = [
            self._placed(batch.bags[at], row, swap) for at, row in zip(reading.bags, places[len(reading.ids) :], strict=True)
        ]
        return Read(ids, tuple(bags), tuple(batch.numbers[:, begin:last] for begin, last in reading.numbers))

    def _placed(self, ids: Tensor, unknown: Tensor, swap: bool) -> Tensor:
        rows = self.rows.index_select(0, ids.reshape(-1)).view(ids.shape)
        if not swap or self.config.kb_oov == "untrained":
            return rows
        drawn = torch.rand(rows.shape, device=rows.device) < self.config.oov_rate
        return torch.where(drawn & (rows > 0), unknown, rows)

    def lazy_rows(self, batch: RankingBatch, prefix: str) -> Mapping[str, Tensor]:
        """Rows of its tables that a pass over ``batch`` may read, by parameter name."""
        read = self.read(batch)
        rows = torch.cat([part.reshape(-1).long() for part in (read.ids, *read.bags, self.unknown)]).unique()
        return {
            f"{prefix}{name}.weight": rows
            for name, part in self.named_modules()
            if isinstance(part, nn.Embedding) and part.sparse
        }


class Extractor(nn.Module):
    """Logits (B, F, K) of the gates, within +-ln 100, from a table of their own."""

    def __init__(self, fields: FieldVectors, dim: int, patterns: int):
        super().__init__()
        self.fields, self.attention = fields, SetAttention(dim)
        self.out = nn.Linear(dim, patterns, bias=False)
        nn.init.xavier_uniform_(self.out.weight)

    def forward(self, read: Read) -> Tensor:
        logits: Tensor = self.out(self.attention(self.fields(read)))
        return logits.clamp(-LIMIT, LIMIT)


def known_rows(data: Dataset, layout: TableLayout) -> Tensor:
    """(V,) int32: each row of the data's table that an event of the part ``knowledge`` has, and padding, is itself; any other
    is the unknown row of its field, behind V in the order of the fields.
    """
    features, log, old = data.features, data.log, data.split["knowledge"]
    met = np.zeros(layout.rows, np.bool_)
    at: dict[str, NDArray[np.integer[Any]]] = {
        "user": np.unique(log.user[old]),
        "item": np.unique(log.item[old]),
        "context": old,
    }
    singles = {"user": features.user_fields, "item": features.item_fields, "context": features.context_fields}
    for owner, rows in (*singles.items(), *((bag.owner, bag.rows) for bag in features.bags)):
        met[rows[at[owner]]] = True
    met[0] = True
    found = np.arange(layout.rows, dtype=np.int32)
    for place, entry in enumerate(features.vocabularies):
        own = slice(entry.offset + 1, entry.last_row + 1)
        found[own] = np.where(met[own], found[own], layout.rows + place)
    return torch.from_numpy(found)


# -- the first stage ------------------------------------------------------------------------------------------------------


class Compression(nn.Module, RankingModel):
    """Learns the network from old events; its own logits are those of the summary."""

    def __init__(self, config: EDKConfig, knowledge: KnowledgeNetwork, seed: int):
        super().__init__()
        self.config, self.knowledge, dim = config, knowledge, config.width
        self.head = initialise(nn.Linear(dim, 1))
        self.discriminator = BilinearDiscriminator(dim, dim) if config.label_weight and config.reg_weight else None
        self.estimator = None
        if config.input_weight and config.reg_weight:
            self.estimator = VClub(
                knowledge.reading.num_fields * dim,
                dim,
                hidden=2 * dim,
                per_dimension=config.club_per_dimension,
                floor=config.club_floor,
            )
        self.view: nn.Module | None = None
        self.classifier = None
        if config.disentangle_weight and config.reg_weight and config.patterns > 1:
            self.view = nn.Sequential(nn.Dropout(config.view_dropout), nn.LayerNorm(dim), _two_layers(dim, dim, dim))
            self.classifier = BilinearDiscriminator(dim, dim) if config.disentangle == "infomin" else None
        self._gates = torch.Generator().manual_seed(spawn(seed, "gates"))
        self._pairs = torch.Generator().manual_seed(spawn(seed, "pairs"))

    def generators(self) -> Mapping[str, torch.Generator]:
        return {"gates": self._gates, "pairs": self._pairs}

    @property
    def weights(self) -> Mapping[str, float]:
        config = self.config
        found = {"prediction": 1.0}
        found |= {} if self.discriminator is None else {"essential": config.reg_weight * config.label_weight}
        found |= {} if self.estimator is None else {"input": config.reg_weight * config.input_weight}
        found |= {} if self.view is None else {"disentangled": config.reg_weight * config.disentangle_weight}
        return found | ({"l0": config.l0_weight} if self._learns_gates and config.l0_weight else {})

    @property
    def _learns_gates(self) -> bool:
        return self.knowledge.extractor is not None

    def groups(self) -> Sequence[Group]:
        own = [] if self.estimator is None else list(self.estimator.parameters())
        main, config = main_group(self, own), self.config
        return (main, Group(GROUP, own, config.estimator_lr, 0.0, config.estimator_steps)) if own else (main,)

    def lazy_rows(self, batch: RankingBatch) -> Mapping[str, Tensor]:
        return self.knowledge.lazy_rows(batch, "knowledge.")

    def forward(self, batch: RankingBatch) -> Tensor:
        logits: Tensor = self.head(self.knowledge(batch).summary).squeeze(1)
        return logits

    def step(self, batch: RankingBatch) -> Step:
        found = self.knowledge(batch, self._gates)
        logits: Tensor = self.head(found.summary).squeeze(1)
        whole = found.memory.flatten(1)
        whole = whole.detach() if self.config.detach_x else whole
        users = batch.history.user if isinstance(batch.history, SharedHistory) else None

        def losses() -> Mapping[str, Tensor]:
            terms = {"prediction": F.binary_cross_entropy_with_logits(logits.float(), batch.label, weight=batch.weight)}
            if self.discriminator is not None:
                terms["essential"] = sufficiency(
                    found.patterns, found.summary, batch.label, self.discriminator, self._pairs, groups=users
                )
            if self.estimator is not None:
                terms["input"] = self.estimator.value(whole, found.summary, groups=users)
            if self.view is not None:
                terms["disentangled"] = self._disentangled(self.view(found.patterns), self.view(found.patterns))
            if self._learns_gates and self.config.l0_weight:
                assert found.logits is not None
                terms["l0"] = chance_of_open(found.logits).mean()
            return terms

        def learn() -> Tensor:
            assert self.estimator is not None
            return self.estimator.learning_loss(whole, found.summary)

        return Step(losses, {} if self.estimator is None else {GROUP: learn}, _monitors(found))

    def _disentangled(self, first: Tensor, second: Tensor) -> Tensor:
        config = self.config
        if self.classifier is not None:
            return pattern_infomin(first, second, self.classifier, self._pairs)
        return pattern_contrast(first, second, temperature=config.temperature, include_positive=config.include_positive)


@torch.no_grad()
def _monitors(found: Knowledge) -> dict[str, Tensor]:
    """Means of the gates as they were drawn, of cosines of two patterns, and of c's norm; and without noise, as the second
    stage reads them, of patterns with a gate that is not closed, of samples without any, and of the even gates that would be as
    uneven as a pattern's (`Seen`).
    """
    still = found.gates if found.logits is None else settled_gates(found.logits)
    opened = (still > 0).any(dim=1)  # (B, K)
    count = found.patterns.shape[1]
    both = F.normalize(found.patterns, dim=2).sum(dim=1).square().sum(dim=1) - count
    return {
        "mean gate": found.gates.mean(),
        "open patterns": opened.float().sum(dim=1).mean(),
        "all closed": (~opened).all(dim=1).float().mean(),
        "cosine of patterns": both.mean() / max(count * (count - 1), 1),
        "norm of summary": found.summary.norm(dim=1).mean(),
        "fields kept": effective_gates(still).mean(),
    }


def effective_gates(gates: Tensor) -> Tensor:
    """(sum m)^2 / sum m^2 of each pattern, 0 where all are closed: gates (n, F, K) -> (n, K)."""
    return gates.sum(dim=1).square() / gates.square().sum(dim=1).clamp_min(1e-12)


# -- the second stage -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """Knowledge (n, E, d) of the events at positions (n,), ascending, with the items (n,) that they show."""

    positions: Tensor
    items: Tensor
    vectors: Tensor

    def find(self, batch: RankingBatch) -> tuple[Tensor, Tensor]:
        """(B,) place of each row, and whether it is there."""
        place = torch.searchsorted(self.positions, batch.position).clamp_max(len(self.positions) - 1)
        return place, (self.positions[place] == batch.position) & (self.items[place] == batch.item)


class EDK(nn.Module, PatternSource):
    """A pattern source: E = K extra fields, or vectors for an MLP (1 with inject = "concat"), of a network that stands still.

    data, rows: of the events whose knowledge may be held, None where a saved model is built
    """

    name = "edk"

    def __init__(
        self,
        config: EDKConfig,
        knowledge: KnowledgeNetwork,
        dim: int,
        earlier: Compression | None = None,
        data: Dataset | None = None,
        rows: str = "train",
    ):
        super().__init__()
        self.config = config
        self.knowledge = knowledge.requires_grad_(False)
        self.vectors = config.patterns + config.with_summary
        whole = config.inject == "concat"
        self.num_extras = 1 if whole else self.vectors
        self.adapter = _two_layers(config.width * (self.vectors if whole else 1), dim, dim)
        self._earlier = (earlier,)  # in a tuple, so that it is no part of this module
        self._data, self._parts, self._held, self._open = data, f"{rows}+valid", None, False

    _held: Held | None

    @property
    def deep(self) -> bool:
        return self.config.deep

    def earlier(self) -> Sequence[Earlier]:
        module = self._earlier[0]
        if module is None:
            return ()
        stage = Stage(
            STAGE,
            module,
            module.weights,
            module.groups(),
            monitor="auc",
            train="knowledge",
            valid="knowledge_valid",
            settings={f"model.{self.name}.{key}": value for key, value in self.config if key not in _LATER},
        )
        return (Earlier(stage, {"knowledge.": "knowledge."}),)

    def forward(self, batch: RankingBatch, items: ItemTable, embed: FieldEmbedding) -> Patterns:
        vectors = self._vectors(batch)
        if self.config.inject == "concat":
            return Patterns(self.adapter(vectors.flatten(1))[:, None])
        return Patterns(self.adapter(vectors))

    def export(self) -> None:
        self._earlier, self._data, self._held = (None,), None, None

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._held, self._open = None, False  # of other weights
        super()._load_from_state_dict(*args, **kwargs)

    @torch.no_grad()
    def _vectors(self, batch: RankingBatch) -> Tensor:
        """(B, K, d), with the summary behind them where it is wanted."""
        if self._held is None and self._fits:
            self._hold()
        if self._held is None:
            return self._read(batch)
        place, there = self._held.find(batch)
        if bool(there.all()):
            return self._held.vectors.index_select(0, place)
        return torch.where(there[:, None, None], self._held.vectors[place], self._read(batch))

    def _read(self, batch: RankingBatch) -> Tensor:
        found = self.knowledge(batch)
        if self.training and not self._open:
            self._open = bool((found.gates > 0).any())
            if not self._open:
                raise RunError(
                    f"every gate of the knowledge of {len(batch):,} rows is closed, so it says the same of each of them; lower "
                    f"model.edk.l0_weight = {self.config.l0_weight:g}, or train the stage '{STAGE}' for fewer epochs"
                )
        return torch.cat([found.patterns, found.summary[:, None]], dim=1) if self.config.with_summary else found.patterns

    @property
    def _fits(self) -> bool:
        """Whether the knowledge of all rows may be held, in training; negatives that are drawn anew are read in any case."""
        if self._data is None or not self.training:
            return False
        rows = sum(len(self._data.split[part]) for part in self._parts.split("+"))  # asked at every batch where they do not fit
        return rows * self.vectors * self.config.width * 4 <= self.config.cache_mib << 20

    @property
    def _positions(self) -> Positions:
        assert self._data is not None
        return self._data.split[self._parts]

    def _hold(self) -> None:
        """In blocks that do not depend on batches, so a run that is resumed reads the same numbers."""
        assert self._data is not None
        device, data = place_of(self), self._data
        positions = torch.from_numpy(self._positions)
        view = RankingView(data, RecentHistory(data.log, 1))
        vectors = torch.empty(len(positions), self.vectors, self.config.width, device=device)
        for first in range(0, len(positions), _BLOCK):
            block = positions[first : first + _BLOCK]
            vectors[first : first + _BLOCK] = self._read(view.at(block).to(device))
        items = torch.from_numpy(data.log.item)[positions]
        self._held = Held(positions.to(device), items.to(device), vectors)


# -- a look inside --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What the patterns of n samples are, for plots: sizes (n, K) int64 gates above one half, open (n, K) int64 those above 0,
    effective (n, K) (sum m)^2 / sum m^2, patterns (n, K, d), raw (n, d) the mean of the fields' own vectors.

    Attention and pool divide by the sum of a pattern's gates (``gate_attn``), so fields whose gates are all of one height are
    all kept, however low it is: that is told by ``effective``, the number of equal gates that would be as uneven.
    """

    sizes: NDArray[np.int64]
    open: NDArray[np.int64]
    effective: NDArray[np.float32]
    patterns: NDArray[np.float32]
    raw: NDArray[np.float32]


@torch.inference_mode()
def seen_patterns(model: nn.Module, data: Dataset, positions: Positions) -> Seen:
    """Of the events at ``positions`` (n,).  model: of a run with EDK (``run.model.module``); data: with what the model reads
    (`ClickModel.reading`).  Raises RunError for a model without EDK.
    """
    source = next((part for part in model.modules() if isinstance(part, EDK)), None)
    if source is None:
        raise RunError("this model has no patterns of EDK; look into a run of enhance = 'edk'")
    view, found = RankingView(data, RecentHistory(data.log, 1)), []
    for block in torch.from_numpy(positions).split(_BLOCK):
        each = source.knowledge(view.at(block).to(place_of(source)))
        gates = each.gates
        sizes = [(gates > 0.5).sum(dim=1), (gates > 0).sum(dim=1), effective_gates(gates)]
        found.append([part.cpu() for part in (*sizes, each.patterns, each.memory.mean(dim=1))])
    return Seen(*(torch.cat(parts).numpy() for parts in zip(*found, strict=True)))


def _two_layers(dim: int, hidden: int, out: int) -> nn.Sequential:
    return initialise(nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, out)))


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(like.shape, generator=generator, device=generator.device).to(like.device)


def _build(config: EDKConfig, context: SourceContext) -> EDK:
    material, settings = context.material, context.settings
    layout, data = material.layout, material.data
    known = None if data is None or config.kb_oov == "untrained" else known_rows(data, layout)
    with torch.random.fork_rng(devices=[]):  # the backbone's weights are the same whatever becomes of the knowledge
        torch.manual_seed(spawn(material.seed, STAGE))
        knowledge, earlier = KnowledgeNetwork(config, layout, sparse=material.sparse, known=known), None
        if data is not None and config.compress:
            earlier = Compression(config, KnowledgeNetwork(config, layout, sparse=material.sparse, known=known), material.seed)
    return EDK(config, knowledge, settings.dim, earlier, data, settings.rows)


# `paper` has K, depth and heads of the paper, and values of its relatives where it says nothing.  `ours` bounds the estimate,
# as DisCo's does, and takes K = 8 at two layers, a quarter of the cost.  Its weights are not tuned.  One seed, DeepFM on
# MovieLens-latest-small, cut by each user's own events: validation AUC .8104, .8112 without EDK, .8060 with knowledge as drawn.
SPEC = Spec(
    "edk",
    "EDK",
    EDKConfig,
    _build,
    presets={
        "ours": {"patterns": 8, "layers": 2, "club_per_dimension": True, "club_floor": True},
        "paper": {},
    },
    training={
        "paper": {
            "batch_size": 1024,
            "patience": 5,
            "checks_per_epoch": 1,
            "phases": {STAGE: {"max_epochs": 10, "patience": 3}},
        },
    },
    parts=("knowledge", "knowledge_valid"),
)
