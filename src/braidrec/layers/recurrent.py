"""Gated recurrent units over many short sequences, some of which attend to something: GRU, AIGRU, AGRU and AUGRU.

    u, r = sigmoid(W x + V h + b),  n = tanh(W_n x + b_n + r * (V_n h + c_n)),  h' = (1 - g) h + g n
    gru: g = u    aigru: g = u, x scaled by a first    agru: g = a, so there is no u    augru: g = a u
for the weight a in 0..1 of each step (Zhou et al., AAAI 2019, section 4.3).  Here u weighs the new state, in torch's GRU the
old one.  What does not recur, W x + b, is one product for every distinct x; only V h goes step by step, over the sequences that
are still going on, and the backward pass is written out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from braidrec.layers.kept import ANEW, Anew
from braidrec.layers.mlp import initialise

Gate = Literal["gru", "aigru", "agru", "augru"]


@dataclass(frozen=True)
class Steps:
    """Sequences (N, K) by their lengths as S rows: first steps of all, longest sequence first, then their second steps, ...

    rows (S,) int64: which of the N * K each is    counts: how many sequences go on at each step
    place (N, K) int64: 1 + the row of each step, 0 where there is none, for states that begin with a row of zeros
    """

    rows: Tensor
    counts: tuple[int, ...]
    place: Tensor

    @classmethod
    def of(cls, lengths: Tensor, longest: int) -> Steps:
        """lengths (N,) int64, none above ``longest``, which is K."""
        order = lengths.argsort(descending=True, stable=True)
        there = torch.arange(longest, device=lengths.device)[:, None] < lengths[order]  # (K, N)
        step, at = there.nonzero(as_tuple=True)
        rows = order[at] * longest + step
        place = rows.new_zeros(len(lengths) * longest)
        place[rows] = torch.arange(1, len(rows) + 1, device=rows.device)
        return cls(rows, tuple(count for count in there.sum(dim=1).tolist() if count), place.view(len(lengths), longest))

    @cached_property
    def slices(self) -> Sequence[tuple[slice, slice | None]]:
        """Per step its rows, and those of the same sequences a step before among states that begin with a row of zeros."""
        found: list[tuple[slice, slice | None]] = []
        begin = before = 0
        for at, count in enumerate(self.counts):
            found.append((slice(begin, begin + count), slice(1 + before, 1 + before + count) if at else None))
            before, begin = begin, begin + count
        return found

    @cached_property
    def last(self) -> Tensor:
        """(N,) int64: 1 + the row of each sequence's last step, 0 of one without any."""
        return self.place.amax(dim=1)


class Recurrence(nn.Module):
    """inputs (n, W) distinct rows, source (S,) which of them each step of ``steps`` reads, attention (S,) its weight (not for
    "gru") -> states (S + 1, H), the first of them zeros.  kept: by which products of the distinct rows are made once
    """

    def __init__(self, width: int, hidden: int, gate: Gate = "gru"):
        super().__init__()
        self.gate: Gate = gate
        gates = 2 if gate == "agru" else 3  # (update,) reset, new
        self.input = initialise(nn.Linear(width, gates * hidden))
        self.state = initialise(nn.Linear(hidden, gates * hidden))

    def forward(
        self, inputs: Tensor, source: Tensor, steps: Steps, attention: Tensor | None = None, kept: Anew = ANEW
    ) -> Tensor:
        assert (attention is None) == (self.gate == "gru")
        with torch.autocast(inputs.device.type, enabled=False):
            inputs = inputs.to(self.input.weight.dtype)
            weights = None if attention is None else attention.to(inputs.dtype)[:, None]
            if self.gate == "aigru":
                assert weights is not None
                given = torch.addcmul(self.input.bias, F.linear(inputs, self.input.weight).index_select(0, source), weights)
            else:
                given = kept.of(self, "input", lambda: self.input(inputs)).index_select(0, source)
            taken = weights if self.gate in ("agru", "augru") else None
            states: Tensor = _Recur.apply(given, self.state.weight, self.state.bias, taken, steps)
        return states


