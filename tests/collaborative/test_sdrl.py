"""SDRL against numbers worked by hand, and against what its paper says that it does."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score

from braidrec.collaborative.baskets import Baskets
from braidrec.collaborative.cells import CellBatch, CellBatches, Rows
from braidrec.collaborative.labels import held_items
from braidrec.collaborative.models.sdrl import (
    SDRL,
    BlockVectors,
    SDRLConfig,
    drawn_bce,
    entropy,
    proportioned,
    rows_bce,
    user_softmax,
)
from braidrec.collaborative.task import TASK as ROOM
from braidrec.config import RunRequest, resolve
from braidrec.errors import ConfigError, DataError
from braidrec.insight.blocks import classified
from braidrec.runs.fit import fit
from braidrec.runs.run import Run, load
from braidrec.runs.tables import divided
from braidrec.task import Share
from rated_worlds import NAMES, config, model, rated, world
from small_runs import root

SEEN = world()


def whole(own: SDRL) -> CellBatch:
    """All of the matrix in one batch."""
    users, items = (np.arange(count - 1) for count in own._entries.shape)
    return CellBatches(own._entries, len(users), len(items), seed=0).batch(users, items)


def fitted(own: SDRL, steps: int) -> SDRL:
    """Full-batch steps on all of the planted world."""
    batch, optimiser = whole(own), torch.optim.Adam(own.parameters(), lr=5e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        losses = own.losses(batch)
        torch.stack([weight * losses[name] for name, weight in own.weights.items()]).sum().backward()
        optimiser.step()
    return own.eval()


@cache
def trained(**values: Any) -> SDRL:
    return fitted(model(SEEN, **values), 300)


# losses ------------------------------------------------------------------------------------------------------------------


def test_cross_entropy_is_lower_the_nearer_and_lowest_at_the_entropy() -> None:
    """The printed equation lacks the minus sign: it would be maximised."""
    matrix = torch.tensor([[0.8, 0.0, 0.2], [0.0, 0.0, 1.0]])
    rows = Rows(torch.tensor([0, 2, 3]), torch.tensor([0, 2, 2]), torch.tensor([0.8, 0.2, 1.0]), 3)
    at, near, far = (matrix.clamp(1e-6, 1 - 1e-6).logit() + shift for shift in (0.0, 0.5, 2.0))
    values = [float(rows_bce(logits, rows)) for logits in (at, near, far)]
    assert values == sorted(values)
    assert values[0] == pytest.approx(float(entropy(matrix)), abs=1e-4)
    for logits in (at, near, far, torch.randn(2, 3) * 1e4):
        assert float(rows_bce(logits, rows)) == pytest.approx(
            float(F.binary_cross_entropy_with_logits(logits, matrix)), rel=1e-6
        )


def test_entropy_by_hand() -> None:
    assert float(entropy(torch.tensor([0.0, 1.0, 0.5]))) == pytest.approx(np.log(2) / 3)


def test_softmax_of_a_user_by_hand() -> None:
    block = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    logits = torch.tensor([[0.0, 0.0, 0.0], [9.0, 1.0, 0.0]])
    assert float(user_softmax(logits, block)) == pytest.approx(np.log(3))  # who rated nothing counts nothing
    assert float(user_softmax(logits * 0, block * 0)) == 0


def test_drawn_zeros_are_unbiased() -> None:
    generator = torch.Generator().manual_seed(0)
    own = Rows(torch.tensor([0, 3, 4]), torch.tensor([1, 5, 9, 0]), torch.tensor([0.4, 1.0, 0.6, 0.2]), 30)
    hidden, last = torch.randn(2, 4, generator=generator), torch.nn.Linear(4, 30)
    with torch.no_grad():
        wanted = float(rows_bce(last(hidden), own))
        found = np.mean([float(drawn_bce(hidden, last, own, 4.0, generator)) for _ in range(4000)])
    assert found == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize("values", [{}, {"heads": "apart"}, {"code": "sigmoid"}, {"bias": False}])
def test_every_loss_is_its_equation_on_dense_matrices(values: dict[str, Any]) -> None:
    """Users 5 and item 8 have no rating, so nothing is said of the former's taste; of the latter its category is."""
    ratings = SEEN.ratings.copy()
    ratings[4], ratings[:, 7] = 0, 0
    seen = replace(SEEN, ratings=ratings)
    own = model(seen, **values)
    known = np.where(seen.held, 0, ratings) / 5
    given = torch.from_numpy(known.astype(np.float32))
    assert np.array_equal(own._entries.toarray()[1:, 1:], given.numpy())

    def codes(side: Any, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        found = {name: one.last(torch.tanh(rows @ one.first + one.bias)) for name, one in side.encoders.items()}
        return {name: torch.sigmoid(code) if values.get("code") == "sigmoid" else code for name, code in found.items()}

    def decoded(side: Any, own: dict[str, torch.Tensor]) -> torch.Tensor:
        found: torch.Tensor = side.last(torch.tanh(side.hidden[0](torch.cat([*own.values()], dim=1))))
        return found

    bce, (users, items) = F.binary_cross_entropy_with_logits, (codes(own.users, given), codes(own.items, given.T))
    whole_users, whole_items = (torch.cat([*each.values()], dim=1) for each in (users, items))
    wanted = {
        "recon_users": bce(decoded(own.users, users), given),
        "recon_items": bce(decoded(own.items, items), given.T),
    }
    start = 0.0 if values.get("bias") is False else float(np.log(known.mean() / (1 - known.mean())))
    wanted["recon_ratings"] = bce(whole_users @ whole_items.T + start, given)
    wanted["external"] = bce(users["external"] @ items["external"].T + start, given)
    taste = known @ SEEN.categories.of_items[1:]
    said = np.delete(taste / taste.sum(axis=1, keepdims=True).clip(1e-9), 4, axis=0)
    labels = torch.from_numpy(np.vstack([said, SEEN.categories.of_items[1:]]).astype(np.float32))
    heads, those = own.heads["internal"], torch.arange(60) != 4
    assert len(heads) == (2 if values.get("heads") == "apart" else 1)  # type: ignore[arg-type]
    logits = torch.cat([heads[0](users["internal"][those]), heads[-1](items["internal"])])  # type: ignore[index]
    wanted["internal"] = bce(logits, labels)
    losses = own.losses(whole(own))
    assert losses.keys() == wanted.keys()
    for name, loss in wanted.items():
        assert float(losses[name].detach()) == pytest.approx(float(loss.detach()), rel=1e-4), name
    assert len(own.biases) == (0 if values.get("bias") is False else 2)


def test_each_loss_has_the_weight_that_is_said() -> None:
    one = dict.fromkeys(("recon_users", "recon_items", "recon_ratings", "internal", "external"), 1.0)
    assert model(SEEN).weights == one
    other = model(SEEN, reconstruction=0.3, kl=0.2, block={"external": {"strength": 0.5}}).weights
    assert other == {**one, "recon_users": 0.3, "recon_items": 0.3, "external": 0.5, "kl": 0.2}


def test_dropout_leaves_the_mean_of_inputs_as_it_is() -> None:
    own, rows = model(SEEN, dropout=0.75), whole(model(SEEN)).users
    kept = own._read(rows).value
    assert torch.equal(kept[kept > 0], 4 * rows.value[kept > 0])
    assert float((kept > 0).float().mean()) == pytest.approx(0.25, abs=0.08)
    assert torch.equal(own.eval()._read(rows).value, rows.value)


def test_codes_may_be_drawn_from_a_normal_distribution_of_their_own() -> None:
    own = model(SEEN, kl=1.0)
    batch, drawn = whole(own), torch.Generator().set_state(own.generators()["code"].get_state())
    codes, divergence = own._codes(own.users, batch.users)
    each = []
    for name, encoder in own.users.encoders.items():
        mean, log_variance = encoder(batch.users).chunk(2, dim=1)
        noise = torch.randn(mean.shape, generator=drawn)
        assert torch.allclose(codes[name], mean + noise * log_variance.exp().sqrt(), atol=1e-5)
        each.append(0.5 * (mean.square() + log_variance.exp() - log_variance - 1))
    assert float(divergence.detach()) == pytest.approx(float(torch.cat(each, dim=1).mean().detach()), rel=1e-4)
    own.eval()
    both = [float(own._codes(side, rows)[1].detach()) for side, rows in ((own.users, batch.users), (own.items, batch.items))]
    assert float(own.losses(batch)["kl"].detach()) == pytest.approx(sum(both) / 2, rel=1e-4)


def test_batches_estimate_each_loss_without_bias() -> None:
    own = model(SEEN).eval()
    with torch.no_grad():
        wanted = own.losses(whole(own))
        source = CellBatches(own._entries, 10, 10, seed=0)
        found: dict[str, list[float]] = {name: [] for name in wanted}
        for _ in range(60):
            for batch in source:
                for name, loss in own.losses(batch).items():
                    found[name].append(float(loss))
    for name, loss in wanted.items():
        assert np.mean(found[name]) == pytest.approx(float(loss), rel=0.01), name


# blocks ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shares", "sizes"), [((2, 1, 1), (64, 32, 32)), ((1, 2, 1), (32, 64, 32)), ((1, 1, 2), (32, 32, 64))])
def test_sizes_by_proportion(shares: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    assert proportioned(128, *shares) == sizes


@pytest.mark.parametrize("shares", [(1, 1, 1), (3, 2, 2), (5, 1, 1), (1, 7, 3, 2)])
def test_sizes_add_up_whatever_the_proportion(shares: tuple[int, ...]) -> None:
    assert sum(proportioned(128, *shares)) == 128


def test_the_largest_remainder_gets_what_is_left_and_the_first_of_equal_ones() -> None:
    assert proportioned(10, 5, 3, 1) == (6, 3, 1)  # 5.56, 3.33 and 1.11
    assert proportioned(5, 1, 1) == (3, 2)


def test_the_code_is_internal_then_external_then_other() -> None:
    own = model(SEEN, sizes=(8, 4, 2)).eval()
    found = own.item_vectors()
    assert list(found) == ["code", "internal", "external", "other"]
    assert [part.shape[1] for part in found.values()] == [14, 8, 4, 2]
    assert torch.equal(found["code"], torch.cat([found[name] for name in ("internal", "external", "other")], dim=1))
    assert not found["code"][0].any()


VARIANTS = {
    "int+ext": ((8, 8, 0), {"internal", "external"}),
    "int+oth": ((8, 0, 8), {"internal"}),
    "ext+oth": ((0, 8, 8), {"external"}),
    "whole": ((0, 0, 16), set()),
}


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_a_variant_has_no_weights_and_no_loss_of_a_block_that_it_lacks(variant: str) -> None:
    sizes, taught = VARIANTS[variant]
    own = model(SEEN, sizes=sizes)
    recon = {"recon_users", "recon_items", "recon_ratings"}
    assert set(own.losses(whole(own))) == set(own.weights) == recon | taught
    missing = [name for name, size in zip(("internal", "external", "other"), sizes, strict=True) if not size]
    names = [name for name, _ in own.named_parameters()]
    assert not [name for name in names for each in missing if each in name]
    assert own.item_vectors()["code"].shape[1] == 16


def gradients(own: SDRL, loss: str) -> dict[str, bool]:
    own.zero_grad()
    own.losses(whole(own))[loss].backward()
    return {name: each.grad is not None and bool(each.grad.any()) for name, each in own.named_parameters()}


def test_each_block_is_taught_by_its_own_loss_alone() -> None:
    own = model(SEEN)
    for loss, teaches in (("internal", "internal"), ("external", "external")):
        reached = {name for name, found in gradients(own, loss).items() if found}
        assert reached, loss
        assert all(teaches in name for name in reached), loss
        assert all(any(f"{side}.encoders.{teaches}" in name for name in reached) for side in ("users", "items"))


def test_reconstruction_reaches_every_encoder_and_ratings_couple_users_and_items() -> None:
    own = model(SEEN)
    reached = gradients(own, "recon_users") | {
        name: found for name, found in gradients(own, "recon_items").items() if name.startswith("items")
    }
    assert all(found for name, found in reached.items() if "encoders" in name and "users" in name)
    assert all(found for name, found in gradients(own, "recon_ratings").items() if "encoders" in name)


def test_codes_above_nothing_fit_no_zero_without_a_bias() -> None:
    own = model(SEEN, code="sigmoid").eval()
    users, items = own.codes("users")[1:], own.codes("items")[1:]
    assert float(torch.sigmoid(users @ items.T).min()) >= 0.5
    with pytest.raises(ValueError, match="fits no zero"):
        config(code="sigmoid", bias=False)


def test_300_steps_take_most_of_what_is_above_the_entropy() -> None:
    own, fresh = trained(), model(SEEN)
    ratings = torch.from_numpy(own._entries.toarray()[1:, 1:])
    soft = torch.cat([own.get_buffer("labels_internal_users")[1:], own.get_buffer("labels_internal_items")[1:]])
    floors = dict.fromkeys(("recon_users", "recon_items", "recon_ratings", "external"), float(entropy(ratings)))
    floors["internal"] = float(entropy(soft))
    with torch.no_grad():
        before, after = (each.eval().losses(whole(each)) for each in (fresh, own))
    excess = [sum(float(losses[name]) - floor for name, floor in floors.items()) for losses in (before, after)]
    assert excess[1] < 0.3 * excess[0]
    scores = own.scores(Baskets.of([np.array([1], np.int32)] * 60, list(range(1, 61)))).numpy()[:, 1:]
    rated_ = ratings.numpy().ravel() > 0
    assert roc_auc_score(rated_, scores.ravel()) > 0.9


# what blocks know --------------------------------------------------------------------------------------------------------


APART = world(150, 120, 5, category=0.25, circle=0.6)
ROLES: dict[str, dict[str, Any]] = {
    "right": {"internal": {"labelled": 0.7}},
    "swapped": {"internal": {"taught": "ratings"}, "external": {"taught": "categories", "labelled": 0.7}},
}


@cache
def probed(roles: str) -> SDRL:
    return fitted(model(APART, sizes=(4, 4, 4), block=ROLES[roles]), 100)


def told(own: SDRL, labels: np.ndarray, linear: bool) -> dict[str, float]:
    """Micro-F1 of what items are, by block, on those of which training was shown no category."""
    test = held_items(APART.categories, 0.3)
    train = np.setdiff1d(np.arange(1, 121), test)
    return {
        name: classified(vectors.numpy(), labels, train, test, seed=0, linear=linear).f1
        for name, vectors in own.item_vectors().items()
    }


def auc(own: SDRL, block: str) -> float:
    """Of held-out pairs among unrated ones, by one block's products."""
    users, items = own.user_vectors()[block][1:], own.item_vectors()[block][1:]
    chosen = APART.held | (APART.ratings == 0)
    return float(roc_auc_score(APART.held[chosen], (users @ items.T).numpy()[chosen]))


@pytest.mark.parametrize("linear", [True, False])
def test_each_block_knows_its_own(linear: bool) -> None:
    own = probed("right")
    categories = told(own, APART.categories.of_items, linear)
    circles = told(own, np.eye(5)[np.r_[0, APART.circle]], linear)
    assert categories["internal"] > 0.8 > categories["external"] + 0.2
    assert circles["external"] > 0.8 > circles["internal"] + 0.2
    assert auc(own, "external") > auc(own, "internal") + 0.1
    assert max(categories["other"], circles["other"]) < 0.8


@pytest.mark.parametrize("linear", [True, False])
def test_where_teachers_are_swapped_so_is_what_blocks_know(linear: bool) -> None:
    own = probed("swapped")
    categories = told(own, APART.categories.of_items, linear)
    circles = told(own, np.eye(5)[np.r_[0, APART.circle]], linear)
    assert categories["external"] > categories["internal"]
    assert circles["internal"] > circles["external"] + 0.3
    assert auc(own, "internal") > auc(own, "external") + 0.1


def test_categories_that_are_hidden_teach_nothing() -> None:
    """Neither the items themselves nor, by (11), who rated them."""
    partly, all_known = model(SEEN, block={"internal": {"labelled": 0.8}}), model(SEEN)
    hidden = held_items(SEEN.categories, 0.2)
    assert not partly.get_buffer("known_internal_items")[hidden].any()
    assert not partly.get_buffer("labels_internal_items")[hidden].any()
    assert bool(all_known.get_buffer("known_internal_items")[hidden].all())
    own = partly._entries.toarray() @ SEEN.categories.without(hidden).of_items
    wanted = own / own.sum(axis=1, keepdims=True).clip(1e-30)
    assert np.allclose(partly.get_buffer("labels_internal_users"), wanted, atol=1e-6)


def test_held_out_ratings_change_no_preference() -> None:
    other = replace(SEEN, ratings=np.where(SEEN.held, 1, SEEN.ratings))
    one, two = (model(each).get_buffer("labels_internal_users") for each in (SEEN, other))
    assert torch.equal(one, two)


# options -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"kl": 0.1},
        {"zeros": 2.0},
        {"match": "softmax", "inputs": "ones", "unit": True, "dropout": 0.5},
        {"heads": "apart", "preference": "max"},
        {"code": "sigmoid"},
        {"bias": False},
    ],
)
def test_every_option_trains(values: dict[str, Any]) -> None:
    own = model(SEEN, **values)
    losses = own.losses(whole(own))
    assert losses.keys() == own.weights.keys()
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in own.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name


