"""Splits are named arrays of event positions; nothing is copied.

``train``, ``valid`` and ``test`` always exist; the knowledge split has ``knowledge`` and ``knowledge_valid`` before them.  A
sample needs ``min_history`` earlier events of its user; events before that are in no part but still serve as history of later
ones (DisCo's protocol, KDD 2024, section 4.1).  Pairs alone, and ready-made splits, ask for no history.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from braidrec.data.log import InteractionLog
from braidrec.data.schema import Schema
from braidrec.data.settings import LEAVE, SplitConfig
from braidrec.errors import DataError

Positions = NDArray[np.int64]
KNOWLEDGE = ("knowledge", "knowledge_valid")  # parts of old events, before those of training


@dataclass(frozen=True)
class Split:
    """Event positions by part name, each ascending (n,) int64."""

    parts: Mapping[str, Positions]

    def __getitem__(self, name: str) -> Positions:
        """A part, or several: ``knowledge+train``.  Raises DataError for one that is not there."""
        names = name.split("+")
        for each in names:
            if each not in self.parts:
                remedy = "; prepare the data with split.kind = 'knowledge'" if each in KNOWLEDGE else ""
                raise DataError(f"the split has no part '{each}' (it has: {', '.join(self.parts)}){remedy}")
        return self.parts[name] if len(names) == 1 else np.sort(np.concatenate([self.parts[each] for each in names]))

    @property
    def learned(self) -> Positions:
        """All that may be learned from: every part but validation and test."""
        return self["+".join(name for name in self.parts if name not in ("valid", "test"))]


def check_split(config: SplitConfig, schema: Schema, columns: Sequence[str] = ()) -> None:
    """Raises DataError, naming the remedy, where ``ratios`` are no shares of a whole, and where ``config`` asks for what a log
    with the columns of ``schema`` cannot tell: time of a log without a clock, order of pairs alone, ``cold_items`` of a split
    without one border in time, parts of a log that names none.  ``columns``: the log's, to name those without a role.
    """
    if config.fault_of_ratios is not None:
        raise DataError(config.fault_of_ratios)
    if schema.clock is None and (config.in_order or config.cold_items):
        asked, remedy = f"split.kind = '{config.kind}'", 'for pairs alone use split.kind = "ratio"'
        if not config.in_order:
            asked, remedy = "split.cold_items", "for pairs alone leave it out"
        raise DataError(
            f"{asked} needs to know what came first: the interactions need a 'timestamp' column, or 'order' (each user's own "
            f"order) where there is no clock{_unused(schema, columns)}; {remedy}"
        )
    if config.cold_items and config.kind != "temporal":
        raise DataError(
            f"split.cold_items needs split.kind = 'temporal', not '{config.kind}': an item can only launch late "
            "where training ends at one moment"
        )
    if config.at_one_moment and schema.timestamp is None:
        instead = "split.per_user = true" if config.kind == "knowledge" else "split.kind = 'leave_last_two'"
        raise DataError(
            f"split.kind = '{config.kind}' needs a timestamp column: this log only has each user's own order, which says "
            f"nothing about time between users; use {instead}"
        )
    if config.kind == "given" and schema.part is None:
        raise DataError(
            "split.kind = 'given' reads the parts from a column of the interactions, and none is named; name the one that says "
            'train, valid or test: part = "..." ([interactions] in TOML), or choose split.kind = "ratio"'
        )


def _unused(schema: Schema, columns: Sequence[str]) -> str:
    """Columns that could be the clock, and how one of them is."""
    taken = {schema.user, schema.item, schema.rating, schema.label, schema.weight, schema.part}
    free = [name for name in columns if name not in taken | {entry.name for entry in schema.context_fields}]
    if not free:
        return ""
    return f' (columns without a role: {", ".join(free)}; timestamp = "..." under [interactions] makes one the clock)'


def make_split(
    log: InteractionLog, config: SplitConfig, *, ordered: bool = True, given: NDArray[np.object_] | None = None
) -> Split:
    """Cut the log as ``config`` says; `check_split` has agreed to it.

    ``temporal``: by row position in time order, n_train = floor(r0 n), n_valid = floor(r1 n), the rest is test, so rows of
    one second may straddle a border.  ``date``: at two moments.  ``leave_last_two``, ``leave_k_out``: each user's last
    ``held_out`` events are test, as many before them validation; whoever has no more than both has all of them in training.
    ``ratio``: a seeded shuffle, cut likewise; per user, each one's own, with at least one event in training.
    ``knowledge``: see `SplitConfig`; ``quantiles`` of the whole log are moments, so rows of one second stay together, those of
    a user's own events are rows.
    ``given`` (N,): train, valid or test of each event.  ``ordered``: False for pairs alone, whose ranks mean nothing.
    Raises DataError when a part would be empty.
    """
    if not ordered or config.kind == "given":
        config = config.model_copy(update={"min_history": 0})
    eligible = np.flatnonzero(log.past >= config.min_history)
    if config.kind == "temporal":
        parts = _by_share(eligible, config)
    elif config.kind == "date":
        valid, test = config.borders
        moment = log.timestamp[eligible]
        parts = {
            "train": eligible[moment < valid],
            "valid": eligible[(moment >= valid) & (moment < test)],
            "test": eligible[moment >= test],
        }
    elif config.kind == "knowledge":
        parts = _old_and_recent(log, eligible, config)
    elif config.kind == "given":
        assert given is not None
        parts = {name: np.flatnonzero(given == name) for name in ("train", "valid", "test")}
    elif config.kind == "ratio" and config.per_user:
        parts = _by_share_of_each(log.user, eligible, config)
    elif config.kind == "ratio":
        shuffled = np.random.default_rng(config.seed).permutation(eligible)
        parts = {name: np.sort(rows) for name, rows in _by_share(shuffled, config).items()}
    else:
        left, out = log.history_length[log.user[eligible]] - log.rank[eligible], config.held_out
        enough = log.history_length[log.user[eligible]] > 2 * out
        parts = {
            "train": eligible[(left > 2 * out) | ~enough],
            "valid": eligible[(left > out) & (left <= 2 * out) & enough],
            "test": eligible[(left <= out) & enough],
        }
    return named_parts(log, config, parts)


def named_parts(log: InteractionLog, config: SplitConfig, parts: Mapping[str, Positions]) -> Split:
    """A Split of ``parts``; raises DataError, naming the part, when one is empty."""
    for name, rows in parts.items():
        if not len(rows) and config.kind == "given":
            raise DataError(
                f"the given split leaves no row for '{name}': none of {len(log):,} events is marked so in the column of parts; "
                'mark some, or choose split.kind = "ratio"'
            )
        if not len(rows) and config.per_user and config.kind == "ratio":
            raise DataError(
                f"the ratio split leaves no row for '{name}': no user has enough events for a share of {config.ratios} each; "
                "change split.ratios, or leave split.per_user out"
            )
        if not len(rows):
            raise DataError(f"the {config.kind} split leaves no row for '{name}': {_why_none(log, config, name)}")
    return Split({name: rows.astype(np.int64) for name, rows in parts.items()})


def _why_none(log: InteractionLog, config: SplitConfig, part: str) -> str:
    """What the log has, what the split asks of it, and what to change."""
    eligible = np.count_nonzero(log.past >= config.min_history)
    had = f"{len(log):,} events, {eligible:,} of them with {config.min_history} or more earlier events of their user"
    remedies = ["lower split.min_history"] if config.min_history or config.by_share else []
    if config.kind == "date" and len(log):
        first, last = (f"{np.datetime64(int(moment), 's')}Z" for moment in (log.timestamp.min(), log.timestamp.max()))
        had += (
            f", from {first} to {last}, where validation begins at split.valid_from = {config.valid_from} and test at "
            f"split.test_from = {config.test_from}"
        )
        remedies.append("choose moments within that time")
    elif config.kind == "knowledge" and len(log):
        if config.per_user:
            had += f", where split.quantiles = {config.quantiles} of each user's own are old, and recent"
        else:
            moments = (log.timestamp.min(), log.timestamp.max(), *_moments(log, config))
            first, last, old, recent = (f"{np.datetime64(int(moment), 's')}Z" for moment in moments)
            had += f", from {first} to {last}, where training begins at {old} and the rest at {recent}"
        remedies += ["choose a larger split.knowledge_valid"] if part == "knowledge_valid" else []
        remedies.append("choose other split.quantiles" + ("" if config.per_user else ", or train_from and valid_from"))
    elif config.kind in LEAVE:
        least, events = 2 * config.held_out + 1, log.history_length[1:]
        had += f"; {np.count_nonzero(events >= least):,} users have the {least} events that it takes"
        remedies += [f"lower split.held_out = {config.held_out}"] if config.held_out > 1 else []
    elif config.by_share:
        remedies.append(f"give '{part}' a larger share than split.ratios = {config.ratios}")
    return f"{had}; {', '.join(remedies)}{' or ' if remedies else ''}bring a longer log"


def _by_share(rows: Positions, config: SplitConfig) -> dict[str, Positions]:
    first, second, _ = config.ratios
    train = int(np.floor(first * len(rows) + 1e-9))
    valid = int(np.floor(second * len(rows) + 1e-9))
    return {"train": rows[:train], "valid": rows[train : train + valid], "test": rows[train + valid :]}


def _by_share_of_each(user: NDArray[np.int32], rows: Positions, config: SplitConfig) -> dict[str, Positions]:
    """Each user's own ``rows``, shuffled, cut by the floor rule; whoever has any has one in training."""
    shuffled = np.random.default_rng(config.seed).permutation(rows)
    own = shuffled[np.argsort(user[shuffled], kind="stable")]
    count = np.bincount(user[own])
    first, second, _ = config.ratios
    train = np.maximum(np.floor(first * count + 1e-9).astype(np.int64), 1)
    valid = train + np.floor(second * count + 1e-9).astype(np.int64)
    turn = np.arange(len(own)) - (np.cumsum(count) - count)[user[own]]
    in_train, in_valid = turn < train[user[own]], turn < valid[user[own]]
    return {name: np.sort(own[at]) for name, at in (("train", in_train), ("valid", in_valid & ~in_train), ("test", ~in_valid))}