class _Recur(torch.autograd.Function):
    """given (S, G H) by steps, G = 3 gates or 2, weight (G H, H), bias (G H,), attention (S, 1) or None -> states (S + 1, H).

    With two gates attention is the update gate, with three it scales it.  Kept are the gates, V_n h + c_n and the states; with
    p the derivatives by what stands inside the sigmoids and the tanh, the loop back gathers p of every step, so that those of
    the weights are one product each.
    """

    @staticmethod
    def forward(ctx: Any, given: Tensor, weight: Tensor, bias: Tensor, attention: Tensor | None, steps: Steps) -> Tensor:
        width = weight.shape[1]
        gates, carried = torch.empty_like(given), given.new_empty(len(given), width)
        states = given.new_zeros(len(given) + 1, width)
        for at, before in steps.slices:
            state = states[before] if before is not None else states.new_zeros(at.stop - at.start, width)
            side = torch.addmm(bias, state, weight.T)
            own, new = gates[at], gates[at, -width:]
            torch.add(given[at], side, out=own)
            own[:, :-width].sigmoid_()
            carried[at] = side[:, -width:]
            torch.addcmul(given[at, -width:], own[:, -2 * width : -width], carried[at], out=new).tanh_()
            torch.lerp(state, new, _update(own, width, None if attention is None else attention[at]), out=states[_behind(at)])
        ctx.save_for_backward(weight, attention, gates, carried, states)
        ctx.steps = steps
        return states

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, attention, gates, carried, states = ctx.saved_tensors
        steps: Steps = ctx.steps
        width, three = weight.shape[1], weight.shape[0] == 3 * weight.shape[1]
        inner, beside = torch.empty_like(gates), torch.empty_like(gates)  # p of W x + b, and of V h + c
        grad_attention = None if attention is None else torch.empty_like(attention)
        running = grad.new_zeros(steps.counts[0] if steps.counts else 0, width)  # of the state behind each step
        grad_weight = torch.zeros_like(weight)
        for at, before in reversed(steps.slices):
            count = at.stop - at.start
            state = states[before] if before is not None else states.new_zeros(count, width)
            own, reset, new = gates[at], gates[at, -2 * width : -width], gates[at, -width:]
            weights = None if attention is None else attention[at]
            update = _update(own, width, weights)
            total = running[:count].add_(grad[_behind(at)])
            by_new = _tanh_back(total * update, new)
            by_update = total * (new - state)
            inner[at, -width:] = by_new
            beside[at, -width:] = by_new * reset
            inner[at, -2 * width : -width] = _sigmoid_back(by_new * carried[at], reset)
            if three:
                inner[at, :width] = _sigmoid_back(by_update if weights is None else by_update * weights, own[:, :width])
                by_update = by_update * own[:, :width]
            if grad_attention is not None:
                grad_attention[at] = by_update.sum(dim=1, keepdim=True)
            beside[at, :-width] = inner[at, :-width]
            total.addcmul_(total, update, value=-1)
            if before is not None:
                grad_weight.addmm_(beside[at].T, state)
                total.addmm_(beside[at], weight)
        return inner, grad_weight, beside.sum(dim=0), grad_attention, None


def _update(gates: Tensor, width: int, attention: Tensor | None) -> Tensor:
    """How much of the new state comes in, (n, H) or (n, 1)."""
    if gates.shape[1] == 2 * width:
        assert attention is not None
        return attention
    return gates[:, :width] if attention is None else gates[:, :width] * attention


def _behind(at: slice) -> slice:
    return slice(at.start + 1, at.stop + 1)


def _sigmoid_back(grad: Tensor, found: Tensor) -> Tensor:
    out: Tensor = torch.ops.aten.sigmoid_backward(grad, found)
    return out


def _tanh_back(grad: Tensor, found: Tensor) -> Tensor:
    out: Tensor = torch.ops.aten.tanh_backward(grad, found)
    return out
