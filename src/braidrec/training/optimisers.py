"""Adam in two forms, fused over dense parameters and row by row for big tables, and row-wise Adagrad for those too big for it.

Adam moves a parameter even while its gradient is zero: the first moment fades and drags it along.  Dense Adam pays for
that on every row of a table at every step.  `LazyAdam` pays when a row is next read: it sums the moves of the gap,

    drift = lr * m * sum_{k=1..n} beta1^k / (1 - beta1^(s+k)) / (sqrt(v) * sqrt(beta2^k / (1 - beta2^(s+k))) + eps)

with m, v the moments after step s, the row's last, and n the steps since.  The factor beside beta1^k is smooth in k, so
Gauss quadrature for the measure beta1^k on {1..n} gives the sum to float precision from eight terms; no more than
log(1e-10) / log(beta1) terms matter in any case.  Rows last touched in the first steps, where the bias corrections still
bend, are summed term by term, once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from braidrec.errors import TrainingError
from braidrec.training.contracts import OptimiserGroup

_NODES = 8  # Gauss nodes per row
_TERM_BY_TERM = 32  # rows last touched before this step are summed exactly
_TRUNCATION = 1e-10  # beta1^k below this does not move a float32
CROSSOVER_ROWS = 200_000  # measure_crossover(32, 16_384) on one core; `braidrec bench` prints this machine's


class LazyAdam(torch.optim.Optimizer):
    """Adam (Kingma & Ba 2015) over tables with sparse gradients; cost follows the rows read, not the rows there are.

    Call `catch_up` with the rows a forward pass will read, before it reads them, and `catch_up_all` before whole tables
    are read (validation, end of training).  Without weight decay every read then sees what dense Adam would show, to float
    tolerance, at a constant lr.  With weight decay it is another optimiser: each step takes lr * weight_decay off the
    weights as in AdamW, n skipped steps at once as the factor (1 - lr * weight_decay)^n beside the drift.  Dense Adam's
    decay inside the gradient would instead be normalised to steps of size lr, and drag rare rows to zero at full speed.

    parameters: tables (R, D) float32 of nn.Embedding(sparse=True).
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        for group in self.param_groups:
            for table in group["params"]:
                self.state[table] = {
                    "step": 0,
                    "moments": torch.zeros(len(table), 2, *table.shape[1:], dtype=table.dtype, device=table.device),
                    "last": torch.zeros(len(table), dtype=torch.int32, device=table.device),
                }

    @torch.no_grad()
    def catch_up(self, table: Tensor, rows: Tensor) -> None:
        """Bring ``rows`` (n,) int64 of ``table`` to the present step; rows may repeat."""
        state, group = self.state[table], self._group(table)
        now = state["step"]
        last = state["last"].index_select(0, rows)
        rows = rows[last < now]
        if not len(rows):
            return
        last = state["last"].index_select(0, rows)
        state["last"].index_fill_(0, rows, now)
        decay = group["lr"] * group["weight_decay"]
        if not decay:
            # a row that was never updated has no moments: nothing moves it
            touched = last > 0
            rows, last = rows[touched], last[touched]
            if not len(rows):
                return
        gap = now - last
        weight, moments = table.index_select(0, rows), state["moments"].index_select(0, rows)
        mean, square = moments.unbind(1)
        betas, eps = group["betas"], group["eps"]
        if decay:
            weight *= torch.pow(1 - decay, gap)[:, None]
        early = last < _TERM_BY_TERM
        if not bool(early.any()):
            weight.addcmul_(mean, _drift(square.sqrt(), last, gap, betas, eps, exact=False), value=-group["lr"])
        else:
            for part in (early, ~early):
                at = part.nonzero().squeeze(1)
                if len(at):
                    drift = _drift(square[at].sqrt_(), last[at], gap[at], betas, eps, exact=part is early)
                    weight.index_add_(0, at, mean[at] * drift, alpha=-group["lr"])
        moments *= torch.tensor(betas, dtype=torch.float64, device=gap.device).pow(gap[:, None]).float()[:, :, None]
        table.index_copy_(0, rows, weight)
        state["moments"].index_copy_(0, rows, moments)

    def catch_up_all(self, block: int = 65_536) -> None:
        """Bring every row of every table to the present step, ``block`` rows at a time."""
        for table, state in self.state.items():
            behind = (state["last"] < state["step"]).nonzero().squeeze(1)
            for rows in behind.split(block):
                self.catch_up(table, rows)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the rows that the sparse gradients name.  Raises TrainingError when one was not caught up before."""
        assert closure is None, "the loss is computed before the step"
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    self._step(table, group)

    def _step(self, table: nn.Parameter, group: dict[str, Any]) -> None:
        rows, values = _sparse(table)
        state = self.state[table]
        if bool((state["last"].index_select(0, rows) < state["step"]).any()):
            raise TrainingError(
                f"rows of a table of shape {tuple(table.shape)} were read without being brought up to date; "
                "lazy_rows(batch) must name every row that step(batch) reads"
            )
        state["step"] += 1
        now, (beta1, beta2) = state["step"], group["betas"]
        moments = state["moments"].index_select(0, rows)
        mean, square = moments.unbind(1)
        mean.lerp_(values, 1 - beta1)
        square.mul_(beta2).addcmul_(values, values, value=1 - beta2)
        weight = table.index_select(0, rows).mul_(1 - group["lr"] * group["weight_decay"])
        denominator = square.sqrt().div_(math.sqrt(1 - beta2**now)).add_(group["eps"])
        weight.addcdiv_(mean, denominator, value=-group["lr"] / (1 - beta1**now))
        table.index_copy_(0, rows, weight)
        state["moments"].index_copy_(0, rows, moments)
        state["last"].index_fill_(0, rows, now)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state of the same tables.  (torch's own would cast the row counters to float.)"""
        tables = [table for group in self.param_groups for table in group["params"]]
        for at, table in enumerate(tables):
            for name, value in state_dict["state"][at].items():
                if isinstance(value, Tensor):
                    self.state[table][name].copy_(value)
                else:
                    self.state[table][name] = value

    def _group(self, table: Tensor) -> dict[str, Any]:
        return next(group for group in self.param_groups if any(each is table for each in group["params"]))


