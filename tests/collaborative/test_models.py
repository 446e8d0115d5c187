"""Each closed form against what it says that it solves, and what all of them have in common."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from small_worlds import fitted, graph_of, random_graph, random_text
from torch import Tensor, nn

from braidrec.collaborative import TASK
from braidrec.collaborative.baskets import Baskets
from braidrec.collaborative.contracts import Parts
from braidrec.collaborative.graph import Graph
from braidrec.collaborative.item_weights import TextSide
from braidrec.collaborative.models.ease import COLD, EASEConfig, TextEASE, calibrated, fit_form
from braidrec.collaborative.models.ials import IALSConfig, fit_factors, penalties, solve
from braidrec.collaborative.models.turbo_cf import weights as turbo_weights
from braidrec.errors import ConfigError, RunError
from braidrec.evaluation.closed_form import ease, gram
from braidrec.layers.text import TextTable
from braidrec.layers.twins import twin

TEXT_MODELS = (("ease", {"text": "stack"}), ("ease", {"text": "regularise"}), ("text-knn", {}))
LINEAR = (
    ("ease", {}),
    ("ease", {"rank": 4}),
    ("item-knn", {}),
    ("gf-cf", {"factors": 3}),
    ("graph-filter", {}),
    ("turbo-cf", {}),
    ("turbo-cf", {"order": 3}),
)


def similar(text: Tensor) -> Tensor:
    unit = TextTable(text).read("centred").clone()
    unit[0] = 0
    return unit @ unit.T


def some_baskets() -> Baskets:
    return Baskets.of([np.array([1, 4, 9], np.int32), np.array([], np.int32), np.array([2], np.int32)])


def least_squares(values: np.ndarray, penalty: float, pull: float, towards: np.ndarray) -> np.ndarray:
    """The minimiser of the regularised form, column by column with the diagonal left out."""
    size = values.shape[1]
    found = np.zeros((size, size))
    for column in range(size):
        rest = np.delete(np.arange(size), column)
        own = values[:, rest]
        left = own.T @ own + (penalty + pull) * np.eye(size - 1)
        found[rest, column] = np.linalg.solve(left, own.T @ values[:, column] + pull * towards[rest, column])
    return found


# EASE with text ----------------------------------------------------------------------------------------------------------


def test_text_that_counts_nothing_leaves_ease_to_the_bit() -> None:
    graph, text = random_graph(), random_text()
    plain = fitted("ease", graph, penalty=3.0).dense  # type: ignore[attr-defined]
    stacked = fitted("ease", graph, text, text="stack", weight=0.0, penalty=3.0).dense  # type: ignore[attr-defined]
    pulled = fitted("ease", graph, text, text="regularise", pull=0.0, penalty=3.0).dense  # type: ignore[attr-defined]
    assert torch.equal(plain, stacked)
    assert torch.equal(plain, pulled)


def test_stacked_text_is_ease_with_text_rows_under_the_interactions() -> None:
    graph, text = random_graph(), random_text()
    unit = TextTable(text).read("centred").clone()
    unit[0] = 0
    values = np.vstack([graph.matrix.toarray(), 2.0**0.5 * unit.numpy().T]).astype(np.float64)
    found = fitted("ease", graph, text, text="stack", weight=2.0, penalty=3.0).dense  # type: ignore[attr-defined]
    assert np.allclose(found.numpy(), least_squares(values, 3.0, 0.0, np.zeros((16, 16))), atol=1e-4)


def test_regularised_text_is_least_squares_pulled_towards_the_ease_of_the_texts() -> None:
    graph, text = random_graph(), random_text()
    unit = TextTable(text).read("centred").clone()
    unit[0] = 0
    towards = least_squares(unit.numpy().T.astype(np.float64), 0.5, 0.0, np.zeros((16, 16)))
    wanted = least_squares(graph.matrix.toarray().astype(np.float64), 3.0, 7.0, towards)
    model = fitted("ease", graph, text, text="regularise", text_penalty=0.5, penalty=3.0, pull=7.0)
    assert np.allclose(model.dense.numpy(), wanted, atol=1e-4)  # type: ignore[attr-defined]


def test_low_rank_of_full_rank_is_exact_and_less_is_nearer_the_more_there_is() -> None:
    graph, text = random_graph(), random_text()
    baskets = some_baskets()
    for own in ({"text": "none"}, {"text": "stack", "weight": 2.0}):
        exact = fitted("ease", graph, text, penalty=3.0, **own).scores(baskets)
        apart = [
            float((fitted("ease", graph, text, penalty=3.0, rank=rank, **own).scores(baskets) - exact).abs().max())
            for rank in (2, 8, 16)
        ]
        assert apart[2] < 1e-4
        assert apart[2] < min(apart[:2])


def test_what_does_not_fit_is_of_low_rank_or_names_the_bytes() -> None:
    graph, text = random_graph(), random_text()
    tiny = 1e-6
    low = fitted("ease", graph, memory_gib=tiny)
    assert low.dense is None  # type: ignore[attr-defined]
    assert "EASE of rank 15: the exact form holds two item-item matrices, 2,048 bytes for 15 items" in low.remarks[0]
    assert not fitted("ease", graph).remarks
    with pytest.raises(
        ConfigError,
        match=r"3 dense item-item matrices of 15 items take 3,072 bytes, memory_gib = 1e-06 allows 1,073; raise "
        r"model\.backbone\.memory_gib where the machine has it, or take text = 'stack'",
    ):
        fitted("ease", graph, text, text="regularise", memory_gib=tiny)
    with pytest.raises(ConfigError, match="text-knn: 1 dense item-item matrix of 15 items take"):
        fitted("text-knn", graph, text, memory_gib=1e-7)


@pytest.mark.parametrize("form", ["stack", "regularise"])
def test_shares_by_text_and_by_behaviour_are_what_each_side_alone_puts_into_the_score(form: str) -> None:
    """The normal equations are linear in their right-hand side: behaviour's part and text's part add up."""
    graph, text = random_graph(), random_text()
    settings = {"text": form, "penalty": 3.0, **({"weight": 2.0} if form == "stack" else {"pull": 7.0})}
    model = fitted("ease", graph, text, **settings)
    items, target = torch.tensor([1, 4, 9]), 6
    whole, by_text = model.shares(items, target)
    assert by_text is not None
    score = model.scores(Baskets.of([items.numpy()]))[0, target]
    assert float(whole.sum()) == pytest.approx(float(score), abs=1e-5)
    rest = np.delete(np.arange(16), target)
    behaviour, meaning = gram(graph.matrix).numpy().astype(np.float64), similar(text).numpy().astype(np.float64)
    if form == "stack":
        left = behaviour + 2.0 * meaning + 3.0 * np.eye(16)
        right = 2.0 * meaning[rest, target]
    else:
        left = behaviour + (3.0 + 7.0) * np.eye(16)
        unit = TextTable(text).read("centred").clone()
        unit[0] = 0
        right = 7.0 * least_squares(unit.numpy().T.astype(np.float64), 1.0, 0.0, np.zeros((16, 16)))[rest, target]
    wanted = np.zeros(16)
    wanted[rest] = np.linalg.solve(left[np.ix_(rest, rest)], right)
    assert np.allclose(by_text.numpy(), wanted[items.numpy()], atol=1e-4)


# items that come later ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "values"), TEXT_MODELS)
def test_an_item_that_comes_later_scores_as_one_of_the_catalogue_that_nobody_has(name: str, values: dict[str, object]) -> None:
    graph, text = random_graph(items=15), random_text(16)
    wider = graph_of(np.column_stack([graph.user, graph.item]), 40, 16)  # item 16 is there, and nobody has it
    mean = TextTable(text[:16]).mean
    whole = fitted(name, wider, torch.cat([text[:16], text[16:]]), **values)
    before = fitted(name, graph, text[:16], **values)
    grown = twin(before)  # type: ignore[type-var]
    grown.add(text[16:])  # type: ignore[attr-defined]
    baskets = some_baskets()
    found, kept = grown.scores(baskets), before.scores(baskets)  # type: ignore[attr-defined]
    assert before.num_rows == 16
    assert grown.num_rows == 17  # type: ignore[attr-defined]
    assert torch.equal(found[:, :16], kept)
    assert torch.isfinite(mean).all()
    # the mean of the texts differs by one item of 16, so the columns agree closely, not to the bit
    there = whole.scores(baskets)[:, 16]
    assert torch.corrcoef(torch.stack([found[0, :], torch.cat([kept[0], there[:1]])]))[0, 1] > 0.99
    has_it = Baskets.of([np.array([16], np.int32)])
    assert torch.isfinite(grown.scores(has_it)).all()  # type: ignore[attr-defined]
    assert float(grown.scores(has_it)[0, 16]) == 0.0  # type: ignore[attr-defined]


LATER = pytest.mark.parametrize(
    ("name", "values"),
    [
        ("ease", {"text": "stack", "weight": 2.0, "penalty": 3.0}),
        ("ease", {"text": "stack", "weight": 2.0, "penalty": 3.0, "rank": 16}),
        ("ease", {"text": "regularise", "text_penalty": 0.5, "penalty": 3.0, "pull": 7.0}),
        ("text-knn", {"power": 2.0}),
    ],
)


def with_later(name: str, values: dict[str, object], count: int) -> tuple[Tensor, np.ndarray]:
    """Scores (16 + count,) x (16 + count,) of who has one item alone, ``count`` of them later ones; and W of them all.

    With the texts centred alike, W is what the same problem gives items of the catalogue that nobody has.
    """
    graph, text = random_graph(items=15), random_text(15)
    drawn = torch.randn(2, 6, generator=torch.Generator().manual_seed(5))
    late = (TextTable(text).mean + drawn + torch.tensor([[0.0], [0.5]]) * drawn[:1])[:count]
    grown = twin(fitted(name, graph, text, **values))  # type: ignore[type-var]
    grown.add(late)  # type: ignore[attr-defined]
    found = grown.scores(Baskets.alone(torch.arange(16 + count)))  # type: ignore[attr-defined]
    unit = torch.cat([grown.text.vectors, grown.text.prepared(late)]).double().numpy()  # type: ignore[attr-defined]
    met = np.zeros((41, 16 + count))
    met[:, :16] = graph.matrix.toarray()
    nowhere = np.zeros((16 + count, 16 + count))
    if name == "text-knn":
        return found, np.maximum(unit @ unit.T, 0) ** 2
    if values["text"] == "stack":
        return found, least_squares(np.vstack([met, 2.0**0.5 * unit.T]), 3.0, 0.0, nowhere)
    return found, least_squares(met, 3.0, 7.0, least_squares(unit.T, 0.5, 0.0, nowhere))


@LATER
def test_the_column_of_a_later_item_is_exact(name: str, values: dict[str, object]) -> None:
    found, wanted = with_later(name, values, 1)
    assert np.abs(wanted[:16, 16]).max() > 0.01
    assert np.allclose(found[:16, 16].numpy(), wanted[:16, 16], atol=1e-4)


@LATER
def test_what_two_later_items_say_of_one_another_is_exact(name: str, values: dict[str, object]) -> None:
    found, wanted = with_later(name, values, 2)
    assert min(abs(wanted[16, 17]), abs(wanted[17, 16])) > 0.01
    assert np.allclose(found[[16, 17], [17, 16]].numpy(), wanted[[16, 17], [17, 16]], atol=1e-4)


def test_models_without_text_take_no_item_that_comes_later() -> None:
    model = fitted("item-knn", random_graph())
    assert not model.reads_text
    with pytest.raises(RunError, match="knows items by who has them alone"):
        model.add(torch.zeros(1, 6))


# the others --------------------------------------------------------------------------------------------------------------


def test_filters_are_what_their_equations_say() -> None:
    graph = random_graph()
    values = torch.from_numpy(graph.matrix.toarray())
    users, items = (values.sum(axis).clamp_min(1) for axis in (1, 0))
    smooth = values / users.sqrt()[:, None] / items.sqrt()
    met = some_baskets().dense(16)
    linear = met @ (smooth.T @ smooth)
    assert torch.allclose(fitted("graph-filter", graph).scores(some_baskets()), linear, atol=1e-5)
    vectors = torch.linalg.svd(smooth).Vh[:3].T
    low = met / items.sqrt() @ vectors @ vectors.T * items.sqrt()
    found = fitted("gf-cf", graph, factors=3, alpha=0.3).scores(some_baskets())
    assert torch.allclose(found, linear + 0.3 * low, atol=2e-3)


def test_turbo_cf_is_a_polynomial_of_a_power_of_the_item_graph() -> None:
    graph = random_graph()
    power = torch.from_numpy(turbo_weights(graph.matrix, 0.3, 0.7).toarray())
    values = torch.from_numpy(graph.matrix.toarray())
    users, items = (values.sum(axis).clamp_min(1) for axis in (1, 0))
    smooth = values / users[:, None] ** 0.3 / items**0.7
    assert torch.allclose(power, (smooth.T @ smooth) ** 0.7, atol=1e-5)
    met, wanted = some_baskets().dense(16), {1: power, 2: 2 * power - power @ power}
    wanted[3] = power + 0.01 * (-power @ power @ power + 10 * power @ power - 29 * power)
    for order, polynomial in wanted.items():
        found = fitted("turbo-cf", graph, alpha=0.3, power=0.7, order=order).scores(some_baskets())
        assert torch.allclose(found, met @ polynomial, atol=1e-4)


def test_text_knn_is_the_sharpened_cosine_of_centred_texts() -> None:
    graph, text = random_graph(), random_text()
    weights = similar(text).clamp_min(0) ** 3
    weights.fill_diagonal_(0)
    found = fitted("text-knn", graph, text).scores(some_baskets())
    assert torch.allclose(found, some_baskets().dense(16) @ weights, atol=1e-5)


@pytest.mark.parametrize(("name", "values"), LINEAR)
def test_what_each_item_brings_adds_up_to_the_score(name: str, values: dict[str, object]) -> None:
    model = fitted(name, random_graph(), **values)
    items = torch.tensor([1, 4, 9])
    shares, text = model.shares(items, 6)
    assert text is None
    assert float(shares.sum()) == pytest.approx(float(model.scores(some_baskets())[0, 6]), abs=1e-5)


def test_popularity_is_the_same_for_everybody_and_has_nothing_behind_it() -> None:
    graph = random_graph()
    model = fitted("popularity", graph)
    assert model.scores(some_baskets()).tolist() == [graph.item_counts.tolist()] * 3
    with pytest.raises(RunError, match="popularity gives everybody the same scores"):
        model.shares(torch.tensor([1]), 2)


@pytest.mark.parametrize(("name", "values"), [*LINEAR, ("ials", {"factors": 4})])
def test_who_has_nothing_and_what_nobody_has_are_no_trouble(name: str, values: dict[str, object]) -> None:
    pairs = np.array([[1, 1], [1, 2], [2, 2], [2, 3]])  # users 3 to 5 and items 4 to 6 have nothing
    found = fitted(name, graph_of(pairs, 5, 6), **values).scores(Baskets.of([np.array([1, 6], np.int32)]))
    assert torch.isfinite(found).all()
    assert int(found[0, 2:].argmax()) == 0


# iALS --------------------------------------------------------------------------------------------------------------------


def direct(values: np.ndarray, other: np.ndarray, config: IALSConfig) -> np.ndarray:
    """One side by the normal equations of Hu et al., row by row."""
    found = np.zeros((len(values), other.shape[1]))
    for at, row in enumerate(values):
        if row.any():
            penalty = config.penalty * (row.sum() + (len(other) - 1) / config.alpha) ** config.frequency
            left = other.T @ np.diag(1 + config.alpha * row) @ other + penalty * np.eye(other.shape[1])
            found[at] = np.linalg.solve(left, other.T @ ((1 + config.alpha) * row))
    return found


@pytest.mark.parametrize(("width", "frequency"), itertools.product((2, 5, 12), (0.0, 1.0)))
def test_a_sweep_is_the_normal_equations_whichever_way_they_are_solved(width: int, frequency: float) -> None:
    """Rows with fewer and with more items than there are factors, empty ones among them."""
    config = IALSConfig(factors=width, frequency=frequency, alpha=4.0, penalty=0.3)
    values = random_graph(30, 20, 0.3).matrix
    values = values[:, :]
    other = torch.randn(21, width, generator=torch.Generator().manual_seed(1))
    found = solve(values.indptr, values.indices, other, config)
    assert np.allclose(found.numpy(), direct(values.toarray(), other.double().numpy(), config), atol=1e-3)
    assert float(penalties(np.array([3]), 20, config)[0]) == pytest.approx(0.3 * (3 + 20 / 4.0) ** frequency)


def test_ials_by_hand() -> None:
    # one factor, y = (1, 2), alpha 1, penalty 1; who has item 2 alone: (2 * 2) / (1 + 4 + 4 + 1) = 0.4
    config = IALSConfig(factors=1, alpha=1.0, penalty=1.0)
    other = torch.tensor([[0.0], [1.0], [2.0]])
    found = solve(np.array([0, 1, 3]), np.array([2, 1, 2]), other, config)
    assert found[0].item() == pytest.approx(0.4)
    assert found[1].item() == pytest.approx(2 * (1 + 2) / (5 + 5 + 1))  # both items


def test_sweeps_reach_a_minimum_of_the_loss_over_all_cells() -> None:
    values = random_graph(12, 8, 0.3).matrix
    config = IALSConfig(factors=2, alpha=3.0, penalty=0.5, sweeps=200)
    torch.manual_seed(0)
    users, items = (each.double().numpy() for each in fit_factors(values, config))
    dense = values.toarray().astype(np.float64)

    def loss(free: np.ndarray) -> float:
        left, right = free[: users.size].reshape(users.shape), free[users.size :].reshape(items.shape)
        confidence = 1 + config.alpha * dense
        return float((confidence * (dense - left @ right.T) ** 2).sum() + config.penalty * ((left**2).sum() + (right**2).sum()))

    reached = loss(np.concatenate([users.ravel(), items.ravel()]))
    better = minimize(loss, np.concatenate([users.ravel(), items.ravel()]), options={"maxiter": 200}).fun
    assert reached <= better * 1.001


def test_ials_explains_a_score_by_what_somebody_has() -> None:
    model = fitted("ials", random_graph(), factors=4)
    items = torch.tensor([1, 4, 9])
    shares, text = model.shares(items, 6)
    assert text is None
    assert float(shares.sum()) == pytest.approx(float(model.scores(some_baskets())[0, 6]), abs=1e-5)
    assert model.item_vectors()["factors"].shape == (16, 4)


DEFAULTS: dict[str, dict[str, object]] = {
    "popularity": {},
    "item-knn": {"shrink": 20.0},
    "text-knn": {"power": 3.0},
    "graph-filter": {},
    "turbo-cf": {"alpha": 0.5, "power": 0.7, "order": 1},
    "gf-cf": {"factors": 128, "alpha": 0.3},
    "ease": {
        "text": "none",
        "penalty": 100.0,
        "weight": 10.0,
        "text_penalty": 1.0,
        "pull": 50.0,
        "cold": 1.0,
        "rank": None,
    },
    "ials": {"factors": 128, "penalty": 0.05, "alpha": 10.0, "frequency": 0.0, "sweeps": 15, "init": 0.1},
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_those_of_the_trial(name: str) -> None:
    own = TASK.models[name].config().model_dump()
    memory = {} if name in ("popularity", "ials") else {"memory_gib": 8.0}
    assert own == {**DEFAULTS[name], **memory}


def test_item_knn_shrinks_by_what_was_asked() -> None:
    # items 1 and 2 share one user of two and one: 1 / (sqrt(2) + shrink)
    graph = graph_of(np.array([[1, 1], [1, 2], [2, 1]]), 2, 2)
    for shrink in (0.0, 20.0, 50.0):
        found = fitted("item-knn", graph, shrink=shrink).scores(Baskets.of([np.array([1], np.int32)]))
        assert found[0].tolist() == pytest.approx([0, 0, 1 / (2**0.5 + shrink)])


def test_a_model_is_a_module_whose_buffers_are_all_there_is() -> None:
    for name, values in (*LINEAR, *TEXT_MODELS, ("ials", {"factors": 4}), ("popularity", {})):
        model = fitted(name, random_graph(), random_text(), **values)
        assert isinstance(model, nn.Module)
        assert model.num_rows == 16
        assert not list(model.parameters())
    assert torch.equal(fitted("ease", random_graph(), penalty=2.0).dense, ease(random_graph().matrix, 2.0))  # type: ignore[attr-defined]


def test_items_that_nobody_has_are_scored_times_cold_with_their_shares() -> None:
    graph, text = random_graph(items=15), random_text(16)
    wider = graph_of(np.column_stack([graph.user, graph.item]), 40, 16)  # nobody has item 16
    items = torch.tensor([1, 4, 9])
    for form in ("stack", "regularise"):
        one, three = (fitted("ease", wider, text, text=form, cold=cold) for cold in (1.0, 3.0))
        before, after = (each.scores(some_baskets()) for each in (one, three))
        assert torch.equal(before[:, :16], after[:, :16])
        assert torch.allclose(3 * before[:, 16], after[:, 16])
        for left, right in zip(one.shares(items, 16), three.shares(items, 16), strict=True):
            assert left is not None
            assert right is not None
            assert torch.allclose(3 * left, right)
        grown = [twin(each) for each in (one, three)]  # type: ignore[type-var]
        for each in grown:
            each.add(text[3:4])  # type: ignore[attr-defined]
        plain, boosted = (each.scores(some_baskets())[:, 17] for each in grown)  # type: ignore[attr-defined]
        assert torch.allclose(3 * plain, boosted)


def test_the_weight_of_cold_items_is_chosen_where_a_tenth_of_the_items_is_hidden() -> None:
    graph, text = random_graph(60, 40, 0.2), TextTable(random_text(40))
    config, side = EASEConfig(text="stack", penalty=3.0), TextSide.tensors(text)
    asked: list[float] = []

    def judge(module: nn.Module, known: Graph) -> float:
        """Best at 3; what is judged was fitted without the hidden items, which are the cold ones."""
        hidden = (graph.item_counts > 0) & (known.item_counts == 0)
        assert hidden.sum() == 4
        assert known.item_counts[~hidden].tolist() == graph.item_counts[~hidden].tolist()
        assert isinstance(module, TextEASE)
        assert module.boost is not None
        assert module.dense is not None
        wanted = fit_form(Parts(40, known), side["text.vectors"], config)["dense"]
        assert torch.equal(module.dense, wanted)
        assert not torch.equal(module.dense, fit_form(Parts(40, graph), side["text.vectors"], config)["dense"])
        cold = float(module.boost[-1])
        assert torch.equal(module.boost[1:-1], torch.where(torch.from_numpy(known.item_counts[1:] == 0), cold, 1.0))
        asked.append(cold)
        return -abs(cold - 3.0)

    assert calibrated(Parts(40, graph, text, judge=judge), side, config) == 3.0
    assert tuple(asked) == COLD


@pytest.mark.parametrize("name", ["item-knn", "gf-cf", "graph-filter", "turbo-cf"])
def test_pairs_that_do_not_fit_are_refused_with_their_bytes(name: str) -> None:
    # three users with 2, 1 and 2 items: 4 + 1 + 4 pairs of 8 bytes
    graph = graph_of(np.array([[1, 1], [1, 2], [2, 2], [3, 2], [3, 3]]), 3, 3)
    with pytest.raises(
        ConfigError,
        match=rf"{name}: up to 9 pairs of items that somebody has both of take 72 bytes, memory_gib = 6e-08 allows 64; raise "
        r"model\.backbone\.memory_gib",
    ):
        fitted(name, graph, memory_gib=6e-8)
    assert fitted(name, graph, memory_gib=7e-8).num_rows == 4
