"""The planted world: a log whose click probabilities are known, so that a model can be held against the best possible one.

    logit(u, i) = offset + propensity_u + shared + text + behaviour + quality_i + maker_i,     y ~ Bernoulli

    shared     taste_u . s_i    s in {-1, 1}^d, told by the text and by the category; ids can learn it
    text       taste_u . t_i    t in {-1, 1}^d, told by the text alone; ids can only learn it item by item
    behaviour  taste_u . b_i    b Gaussian, not in the text; likewise quality and the maker's name

Each strength is the standard deviation of its term in the logit.  A share of the items is launched late, after any sensible
training cut: nothing about them can be learned by id, while their text tells s and t at once.  Who is shown what does not
depend on taste or quality, so a category's items stand for each other and the bound for ids can be computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field as Setting

from braidrec.data.schema import Field, Schema
from braidrec.data.tables import Tables
from braidrec.errors import DataError
from braidrec.strict import MOST, SEEDS, WIDEST, Strict

if TYPE_CHECKING:
    import polars as pl

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Axis:
    """One item factor in words: ``words[0]`` at -1, ``words[1]`` at +1; the poles name categories."""

    poles: tuple[str, str]
    words: tuple[tuple[str, ...], tuple[str, ...]]


def _axis(low: str, low_words: str, high: str, high_words: str) -> Axis:
    return Axis((low, high), (tuple(low_words.split()), tuple(high_words.split())))


SHARED_AXES = (
    _axis(
        "calm", "gardens lullabies candles harbours orchards teapots meadows hammocks",
        "thrill", "chases explosions avalanches duels stampedes ambushes wildfires shipwrecks",
    ),
    _axis(
        "history", "castles knights scrolls chariots pharaohs monasteries minstrels catapults",
        "future", "robots starships androids satellites holograms lasers wormholes spacesuits",
    ),
    _axis(
        "nature", "forests rivers wolves mountains waterfalls glaciers owls canyons",
        "city", "skyscrapers subways taxis rooftops nightclubs sidewalks elevators boulevards",
    ),
    _axis(
        "cooking", "recipes bakeries spices dumplings vineyards pastries kitchens soups",
        "sport", "stadiums marathons trophies coaches goalkeepers sprinters referees tournaments",
    ),
    _axis(
        "romance", "weddings kisses valentines sweethearts bouquets honeymoons proposals serenades",
        "crime", "detectives burglars alibis fingerprints ransoms forgers informants heists",
    ),
    _axis(
        "family", "grandmothers toddlers cousins twins nurseries reunions playgrounds bedtimes",
        "business", "investors mergers boardrooms dividends startups auditors invoices negotiators",
    ),
)  # fmt: skip

TEXT_AXES = (
    _axis(
        "comedy", "clowns pranks jokes giggles puns jesters parodies blunders",
        "horror", "ghosts vampires nightmares graveyards demons curses zombies werewolves",
    ),
    _axis(
        "sea", "whales lighthouses sailors corals lagoons anchors mermaids islands",
        "desert", "camels dunes oases mirages caravans scorpions nomads cacti",
    ),
    _axis(
        "music", "violins choirs drummers melodies operas pianos ballads trumpets",
        "science", "microscopes chemists equations laboratories telescopes theorems molecules experiments",
    ),
    _axis(
        "war", "soldiers trenches generals cannons tanks battlefields medals sieges",
        "magic", "wizards spells potions dragons unicorns wands fairies enchantments",
    ),
    _axis(
        "winter", "blizzards sleds penguins icebergs skiers igloos snowmen reindeer",
        "jungle", "parrots vines jaguars monkeys mangoes toucans crocodiles orchids",
    ),
    _axis(
        "school", "teachers exams classrooms pupils libraries essays blackboards scholars",
        "travel", "passports suitcases airports hotels postcards tourists trains maps",
    ),
)  # fmt: skip

START = 1_704_067_200  # 2024-01-01 00:00 UTC
SPAN = 120 * 24 * 3600
SYLLABLES = np.array([consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"])


class PlantedConfig(Strict):
    """Sizes, strengths and noise of one world."""

    users: int = Setting(default=2_000, ge=1, le=MOST)
    items: int = Setting(default=1_500, ge=2, le=len(SYLLABLES) ** 3)
    interactions: int = Setting(default=60_000, ge=1, le=16 * MOST)
    shared_dim: int = Setting(default=4, ge=1, le=len(SHARED_AXES))
    text_dim: int = Setting(default=4, ge=1, le=len(TEXT_AXES))
    behaviour_dim: int = Setting(default=4, ge=1, le=WIDEST)
    makers: int = Setting(default=30, ge=1, le=len(SYLLABLES) ** 2)
    offset: float = -1.0
    shared_strength: float = Setting(default=1.2, ge=0)
    text_strength: float = Setting(default=1.8, ge=0)
    behaviour_strength: float = Setting(default=0.5, ge=0)
    quality_strength: float = Setting(default=0.5, ge=0)
    maker_strength: float = Setting(default=0.3, ge=0)
    propensity_strength: float = Setting(default=0.4, ge=0)
    popularity_spread: float = Setting(default=1.0, ge=0)  # s.d. of log exposure over items; large = long tail of rare items
    cold_fraction: float = Setting(default=0.3, ge=0, le=0.9)  # share of the items launched late
    # share of the time before the first late launch; a temporal 8:1:1 split that skips each user's first h events ends its
    # training at about .8 + .2 h users / interactions, .83 for the defaults and h = 5
    cold_after: float = Setting(default=0.85, gt=0, lt=1)
    words_per_axis: int = Setting(default=3, ge=1, le=8)
    word_noise: float = Setting(default=0.1, ge=0, le=0.5)  # chance that a word comes from the opposite pole
    label_noise: float = Setting(default=0.02, ge=0, lt=0.5)  # chance that a click is recorded the wrong way round
    seed: int = Setting(default=0, ge=0, lt=SEEDS)


@dataclass(frozen=True)
class PlantedFactors:
    """What was planted, by item and user number (0-based, the row of the items and users tables).

    item_shared (I, d_s), item_text (I, d_t) of -1 and 1    item_behaviour (I, d_b), quality (I,), maker_effect (I,) standard
    normal    user_shared (U, d_s), user_text (U, d_t), user_behaviour (U, d_b) tastes of expected length 1
    propensity (U,) standard normal    category (I,) int, 2 a + (s_a > 0) for one shared axis a of the item    cold (I,) bool
    """

    item_shared: Floats
    item_text: Floats
    item_behaviour: Floats
    quality: Floats
    maker_effect: Floats
    user_shared: Floats
    user_text: Floats
    user_behaviour: Floats
    propensity: Floats
    category: Ints
    maker: Ints
    cold: Flags


@dataclass(frozen=True)
class PlantedWorld:
    """Tables and the truth behind them.

    The interactions are in strictly increasing time, so row r is event r of the log built from them.
    user, item (N,) int64 numbers    label (N,) float64 0/1    cold (N,) bool, the row's item is a late one
    probability (N,)     P(click | everything planted), label noise included: no score ranks better in expectation
    id_probability (N,)  the best without text, after training on the time before the launches: the same for items present
                         from the start, whose id could in principle tell everything; for late items
                         P(click | user, category, maker), all that is known of them
    """

    config: PlantedConfig
    tables: Tables
    factors: PlantedFactors
    user: Ints
    item: Ints
    label: Floats
    cold: Flags
    probability: Floats
    id_probability: Floats

    def auc(self, scores: Floats, rows: Ints | Flags | None = None) -> float:
        """AUC of ``scores`` (N,) on ``rows`` (positions or flags; default all), ties counted half.

        Raises DataError where the rows do not hold both labels, or a score is not a number.
        """
        chosen = slice(None) if rows is None else rows
        return _auc(np.asarray(scores, np.float64)[chosen], self.label[chosen])

    def bayes_auc(self, rows: Ints | Flags | None = None) -> float:
        """AUC of the true probabilities: what nothing beats but by luck."""
        return self.auc(self.probability, rows)

    def id_auc(self, rows: Ints | Flags | None = None) -> float:
        """AUC of ``id_probability``: the ceiling of every model that reads no text."""
        return self.auc(self.id_probability, rows)


# A log that trains in seconds and where text has something to say that ids do not.
EXAMPLE = PlantedConfig(users=200, items=800, interactions=40_000, text_strength=2.5)


def example_tables() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Two generated tables to try things on: 40,000 clicks (or none) on books, and the 800 books with their texts.

    The same ones each time.  Columns: user_id, item_id, timestamp, click; item_id, title, description, genre, publisher.
    """
    tables = planted_world(EXAMPLE).tables
    assert tables.items is not None
    return tables.interactions, tables.items