def _moments(log: InteractionLog, config: SplitConfig) -> tuple[int, int]:
    """T0 and T1 of a knowledge split of the whole log."""
    if config.train_from is not None:
        return config.borders
    first, second = (min(int(np.floor(share * len(log) + 1e-9)), len(log) - 1) for share in config.quantiles)
    return int(log.timestamp[first]), int(log.timestamp[second])


def _old_and_recent(log: InteractionLog, rows: Positions, config: SplitConfig) -> dict[str, Positions]:
    """The five parts of a knowledge split."""
    if not len(log):
        return dict.fromkeys((*KNOWLEDGE, "train", "valid", "test"), rows)
    user = log.user[rows] if config.per_user else np.zeros(len(rows), np.int32)
    if config.per_user:
        place, count = log.rank[rows].astype(np.int64), log.history_length[user]
        first, second = (np.floor(share * count + 1e-9) for share in config.quantiles)
    else:
        place = log.timestamp[rows]
        first, second = (np.full(len(rows), moment) for moment in _moments(log, config))
    old, held = place < first, place >= second
    parts = {"train": rows[~old & ~held]}
    parts["knowledge"], parts["knowledge_valid"] = _first_share(rows[old], user[old], 1 - config.knowledge_valid)
    if config.holdout == "random":
        drawn = np.random.default_rng(config.seed).permutation(rows[held])
        parts["valid"], parts["test"] = (np.sort(half) for half in np.split(drawn, [len(drawn) // 2]))
    else:
        parts["valid"], parts["test"] = _first_share(rows[held], user[held], 0.5)
    return {name: parts[name] for name in (*KNOWLEDGE, "train", "valid", "test")}


def _first_share(rows: Positions, user: NDArray[np.int32], share: float) -> tuple[Positions, Positions]:
    """The first ``share`` of each user's ``rows`` (of all where ``user`` is one), rounded, and what is left."""
    own = np.argsort(user, kind="stable")
    count = np.bincount(user)
    turn = np.empty(len(rows), np.int64)
    turn[own] = np.arange(len(rows)) - (np.cumsum(count) - count)[user[own]]
    first = turn < np.floor(share * count + 0.5 + 1e-9)[user] if len(rows) else np.zeros(0, np.bool_)
    return rows[first], rows[~first]


def hidden_items(log: InteractionLog, config: SplitConfig) -> NDArray[np.int32]:
    """The seeded ``cold_items`` share of the catalogue rows that occur in the log, to be taken out of the training time."""
    present = np.unique(log.item)
    count = round(config.cold_items * len(present))
    return np.sort(np.random.default_rng(config.seed).permutation(present)[:count])
