"""What an attack notes of itself, and the marks that the whole set is held against."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Wrong:
    """What an attack looks for, counted; None where it does not look."""

    silent: int | None = None
    foreign: int | None = None
    key: int | None = None
    code: int | None = None
    outside: int | None = None


HEADS = ("silent differences", "foreign exceptions", "bytes of a key", "code run", "files outside")
MARKS = {  # attack -> how often the whole set tries it at least
    "kills of sync": 50,
    "kills of training, ranking": 20,
    "kills of training, sequential, phase pretrain": 20,
    "kills of training, sequential, phase align": 20,
    "kills of training, sequential, phase experts": 20,
    "kills of training, collaborative, trained": 20,
    "kills of training, collaborative, fitted": 20,
    "writers at once": 6,
    "mutations of artefacts": 1_000,
    "flipped bits in a knowledge base": 1_000,
    "fuzzed reads": 2_000,
    "hostile files": 200,
    "sealed weights of any form": 500,
    "bad answers of endpoints": 60,
    "wrong values": 500,
    "1 against 2 threads": 1,
}
Note = Callable[..., None]


def lines(reports: Iterator[tuple[str, object]]) -> dict[str, tuple[int, dict[str, int | None]]]:
    found: dict[str, tuple[int, dict[str, int | None]]] = {}
    for name, value in reports:
        if name == "attack":
            attack, tried, wrong = json.loads(str(value))
            before, sums = found.get(attack, (0, dict.fromkeys(wrong)))
            both = {key: sums[key] if wrong[key] is None else (sums[key] or 0) + wrong[key] for key in wrong}
            found[attack] = (before + tried, both)
    return found
