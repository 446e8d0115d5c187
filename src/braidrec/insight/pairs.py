"""(behaviour, item) pairs: where the distances of two spaces of item vectors are compared (PAD, SIGIR 2025).

    val_target     the paper's code: for every user with a validation target, each training item h_s beside that target, and
                   beside one random item q of the target's bucket that is not in the user's history
    all_prefixes   the paper's prose: every behaviour beside every later item of the same user, the validation target included

A pair belongs to the bucket of its item.  An item that a user repeats makes a pair with itself, which is nearest in any space;
such pairs are kept, as in the paper's rule, and ``pairs.where(pairs.behaviour != pairs.item)`` leaves them out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from braidrec.errors import ConfigError, DataError, suggest

Ids: TypeAlias = NDArray[np.integer[Any]]
Ints: TypeAlias = NDArray[np.int64]
PairKind = Literal["val_target", "all_prefixes"]


@dataclass(frozen=True)
class Pairs:
    """Q pairs; the same pairs are read in every space that is compared.

    behaviour, item (Q,) int32 catalogue rows 1..I    bucket (Q,) int32 of ``item``, 1 (hottest) and up
    Raises DataError when the columns differ in length.
    """

    behaviour: NDArray[np.int32]
    item: NDArray[np.int32]
    bucket: NDArray[np.int32]

    def __post_init__(self) -> None:
        shapes = [column.shape for column in (self.behaviour, self.item, self.bucket)]
        if len(set(shapes)) != 1 or len(shapes[0]) != 1:
            raise DataError("pairs: behaviour, item, bucket have shapes {}, {}, {}; all must be (Q,)".format(*shapes))

    def __len__(self) -> int:
        return len(self.item)

    def where(self, mask: NDArray[np.bool_]) -> Pairs:
        """The pairs that a mask (Q,) keeps, such as ``pairs.bucket >= 7``.  Raises DataError on another shape or type."""
        if mask.shape != self.item.shape or mask.dtype != np.bool_:
            raise DataError(f"mask is {mask.dtype} of shape {mask.shape}; accepted: bool ({len(self)},), one entry per pair")
        return Pairs(self.behaviour[mask], self.item[mask], self.bucket[mask])


def pairs_of(
    items: Ids,
    start: Ids,
    target: Ids,
    bucket: Ids,
    *,
    train_end: Ids | None = None,
    history_end: Ids | None = None,
    kind: PairKind = "val_target",
    limit: int = 200_000,
    seed: int = 0,
) -> Pairs:
    """At most ``limit`` pairs of the given kind, a uniform sample without replacement of all there are, in a fixed order.

    items (M,) catalogue rows, users back to back, each oldest first; 0 is padding and makes no pair
    start (U + 1,) user u owns items[start[u] : start[u + 1]]
    target (U,) validation target, 0 for none    bucket (I + 1,) at least 1, bucket[0] = 0
    train_end (U,) the training sequence is items[start[u] : train_end[u]]    None: all that the user owns
    history_end (U,) q avoids items[start[u] : history_end[u]] and the target    None: all that the user owns
    seed: one generator draws q, one per user and uniform over the items left to it, then the sample; so q does not depend on
        ``limit``.  A user whose history holds the whole bucket has no q, and only pairs with the target.

    An `InteractionLog` fits as ``pairs_of(log.slot_item, log.start, target, bucket, train_end=log.start[:-1] + ends)`` with
    ``ends``, ``target`` (U + 1,) by catalogue row of the user; entry 0 is nobody.
    Memory is O(M + I + limit), also where the pairs are far more.
    Raises DataError on rows, spans or buckets out of range, ConfigError on an unknown kind or a limit below 1.
    """
    if kind not in get_args(PairKind):
        raise ConfigError(f"pairs: kind = {kind!r} is unknown{suggest(kind, get_args(PairKind))}")
    if limit < 1:
        raise ConfigError(f"pairs: limit = {limit}; accepted: at least 1")
    _check(items, start, target, bucket)
    train_end = _end(start, train_end, "train_end")
    history_end = _end(start, history_end, "history_end")

    rng = np.random.default_rng(seed)
    owner, seen = _spans(items, start[:-1], train_end)
    count = np.bincount(owner, minlength=len(target))
    begin = np.cumsum(count) - count  # user u trains on seen[begin[u] : begin[u] + count[u]]
    # every item that stands in pairs does so beside one run of behaviours: (item, first of the run, length of the run)
    if kind == "val_target":
        other = _other_items(rng, *_spans(items, start[:-1], history_end), target, bucket)
        item, first = np.concatenate([target, other]), np.concatenate([begin, begin])
        length = np.concatenate([count, count])
    else:
        item, first = np.concatenate([seen, target]), np.concatenate([begin[owner], begin])
        length = np.concatenate([np.arange(len(seen)) - begin[owner], count])
    length = np.where(item > 0, length, 0)
    last = np.cumsum(length)
    total = int(length.sum())
    number = np.arange(total) if total <= limit else np.sort(rng.choice(total, limit, replace=False, shuffle=False))
    run = np.searchsorted(last, number, side="right")
    behaviour = seen[first[run] + number - (last - length)[run]]
    paired = item[run]
    return Pairs(behaviour.astype(np.int32), paired.astype(np.int32), bucket[paired].astype(np.int32))


def _other_items(rng: np.random.Generator, owner: Ints, seen: Ids, target: Ids, bucket: Ids) -> Ints:
    """(U,) one item per user, uniform over the target's bucket without the target and the user's ``seen``; 0 where none is.

    owner, seen (M,) users and the items of their histories.  Exact in one draw per user: with the places e_0 < e_1 < ... of
    the avoided items in their bucket, the free item number r stands at place r + #{j: e_j - j <= r}.
    """
    users, home = len(target), bucket[target]
    member = np.argsort(bucket[1:], kind="stable") + 1  # items by bucket, then by number
    size = np.bincount(bucket[1:])
    first = np.cumsum(size) - size
    place = np.zeros(len(bucket), np.int64)
    place[member] = np.arange(len(member)) - first[bucket[member]]

    owner, seen = np.concatenate([owner, np.flatnonzero(target)]), np.concatenate([seen, target[target > 0]])
    inside = bucket[seen] == home[owner]  # never where the user has no target: bucket 0 is padding's alone
    owner, avoided = np.divmod(np.unique(owner[inside] * len(bucket) + place[seen[inside]]), len(bucket))
    taken = np.bincount(owner, minlength=users)
    skip = avoided - (np.arange(len(owner)) - (np.cumsum(taken) - taken)[owner])

    free = np.where(target > 0, size[home] - taken, 0)
    drawn = np.full(users, -1)
    drawn[free > 0] = rng.integers(0, free[free > 0])
    passed = np.bincount(owner[skip <= drawn[owner]], minlength=users)
    found = drawn >= 0
    other = np.zeros(users, np.int64)
    other[found] = member[(first[home] + drawn + passed)[found]]
    return other


def _spans(items: Ids, first: Ids, end: Ids) -> tuple[Ints, Ids]:
    """(owner, item) of every place in items[first[u] : end[u]] that is not padding, users in order."""
    length = (end - first).astype(np.int64)
    owner = np.repeat(np.arange(len(length)), length)
    item = items[np.arange(len(owner)) + (first - (np.cumsum(length) - length))[owner]]
    return owner[item > 0], item[item > 0]


def _end(start: Ids, end: Ids | None, name: str) -> Ids:
    """Where each user's part ends (U,): ``start[1:]`` when not given."""
    if end is None:
        return start[1:]
    if end.shape != (len(start) - 1,):
        raise DataError(f"pairs: {name} has shape {end.shape}; accepted: ({len(start) - 1},), one entry per user")
    outside = (end < start[:-1]) | (end > start[1:])
    if outside.any():
        user = int(np.argmax(outside))
        raise DataError(
            f"pairs: {name}[{user}] = {end[user]}; accepted: {start[user]}..{start[user + 1]}, the user's own items"
        )
    return end


def _check(items: Ids, start: Ids, target: Ids, bucket: Ids) -> None:
    """Raise DataError, naming the first entry, where the arrays do not fit one another."""
    if items.ndim != 1 or target.ndim != 1 or start.shape != (len(target) + 1,):
        shapes = f"{items.shape}, {start.shape}, {target.shape}"
        raise DataError(f"pairs: items, start, target have shapes {shapes}; accepted: (M,), (U + 1,), (U,)")
    if bucket.ndim != 1 or len(bucket) < 2 or bucket[0] != 0 or (bucket[1:] < 1).any():
        raise DataError("pairs: bucket must be (I + 1,) with bucket[0] = 0 (padding) and at least 1 for every item 1..I")
    if start[0] < 0 or start[-1] > len(items) or (np.diff(start) < 0).any():
        raise DataError(f"pairs: start must rise from at least 0 to at most {len(items)} (the length of items) without a fall")
    for name, rows in (("items", items), ("target", target)):
        outside = (rows < 0) | (rows >= len(bucket))
        if outside.any():
            place = int(np.argmax(outside))
            raise DataError(
                f"pairs: {name}[{place}] = {rows[place]}; accepted: 0..{len(bucket) - 1} (bucket has so many items)"
            )
