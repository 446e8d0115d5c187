"""The contract of a ranking model: every backbone behind every pattern source keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny_ranking import (
    BACKBONES,
    DIM,
    ITEMS,
    LAYOUT,
    LENGTH,
    ORDERED,
    PLAIN,
    SOURCES,
    USERS,
    Trainer,
    batch,
    ranker,
    rows,
    with_history,
)
from torch import Tensor, nn

from braidrec.data.batches import RankingBatch
from braidrec.errors import ConfigError, RunError
from braidrec.files import load_tensors, save_tensors
from braidrec.layers.attention import masked_softmax
from braidrec.layers.embedding import FieldEmbedding, ItemTable
from braidrec.ranking.contracts import (
    BehaviourInput,
    Earlier,
    MeanHistory,
    Needs,
    Patterns,
    PatternSource,
    RankingInput,
    Scored,
    Sizes,
)
from braidrec.ranking.ranker import Ranker
from braidrec.training.stages import Group, Stage

LOSSES = {"plain": {"prediction"}, "mean": {"prediction"}, "disco": {"prediction", "sufficiency", "disentanglement"}}
every_backbone = pytest.mark.parametrize("backbone", BACKBONES)
every_source = pytest.mark.parametrize("source", SOURCES)


def loss_of(model: Ranker, one: RankingBatch) -> torch.Tensor:
    return torch.stack(list(model.step(one).losses().values())).sum()


def unread(model: Ranker, source: str) -> set[str]:
    """Tables that nothing reads: labels without a history, and vectors of fields where first-order weights do."""
    if source not in ("plain", "edk") or model.backbone.needs.history:  # old knowledge is of the sample alone
        return set()
    return {"embed.signals.weight"} if model.backbone.needs.fields else {"embed.signals.weight", "embed.table.weight"}


@every_source
@every_backbone
def test_shapes(backbone: str, source: str) -> None:
    model, one = ranker(backbone, source), batch(12)
    assert model(one).shape == (12,)
    assert model(one).dtype == torch.float32
    step = model.step(one)
    losses = step.losses()
    assert set(losses) == LOSSES.get(source, set(model.weights)) == set(model.weights)
    assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
    assert set(step.first) == {group.name for group in model.groups()[1:]}
    assert (source != "disco") or set(step.first) == {"estimators"}
    assert all(value.shape == () and not value.requires_grad for value in step.monitors.values())


@every_source
@every_backbone
def test_a_row_scores_the_same_in_any_batch(backbone: str, source: str) -> None:
    model, whole = ranker(backbone, source).eval(), batch(24)
    logits = model(whole)
    for index in (torch.tensor([5]), torch.tensor([0]), torch.arange(7), torch.randperm(24)):
        torch.testing.assert_close(model(rows(whole, index)), logits[index], atol=1e-5, rtol=1e-5)


@every_source
@every_backbone
def test_batch_of_one_trains(backbone: str, source: str) -> None:
    for length in (0, 1, LENGTH):
        model = ranker(backbone, source)
        one = batch(1, lengths=torch.tensor([length]))
        loss = Trainer(model).step(one)
        assert loss == pytest.approx(loss)
        assert all(weight.isfinite().all() for weight in model.parameters())


@every_source
@every_backbone
def test_empty_histories(backbone: str, source: str) -> None:
    model, one = ranker(backbone, source), batch(6, lengths=torch.zeros(6, dtype=torch.long))
    assert model(one).isfinite().all()
    loss_of(model, one).backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())
    mixed = batch(6, lengths=torch.tensor([0, 3, 0, 6, 1, 0]))
    model.eval()
    torch.testing.assert_close(model(rows(mixed, torch.tensor([0]))), model(mixed)[:1], atol=1e-5, rtol=1e-5)


@every_source
@every_backbone
@pytest.mark.parametrize("training", [True, False])
def test_padding_is_inert(backbone: str, source: str, training: bool) -> None:
    """Bit for bit, whatever rows the padded places name; the batch takes the catalogue whole, so its items stay the same."""
    model, one = ranker(backbone, source).train(training), batch(12)
    assert len(model.embed.item_fields) <= one.item.numel() + one.history.items.numel()
    mask = one.history.mask
    other = with_history(
        one,
        items=torch.where(mask, one.history.items, torch.randint(1, ITEMS + 1, mask.shape).int()),
        signals=torch.where(mask, one.history.signals, torch.randint(1, 6, mask.shape).int()),
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = model(one)
    model.load_state_dict(before)  # Dice's running statistics
    assert torch.equal(model(other), first)


@every_source
@every_backbone
def test_more_padding_and_another_order_change_nothing(backbone: str, source: str) -> None:
    model, one = ranker(backbone, source).eval(), batch(12)
    logits, history = model(one), one.history
    wider = with_history(
        one, items=F.pad(history.items, (0, 3)), signals=F.pad(history.signals, (0, 3)), mask=F.pad(history.mask, (0, 3))
    )
    torch.testing.assert_close(model(wider), logits, atol=1e-6, rtol=1e-5)
    if backbone.split()[0] in ORDERED:
        return
    order = torch.randperm(LENGTH, generator=torch.Generator().manual_seed(1))
    moved = with_history(one, items=history.items[:, order], signals=history.signals[:, order], mask=history.mask[:, order])
    torch.testing.assert_close(model(moved), logits, atol=1e-6, rtol=1e-5)


@every_source
@every_backbone
def test_history_matters_where_it_is_read(backbone: str, source: str) -> None:
    model, one = ranker(backbone, source).eval(), batch(12, lengths=torch.full((12,), LENGTH))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3.0)
    reads = not unread(model, source)
    for part, highest in (("items", ITEMS), ("signals", 5)):
        other = with_history(one, **{part: (getattr(one.history, part) % highest + 1).int()})
        assert torch.allclose(model(other), model(one), atol=1e-6) != reads


@every_source
@every_backbone
def test_gradients_reach_what_trains_and_nothing_else(backbone: str, source: str) -> None:
    model, one = ranker(backbone, source), batch(40, seed=3)
    step = model.step(one)
    torch.stack(list(step.losses().values())).sum().backward()
    estimators = {id(weight) for group in model.groups()[1:] for weight in group.parameters}
    assert bool(estimators) == (source == "disco")
    for name, weight in model.named_parameters():
        if id(weight) in estimators or name in unread(model, source) or not weight.requires_grad:
            assert weight.grad is None, name
        else:
            assert weight.grad is not None, name
            # a shift of all scores is nothing to a softmax
            shifts = backbone in ("din paper softmax", "dien paper mlp") and name.endswith("attention.last.bias")
            assert weight.grad.any() or shifts, name
    for table in (*model.embed.tables.values(), *filter(None, [model.embed.signals])):
        assert table.weight.grad is None or not table.weight.grad[0].any()
    model.zero_grad()
    for learn in step.first.values():
        learn().backward()
    for name, weight in model.named_parameters():
        if id(weight) in estimators:
            assert weight.grad is not None, name
            assert weight.grad.any(), name
        else:
            assert weight.grad is None, name
    assert not any(buffer.requires_grad for buffer in model.buffers())


@every_source
@every_backbone
def test_saved_weights_give_the_same_logits(backbone: str, source: str, tmp_path: Path) -> None:
    model, other, one = ranker(backbone, source), ranker(backbone, source, seed=1), batch(12)
    trainer = Trainer(model)
    for _ in range(3):
        trainer.step(one)
    digest = save_tensors(tmp_path / "model.safetensors", model.state_dict())
    assert not torch.equal(other.eval()(one), model.eval()(one))
    other.load_state_dict(load_tensors(tmp_path / "model.safetensors", digest, RunError))
    assert torch.equal(other(one), model(one))


@every_source
@every_backbone
def test_same_seed_same_numbers(backbone: str, source: str) -> None:
    def losses(seed: int) -> list[float]:
        trainer = Trainer(ranker(backbone, source, seed=seed, unknown_rate=0.1), lr=0.01)
        return [trainer.step(batch(16, seed=at)) for at in range(20)]

    first = losses(0)
    assert losses(0) == first
    assert losses(1) != first


@every_backbone
def test_a_source_of_no_fields_is_the_plain_model(backbone: str) -> None:
    plain, nothing, one = ranker(backbone, "plain"), ranker(backbone, "nothing"), batch(12)
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in (plain, nothing)]
    if not plain.backbone.needs.fields:  # the source alone has them read
        assert {shapes[1].pop(f"embed.{name}.weight") for name in ("table", "signals")}
        nothing.load_state_dict(plain.state_dict(), strict=False)  # drawn after a table that is one more
    assert shapes[0] == shapes[1]
    assert torch.equal(plain(one), nothing(one))
    losses = [[trainer.step(batch(12, seed=at)) for at in range(5)] for trainer in (Trainer(plain), Trainer(nothing))]
    assert losses[0] == losses[1]


@every_source
@every_backbone
def test_padding_rows_stay_zero(backbone: str, source: str) -> None:
    model = ranker(backbone, source, unknown_rate=0.2)
    trainer = Trainer(model, lr=0.1, weight_decay=0.1)
    for at in range(10):
        trainer.step(batch(16, seed=at))
    embed = model.embed
    assert embed.tables
    for table in (*embed.tables.values(), *filter(None, [embed.signals])):
        assert not table.weight[0].any()
        assert table.weight[1:].any()


@every_source
@every_backbone
def test_unknown_ids(backbone: str, source: str) -> None:
    """Values never seen in training score, and the rows they take were trained."""
    model = ranker(backbone, source, unknown_rate=0.5)
    table = model.embed.table if model.backbone.needs.fields else model.embed.aware or model.embed.linear
    assert table is not None
    before = table.weight.detach().clone()
    trainer = Trainer(model, lr=0.01)
    for at in range(5):
        trainer.step(batch(16, seed=at))
    rows_of_unknown = [*LAYOUT.unknown, *(row for _, row in LAYOUT.bags)]
    moved = (table.weight.detach() - before).abs().amax(dim=1)
    assert (moved[rows_of_unknown] > 1e-3).all()
    model.eval()
    one = batch(12)
    stranger = replace(
        one, fields=torch.tensor(LAYOUT.unknown, dtype=torch.int32).expand(12, -1), bags=(torch.full((12, 1), 86),)
    )
    assert model(stranger).isfinite().all()
    assert torch.equal(model(one), model(one))  # nothing is swapped outside training


@every_source
@every_backbone
def test_only_ids(backbone: str, source: str) -> None:
    """Without bags and numbers."""
    model, one = ranker(backbone, source, layout=PLAIN), batch(12, plain=True)
    assert model(one).shape == (12,)
    Trainer(model).step(one)


@every_source
@every_backbone
def test_finite_at_large_embeddings(backbone: str, source: str) -> None:
    model = ranker(backbone, source)
    with torch.no_grad():
        for table in model.embed.tables.values():
            table.weight.normal_(std=10.0)
    logits = model(batch(12))
    assert logits.isfinite().all()
    assert loss_of(model, batch(12)).isfinite()


@every_source
@every_backbone
def test_sparse_tables_score_and_learn_alike(backbone: str, source: str) -> None:
    dense, sparse, one = ranker(backbone, source), ranker(backbone, source, sparse=True), batch(12)
    assert torch.equal(dense(one), sparse(one))
    assert dense.lazy_rows(one) == {}
    for model in (dense, sparse):
        loss_of(model, one).backward()
    lazy = sparse.lazy_rows(one)
    parameters = dict(sparse.named_parameters())
    lazy = {name: touched for name, touched in lazy.items() if name not in unread(sparse, source)}
    for name, touched in lazy.items():
        gradient, expected = parameters[name].grad, dict(dense.named_parameters())[name].grad
        assert gradient is not None
        assert expected is not None
        torch.testing.assert_close(gradient.to_dense(), expected, atol=1e-6, rtol=1e-4)
        assert set(expected.any(dim=1).nonzero().flatten().tolist()) <= set(touched.tolist())
    assert {name for name, weight in parameters.items() if weight.grad is not None and weight.grad.is_sparse} == set(lazy)


def test_prediction_is_weighted_binary_cross_entropy() -> None:
    model, one = ranker("deepfm", "plain"), batch(12)
    weighted = replace(one, weight=torch.linspace(0, 2, 12))
    logits, label = model(one), one.label
    each = -(label * torch.sigmoid(logits).log() + (1 - label) * torch.sigmoid(-logits).log())
    torch.testing.assert_close(model.step(one).losses()["prediction"], each.mean())
    torch.testing.assert_close(model.step(weighted).losses()["prediction"], (each * weighted.weight).mean())


def test_main_and_estimator_parameters_are_a_partition() -> None:
    model = ranker("dcn v1", "disco")
    main, apart = ({id(weight) for weight in group.parameters} for group in model.groups())
    assert not main & apart
    assert main | apart == {id(weight) for weight in model.parameters()}
    assert [group.name for group in ranker("dcn v1", "mean").groups()] == ["main"]


# Backbones with losses of their own, several sources, field-aware vectors -------------------------------------------------


class Wary(nn.Module):
    """Logits and a loss of its own."""

    needs = Needs(history=True)

    def __init__(self, sizes: Sizes, weights: Mapping[str, float]):
        super().__init__()
        self.weights = weights
        self.head = nn.Linear(sizes.num_item_fields * sizes.dim, 1)

    def forward(self, inputs: RankingInput) -> Scored:
        assert inputs.history is not None
        behaviours = inputs.history.items.flatten(1)[inputs.history.past.index]
        rows = self.head(behaviours * inputs.history.past.mask[:, :, None]).squeeze(2)
        return Scored(rows.sum(dim=1), lambda: {name: rows.square().mean() for name in self.weights})


def test_a_backbone_may_have_losses_of_its_own() -> None:
    model, one = ranker(source="plain", build=lambda sizes: Wary(sizes, {"auxiliary": 0.3})), batch(12)
    assert model(one).shape == (12,)
    assert model.weights == {"prediction": 1.0, "auxiliary": 0.3}
    losses = model.step(one).losses()
    assert list(losses) == ["prediction", "auxiliary"]
    Trainer(model).step(one)
    assert model.backbone.head.weight.grad.any()  # type: ignore[union-attr, operator]
    with pytest.raises(ConfigError, match="two parts of this model have a loss called 'sufficiency'"):
        ranker(build=lambda sizes: Wary(sizes, {"sufficiency": 1.0}))


class Echo(nn.Module, PatternSource):
    """Its own vector for everybody, kept small, learned by an optimiser of its own, after a stage of its own."""

    num_extras = 1

    def __init__(self, name: str, own_rate: float | None = None):
        super().__init__()
        self.name, self.own_rate = name, own_rate
        self.vector, self.apart = nn.Parameter(torch.ones(DIM)), nn.Parameter(torch.ones(()))

    def forward(self, one: RankingBatch, items: ItemTable, embed: FieldEmbedding) -> Patterns:
        return Patterns(
            self.vector.expand(len(one), 1, -1),
            lambda: {"size": self.vector.square().sum()},
            {f"estimators.{self.name}": lambda: self.apart.square()},
            {"norm": self.vector.detach().norm()},
        )

    @property
    def weights(self) -> Mapping[str, float]:
        return {"size": 0.1}

    def groups(self) -> list[Group]:
        return [Group(f"estimators.{self.name}", [self.apart], self.own_rate)]

    def earlier(self) -> list[Earlier]:
        stage = Stage(f"{self.name}-first", self, {"size": 1.0}, [Group("main", [self.vector])], train="train", valid="valid")
        return [Earlier(stage, {"": ""})]


def test_several_sources_keep_their_names_apart() -> None:
    model, one = ranker("dcn", sources=[Echo("one", 0.5), MeanHistory(), Echo("two")]), batch(12)
    assert model.weights == {"prediction": 1.0, "one.size": 0.1, "two.size": 0.1}
    step = model.step(one)
    assert set(step.losses()) == set(model.weights)
    assert set(step.monitors) == {"one.norm", "two.norm"}
    assert [group.name for group in model.groups()] == ["main", "estimators.one", "estimators.two"]
    assert [group.lr for group in model.groups()] == [None, 0.5, None]
    assert set(step.first) == {"estimators.one", "estimators.two"}
    assert not {id(model.sources[at].apart) for at in (0, 2)} & {id(each) for each in model.groups()[0].parameters}
    assert [(each.stage.name, each.names) for each in model.earlier()] == [
        ("one-first", {"": "sources.0."}),
        ("two-first", {"": "sources.2."}),
    ]
    alone = ranker("dcn", sources=[Echo("one"), MeanHistory()])
    assert set(alone.weights) == {"prediction", "size"}
    assert set(alone.step(one).monitors) == {"norm"}


class FieldAware(nn.Module):
    """y = sum_{i<j} <v_ij, v_ji> over the fields; an extra has its vectors by a projection."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.needs = Needs(fields=False, field_aware=2)
        self.count = sizes.num_fields
        self.extras = nn.Linear(sizes.dim, sizes.num_fields * 2) if sizes.num_extras else None

    def forward(self, inputs: RankingInput) -> Tensor:
        own = inputs.field_aware
        assert own is not None
        pairs = [(own[:, i, j - 1] * own[:, j, i]).sum(dim=1) for j in range(self.count) for i in range(j)]
        if self.extras is not None:
            theirs = self.extras(inputs.extras).unflatten(2, (self.count, 2))  # (B, E, F, 2)
            pairs.append((own[:, :, self.count - 1 :].transpose(1, 2) * theirs).sum(dim=(1, 2, 3)))
        return torch.stack(pairs).sum(dim=0)