def planted_world(config: PlantedConfig | None = None) -> PlantedWorld:
    """Draw one world; the same config gives the same world.  Cost of the bound for ids: late rows x items of a category."""
    config = config or PlantedConfig()
    # one stream per part: more text noise, say, leaves every click as it was
    factor_rng, exposure_rng, click_rng, text_rng = np.random.default_rng(config.seed).spawn(4)
    factors = _factors(config, factor_rng)
    time, user, item = _exposures(config, factors.cold, exposure_rng)
    left, right = _sides(config, factors)
    maker = config.maker_strength * factors.maker_effect
    probability = _click(np.einsum("nd,nd->n", left[user], right[item]) + maker[item], config)
    cold = factors.cold[item]
    id_probability = probability.copy()
    for category in np.unique(factors.category[item[cold]]):
        alike = right[factors.category == category]
        rows = np.flatnonzero(cold & (factors.category[item] == category))
        for block in np.array_split(rows, 1 + len(rows) * len(alike) // 2_000_000):  # bounds the memory
            # the items of a category stand for the unknown one, as if each had the row's maker
            id_probability[block] = _click(left[user[block]] @ alike.T + maker[item[block], None], config).mean(axis=1)
    label = (click_rng.random(len(probability)) < probability).astype(np.float64)
    tables = _tables(config, factors, time, user, item, label, text_rng)
    return PlantedWorld(config, tables, factors, user, item, label, cold, probability, id_probability)


def _factors(config: PlantedConfig, rng: np.random.Generator) -> PlantedFactors:
    users, items = config.users, config.items
    item_shared = rng.choice((-1.0, 1.0), (items, config.shared_dim))
    axis = rng.integers(config.shared_dim, size=items)
    maker = rng.integers(config.makers, size=items)
    late = rng.permutation(items) < int(config.cold_fraction * items)

    def taste(dim: int) -> Floats:
        return np.asarray(rng.standard_normal((users, dim)) / np.sqrt(dim))

    return PlantedFactors(
        item_shared=item_shared,
        item_text=rng.choice((-1.0, 1.0), (items, config.text_dim)),
        item_behaviour=rng.standard_normal((items, config.behaviour_dim)),
        quality=rng.standard_normal(items),
        maker_effect=rng.standard_normal(config.makers)[maker],
        user_shared=taste(config.shared_dim),
        user_text=taste(config.text_dim),
        user_behaviour=taste(config.behaviour_dim),
        propensity=rng.standard_normal(users),
        category=2 * axis + (item_shared[np.arange(items), axis] > 0),
        maker=maker,
        cold=late,
    )


def _exposures(config: PlantedConfig, cold: Flags, rng: np.random.Generator) -> tuple[Ints, Ints, Ints]:
    """Strictly increasing seconds, users and items of the impressions; an item appears only after its launch."""
    count = config.interactions
    share = np.sort(rng.random(count))
    time = START + (share * SPAN).astype(np.int64) + np.arange(count)  # the count keeps equal seconds apart
    user = rng.choice(config.users, count, p=_weights(0.5, config.users, rng))
    weights = _weights(config.popularity_spread, config.items, rng)
    # launches are spread over the first half of the remaining time, most late items therefore reach the very end
    launch = np.where(cold, config.cold_after + (1 - config.cold_after) / 2 * rng.random(config.items), 0.0)
    order = np.argsort(launch, kind="stable")
    launched = np.searchsorted(launch[order], share, side="right")  # the first so many of ``order`` are on offer
    mass = np.cumsum(weights[order])
    place = np.searchsorted(mass, rng.random(count) * mass[launched - 1], side="right")
    return time, user, order[np.minimum(place, launched - 1)]


def _weights(spread: float, count: int, rng: np.random.Generator) -> Floats:
    weights = np.exp(spread * rng.standard_normal(count))
    return np.asarray(weights / weights.sum())


def _sides(config: PlantedConfig, factors: PlantedFactors) -> tuple[Floats, Floats]:
    """(U, D) and (I, D) whose inner products are the logits, all but the maker."""
    left = (
        config.shared_strength * factors.user_shared,
        config.text_strength * factors.user_text,
        config.behaviour_strength * factors.user_behaviour,
        (config.offset + config.propensity_strength * factors.propensity)[:, None],
        np.full((config.users, 1), config.quality_strength),
    )
    one = np.ones((config.items, 1))
    right = (factors.item_shared, factors.item_text, factors.item_behaviour, one, factors.quality[:, None])
    return np.concatenate(left, axis=1), np.concatenate(right, axis=1)


def _click(logit: Floats, config: PlantedConfig) -> Floats:
    clean = 0.5 * (1 + np.tanh(logit / 2))  # the logistic function, without overflow
    return np.asarray(config.label_noise + (1 - 2 * config.label_noise) * clean)


def _tables(
    config: PlantedConfig,
    factors: PlantedFactors,
    time: Ints,
    user: Ints,
    item: Ints,
    label: Floats,
    rng: np.random.Generator,
) -> Tables:
    import polars as pl

    item_ids = np.array([f"B{number:05d}" for number in range(config.items)])
    user_ids = 10_001 + np.arange(config.users)
    poles = np.array([pole for axis in SHARED_AXES for pole in axis.poles])
    makers = _names(config.makers, 2, rng)
    titles, descriptions = _texts(config, factors, rng)
    schema = Schema(
        user="user_id",
        item="item_id",
        timestamp="timestamp",
        label="click",
        item_fields=(Field(name="genre"), Field(name="publisher")),
        text=("title", "description"),
        category="genre",
        noun="book",
    )
    return Tables(
        name="planted",
        schema=schema,
        interactions=pl.DataFrame(
            {"user_id": user_ids[user], "item_id": item_ids[item], "timestamp": time, "click": label.astype(np.int8)}
        ),
        items=pl.DataFrame(
            {
                "item_id": item_ids,
                "title": titles,
                "description": descriptions,
                "genre": poles[factors.category],
                "publisher": [f"{makers[number]} Press" for number in factors.maker],
            }
        ),
        users=pl.DataFrame({"user_id": user_ids}),
    )


def _texts(config: PlantedConfig, factors: PlantedFactors, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """A unique title and a description per item; every axis has ``words_per_axis`` different words in the description."""
    axes = SHARED_AXES[: config.shared_dim] + TEXT_AXES[: config.text_dim]
    lexicon = np.array([axis.words for axis in axes])  # (A, 2, 8)
    high = np.concatenate([factors.item_shared, factors.item_text], axis=1) > 0  # (I, A)
    shape = (config.items, len(axes), config.words_per_axis)
    pole = high[..., None] ^ (rng.random(shape) < config.word_noise)
    word = rng.random((config.items, len(axes), lexicon.shape[-1])).argsort(axis=-1)[..., : config.words_per_axis]
    words = lexicon[np.arange(len(axes))[:, None], pole.astype(np.int64), word].reshape(config.items, -1)
    words = rng.permuted(words, axis=1)
    titles = [
        f"{first.capitalize()} and {second.capitalize()} of {place}"
        for (first, second), place in zip(words[:, :2], _names(config.items, 3, rng), strict=True)
    ]
    openings = np.array(["A story of", "A tale of", "Pages full of", "An album of"])[rng.integers(4, size=config.items)]
    return titles, [f"{opening} {_enumerate(row)}." for opening, row in zip(openings, words.tolist(), strict=True)]


def _enumerate(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _names(count: int, syllables: int, rng: np.random.Generator) -> list[str]:
    """``count`` different made-up names of ``syllables`` two-letter syllables."""
    codes = rng.choice(len(SYLLABLES) ** syllables, count, replace=False)
    digits = codes[:, None] // len(SYLLABLES) ** np.arange(syllables) % len(SYLLABLES)
    return ["".join(name).capitalize() for name in SYLLABLES[digits]]


def _auc(scores: Floats, labels: Floats) -> float:
    """Mann-Whitney: the mean rank of the positives, ties at their middle rank."""
    positives = int(labels.sum())
    if not 0 < positives < len(labels):
        raise DataError(
            f"AUC needs clicks and non-clicks: the {len(labels):,} rows hold {positives:,} clicks; choose more rows"
        )
    if np.isnan(scores).any():
        raise DataError(f"AUC: {int(np.isnan(scores).sum()):,} of {len(scores):,} scores are not a number")
    _, value, count = np.unique(scores, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - (count - 1) / 2
    above = middle[value][labels > 0].sum() - positives * (positives + 1) / 2
    return float(above / (positives * (len(labels) - positives)))