class RowAdagrad(torch.optim.Optimizer):
    """Adagrad (Duchi et al. 2011) with one sum a row, over tables with sparse gradients: R numbers of state, for Adam's 2 R D.

        s_r += mean(g_r^2),  w_r -= lr * (g_r / (sqrt(s_r) + eps) + weight_decay * w_r)

    for the rows r of a gradient alone; without a first moment nothing moves a row that is not read, so nothing is caught up.
    Steps shrink as a row is read, so its lr is far above Adam's.

    parameters: tables (R, D) of nn.Embedding(sparse=True).
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float = 0.02, eps: float = 1e-8, weight_decay: float = 0.0):
        super().__init__(parameters, {"lr": lr, "eps": eps, "weight_decay": weight_decay})
        for group in self.param_groups:
            for table in group["params"]:
                self.state[table] = {"sum": torch.zeros(len(table), dtype=table.dtype, device=table.device)}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "the loss is computed before the step"
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is None:
                    continue
                rows, values = _sparse(table)
                sums = self.state[table]["sum"]
                own = sums.index_select(0, rows) + values.square().mean(dim=1)
                sums.index_copy_(0, rows, own)
                weight = table.index_select(0, rows).mul_(1 - group["lr"] * group["weight_decay"])
                weight.addcdiv_(values, own.sqrt().add_(group["eps"])[:, None], value=-group["lr"])
                table.index_copy_(0, rows, weight)


def _sparse(table: nn.Parameter) -> tuple[Tensor, Tensor]:
    """Rows (n,) of a table's gradient, each once, and their values (n, D).  Raises TrainingError where it is dense."""
    assert table.grad is not None
    if not table.grad.is_sparse:
        raise TrainingError(
            f"a table of shape {tuple(table.shape)} is updated lazily but got a dense gradient; read it only through "
            "embedding look-ups with sparse=True, or build it with sparse=False"
        )
    gradient = table.grad.coalesce()
    return gradient.indices()[0], gradient.values()


def _drift(root: Tensor, last: Tensor, gap: Tensor, betas: tuple[float, float], eps: float, exact: bool) -> Tensor:
    """The sum of the module's head without lr * m.  root = sqrt(v) (n, D), last = s and gap = n (n,) int -> (n, D)."""
    beta1, beta2 = betas
    out = torch.zeros_like(root)
    if beta1 == 0:  # the first moment is gone after one step
        return out
    terms = _terms(beta1)
    if exact:
        nodes = torch.arange(1, min(int(gap.max()), terms) + 1, device=root.device)[None, :]
        masses = torch.exp(nodes * math.log(beta1)) * (nodes <= gap[:, None])
    else:
        table = _quadrature(beta1).to(root.device)[:, gap.clamp(max=terms).long()]
        nodes, masses = table[0], table[1]
    steps = last[:, None].double() + nodes
    masses = (masses / -torch.expm1(steps * math.log(beta1))).float()
    scales = torch.sqrt(torch.exp(nodes * math.log(beta2)) / -torch.expm1(steps * math.log(beta2))).float()
    scales = scales.expand(len(root), -1)
    for at in range(masses.shape[1]):
        out.addcdiv_(masses[:, at : at + 1], (root * scales[:, at : at + 1]).add_(eps))
    return out


