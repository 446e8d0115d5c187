"""What an attack notes of itself, and the marks that the whole set is held against."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields


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
    "kills of training, DIN + DisCo": 20,
    "kills of training, SASRec + PAD, pretrain": 20,
    "kills of training, SASRec + PAD, align": 20,
    "kills of training, SASRec + PAD, experts": 20,
    "kills of training, LightGCN + DaRec": 20,
    "kills of training, SDRL": 20,
    "kills of training, EASE, fitted": 20,
    "writers at once": 6,
    "mutations of artefacts": 1_000,
    "flipped bits in a knowledge base": 2_000,
    "fuzzed reads": 2_000,
    "hostile files": 200,
    "sealed weights of any form": 500,
    "bad answers of endpoints": 60,
    "wrong values": 500,
    "1 against 2 threads": 1,
}
Note = Callable[..., None]


Reports = Iterable[tuple[Iterable[tuple[str, object]], float]]


@dataclass
class Line:
    """What became of one attack, over all tests that note it."""

    tried: int = 0
    seconds: float = 0.0
    wrong: dict[str, int | None] = field(default_factory=lambda: dict.fromkeys(each.name for each in fields(Wrong)))


def lines(reports: Reports) -> dict[str, Line]:
    """By attack, of what each test noted and how long it took."""
    found: dict[str, Line] = {}
    for properties, seconds in reports:
        notes = [json.loads(str(value)) for name, value in properties if name == "attack"]
        for attack, tried, wrong in notes:
            line = found.setdefault(attack, Line())
            line.tried += tried
            line.seconds += seconds / len(notes)
            line.wrong = {key: total if wrong[key] is None else (total or 0) + wrong[key] for key, total in line.wrong.items()}
    return found