@every_source
def test_field_aware_vectors_reach_a_backbone(source: str) -> None:
    model, one = ranker(source=source, build=FieldAware), batch(40, seed=3)
    extras = sum(each.num_extras for each in model.sources)
    assert model.embed.aware is not None
    assert model.embed.aware.weight.shape == (LAYOUT.rows, (LAYOUT.num_fields + extras - 1) * 2)
    assert (model.embed.table is None) == (source == "plain")
    Trainer(model).step(one)
    own = {id(weight) for weight in model.groups()[0].parameters}
    for name, weight in model.named_parameters():
        if id(weight) in own and name not in unread(model, source):
            assert weight.grad is not None, name
            assert weight.grad.any(), name
    sparse = ranker(source=source, build=FieldAware, sparse=True)
    assert "embed.aware.weight" in sparse.lazy_rows(one)
    loss_of(sparse, one).backward()
    assert sparse.embed.aware is not None
    assert sparse.embed.aware.weight.grad is not None
    assert sparse.embed.aware.weight.grad.is_sparse


def test_a_history_is_pooled_by_queries_of_ids_or_of_all_fields() -> None:
    met: list[BehaviourInput] = []

    class Listening(Wary):
        def forward(self, inputs: RankingInput) -> Scored:
            assert inputs.history is not None
            met.append(inputs.history)
            return super().forward(inputs)

    one = batch(5, lengths=torch.tensor([6, 3, 1, 0, 5]))
    noisy = with_history(one, items=torch.where(one.history.mask, one.history.items, 7))
    ranker(source="plain", build=lambda sizes: Listening(sizes, {}))(noisy)
    (history,) = met
    whole = history.items.flatten(1)[history.past.index]
    assert whole.shape == (5, 6, 2 * DIM)
    for width in (DIM, 2 * DIM):
        queries = torch.randn(5, 3, width)
        attended = history.pool(queries)
        pooled, weights = attended.pooled, attended.weights()
        found = masked_softmax(queries @ whole[:, :, :width].transpose(1, 2), one.history.mask[:, None], dim=2)
        torch.testing.assert_close(weights, found)
        torch.testing.assert_close(pooled, found @ whole[:, :, :width])
        assert not pooled[3].any()


