"""PAD: what each phase moves, the sets under the MMD, the mixed score written out, and the sizes of Prime Pantry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import small_sequences as small
from braidrec.data.sequences import SequenceBatch
from braidrec.errors import ConfigError
from braidrec.layers.text import TextTable
from braidrec.objectives.info_nce import info_nce
from braidrec.objectives.mmd import mmd
from braidrec.sequential.backbones.sasrec import SASRec, SASRecConfig
from braidrec.sequential.contracts import EncoderSizes
from braidrec.sequential.gates import BucketGate, ContextualGate
from braidrec.sequential.maps import FusedMap, IdMap, TextMap
from braidrec.sequential.methods import pad
from braidrec.sequential.methods.pad import Alignment, PADConfig
from braidrec.sequential.mixture import Mixture
from braidrec.sequential.next_item import Expert
from braidrec.sequential.parts import Parts
from braidrec.training.stages import Stage


def stages(method: str = "pad", loss: str = "bce", **enhance: Any) -> Sequence[Stage]:
    return small.stages_of(small.config(method, "sasrec", loss, **({"enhance": enhance} if enhance else {})))


def mixture(method: str = "pad", **enhance: Any) -> Mixture:
    """In evaluation mode, with id rows and a gate that tell buckets apart."""
    model = stages(method, **enhance)[-1].module
    assert isinstance(model, Mixture)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "table" in name or "gate" in name:
                weight.normal_(generator=torch.Generator().manual_seed(len(name)))
    return model.eval()


def alignment(method: str = "pad", loss: str = "bce", **enhance: Any) -> tuple[Alignment, Stage]:
    stage = stages(method, loss, **enhance)[1]
    assert isinstance(stage.module, Alignment)
    return stage.module, stage


def total(stage: Stage, batch: SequenceBatch) -> Tensor:
    losses = cast(Any, stage.module).step(batch).losses()
    return torch.stack([weight * losses[name] for name, weight in stage.weights.items()]).sum()


# The phases --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("enhance", "names"),
    [
        ({}, ["pretrain", "align", "experts"]),
        ({"alignment": "none"}, ["pretrain", "experts"]),
        ({"experts": ("id",)}, ["pretrain", "experts"]),
        ({"experts": ("id", "text")}, ["pretrain", "experts"]),
        ({"experts": ("aligned",)}, ["pretrain", "align", "experts"]),
    ],
)
def test_the_variants_are_lists_of_phases(enhance: dict[str, Any], names: list[str]) -> None:
    found = stages(**enhance)
    assert [stage.name for stage in found] == names
    model = found[-1].module
    assert isinstance(model, Mixture)
    assert list(model.experts) == list(enhance.get("experts", ("id", "aligned", "text")))
    gate = next(group for group in found[-1].groups if group.name == "main.gate")
    assert (gate.weight_decay, gate.lr) == (0.01, None)
    assert [stage.monitor for stage in found] == [None] * len(names)  # the run's own metric


def test_each_phase_starts_where_the_table_of_the_paper_says() -> None:
    pretrain, align, experts = stages()
    assert dict(pretrain.starts) == {}
    assert align.starts == {"pretrain": {"expert.items.": "expert.items.ids.", "expert.encoder.": "expert.encoder."}}
    assert experts.starts == {"pretrain": {"expert.": "experts.id."}, "align": {"expert.": "experts.aligned."}}
    assert (align.weights, experts.weights) == ({"prediction": 1.0, "alignment": 0.2}, {"prediction": 1.0})
    smem = stages("smem")[-1]
    assert smem.starts == {"pretrain": {"expert.": "experts.id.", "expert.items.": "experts.aligned.items.ids."}}


GRADIENTS: dict[str, tuple[bool, bool, bool]] = {  # the id table, f_theta, phi and the encoder alike
    "anchored": (True, True, True),
    "anchored_frozen": (False, True, True),
    "non_anchored": (True, True, False),
}


@pytest.mark.parametrize("loss", ["bce", "full_ce"])
@pytest.mark.parametrize("variant", GRADIENTS)
def test_gradients_of_the_four_losses(variant: str, loss: str) -> None:
    module, stage = alignment(loss=loss, alignment=variant)
    total(stage, next(iter(small.batches_of(small.config())))).backward()
    items = module.expert.items
    assert isinstance(items, FusedMap)
    assert items.phi is not None
    parts: list[nn.Module] = [items.ids, items.text, items.phi, module.expert.encoder]
    trained = {id(weight) for group in stage.groups for weight in group.parameters}
    for part, moves in zip(parts, [*GRADIENTS[variant], GRADIENTS[variant][2]], strict=True):
        for weight in part.parameters():
            assert (weight.grad is not None and bool(weight.grad.any())) == moves
            assert (id(weight) in trained) == moves
    if variant == "non_anchored":
        assert (stage.monitor, stage.mode, dict(stage.weights)) == ("alignment", "min", {"alignment": 0.2})


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_text_table_stays_as_it_is_in_every_phase(number: int) -> None:
    config = small.config()
    parts = small.parts_of(config)
    assert parts.knowledge is not None
    before = parts.knowledge.vectors.clone()
    torch.manual_seed(0)
    stage = pad.stages(config.model.of("pad"), parts)[number]
    optimiser = torch.optim.AdamW([weight for group in stage.groups for weight in group.parameters], lr=0.1, weight_decay=0.1)
    for batch in small.batches_of(config):
        total(stage, batch).backward()
        optimiser.step()
        optimiser.zero_grad()
    held = [module.knowledge for module in stage.module.modules() if isinstance(module, TextMap)]
    assert len(held) == number
    for text in held:
        assert text is not None
        assert torch.equal(text, before)
        assert not text.requires_grad
    rows = [module for module in stage.module.modules() if isinstance(module, IdMap)]
    assert all(not module.table.weight[0].any() for module in rows)  # nor does decay or the MMD move padding


# The alignment -----------------------------------------------------------------------------------------------------------


def tiny_batch() -> SequenceBatch:
    """Two windows of 3 positions, the first of them one item shorter; item 5 comes twice."""
    items = torch.tensor([[0, 4, 5], [5, 2, 9]], dtype=torch.int32)
    targets = torch.tensor([[0, 5, 8], [2, 9, 7]], dtype=torch.int32)
    negatives = torch.tensor([[0, 11, 12], [13, 14, 15]], dtype=torch.int32)[..., None]
    return SequenceBatch(torch.tensor([1, 2], dtype=torch.int32), items, targets, negatives)


FIRST, SECOND = [4, 5, 8, 11, 12], [5, 2, 9, 7, 13, 14, 15]


@pytest.mark.parametrize(
    ("settings", "sets"),
    [
        ({}, [FIRST + SECOND]),
        ({"mmd_sequences": 1}, [FIRST, SECOND]),
        ({"mmd_include_pad": True, "estimator": "authors"}, [[0, 0, 0, 0, 0, *FIRST, 0, *SECOND]]),
        ({"kernel": "laplacian", "scales": (0.5, 1.0)}, [FIRST + SECOND]),
        ({"kernel": "cosine", "legacy_cosine_sign": True}, [FIRST + SECOND]),
        ({"kernel": "linear", "estimator": "biased"}, [FIRST + SECOND]),
    ],
)
def test_the_distance_is_between_both_sides_of_the_windows_items(settings: dict[str, Any], sets: list[list[int]]) -> None:
    """All items of a window and its negatives, duplicates kept, padding left out unless asked for: 2 K + 2 rows each."""
    if "mmd_include_pad" in settings:  # window 1: a padded input, its negative, the negatives' first; window 2: the last
        sets = [[*FIRST, *SECOND, 0, 0, 0, 0]]
    module, _ = alignment(**settings)
    module.eval()
    items = module.expert.items
    assert isinstance(items, FusedMap)
    keep = {name: value for name, value in settings.items() if name in ("kernel", "scales", "estimator", "legacy_cosine_sign")}
    with torch.no_grad():
        expected = [mmd(items.text(torch.tensor(rows)), items.ids(torch.tensor(rows)), **keep) for rows in sets]
        found = module.step(tiny_batch()).losses()["alignment"]
    torch.testing.assert_close(found, torch.stack(expected).mean())


def test_info_nce_asks_the_text_for_its_id_among_distinct_items() -> None:
    module, _ = alignment(kernel="info_nce", temperature=0.3)
    module.eval()
    items = cast(FusedMap, module.expert.items)
    rows = torch.tensor(sorted(set(FIRST + SECOND)))
    with torch.no_grad():
        expected = info_nce(items.text(rows), items.ids(rows), temperature=0.3)
        torch.testing.assert_close(module.step(tiny_batch()).losses()["alignment"], expected)


def loss_by_hand(logits: Tensor, batch: SequenceBatch, loss: str) -> Tensor:
    """Logits (n, I + 1) at the real positions: two means, or the cross-entropy over every item but padding."""
    real = batch.targets > 0
    targets, negatives = batch.targets[real].long(), batch.negatives[real].long()
    if loss == "bce":
        positive, negative = logits.gather(1, targets[:, None]), logits.gather(1, negatives)
        return F.softplus(-positive).mean() + F.softplus(negative).mean()
    return F.cross_entropy(logits.index_fill(1, torch.tensor([0]), -torch.inf), targets)


@pytest.mark.parametrize("loss", ["bce", "full_ce"])
@pytest.mark.parametrize("variant", ["anchored", "anchored_frozen"])
def test_the_anchor_is_the_recommendation_loss_of_the_fused_items(variant: str, loss: str) -> None:
    module, _ = alignment(loss=loss, alignment=variant)
    expert, batch = module.eval().expert, small.batch_of(small.histories())
    real = batch.targets > 0
    with torch.no_grad():
        states = expert.read(expert.table(), batch.items.long(), batch.mask)[real]
        logits = states @ expert.table().T
        torch.testing.assert_close(module.step(batch).losses()["prediction"], loss_by_hand(logits, batch, loss))


def test_validation_watches_the_distance_over_the_catalogue() -> None:
    module, _ = alignment()
    items = cast(FusedMap, module.eval().expert.items)
    rows = torch.arange(1, small.ITEMS + 1)
    with torch.no_grad():
        expected = mmd(items.text(rows), items.ids(rows)).item()
    assert module.validation() == {"alignment": pytest.approx(expected, abs=1e-6)}
    assert alignment(kernel="info_nce")[0].eval().validation().keys() == {"alignment"}


def test_a_step_on_the_distance_alone_brings_the_sides_together() -> None:
    module, stage = alignment(alignment="non_anchored")
    module.eval()
    with torch.no_grad():
        cast(FusedMap, module.expert.items).ids.table.weight[1:].normal_().add_(1.0)
    optimiser = torch.optim.SGD(list(stage.groups[0].parameters), lr=0.5)
    values = []
    for _ in range(20):
        loss = module.step(tiny_batch()).losses()["alignment"]
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        values.append(loss.item())
    assert values[1] < values[0]
    assert values[-1] < values[0] - 0.1


# The mixed score ---------------------------------------------------------------------------------------------------------


def shares_by_hand(model: Mixture, states: Tensor, bucket: int) -> Tensor:
    """(E,) of one user and bucket; -1 is what was never met."""
    row = model.gate.num_rows - 2 if bucket < 0 else bucket
    if isinstance(model.gate, BucketGate):
        weights = model.gate.logits[row].sigmoid()
    else:
        weights = model.gate.network(torch.cat([model.gate.buckets[row], states])).exp()
    if bucket < 0:
        weights = weights * torch.tensor([float(name != "id") for name in model.experts])
    return weights / weights.sum()


MIXTURES = [
    "pad",
    "pad by text",
    "pad contextual",
    "pad contextual by text",
    "pad without frequency",
    "make",
    "smem",
]


@pytest.mark.parametrize("method", MIXTURES)
@torch.no_grad()
def test_scores_are_the_sum_over_experts_item_by_item(method: str) -> None:
    model, items, parts = mixture(method), small.histories(), small.parts_of(small.config(method))
    states, found = model.states(items, items > 0), model.catalogue()
    scores = found.scores(states)
    own = states.vectors.view(len(items), len(model.experts), small.DIM)
    by_text = "by text" in method or method == "pad without frequency"
    for user in range(len(items)):
        for item in range(1, small.ITEMS + 1):
            bucket = 1 if method == "pad without frequency" else int(parts.bucket[item])
            if by_text and bool(parts.untrained[item]):
                bucket = -1
            shares = shares_by_hand(model, states.vectors[user], bucket)
            vectors = torch.stack([expert.vectors(torch.tensor([item]))[0] for expert in model.parts])
            expected = (shares * (own[user] * vectors).sum(dim=1)).sum()
            torch.testing.assert_close(scores[user, item], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("loss", ["bce", "full_ce", "full_ce of trained"])
@pytest.mark.parametrize("method", ["pad", "pad by text", "pad contextual", "pad without frequency"])
@torch.no_grad()
def test_training_scores_are_those_of_the_ranking(method: str, loss: str) -> None:
    """Every candidate, positive and negative, by the gate of its own bucket: the loss follows from the catalogue's scores."""
    torch.manual_seed(0)
    model = stages(method, loss)[-1].module
    assert isinstance(model, Mixture)
    for name, weight in model.named_parameters():
        if "table" in name or "gate" in name:
            weight.normal_()
    batch = small.batch_of(small.histories())
    real = batch.targets > 0
    model.train()
    for part in [*model.parts, *(expert.items for expert in model.parts)]:
        part.eval()  # no dropout, but the training side of the gate: its row of items never met is for evaluation
    reads = [expert.read(expert.table(), batch.items.long(), batch.mask)[real] for expert in model.parts]
    logits = torch.zeros(len(reads[0]), small.ITEMS + 1)
    for place, states in enumerate(torch.cat(reads, dim=1)):
        for item in range(1, small.ITEMS + 1):
            bucket = int(model.bucket[item])
            each = [
                read[place] @ expert.vectors(torch.tensor([item]))[0] for read, expert in zip(reads, model.parts, strict=True)
            ]
            logits[place, item] = (shares_by_hand(model, states, bucket) * torch.stack(each)).sum()
    if loss == "full_ce of trained":
        logits[:, 27:] = -torch.inf
    expected = loss_by_hand(logits, batch, loss)
    torch.testing.assert_close(model.step(batch).losses()["prediction"], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("column", [0, 1, 2])
@torch.no_grad()
def test_a_saturated_gate_ranks_by_one_expert(column: int) -> None:
    model, items = mixture(), small.histories()
    assert isinstance(model.gate, BucketGate)
    model.gate.logits.fill_(-1e4)
    model.gate.logits[:, column] = 1e4
    expert = model.parts[column]
    own = expert.last(items, items > 0) @ expert.table().T
    torch.testing.assert_close(model.catalogue().scores(model.states(items, items > 0)), own, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_one_bucket_is_one_convex_mix_for_all() -> None:
    model, items = mixture("pad without frequency", unseen="trained"), small.histories()
    assert isinstance(model.gate, BucketGate)
    assert model.gate.logits.shape == (2, 3)
    shares = model.gate.logits[1].sigmoid() / model.gate.logits[1].sigmoid().sum()
    parts = [expert.last(items, items > 0) @ expert.table().T for expert in model.parts]
    expected = sum(share * part for share, part in zip(shares, parts, strict=True))
    torch.testing.assert_close(model.catalogue().scores(model.states(items, items > 0)), expected, atol=1e-5, rtol=1e-5)
    found = model.shares()
    assert found is not None
    torch.testing.assert_close(found, shares[None])


def test_shares_are_reported_by_bucket() -> None:
    model = mixture()
    found = model.shares()
    assert found is not None
    assert found.shape == (small.BUCKETS, 3)
    assert torch.equal(found, model.gate()[1:-1])
    assert mixture("pad contextual").shares() is None


# Items that training never met -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["pad by text", "pad contextual by text"])
@torch.no_grad()
def test_what_was_never_met_is_judged_by_its_text(method: str) -> None:
    model, items, parts = mixture(method), small.histories(), small.parts_of(small.config(method))
    states = model.states(items, items > 0)
    shares = model.gate(states.vectors) if isinstance(model.gate, ContextualGate) else model.gate()
    cold, unseen = shares[..., -2, :], shares[..., -1, :]
    assert not unseen[..., 0].any()
    torch.testing.assert_close(unseen[..., 1:], cold[..., 1:] / cold[..., 1:].sum(dim=-1, keepdim=True))
    scores = model.catalogue().scores(states)
    aligned = cast(FusedMap, cast(Expert, model.experts["aligned"]).items)
    assert torch.equal(aligned.ids(torch.tensor([28]))[0], aligned.ids.table.weight[parts.rare].mean(dim=0))
    loud = 50.0 * torch.arange(small.DIM)  # states have mean zero: a constant would say nothing
    cast(IdMap, cast(Expert, model.experts["id"]).items).table.weight[28] = loud
    aligned.ids.table.weight[28] = loud
    read = ~(items == 28).any(dim=1)  # as an item of the past it is read like any other by the id expert
    torch.testing.assert_close(model.catalogue().scores(model.states(items, items > 0))[read], scores[read])
    assert read.any()


@torch.no_grad()
def test_trained_rows_are_the_default() -> None:
    model, items = mixture("pad"), small.histories()
    before = model.catalogue().scores(model.states(items, items > 0))
    cast(IdMap, cast(Expert, model.experts["id"]).items).table.weight[28] += 50.0 * torch.arange(small.DIM)
    after = model.catalogue().scores(model.states(items, items > 0))
    read = ~(items == 28).any(dim=1)
    changed = ~torch.isclose(before[read], after[read], atol=1e-5)
    assert changed[:, 28].all()
    assert not changed[:, :28].any()


@pytest.mark.parametrize("method", ["pad", "pad by text", "pad contextual", "make"])
@torch.no_grad()
def test_items_of_later_days_are_in_the_coldest_bucket_without_an_id(method: str) -> None:
    model, items = mixture(method), small.histories()
    model.export()
    model.add(small.knowledge(1, seed=8)[1:])
    states = model.states(items, items > 0)
    scores = model.catalogue().scores(states)[:, -1]
    for user, vectors in enumerate(states.vectors):
        shares = shares_by_hand(model, vectors, -1)
        new = torch.stack([expert.vectors(torch.tensor([small.ITEMS + 1]))[0] for expert in model.parts])
        expected = (shares * (vectors.view(len(shares), -1) * new).sum(dim=1)).sum()
        torch.testing.assert_close(scores[user], expected, atol=1e-5, rtol=1e-4)


# Sizes -------------------------------------------------------------------------------------------------------------------


def test_parameter_counts_of_prime_pantry() -> None:
    items, width, dim = 8_347, 4_096, 128
    bucket = torch.arange(items + 1) % 10 + 1

    def encoder() -> nn.Module:
        return SASRec(SASRecConfig(), EncoderSizes(dim, 20))

    parts = Parts(
        dim=dim,
        counts=torch.ones(items + 1, dtype=torch.int64),
        bucket=bucket,
        num_buckets=10,
        make_encoder=encoder,
        loss="bce",
        knowledge=TextTable(torch.zeros(1, width).expand(items + 1, width)),  # no memory for what no parameter depends on
    )
    pretrain, _, experts = pad.stages(PADConfig(), parts)
    model = cast(Mixture, experts.module)
    aligned = cast(FusedMap, cast(Expert, model.experts["aligned"]).items)
    assert aligned.phi is not None
    count: Callable[[nn.Module], int] = lambda module: sum(weight.numel() for weight in module.parameters())  # noqa: E731
    assert count(aligned.ids) == 1_068_544
    assert count(cast(Expert, model.experts["text"]).encoder) == 991_616
    assert count(aligned.text) == 590_464
    assert count(aligned.phi) == 32_896
    assert count(model.gate) == 33
    assert count(model) == 6_325_793
    assert sum(weight.numel() for group in experts.groups for weight in group.parameters) == 6_325_793
    assert count(pretrain.module) == 1_068_544 + 991_616


def test_experts_are_checked() -> None:
    with pytest.raises(ConfigError, match="name at least one of id, aligned, text, each once"):
        stages(experts=("id", "id"))
