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
    """What training fixed: the fields, names (R,) of the columns, prior (2,) rating and label of anybody, mean, spread (R,)."""

    fields: tuple[RateField, ...]
    names: tuple[str, ...]
    prior: Doubles
    mean: Doubles
    spread: Doubles

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
        arrays = {name: getattr(self, name).tolist() for name in ("prior", "mean", "spread")}
        return {"fields": [asdict(field) for field in self.fields], "names": list(self.names), **arrays}

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> RateScale:
        arrays = (np.array(values[name], np.float64) for name in ("prior", "mean", "spread"))
        return cls(tuple(RateField(**field) for field in values["fields"]), tuple(values["names"]), *arrays)


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
                self.fields, names, self.prior, raw[train].mean(axis=0), np.where(spread > 1e-9, spread, 1.0)
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

    def going_on(self) -> LiveRates:
        """The rates of now, to be kept up with events that come."""
        return LiveRates(self)

    @cached_property
    def items_now(self) -> Floats:
        """(I + 1, 2) means of the items; row 0 is that of any item without a past."""
        items = np.arange(len(self._features.item_fields))
        return self._item_means(items, np.full(len(items), len(self._log))).astype(np.float32)

    def user_now(self, user: int) -> Floats:
        """Columns of the user alone; of each field residuals (known + 1, 2) by value, flat; means (Q,) of the numbers."""
        length = np.array([self._log.history_length[user]])
        own, means = self._user_part(np.array([user]), length)
        parts = [own[0]]
        for field, running in zip(self.fields, self._of_value, strict=True):
            values = np.arange(field.known + 1)
            sums, count = running.before(self._groups(field, np.array([user]), values), np.repeat(length, len(values)))
            parts.append((sums / (count + FIELD)[:, None]).ravel())
        return np.concatenate([*parts, means[0]]).astype(np.float32)

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


class LiveRates:
    """What `CausalRates` says now, event by event: one more costs the values of its item, not the log.

    A user's own sums are taken from the log when they are first asked for.  Row 0, somebody new, stands still.
    """

    def __init__(self, rates: CausalRates):
        self._rates, log = rates, rates._log
        items = np.arange(len(rates._features.item_fields))
        self._sums, self._counts = rates._of_item.before(items, np.full(len(items), len(log)))
        self._users: dict[int, _Live] = {}

    def add(self, user: int, item: int, rating: float, label: float) -> None:
        """An event after all others, of catalogue rows."""
        rates, own, both = self._rates, self._user(user), np.array([rating, label], np.float64)
        residual = both - self._mean(np.array([item]))[0]
        self._sums[item] += both
        self._counts[item] += 1
        if user:
            own.count += 1
            own.sums += np.concatenate([both, residual, rates._features.item_numbers[item]])
            own.recent = [*own.recent, residual][-max(RECENT) :]
            for values, (sums, counts) in zip(rates._values, own.values, strict=True):
                met = values[item][values[item] > 0]
                np.add.at(sums, met, residual)
                np.add.at(counts, met, 1)

    def now(self, user: int, items: NDArray[np.int32]) -> Floats:
        """As `CausalRates.now` of the log with what was added."""
        own = self._user(user)
        parts = [(own.sums[:2] + USER * self._rates.prior) / (own.count + USER), own.sums[2:4] / (own.count + USER)]
        for most in RECENT:
            recent = own.recent[-most:]
            parts.append(np.sum([np.zeros(2), *recent], axis=0) / (len(recent) + LAST))
        parts += [(sums / (counts + FIELD)[:, None]).ravel() for sums, counts in own.values]
        vector = np.concatenate([*parts, own.sums[4:] / max(own.count, 1)]).astype(np.float32)
        return self._rates._rows_of(items, self._mean(items).astype(np.float32), vector)

    def _mean(self, items: Ints) -> Doubles:
        found: Doubles = (self._sums[items] + ITEM * self._rates.prior) / (self._counts[items] + ITEM)[:, None]
        return found

    def _user(self, user: int) -> _Live:
        if user not in self._users:
            rates, count = self._rates, int(self._rates._log.history_length[user])
            first = int(rates._log.start[user]) - 1
            places = np.arange(max(count - max(RECENT), 0), count) + first
            values = []
            for field, running in zip(rates.fields, rates._of_value, strict=True):
                groups = rates._groups(field, np.array([user]), np.arange(field.known + 1))
                values.append(running.before(groups, np.full(len(groups), count)))
            sums = rates._of_user.between(np.array([first]), np.array([first + count]))[0]
            self._users[user] = _Live(count, sums, list(rates._of_user.between(places, places + 1)[:, 2:4]), values)
        return self._users[user]


@dataclass
class _Live:
    """Of one user: events, sums (4 + Q,), residuals of the last ones, and per field sums and counts by value."""

    count: int
    sums: Doubles
    recent: list[Doubles]
    values: list[tuple[Doubles, Doubles]]


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
