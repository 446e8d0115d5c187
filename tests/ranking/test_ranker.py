"""The contract of a ranking model: every backbone behind every pattern source keeps it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny_ranking import BACKBONES, ITEMS, LAYOUT, LENGTH, PLAIN, USERS, Trainer, batch, ranker, rows, with_history

from braidrec.data.batches import RankingBatch
from braidrec.errors import RunError
from braidrec.files import load_tensors, save_tensors
from braidrec.ranking.ranker import Ranker

SOURCES = ["plain", "mean", "disco"]
LOSSES = {"plain": {"prediction"}, "mean": {"prediction"}, "disco": {"prediction", "sufficiency", "disentanglement"}}
every_backbone = pytest.mark.parametrize("backbone", BACKBONES)
every_source = pytest.mark.parametrize("source", SOURCES)


def loss_of(model: Ranker, one: RankingBatch) -> torch.Tensor:
    return torch.stack(list(model.step(one).losses().values())).sum()


@every_source
@every_backbone
def test_shapes(backbone: str, source: str) -> None:
    model, one = ranker(backbone, source), batch(12)
    assert model(one).shape == (12,)
    assert model(one).dtype == torch.float32
    step = model.step(one)
    losses = step.losses()
    assert set(losses) == LOSSES[source]
    assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
    assert set(step.first) == ({"estimators"} if source == "disco" else set())
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
    reads = source != "plain" or (backbone.startswith("din") and backbone != "din none")
    for part, highest in (("items", ITEMS), ("signals", 5)):
        other = with_history(one, **{part: (getattr(one.history, part) % highest + 1).int()})
        assert torch.allclose(model(other), model(one), atol=1e-6) != reads


@every_source
@every_backbone
def test_gradients_reach_what_trains_and_nothing_else(backbone: str, source: str) -> None:
    model, one = ranker(backbone, source), batch(40, seed=3)
    step = model.step(one)
    torch.stack(list(step.losses().values())).sum().backward()
    estimators = {id(weight) for weight in model.estimator_parameters()}
    assert bool(estimators) == (source == "disco")
    reads_labels = source != "plain" or (backbone.startswith("din") and backbone != "din none")
    for name, weight in model.named_parameters():
        if id(weight) in estimators or (name == "embed.signals.weight" and not reads_labels):
            assert weight.grad is None, name
        else:
            assert weight.grad is not None, name
            # a shift of all scores is nothing to a softmax
            assert weight.grad.any() or (backbone == "din paper softmax" and name.endswith("attention.last.bias")), name
    for table in (model.embed.table, model.embed.signals):
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
    for table in (embed.table, embed.signals, *([embed.linear] if embed.linear is not None else [])):
        assert not table.weight[0].any()
        assert table.weight[1:].any()


@every_source
@every_backbone
def test_unknown_ids(backbone: str, source: str) -> None:
    """Values never seen in training score, and the rows they take were trained."""
    model = ranker(backbone, source, unknown_rate=0.5)
    before = model.embed.table.weight.detach().clone()
    trainer = Trainer(model, lr=0.01)
    for at in range(5):
        trainer.step(batch(16, seed=at))
    rows_of_unknown = [*LAYOUT.unknown, *(row for _, row in LAYOUT.bags)]
    moved = (model.embed.table.weight.detach() - before).abs().amax(dim=1)
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
        model.embed.table.weight.normal_(std=10.0)
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
    main, apart = ({id(weight) for weight in part} for part in (model.main_parameters(), model.estimator_parameters()))
    assert not main & apart
    assert main | apart == {id(weight) for weight in model.parameters()}
    assert set(model.generators()) == {"0.pairs"}
    assert ranker("dcn v1", "mean").estimator_parameters() == []
    assert ranker("dcn v1", "mean").generators() == {}


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
