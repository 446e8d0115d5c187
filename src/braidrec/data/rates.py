"""Time-causal rates: how an item, a user, and a user with a kind of items went before the moment of an event.

Counts grow with a log, so a model meets values behind a time cut that it never met before it; these are means and residuals,
which do not.  Of rating and label each, unless said otherwise:

    item     mean of the item's earlier events, drawn to the training mean by 10 events of it
    user     mean of the user's earlier events, drawn likewise by 5
    residual mean of the user's earlier (value - item mean as it was then), drawn to 0 by 5 events
    last     the same over the last 5 and the last 20 of them, drawn by 1
    field    the same over those whose item has the candidate's value of an item field, drawn by 3; the mean over its values
    number   a numeric item field minus its mean over the user's earlier events (one column; 0 stands for the mean of all)

Strictly earlier: events of the same second follow one another in log order, or with ties = "exclude" know nothing of each
other, and a copy of a row never tells its value, as everywhere (`InteractionLog.visible`, `origin`).  Memory is O(N) for N
events (times the values of a multi-valued field), work O(N log N).  Running sums are in fixed point, so what comes later
changes no bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braidrec.data.features import Features
from braidrec.data.log import InteractionLog

ITEM, USER, FIELD, LAST = 10.0, 5.0, 3.0, 1.0  # events that draw a mean to its prior
RECENT = (5, 20)
OWN = 4 + 2 * len(RECENT)  # columns of the user alone
_ARRAYS = ("prior", "mean", "spread", "most")
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class RateField:
    """An item field whose values are rated per user: a column of ``item_fields``, or of the item bags where ``multi``.

    Rows ``offset + 1 .. offset + known`` of the embedding table are its values 1 .. known; any other row is value 0, none.
    """

    name: str
    multi: bool
    column: int
    offset: int
    known: int

    def values(self, item_fields: NDArray[np.int32], bags: Sequence[NDArray[np.int32]]) -> NDArray[np.int64]:
        """(n, M) of the items whose fields (n, F_I) and bags (n, M) these are."""
        rows = bags[self.column] if self.multi else item_fields[:, [self.column]]
        values = rows.astype(np.int64) - self.offset
        return np.where((values > 0) & (values <= self.known), values, 0)


def rate_fields(features: Features) -> tuple[tuple[RateField, ...], tuple[str, ...]]:
    """The fields that can be rated, and the names of the item fields that cannot.

    One that has a single value says nothing of an item, and one with more values than a quarter of the items stands for single
    items, whose own mean says it better.
    """
    most, found, left = (len(features.item_fields) - 1) / 4, [], []
    single = [each for each in features.single if each.owner == "item"]
    multi = [each for each in features.vocabularies if each.multi and each.owner == "item"]
    for several, vocabularies in ((False, single), (True, multi)):
        for column, each in enumerate(vocabularies):
            if 1 < each.known <= most:
                found.append(RateField(each.name, several, column, each.offset, each.known))
            else:
                left.append(each.name)
    return tuple(found), tuple(left)


def said_of_rates(fields: Sequence[RateField], features: Features) -> str:
    """Which item fields are rated per user, and which are not."""
    _, left = rate_fields(features)
    rated = ", ".join(field.name for field in fields) or "no field"
    apart = f"; not by {', '.join(left)}, which has one value or too many (more than a quarter of the items)" if left else ""
    return f"rates: of items, of users, and of users by {rated}{apart}"


@dataclass(frozen=True)
class RateScale:
    """What training fixed.

    fields, names (R,) of the columns, mean and spread (R,)    prior, most (2,): rating and label of anybody, and the highest;
    of a run that was saved before it was kept, the highest is the prior, which says little of whoever gives it
    """

    fields: tuple[RateField, ...]
    names: tuple[str, ...]
    prior: Doubles
    mean: Doubles
    spread: Doubles
    most: Doubles

    @property
    def numbers(self) -> int:
        """Q, of the numeric item fields."""
        return len(self.names) - 2 - OWN - 2 * len(self.fields)

    def rows(self, items: Floats, values: Sequence[NDArray[np.int64]], numbers: Floats, user: Floats) -> Floats:
        """(n, R) of candidates of one user now.

        items (n, 2) means    values: of each field (n, M)    numbers (n, Q)    user: as `CausalRates.user_now` has it
        """
        at, parts = OWN, [items, np.broadcast_to(user[:OWN], (len(items), OWN))]
        for field, own in zip(self.fields, values, strict=True):
            end = at + 2 * (field.known + 1)
            parts.append(_mean_of_values(user[at:end].reshape(-1, 2)[own], own))
            at = end
        return self.scaled(np.concatenate([*parts, numbers - user[at:]], axis=1))

    def scaled(self, raw: NDArray[Any]) -> Floats:
        found: Floats = ((raw - self.mean) / self.spread).astype(np.float32)
        return found

    def to_json(self) -> dict[str, Any]:
        arrays = {name: getattr(self, name).tolist() for name in _ARRAYS}
        return {"fields": [asdict(field) for field in self.fields], "names": list(self.names), **arrays}

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> RateScale:
        arrays = (np.array(values.get(name, values["prior"]), np.float64) for name in _ARRAYS)
        return cls(tuple(RateField(**field) for field in values["fields"]), tuple(values["names"]), *arrays)


@dataclass(frozen=True)
class UserRates:
    """What a user's past adds up to: their rates now are made of it, and events can be added to it without the log.

    count: events    sums (4 + Q,): rating, label, residuals of both, numbers of the items
    recent (n, 2): residuals of the last ones, oldest first, 20 at most    values: of each field (known + 1, 3), sums and count
    """

    count: int
    sums: Doubles
    recent: Doubles
    values: tuple[Doubles, ...]

    @classmethod
    def of_nobody(cls, scale: RateScale) -> UserRates:
        """Somebody without a past."""
        values = tuple(np.zeros((field.known + 1, 3)) for field in scale.fields)
        return cls(0, np.zeros(4 + scale.numbers), np.zeros((0, 2)), values)

    def then(self, both: Doubles, means: Floats, numbers: Floats, values: Sequence[NDArray[np.int64]]) -> UserRates:
        """With n events more, oldest first: rating and label (n, 2); of their items means (n, 2), numbers, values of fields."""
        residual, found = both - means, []
        for own, met in zip(self.values, values, strict=True):
            event, place = np.nonzero(met)
            more = own.copy()
            np.add.at(more, met[event, place], np.column_stack([residual[event], np.ones(len(event))]))
            found.append(more)
        sums = self.sums + np.concatenate([both, residual, numbers], axis=1).sum(axis=0)
        recent = np.concatenate([self.recent, residual])[-max(RECENT) :]
        return UserRates(self.count + len(both), sums, recent, tuple(found))

    def vector(self, prior: Doubles) -> Floats:
        """What `RateScale.rows` reads: columns of the user, residuals (known + 1, 2) of each field, means (Q,) of numbers."""
        parts = [(self.sums[:2] + USER * prior) / (self.count + USER), self.sums[2:4] / (self.count + USER)]
        for most in RECENT:
            recent = self.recent[-most:]
            parts.append(recent.sum(axis=0) / (len(recent) + LAST))
        parts += [(own[:, :2] / (own[:, 2:] + FIELD)).ravel() for own in self.values]
        return np.concatenate([*parts, self.sums[4:] / max(self.count, 1)]).astype(np.float32)


class CausalRates:
    """Numbers (n, R) float32, standardised by the mean and spread of the training rows; names in `RateScale.names`.

    ``before(positions)``: as of each event.  ``now(user, items)``: as of the end of the log, from `items_now` and `user_now`.
    train: positions of the training rows, or what a model was trained with, for a log that has grown since
    """

    def __init__(self, log: InteractionLog, features: Features, train: NDArray[np.int64] | RateScale):
        self._log, self._features = log, features
        self.fields = train.fields if isinstance(train, RateScale) else rate_fields(features)[0]
        both = np.column_stack([log.rating, log.label]).astype(np.float64)
        self.prior = train.prior if isinstance(train, RateScale) else both[train].mean(axis=0)
        self._of_item = _Running(log.item, np.arange(len(log)), both)
        residual = both - self._item_means(log.item, log.before)
        slots = log.slot_event[1:]
        self._of_user = _Sums(np.column_stack([both, residual, features.item_numbers[log.item]])[slots])
        catalogue = (features.item_fields, [bag.rows for bag in features.bags if bag.owner == "item"])
        self._values = [field.values(*catalogue) for field in self.fields]
        self._of_value = []
        for field, values in zip(self.fields, self._values, strict=True):
            event, place = np.nonzero(values[log.item])
            groups = self._groups(field, log.user[event], values[log.item[event], place])
            self._of_value.append(_Running(groups, log.rank[event], residual[event]))
        raw = self._raw(log.user, log.past, log.item, log.before)
        if isinstance(train, RateScale):
            self.scale = train
        else:
            names = tuple(self._names())
            spread = raw[train].std(axis=0)
            self.scale = RateScale(
                self.fields,
                names,
                self.prior,
                raw[train].mean(axis=0),
                np.where(spread > 1e-9, spread, 1.0),
                both[train].max(axis=0),
            )
        self._rows = self.scale.scaled(raw)

    @property
    def width(self) -> int:
        return len(self.scale.names)

    def before(self, positions: NDArray[np.int64], items: NDArray[np.int32] | None = None) -> Floats:
        """As of the events at ``positions`` (n,), for their own items or for others ``items`` (n,) in their place."""
        if items is None:
            return self._rows[positions]
        log = self._log
        return self.scale.scaled(self._raw(log.user[positions], log.past[positions], items, log.before[positions]))

    def now(self, user: int, items: NDArray[np.int32]) -> Floats:
        return self._rows_of(items, self.items_now[items], self.user_now(user))

    @cached_property
    def items_now(self) -> Floats:
        """(I + 1, 2) means of the items; row 0 is that of any item without a past."""
        items = np.arange(len(self._features.item_fields))
        return self._item_means(items, np.full(len(items), len(self._log))).astype(np.float32)

    def user_now(self, user: int) -> Floats:
        return self.user(user).vector(self.prior)

    def user(self, row: int) -> UserRates:
        """A user at the end of the log; 0 is somebody new."""
        count, first = int(self._log.history_length[row]), int(self._log.start[row]) - 1
        places, values = np.arange(max(count - max(RECENT), 0), count) + first, []
        for field, running in zip(self.fields, self._of_value, strict=True):
            groups = self._groups(field, np.array([row]), np.arange(field.known + 1))
            sums, met = running.before(groups, np.full(len(groups), count))
            values.append(np.column_stack([sums, met]))
        whole = self._of_user.between(np.array([first]), np.array([first + count]))[0]
        return UserRates(count, whole, self._of_user.between(places, places + 1)[:, 2:4], tuple(values))

    def _rows_of(self, items: Ints, means: Floats, user: Floats) -> Floats:
        values = [own[items] for own in self._values]
        return self.scale.rows(means, values, self._features.item_numbers[items], user)

    def _names(self) -> list[str]:
        kinds = ["item", "user", "user residual", *(f"last {count} residual" for count in RECENT)]
        kinds += [f"{field.name} residual" for field in self.fields]
        numbers = [scaling.name for scaling in self._features.scalings if scaling.owner == "item"]
        return [f"{kind} {what}" for kind in kinds for what in ("rating", "label")] + [f"{name} from usual" for name in numbers]

    def _raw(self, users: Ints, past: Ints, items: Ints, moments: Ints) -> Doubles:
        """(n, R) before they are scaled."""
        own, means = self._user_part(users, past)
        parts = [self._item_means(items, moments), own]
        for field, values, running in zip(self.fields, self._values, self._of_value, strict=True):
            met = values[items]
            groups = self._groups(field, users[:, None], met)
            sums, count = running.before(groups.ravel(), np.repeat(past, met.shape[1]))
            parts.append(_mean_of_values((sums / (count + FIELD)[:, None]).reshape(*met.shape, 2), met))
        return np.concatenate([*parts, self._features.item_numbers[items] - means], axis=1)

    @staticmethod
    def _groups(field: RateField, users: Ints, values: Ints) -> NDArray[np.int64]:
        return users.astype(np.int64) * (field.known + 1) + values

    def _item_means(self, items: Ints, moments: Ints) -> Doubles:
        """(n, 2) of each item before each moment."""
        sums, count = self._of_item.before(items, moments)
        found: Doubles = (sums + ITEM * self.prior) / (count + ITEM)[:, None]
        return found

    def _user_part(self, users: Ints, past: Ints) -> tuple[Doubles, Doubles]:
        """(n, OWN) and the means (n, Q) of numbers over the first ``past`` events of each user."""
        first, past = self._log.start[users] - 1, past.astype(np.int64)
        sums, count = self._of_user.between(first, first + past), past[:, None].astype(np.float64)
        parts = [(sums[:, :2] + USER * self.prior) / (count + USER), sums[:, 2:4] / (count + USER)]
        for most in RECENT:
            recent = np.minimum(past, most)
            parts.append(self._of_user.between(first + past - recent, first + past)[:, 2:4] / (recent + LAST)[:, None])
        return np.concatenate(parts, axis=1), sums[:, 4:] / np.maximum(count, 1)


class _Sums:
    """Sums (m, c) over stretches of rows; values (n, c).

    A running sum passes over rows of others: in fixed point they cancel to the last bit.
    """

    def __init__(self, values: Doubles):
        most = float(np.abs(values).max(initial=1.0)) * max(len(values), 1)
        self._unit = 2.0 ** min(32, 61 - int(np.ceil(np.log2(most))))
        fixed = np.rint(values * self._unit).astype(np.int64)
        self._until = np.concatenate([np.zeros((1, values.shape[1]), np.int64), np.cumsum(fixed, axis=0)])

    def between(self, first: Ints, last: Ints) -> Doubles:
        found: Doubles = (self._until[last] - self._until[first]) / self._unit
        return found


class _Running:
    """Sums and counts of what a group had before a moment.  group, moment (n,) non-negative, values (n, c)"""

    def __init__(self, group: Ints, moment: Ints, values: Doubles):
        self._span = int(moment.max(initial=0)) + 2
        keys = group.astype(np.int64) * self._span + moment
        order = np.argsort(keys, kind="stable")
        self._keys, self._sums = keys[order], _Sums(values[order])

    def before(self, group: Ints, moment: Ints) -> tuple[Doubles, Doubles]:
        begin = group.astype(np.int64) * self._span
        first = np.searchsorted(self._keys, begin)
        last = np.searchsorted(self._keys, begin + np.minimum(moment, self._span - 1))
        return self._sums.between(first, last), (last - first).astype(np.float64)


def _mean_of_values(rates: NDArray[Any], values: NDArray[np.int64]) -> NDArray[Any]:
    """(n, 2) mean of rates (n, M, 2) over the values (n, M) that are there; 0 where none is."""
    there = (values > 0)[:, :, None]
    found: NDArray[Any] = np.where(there, rates, 0.0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
    return found