def test_distributions_without_spread_diverge_by_nothing_and_answers_draw_nothing() -> None:
    own = model(SEEN, kl=1.0)
    for side in (own.users, own.items):
        for encoder in side.encoders.values():
            torch.nn.init.zeros_(encoder.last.weight)  # type: ignore[union-attr,arg-type]
    assert float(own.losses(whole(own))["kl"].detach()) == pytest.approx(0, abs=1e-7)
    other = model(SEEN, kl=1.0)
    drawn = [float(other.losses(whole(other))["recon_ratings"].detach()) for _ in range(2)]
    assert drawn[0] != drawn[1]
    assert torch.equal(other.codes("users"), other.codes("users"))
    assert other.training


def test_what_is_drawn_can_be_gone_on_with() -> None:
    own = model(SEEN, dropout=0.5, kl=1.0)
    states = {name: each.get_state() for name, each in own.generators().items()}
    first = own.losses(whole(own))
    for name, each in own.generators().items():
        each.set_state(states[name])
    again = own.losses(whole(own))
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"blocks": {"a": {"size": 0}}}, "all of them have size = 0"),
        ({"blocks": {"a.b": {"size": 1}}}, "'a.b' names a block"),
        ({"blocks": {"kl": {"size": 1}}}, "neither recon_"),
        ({"blocks": {"a": {"size": 1, "column": "genres"}}}, "belong to taught = 'categories', not 'nothing'"),
        (
            {"blocks": {"a": {"size": 1, "taught": "ratings", "without": ["Film"]}}},
            "belong to taught = 'categories', not 'ratings'",
        ),
        ({"blocks": {"a": {"size": 1, "strength": 0.5}}}, "strength weighs the loss of what a block is taught"),
        ({"blocks": {"a": {"size": 1, "taught": "stars"}}}, "categories"),
    ],
)
def test_settings_that_do_not_go_together(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SDRLConfig.model_validate(values)


# answers -----------------------------------------------------------------------------------------------------------------


def kept(**values: Any) -> BlockVectors:
    found = trained(**values).kept()
    assert isinstance(found, BlockVectors)
    return found


def above(own: BlockVectors, baskets: Baskets, target: int) -> float:
    """The score of an item less the mean of all."""
    scores = own.scores(baskets)[0]
    return float(scores[target] - scores[1:].mean())


@pytest.mark.parametrize("values", [{}, {"code": "sigmoid"}, {"inputs": "ones", "unit": True}])
def test_reasons_add_up_to_what_an_item_scores_above_the_mean_for_somebody_new(values: dict[str, Any]) -> None:
    own, items = kept(**values), torch.tensor([1, 4, 9, 12])
    shares, text = own.shares(items, 6)
    assert text is None
    assert float(shares.sum()) == pytest.approx(above(own, Baskets.of([items.numpy()]), 6), abs=1e-5)


def test_reasons_are_gradients_along_the_way() -> None:
    """Of two items of one category and one of another, those of the target's own say more."""
    own = kept()
    items = {at: np.flatnonzero(SEEN.category == at) + 1 for at in range(3)}
    shares, _ = own.shares(torch.tensor([items[0][0], items[0][1], items[1][0]]), int(items[0][2]))
    assert float(shares[:2].mean()) > float(shares[2])


def test_parts_add_up_likewise_and_say_what_the_item_is() -> None:
    own = cast(BlockVectors, fitted(model(SEEN, block={"other": {"weight": 0.5}}), 100).kept())
    baskets = Baskets.of([np.array([1, 2], np.int32)], [3])
    found = own.divided(baskets, 5)
    assert [each.name for each in found] == ["internal", "external", "other"]
    assert sum(each.share for each in found) == pytest.approx(above(own, baskets, 5), abs=1e-5)
    assert [name for name, _ in found[0].says] == [NAMES[SEEN.category[4]]]
    assert not found[1].says


def test_what_an_item_is_comes_by_how_much_somebody_is_for_it() -> None:
    own = cast(BlockVectors, model(SEEN).eval().kept())
    own.get_buffer("labels_internal")[5] = True  # of all categories at once
    baskets = Baskets.of([np.array([1, 2], np.int32)], [3])
    said = dict(own.divided(baskets, 5)[0].says)
    taste = torch.sigmoid(own.users[3, :8] @ own.get_buffer("head_internal").T + own.get_buffer("head_bias_internal"))
    shares = dict(zip(NAMES, (taste / taste.sum()).tolist(), strict=True))
    assert said == pytest.approx(shares)
    assert list(said) == sorted(said, key=lambda name: -said[name])


def test_somebody_new_counts_each_item_as_the_mean_rating_of_training() -> None:
    own = model(SEEN).eval()
    mean = float(own._entries.data.mean())
    rows = torch.zeros(1, 40)
    rows[0, [2, 6]] = mean
    encoders: Any = own.users.encoders
    code = torch.cat([one.last(torch.tanh(rows @ one.first + one.bias)) for one in encoders.values()], dim=1)
    wanted = code @ own.codes("items").T
    assert torch.allclose(own.scores(Baskets.of([np.array([3, 7], np.int32)])), wanted, atol=1e-5)
    assert f"the mean rating of training, {mean:.2f} of the best" in own.kept().new_user  # type: ignore[operator]


def test_a_weight_of_a_block_weighs_its_part_of_the_score() -> None:
    plain, half = model(SEEN).eval(), model(SEEN, block={"external": {"weight": 0.0}}).eval()
    users, items = plain.user_vectors(), plain.item_vectors()
    baskets = Baskets.of([np.array([1], np.int32)], [2])
    without = sum(users[name][2] @ items[name].T for name in ("internal", "other"))
    assert torch.allclose(half.scores(baskets)[0], without, atol=1e-6)  # type: ignore[arg-type]


def test_what_nobody_rated_comes_last_and_is_told() -> None:
    ratings = SEEN.ratings.copy()
    ratings[:, 7] = 0
    own = model(replace(SEEN, ratings=ratings)).eval()
    scores = own.scores(Baskets.of([np.array([1, 2], np.int32)]))[0]
    assert int(scores.argmin()) in (0, 8)
    assert float(scores[8]) < float(scores[[*range(1, 8), *range(9, 41)]].min())
    assert "1 item was rated by nobody in training; they come last" in own.kept().remarks  # type: ignore[operator]


def test_ones_are_of_positives_and_ratings_of_all_that_was_rated() -> None:
    parts = SEEN.parts()
    liked = SEEN.ratings[parts.graph.user - 1, parts.graph.item - 1] > 3
    parts = replace(parts, data=parts.graph.masked(liked))
    ones, ratings = (SDRL(config(inputs=inputs), parts)._entries for inputs in ("ones", "ratings"))
    assert ones.nnz == liked.sum()
    assert set(ones.data) == {1.0}
    assert ratings.nnz == len(liked)


@pytest.mark.parametrize("rating", [-1.0, 0.0])
def test_ratings_that_nothing_reads_may_be_anything(rating: float) -> None:
    parts = SEEN.parts()
    assert parts.labels is not None
    odd = replace(parts, labels=replace(parts.labels, rating=np.full_like(parts.labels.rating, rating)))
    alone = {name: {"size": size, "taught": "nothing"} for name, size in (("internal", 0), ("external", 4), ("other", 4))}
    assert SDRL(config(inputs="ones", block=alone), odd)._entries.nnz == len(parts.graph)
    for values in ({"inputs": "ones"}, {"inputs": "ratings", "block": alone}):  # categories by what was rated, and inputs
        with pytest.raises(DataError, match="ratings of training: "):
            SDRL(config(**values), odd)


def test_somebody_new_is_encoded_by_the_mean_of_their_distribution() -> None:
    own = model(SEEN, inputs="ones", kl=1.0).eval()
    has = (np.flatnonzero(np.where(SEEN.held, 0, SEEN.ratings)[4]) + 1).astype(np.int32)
    known, new = own.scores(Baskets.of([has], [5])), own.scores(Baskets.of([has]))
    assert torch.allclose(known, new, atol=1e-5)


def test_who_rated_nothing_is_answered_as_somebody_new() -> None:
    ratings = SEEN.ratings.copy()
    ratings[4] = 0
    own = model(replace(SEEN, ratings=ratings)).eval()
    has = np.array([1, 2], np.int32)
    assert torch.equal(own.scores(Baskets.of([has], [5])), own.scores(Baskets.of([has])))
    assert not own.get_buffer("known_internal_users")[5]
    later = own.scores(Baskets.of([has], [10**6]))  # of a log that has grown
    assert torch.equal(later, own.scores(Baskets.of([has])))


def test_somebody_with_the_items_of_training_is_encoded_as_training_did() -> None:
    """With inputs of ones there is nothing else that training knew."""
    own = kept(inputs="ones", unit=True)
    has = (np.flatnonzero(np.where(SEEN.held, 0, SEEN.ratings)[4]) + 1).astype(np.int32)
    known, new = own.scores(Baskets.of([has], [5])), own.scores(Baskets.of([has]))
    assert torch.allclose(known, new, atol=1e-4)


# a run -------------------------------------------------------------------------------------------------------------------

TINY = {"hidden": 16, "blocks": {"internal": {"size": 8}, "external": {"size": 4}, "other": {"size": 4}}}


def test_a_run_sees_the_ratings_of_its_training_part_alone() -> None:
    data = rated(SEEN, name="rated-seen")
    request = RunRequest(data="-", task="collaborative", backbone="sdrl", preset="authors", model=TINY)
    [stage] = ROOM.plan(resolve(request, "test"), data, None, show_progress=False).stages
    own = cast(SDRL, stage.module)  # type: ignore[union-attr]
    users, items = (np.array([int(each) - 1 for each in ids]) for ids in (data.user_ids, data.item_ids))
    wanted = (np.where(SEEN.held, 0, SEEN.ratings) / 5)[users][:, items]
    assert np.allclose(own._entries.toarray()[1:, 1:], wanted)
    taste = wanted @ np.eye(3)[SEEN.category[items]]
    assert np.allclose(own.get_buffer("labels_internal_users")[1:], taste / taste.sum(1, keepdims=True).clip(1e-9), atol=1e-6)


@cache
def run() -> Run:
    data = rated(SEEN, name="rated-run")
    training = {"max_epochs": 3, "min_epochs": 0, "batch_size": 20}
    return fit(data, path=root() / "sdrl-run", backbone="sdrl", task="collaborative", seed=1, model=TINY, training=training)


def test_a_run_says_which_block_carries_a_recommendation() -> None:
    found = run().recommend(run().dataset.user_ids[0], k=2, explain=True)
    for each in found:
        assert [part.name for part in each.parts] == ["internal", "external", "other"]
        assert sum(part.share for part in each.parts) == pytest.approx(1, abs=1e-5) or sum(
            abs(part.share) for part in each.parts
        ) == pytest.approx(1, abs=1e-5)
        assert each.because
        assert {name for name, _ in each.parts[0].says} <= set(NAMES)
    again = load(run().path, dataset=run().dataset)
    assert again.recommend(run().dataset.user_ids[0], k=2, explain=True) == found
    assert run().recommend(run().dataset.user_ids[0], k=1)[0].parts == ()


def test_the_command_line_prints_blocks_categories_and_items(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from braidrec.cli import app

    monkeypatch.setenv("COLUMNS", "200")
    user = run().dataset.user_ids[0]
    app(["recommend", str(run().path), "--user", user, "-k", "2", "--explain"], standalone_mode=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "because of" in shown
    assert "internal" in shown
    assert "external" in shown
    assert "as of training" in shown


def test_what_parts_bring_in_words() -> None:
    parts = (Share("internal", 0.61, (("Comedy", 0.3), ("Drama", 0.2))), Share("other", -0.05))
    assert divided(parts) == "internal 61% (Comedy 30%, Drama 20%); other -5%"
    assert divided(()) == ""


def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is drawn, so every generator must be found where it stood."""
    data, steps = rated(SEEN, name="rated-run"), 0
    training = {"min_epochs": 0, "batch_size": 20, "average_epochs": 0.0, "max_epochs": 4, "checkpoint_seconds": 1e-6}
    model_ = {**TINY, "dropout": 0.5, "kl": 0.1, "zeros": 2.0}

    def trained_at(path: Path) -> Run:
        return fit(data, path=path, backbone="sdrl", task="collaborative", seed=2, model=model_, training=training)

    wanted = trained_at(tmp_path / "whole").model.saved().tensors
    step = SDRL.step

    def dying(self: SDRL, batch: CellBatch) -> Any:
        nonlocal steps
        steps += 1
        if steps == 6:
            raise KeyboardInterrupt
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(SDRL, "step", dying)
        with pytest.raises(KeyboardInterrupt):
            trained_at(tmp_path / "again")
    found = trained_at(tmp_path / "again").model.saved().tensors
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_ratings_beyond_the_scale_and_a_column_that_is_not_there_are_named(tmp_path: Path) -> None:
    data = rated(SEEN, name="rated-run")
    with pytest.raises(DataError, match=r"accepted: 0 \.\. 3"):
        fit(data, path=tmp_path / "a", backbone="sdrl", task="collaborative", model={"scale": 3.0})
    wrong = {"blocks": {"internal": {"column": "mood"}}}
    with pytest.raises(ConfigError, match="no column 'mood'"):
        fit(data, path=tmp_path / "b", backbone="sdrl", task="collaborative", model=wrong)
