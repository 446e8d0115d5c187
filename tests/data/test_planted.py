"""The planted world keeps its promises: known probabilities, readable text that tells the factors, ids that cannot."""

from __future__ import annotations

import sys
from dataclasses import fields

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from braidrec.data.planted import SHARED_AXES, START, TEXT_AXES, PlantedConfig, PlantedWorld, planted_world
from braidrec.errors import DataError

SMALL = PlantedConfig(users=200, items=150, interactions=4_000)


@pytest.fixture(scope="module")
def world() -> PlantedWorld:
    return planted_world()


@pytest.fixture(scope="module")
def text_features(world: PlantedWorld) -> NDArray[np.float64]:
    """(I, 64): hashed TF-IDF, then truncated SVD, rows of length 1."""
    from sklearn.decomposition import TruncatedSVD

    reduced = TruncatedSVD(64, random_state=0).fit_transform(tf_idf(world))
    reduced -= reduced.mean(axis=0)
    return reduced / np.linalg.norm(reduced, axis=1, keepdims=True)


def tf_idf(world: PlantedWorld):  # type: ignore[no-untyped-def]
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    items = world.tables.items
    assert items is not None
    texts = [f"{title}. {description}" for title, description in zip(items["title"], items["description"], strict=True)]
    counts = HashingVectorizer(n_features=4096, alternate_sign=False, norm=None).transform(texts)
    return TfidfTransformer().fit_transform(counts)