def _terms(beta1: float) -> int:
    return max(1, math.ceil(math.log(_TRUNCATION) / math.log(beta1)))


@cache
def _quadrature(beta1: float) -> Tensor:
    """Gauss nodes and masses of the measure beta1^k on {1..n}, for every n: (2, terms + 1, _NODES) float64.

    Golub and Welsch (1969): Lanczos on diag(1..n) from the root of the masses, eigenvalues of the small matrix.  Up to
    _NODES points the rule is the sum itself.
    """
    terms = _terms(beta1)
    out = np.zeros((2, terms + 1, _NODES))
    out[0] = 1.0
    for count in range(1, terms + 1):
        points = np.arange(1.0, count + 1)
        masses = beta1**points
        size = min(count, _NODES)
        if count <= _NODES:
            out[:, count, :size] = points, masses
            continue
        basis = [np.sqrt(masses / masses.sum())]
        jacobi = np.zeros((size, size))
        for at in range(size):
            following = points * basis[at]
            jacobi[at, at] = basis[at] @ following
            for _ in range(2):  # twice is enough to stay orthogonal
                for vector in basis:
                    following = following - (vector @ following) * vector
            if at + 1 < size:
                jacobi[at, at + 1] = jacobi[at + 1, at] = np.linalg.norm(following)
                basis.append(following / jacobi[at, at + 1])
        nodes, vectors = np.linalg.eigh(jacobi)
        out[:, count, :size] = nodes, masses.sum() * vectors[0] ** 2
    return torch.from_numpy(out)


def build(group: OptimiserGroup, lazy: Sequence[nn.Parameter]) -> list[torch.optim.Optimizer]:
    """Fused Adam (or AdamW) over the group's dense parameters, `LazyAdam` or `RowAdagrad` over those that are in ``lazy``."""
    tables = {id(table) for table in lazy}
    dense = [parameter for parameter in group.parameters if id(parameter) not in tables]
    sparse = [parameter for parameter in group.parameters if id(parameter) in tables]
    out: list[torch.optim.Optimizer] = []
    if dense:
        kind = torch.optim.AdamW if group.decoupled else torch.optim.Adam
        out.append(kind(dense, group.lr, group.betas, group.eps, group.weight_decay, fused=True))
    if sparse and group.rowwise:
        out.append(RowAdagrad(sparse, group.table_lr or group.lr, group.eps, group.weight_decay))
    elif sparse:
        out.append(LazyAdam(sparse, group.lr, group.betas, group.eps, group.weight_decay))
    return out


def choose_table_update(rows: int, dim: int, crossover: int = CROSSOVER_ROWS) -> Literal["dense", "lazy"]:
    """How to update a table (rows, dim): "lazy" from ``crossover`` rows on, as `measure_crossover` finds it.

    Dense cost grows with rows * dim and lazy cost with lookups * dim, so the crossing hardly depends on the width; tables
    of one column, where the bookkeeping per row outweighs the row, cross later.
    """
    return "lazy" if rows >= (crossover if dim >= 8 else 4 * crossover) else "dense"


def measure_crossover(dim: int, lookups: int, *, seconds: float = 1.0) -> int:
    """Rows above which lazy updates of a table of width ``dim`` are faster, at ``lookups`` uniform look-ups a step.

    Times look-up, backward pass and update on this machine's CPU: dense at two sizes, for the line through them, and lazy
    at the larger, each for ``seconds``, the median of its steps counting.
    """
    small, large = 2**14, 2**18
    below, above = (_time_step(rows, dim, lookups, False, seconds) for rows in (small, large))
    lazy = _time_step(large, dim, lookups, True, seconds)
    slope = (above - below) / (large - small)
    return max(1, round(small + (lazy - below) / slope)) if slope > 0 else large


def _time_step(rows: int, dim: int, lookups: int, lazy: bool, seconds: float) -> float:
    """Median seconds of one step, after a few to warm up."""
    generator = torch.Generator().manual_seed(0)
    table = nn.Parameter(torch.randn(rows, dim, generator=generator))
    optimiser = LazyAdam([table]) if lazy else torch.optim.Adam([table], fused=True)
    if isinstance(optimiser, LazyAdam):  # as in the middle of a long training, where every row has a gap behind it
        state = optimiser.state[table]
        state["step"] = 10_000
        state["last"].random_(5_000, 10_000, generator=generator)
        state["moments"].fill_(1e-4)
    times: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times) < 8:
        ids = torch.randint(rows, (lookups,), generator=generator)
        started = time.perf_counter()
        if isinstance(optimiser, LazyAdam):
            optimiser.catch_up(table, ids.unique())
        F.embedding(ids, table, sparse=lazy).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
        times.append(time.perf_counter() - started)
    return float(np.median(times[3:]))
