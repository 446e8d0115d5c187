"""A twin shares tensors and nothing that an assignment could reach."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn

from braidrec.layers.text import TextReader, TextTable
from braidrec.layers.twins import twin


class Part(nn.Module):
    """Something of everything that a module may hold."""

    rows: Tensor
    hidden: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.many = nn.ModuleList([self.first, nn.Linear(2, 2)])
        self.named = nn.ModuleDict({"a": nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), "b": nn.GRU(2, 2)})
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("rows", torch.arange(3.0))
        self.register_buffer("hidden", torch.zeros(1), persistent=False)
        self.register_buffer("nothing", None)
        self.names, self.apart, self.size = ["x"], (self.first, "y"), 3

    @cached_property
    def total(self) -> float:
        return float(self.rows.sum())

    def forward(self, x: Tensor) -> Tensor:
        for part in self.many:
            x = part(x)
        return self.named["a"](x) * self.weight + self.rows.sum() + self.named["b"](x)[0]


def test_a_twin_gives_the_same_from_the_same_tensors() -> None:
    part, x = Part().eval(), torch.randn(4, 2)
    other = twin(part)
    assert type(other) is Part
    assert torch.equal(other(x), part(x))
    assert [name for name, _ in other.named_modules()] == [name for name, _ in part.named_modules()]
    for (name, mine), (own, theirs) in zip(part.named_parameters(), other.named_parameters(), strict=True):
        assert name == own
        assert mine is theirs
    assert all(mine is theirs for mine, theirs in zip(part.buffers(), other.buffers(), strict=True))
    assert list(other.state_dict()) == list(part.state_dict())
    assert "hidden" not in other.state_dict()
    assert not {id(each) for each in part.modules()} & {id(each) for each in other.modules()}


def test_what_is_assigned_on_one_does_not_show_on_the_other() -> None:
    part, x = Part().eval(), torch.randn(4, 2)
    other, before = twin(part), part(x)
    assert part.total == 3.0
    other.rows = torch.cat([other.rows, torch.ones(2)])
    other.hidden = torch.ones(5)
    other.nothing = torch.ones(1)
    other.weight = nn.Parameter(torch.zeros(2))
    other.many.append(nn.Linear(2, 2))
    other.many[1].bias = None
    other.named["c"] = nn.Identity()
    other.named["a"][0] = nn.Identity()
    other.register_buffer("late", torch.ones(1))
    other.names.append("z")
    other.size = 4
    other.train()
    assert torch.equal(part(x), before)
    assert (len(part.rows), part.size, part.names, part.training) == (3, 3, ["x"], False)
    assert "nothing" not in part.state_dict()
    assert "hidden" not in other.state_dict()  # still not saved, after another was put in its place
    assert not hasattr(part, "late")
    assert other.total == 5.0
    part.rows = torch.zeros(1)
    assert len(other.rows) == 5


def test_a_cached_value_comes_along() -> None:
    part = Part()
    assert part.total == 3.0
    assert vars(twin(part))["total"] == 3.0


def test_a_module_that_occurs_twice_is_one_in_the_twin() -> None:
    part = Part()
    other = twin(part)
    assert other.many[0] is other.first
    assert other.apart == (other.first, "y")
    assert other.first is not part.first


def test_hooks_run_on_the_twin_and_are_removed_from_one_alone() -> None:
    linear, calls = nn.Linear(2, 2), []
    handle = linear.register_forward_hook(lambda module, *_: calls.append(module))
    other = twin(linear)
    other(torch.zeros(1, 2))
    assert calls == [other]
    handle.remove()
    linear(torch.zeros(1, 2))
    other(torch.zeros(1, 2))
    assert calls == [other, other]


def test_a_reader_of_text_grows_beside_the_one_that_answers() -> None:
    table = TextTable(torch.randn(5, 3))
    readers = nn.ModuleList(TextReader(table, nn.Linear(3, 2), "normed") for _ in range(2))
    for each in readers:
        each.export()
    first = twin(readers)
    first[0].add(torch.ones(2, 3))
    second = twin(first)
    second[0].add(torch.ones(1, 3))
    assert [len(each[0].reduced) for each in (readers, first, second)] == [5, 7, 8]
    assert first[1].reduced is readers[1].reduced


def test_a_twin_may_be_exported_while_its_original_trains() -> None:
    table = TextTable(torch.randn(5, 3))
    readers = nn.ModuleList(TextReader(table, nn.Linear(3, 2), "normed") for _ in range(2))
    other = twin(readers)
    assert other[0].source is other[1].source
    assert other[0].knowledge is readers[0].knowledge
    other[0].export()
    assert readers[0].source is table
    assert readers[0].reduced is None
