"""Large tables of text vectors: held once, read by rows, to the bits of a table that is prepared whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from braidrec import memory
from braidrec.layers import text
from braidrec.layers.text import Preparation, TextReader, TextTable
from braidrec.layers.twins import twin

ROWS, WIDTH, DIM = 300, 150, 4  # no whole number of columns taken at a time
KINDS: tuple[Preparation, ...] = ("plain", "normed", "centred")


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "WHOLE_BYTES", 0)


def vectors(rows: int = ROWS, width: int = WIDTH) -> Tensor:
    """float16, as knowledge bases store them."""
    found = torch.randn(rows, width, generator=torch.Generator().manual_seed(1)).add_(0.3).half()
    found[0] = 0
    return found


def reader(source: TextTable | None, how: Preparation, width: int = WIDTH) -> TextReader:
    torch.manual_seed(0)
    mean = None if how != "centred" else torch.zeros(width) if source is None else source.mean.clone()
    return TextReader(source, nn.Sequential(nn.Linear(width, DIM), nn.GELU()), how, mean=mean)


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that an operation made, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {each.untyped_storage().data_ptr() for each in args if isinstance(each, Tensor)}
        found = func(*args, **(kwargs or {}))
        for each in found if isinstance(found, list | tuple) else [found]:
            if isinstance(each, Tensor) and each.untyped_storage().data_ptr() not in given:
                self.bytes = max(self.bytes, each.untyped_storage().nbytes())
        return found


def test_what_is_small_enough_to_be_held_whole() -> None:
    assert memory.held_whole(3_884, 384)  # ML-1M
    assert memory.held_whole(16_384, 4_096)
    assert not memory.held_whole(16_385, 4_096)
    assert TextTable(vectors()).whole


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("width", [5, 64, 127, 150, 389])
def test_rows_have_the_bits_of_a_whole_preparation(how: Preparation, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given, rows = vectors(width=width), torch.tensor([7, 0, 299, 7])
    whole = TextTable(given.float())
    monkeypatch.setattr(memory, "WHOLE_BYTES", 0)
    by_rows = TextTable(given)
    assert (whole.whole, by_rows.whole) == (True, False)
    by_rows.ready(how)
    assert torch.equal(by_rows.mean, whole.mean)
    assert torch.equal(by_rows.read(how, rows).float(), whole.prepared(how)[rows])
    assert torch.equal(by_rows.read(how).float(), whole.prepared(how))


@pytest.mark.parametrize("how", KINDS)
def test_networks_read_and_learn_the_same_from_both(how: Preparation, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = reader(TextTable(vectors().float()), how)
    monkeypatch.setattr(memory, "WHOLE_BYTES", 0)
    by_rows = reader(TextTable(vectors()), how)
    rows = torch.tensor([4, 0, 4, 299])
    found = []
    for each in (whole, by_rows):
        each(rows).square().sum().backward()
        found.append([weight.grad for weight in each.parameters()])
        each.eval().export()
    assert torch.equal(whole(rows), by_rows(rows))
    assert all(torch.equal(first, second) for first, second in zip(*found, strict=True))  # type: ignore[arg-type]
    state = [each.state_dict() for each in (whole, by_rows)]
    assert state[0].keys() == state[1].keys()
    assert all(torch.equal(state[0][name], state[1][name]) for name in state[0])


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("how", KINDS)
def test_vectors_are_held_once_and_go_where_their_readers_go(how: Preparation) -> None:
    given = vectors()
    table = TextTable(given)
    both = nn.ModuleList([reader(table, how), reader(table, how)])
    assert table.vectors is given
    held = [buffer for name, buffer in table.named_buffers() if name != "centre"]
    assert len(held) == 1
    assert held[0] is given
    assert not any("source" in name for name in both.state_dict())
    both.to("meta")
    assert table.vectors.device.type == "meta"  # so nothing of it is left behind
    assert [buffer.device.type for buffer in table.buffers()] == ["meta"] * (2 if how == "centred" else 1)


@pytest.mark.usefixtures("large")
def test_a_twin_shares_the_vectors() -> None:
    one = reader(TextTable(vectors()), "normed")
    other = twin(one)
    assert one.source is not None
    assert other.source is not None
    assert other.source.vectors is one.source.vectors


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("how", KINDS)
def test_no_step_makes_a_tensor_near_the_size_of_the_table(how: Preparation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_ROWS", 64)
    given = vectors(2_000, 1_024)
    with Largest() as largest:
        one = reader(TextTable(given), how, 1_024)
        one(torch.arange(50)).sum().backward()
        with torch.no_grad():
            one.eval()(torch.arange(2_000))  # as a validation reads the catalogue
        one.export()
        one.cpu()
    assert 0 < largest.bytes <= given.nbytes / 7  # 64 of 1,024 columns as float32 are an eighth


@pytest.mark.usefixtures("large")
def test_many_rows_are_read_in_parts_only_where_nothing_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_ROWS", 64)
    one, rows, sizes = reader(TextTable(vectors()), "normed"), torch.arange(ROWS), []
    one.mlp.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    learned = one(rows)
    with torch.no_grad():
        dropped_out = one(rows)
        plain = one.eval()(rows)
    assert sizes == [300, 300, 60, 60, 60, 60, 60]
    torch.testing.assert_close(plain, learned)
    assert torch.equal(dropped_out, learned)