def test_spaces_of_the_catalogue() -> None:
    model = ranker().eval()
    found = model.spaces()
    assert {name: vectors.shape for name, vectors in found.items()} == dict.fromkeys(
        ("id", "tabular", "text"), (ITEMS + 1, DIM)
    )
    assert torch.equal(found["id"], model.embed.table.weight[model.embed.item_fields[:, 0].long()])  # type: ignore[union-attr]
    assert set(ranker("dcn", "mean").spaces()) == {"id"}
    assert ranker("lr", "plain").spaces() == {}


# Learning -------------------------------------------------------------------------------------------------------------


def planted(count: int, seed: int, *, shuffled: bool = False) -> RankingBatch:
    """Clicks exactly where a user's and an item's own hidden numbers add up to more than zero."""
    hidden = torch.Generator().manual_seed(99)
    of_user, of_item = torch.randn(USERS + 1, generator=hidden), torch.randn(ITEMS + 1, generator=hidden)
    one = batch(count, seed=seed, plain=True)
    label = (of_user[one.fields[:, 0].long()] + of_item[one.item.long()] > 0).float()
    if shuffled:
        label = label[torch.randperm(count, generator=torch.Generator().manual_seed(seed))]
    return replace(one, label=label)


def trained_auc(backbone: str, source: str, *, count: int, size: int, epochs: int, lr: float, shuffled: bool) -> float:
    from sklearn.metrics import roc_auc_score

    train, valid = planted(count, 0, shuffled=shuffled), planted(count, 1, shuffled=shuffled)
    trainer = Trainer(ranker(backbone, source, layout=PLAIN), lr=lr)
    for _ in range(epochs):
        for index in torch.randperm(count).split(size):
            trainer.step(rows(train, index))
    with torch.no_grad():
        return float(roc_auc_score(valid.label.numpy(), trainer.model.eval()(valid).numpy()))


@pytest.mark.parametrize("source", ["plain", "disco"])
@every_backbone
def test_a_linear_signal_is_found_within_two_epochs(backbone: str, source: str) -> None:
    assert trained_auc(backbone, source, count=4_000, size=100, epochs=2, lr=0.01, shuffled=False) > 0.9


@every_backbone
def test_shuffled_labels_teach_nothing(backbone: str) -> None:
    auc = trained_auc(backbone, "disco", count=20_000, size=1_000, epochs=1, lr=0.01, shuffled=True)
    assert auc == pytest.approx(0.5, abs=0.02)
