"""The exception family and its suggestions."""

from __future__ import annotations

import pytest

from braidrec import errors
from braidrec.errors import BraidError, at_command_line, remedy, suggest


def test_every_error_is_of_the_family() -> None:
    family = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert {kind.__name__ for kind in family} == {
        "BraidError", "ConfigError", "DataError", "KnowledgeError", "RunError", "TrainingError", "WriteError",
    }  # fmt: skip
    assert all(issubclass(kind, BraidError) for kind in family)


@pytest.mark.parametrize(
    ("name", "accepted", "words"),
    [
        ("batchsize", ["batch_size", "lr"], " (did you mean 'batch_size'?)"),
        ("qq", ["lr", "batch_size"], " (accepted: batch_size, lr)"),
        ("qq", {"b": 1, "a": 2}, " (accepted: a, b)"),
        ("qq", [], ""),
        ("lr", ["lr", "lr2"], " (did you mean 'lr'?)"),
        ("learning_rate", ["batch_size", "lr"], " (did you mean 'lr'?)"),
        ("learning-rate", ["batch_size", "lr"], " (did you mean 'lr'?)"),
        ("epochs", ["max_epochs", "lr", "min_epochs"], " (did you mean 'max_epochs' or 'min_epochs'?)"),
        ("wd", ["batch_size", "weight_decay", "width"], " (did you mean 'weight_decay'?)"),
    ],
)
def test_suggest(name: str, accepted: list[str], words: str) -> None:
    assert suggest(name, accepted) == words
    assert suggest(name, iter(accepted)) == words


def test_a_remedy_is_in_the_words_of_whoever_asks() -> None:
    assert remedy("path=...", "--out") == "path=..."
    with at_command_line():
        assert remedy("path=...", "--out") == "--out"
    assert remedy("path=...", "--out") == "path=..."