def test_same_seed_same_world() -> None:
    first, again, other = planted_world(SMALL), planted_world(SMALL), planted_world(SMALL.model_copy(update={"seed": 1}))
    for name in ("user", "item", "label", "cold", "probability", "id_probability"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    for field in fields(first.factors):
        assert np.array_equal(getattr(first.factors, field.name), getattr(again.factors, field.name))
    assert first.tables.interactions.equals(again.tables.interactions)
    assert first.tables.items.equals(again.tables.items)
    assert not np.array_equal(first.label, other.label)


def test_text_noise_leaves_the_clicks_alone() -> None:
    noisy = planted_world(SMALL.model_copy(update={"word_noise": 0.4}))
    plain = planted_world(SMALL)
    assert noisy.tables.interactions.equals(plain.tables.interactions)
    assert not noisy.tables.items.equals(plain.tables.items)


def calls_of(config: PlantedConfig) -> int:
    """Calls of Python functions that drawing the world takes."""
    found = []
    sys.setprofile(lambda frame, event, argument: found.append(event))
    try:
        planted_world(config)
    finally:
        sys.setprofile(None)
    return found.count("call")


def test_no_python_runs_per_event(world: PlantedWorld) -> None:
    """So that the default world is there in less than a second."""
    planted_world(SMALL)  # imports
    calls = [calls_of(PlantedConfig(seed=1, interactions=count)) for count in (6_000, 60_000)]
    assert calls[0] == calls[1] < 6_000
    assert (len(world.label), world.tables.items.height, world.tables.users.height) == (60_000, 1_500, 2_000)


def test_tables_have_their_roles(world: PlantedWorld) -> None:
    schema, events, items = world.tables.schema, world.tables.interactions, world.tables.items
    assert set(events.columns) == {schema.user, schema.item, schema.timestamp, schema.label}
    assert {field.name for field in schema.item_fields} | set(schema.text) | {schema.category} <= set(items.columns)
    assert items[schema.item].is_unique().all()
    assert events[schema.item].is_in(items[schema.item].implode()).all()
    assert events[schema.user].is_in(world.tables.users[schema.user].implode()).all()
    assert events[schema.item].to_list() == items[schema.item].gather(world.item).to_list()
    assert events[schema.user].to_list() == world.tables.users[schema.user].gather(world.user).to_list()
    assert np.array_equal(events[schema.label].to_numpy(), world.label)
    assert sum(events.null_count().row(0)) == sum(items.null_count().row(0)) == 0


def test_rows_are_events_in_time_order(world: PlantedWorld) -> None:
    seconds = world.tables.interactions["timestamp"].to_numpy()
    assert seconds[0] >= START
    assert (np.diff(seconds) > 0).all()


def test_late_items_occur_only_in_the_last_fifth(world: PlantedWorld) -> None:
    share = np.arange(len(world.label)) / len(world.label)
    assert world.factors.cold.mean() == pytest.approx(world.config.cold_fraction, abs=1 / 1_500)
    assert share[world.cold].min() >= 0.8
    assert np.array_equal(world.cold, world.factors.cold[world.item])
    late = world.cold[share >= 0.9]
    assert late.mean() > 0.2
    assert len(np.unique(world.item[world.cold])) > 0.7 * world.factors.cold.sum()
    assert not planted_world(SMALL.model_copy(update={"cold_fraction": 0.0})).cold.any()


def test_titles_are_readable_and_unique(world: PlantedWorld) -> None:
    titles = world.tables.items["title"]
    assert titles.is_unique().all()
    assert titles.str.contains(r"^[A-Z][a-z]+ and [A-Z][a-z]+ of [A-Z][a-z]{5}$").all()
    assert world.tables.items["description"].str.contains(r"^[A-Z][a-z ]+( [a-z]+,)* [a-z]+ and [a-z]+\.$").all()
    assert world.tables.items["description"].is_unique().all()


def test_lexicons_do_not_overlap() -> None:
    words = [word for axis in SHARED_AXES + TEXT_AXES for pole in axis.words for word in pole]
    assert all(len(pole) == 8 for axis in SHARED_AXES + TEXT_AXES for pole in axis.words)
    assert len(set(words)) == len(words)
    poles = [pole for axis in SHARED_AXES + TEXT_AXES for pole in axis.poles]
    assert len(set(poles)) == len(poles)


def test_words_tell_the_pole_exactly_without_noise() -> None:
    world = planted_world(SMALL.model_copy(update={"word_noise": 0.0, "words_per_axis": 2}))
    axes = SHARED_AXES[:4] + TEXT_AXES[:4]
    signs = np.concatenate([world.factors.item_shared, world.factors.item_text], axis=1)
    for description, row in zip(world.tables.items["description"], signs, strict=True):
        words = set(description.rstrip(".").replace(",", "").split())
        for axis, sign in zip(axes, row, strict=True):
            assert len(words & set(axis.words[int(sign > 0)])) == 2
            assert not words & set(axis.words[int(sign < 0)])


def test_category_names_one_shared_factor(world: PlantedWorld) -> None:
    axis, high = np.divmod(world.factors.category, 2)
    assert np.array_equal(world.factors.item_shared[np.arange(1_500), axis], 2 * high - 1)
    names = [SHARED_AXES[a].poles[h] for a, h in zip(axis, high, strict=True)]
    assert world.tables.items["genre"].to_list() == names


def test_text_recovers_the_factors(world: PlantedWorld) -> None:
    from sklearn.linear_model import Ridge

    features, half = tf_idf(world), 750
    for truth in (world.factors.item_text, world.factors.item_shared):
        predicted = Ridge().fit(features[:half], truth[:half]).predict(features[half:])
        error = ((predicted - truth[half:]) ** 2).sum(axis=0)
        assert (1 - error / ((truth[half:] - truth[half:].mean(axis=0)) ** 2).sum(axis=0) > 0.5).all()
    hidden = np.column_stack([world.factors.item_behaviour, world.factors.quality])
    predicted = Ridge().fit(features[:half], hidden[:half]).predict(features[half:])
    assert abs(np.corrcoef(predicted.ravel(), hidden[half:].ravel())[0, 1]) < 0.1


def test_probability_by_hand(world: PlantedWorld) -> None:
    config, factors = world.config, world.factors
    for row in (0, 17, 59_999):
        u, i = world.user[row], world.item[row]
        logit = -1.0 + 0.4 * factors.propensity[u] + 0.5 * factors.quality[i] + 0.3 * factors.maker_effect[i]
        logit += 1.2 * (factors.user_shared[u] * factors.item_shared[i]).sum()
        logit += config.text_strength * (factors.user_text[u] * factors.item_text[i]).sum()
        logit += 0.5 * (factors.user_behaviour[u] * factors.item_behaviour[i]).sum()
        assert world.probability[row] == pytest.approx(0.02 + 0.96 / (1 + np.exp(-logit)))


def test_id_probability_is_the_mean_over_the_category(world: PlantedWorld) -> None:
    config, factors = world.config, world.factors
    assert np.array_equal(world.id_probability[~world.cold], world.probability[~world.cold])
    for row in np.flatnonzero(world.cold)[[0, 500, -1]]:
        u, i = world.user[row], world.item[row]
        clicks = []
        for j in np.flatnonzero(factors.category == factors.category[i]):
            logit = -1.0 + 0.4 * factors.propensity[u] + 0.5 * factors.quality[j] + 0.3 * factors.maker_effect[i]
            logit += 1.2 * factors.user_shared[u] @ factors.item_shared[j]
            logit += config.text_strength * factors.user_text[u] @ factors.item_text[j]
            logit += 0.5 * factors.user_behaviour[u] @ factors.item_behaviour[j]
            clicks.append(0.02 + 0.96 / (1 + np.exp(-logit)))
        assert world.id_probability[row] == pytest.approx(np.mean(clicks))


@pytest.mark.parametrize("which", ["probability", "id_probability"])
def test_labels_are_calibrated(world: PlantedWorld, which: str) -> None:
    rows = np.ones(60_000, bool) if which == "probability" else world.cold
    probability, label = getattr(world, which)[rows], world.label[rows]
    for part in np.array_split(np.argsort(probability), 10 if rows.all() else 4):
        spread = np.sqrt(probability[part].mean() * (1 - probability[part].mean()) / len(part))
        slack = 4 * spread if which == "probability" else 6 * spread  # rows of one user or item go together
        assert label[part].mean() == pytest.approx(probability[part].mean(), abs=slack)


@pytest.mark.parametrize("seed", [0, 1])
def test_ceilings(seed: int) -> None:
    world = planted_world(PlantedConfig(seed=seed))
    position = np.arange(60_000)
    train, test = position < 48_000, position >= 54_000
    clicks = np.bincount(world.item[train], weights=world.label[train], minlength=1_500)
    assert world.bayes_auc() >= 0.80
    assert world.bayes_auc(test) >= 0.80
    assert world.auc(clicks[world.item], test) < world.bayes_auc(test) - 0.2
    assert world.id_auc(world.cold) < world.bayes_auc(world.cold) - 0.15
    assert world.id_auc(test) < world.bayes_auc(test) - 0.02
    assert world.id_auc(~world.cold) == world.bayes_auc(~world.cold)


def test_no_text_strength_closes_most_of_the_gap(world: PlantedWorld) -> None:
    mute = planted_world(world.config.model_copy(update={"text_strength": 0.0, "shared_strength": 0.0}))
    gap = mute.bayes_auc(mute.cold) - mute.id_auc(mute.cold)
    assert gap < 0.6 * (world.bayes_auc(world.cold) - world.id_auc(world.cold))


def test_text_beats_the_ceiling_of_ids_on_late_items_and_shuffled_text_does_not(
    world: PlantedWorld, text_features: NDArray[np.float64]
) -> None:
    """Without any training: how near is the item to what the user clicked, less what they passed over."""

    def nearness(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        profile, score = np.zeros((world.config.users, vectors.shape[1])), np.zeros(len(world.label))
        for row, (user, item, label) in enumerate(zip(world.user, world.item, world.label, strict=True)):
            score[row] = profile[user] @ vectors[item]
            profile[user] += (label - 0.37) * vectors[item]
        return score

    test = world.cold & (np.arange(len(world.label)) >= 0.9 * len(world.label))
    shuffled = np.random.default_rng(0).permutation(text_features)
    assert world.auc(nearness(text_features), test) > world.id_auc(test) + 0.02
    assert abs(world.auc(nearness(shuffled), test) - 0.5) < 0.05


def test_auc_by_hand_and_against_sklearn(world: PlantedWorld) -> None:
    from sklearn.metrics import roc_auc_score

    coarse = np.round(world.probability, 1)  # ties
    assert world.auc(coarse) == pytest.approx(roc_auc_score(world.label, coarse), abs=1e-12)
    clicked, passed = np.flatnonzero(world.label == 1)[:2], np.flatnonzero(world.label == 0)[:2]
    scores = np.zeros(60_000)
    scores[clicked], scores[passed] = [3, 1], [1, 2]
    # pairs: 3 > 1, 3 > 2, 1 = 1, 1 < 2
    assert world.auc(scores, np.concatenate([clicked, passed])) == 2.5 / 4
    with pytest.raises(DataError, match="the 2 rows hold 2 clicks"):
        world.bayes_auc(clicked)
    with pytest.raises(DataError, match="1 of 60,000 scores are not a number"):
        world.auc(np.where(np.arange(60_000) == 7, np.nan, 0.0))


@pytest.mark.parametrize(
    "changes",
    [
        {"users": 1, "items": 2, "interactions": 50, "cold_fraction": 0.9},
        {"shared_dim": 1, "text_dim": 1, "behaviour_dim": 1, "words_per_axis": 1, "makers": 1},
        {"shared_dim": 6, "text_dim": 6, "words_per_axis": 8, "word_noise": 0.5},
        {"shared_strength": 200.0, "label_noise": 0.0, "popularity_spread": 3.0},
    ],
)
def test_unusual_sizes(changes: dict[str, float]) -> None:
    config = PlantedConfig.model_validate({**SMALL.model_dump(), **changes})
    world = planted_world(config)
    assert ((world.probability >= 0) & (world.probability <= 1)).all()
    assert np.isfinite(world.id_probability).all()
    assert world.tables.items["title"].is_unique().all()
    seconds = world.tables.interactions["timestamp"].to_numpy()
    if world.cold.any():
        assert seconds[world.cold].min() >= START + 0.85 * 120 * 24 * 3600


@pytest.mark.parametrize(
    "changes", [{"shared_dim": 7}, {"text_dim": 0}, {"label_noise": 0.5}, {"cold_fraction": 1.0}, {"user": 3}]
)
def test_bad_config_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        PlantedConfig.model_validate(changes)
