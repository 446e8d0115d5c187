"""One loop for every model: a run is a list of phases, and it resumes in the middle of any as if it had never stopped.

    <run>/metrics.jsonl    one line per check: losses and monitors since the last check, validation metrics, speed
    <run>/checkpoints/, <run>/weights/    see `checkpoint`

A step: bring lazy tables up to date, one forward pass, the other optimiser groups on their own losses, then the main
groups on  sum_k weight[k] * loss[k].  Nothing in it waits for the device: losses are summed where they are, and looked at
for numbers that are none with one reduction (on a GPU one step late).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from braidrec.errors import ConfigError, RunError, TrainingError, suggest
from braidrec.progress import Advance, progress
from braidrec.shown import tell
from braidrec.training.checkpoint import (
    Archive,
    Randomness,
    Store,
    optimiser_state,
    randomness,
    read_archive,
    restore_optimiser,
    restore_randomness,
)
from braidrec.training.contracts import (
    CheckpointEvery,
    FittedPhase,
    Hardware,
    OptimiserGroup,
    Phase,
    PhaseResult,
    Step,
    StopRule,
    Trainable,
    TrainingResult,
)
from braidrec.training.devices import device_of
from braidrec.training.interrupts import Interrupted, Signals
from braidrec.training.optimisers import LazyAdam, build
from braidrec.training.record import Guard, Meter, MetricsLog
from braidrec.training.seeding import own_randomness, seed_everything, spawn
from braidrec.training.stages import put_fitted

METRICS = "metrics.jsonl"
_GRADIENT_CHECK = 16  # steps between looks at the gradients, where no clipping computes their norm anyway
_SHOW_EVERY = 0.2  # seconds between updates of the progress bar


AnyPhase = Phase | FittedPhase


@own_randomness()
def train(
    phases: Sequence[AnyPhase],
    directory: Path,
    *,
    seed: int = 0,
    hardware: Hardware | None = None,
    checkpoint_every: CheckpointEvery | None = None,
    show_progress: bool = True,
    resume: bool = True,
    source: str | None = None,
) -> TrainingResult:
    """Train ``phases`` in order; each module ends with the weights of its best check, on its training device.

    source: what names this run and the data it is trained on; a checkpoint that names another one is not gone on with

    A directory that holds a checkpoint of the same plan is resumed: on a CPU the weights and ``metrics.jsonl`` (timings
    aside) end bit for bit as in an unbroken run, given modules and batch sources built as they were the first time.

    The caller's global random generators are left as they were.

    Raises ConfigError for phases that cannot run; TrainingError when a loss or gradient is not finite, or on SIGTERM after a
    checkpoint; KeyboardInterrupt on Ctrl-C, likewise (a second Ctrl-C does not wait); RunError for a directory that holds a
    damaged checkpoint, one of another plan, or any while ``resume`` is off.
    """
    hardware, every = hardware or Hardware(), checkpoint_every or CheckpointEvery()
    _check_names(phases)
    fabric = _fabric(hardware)
    for phase in phases:
        phase.module.to(fabric.device)
    directory.mkdir(parents=True, exist_ok=True)
    store = Store(directory)
    plan = {"seed": seed, "precision": hardware.precision, "phases": [_plan(phase) for phase in phases], "source": source}
    with Signals() as signals, MetricsLog(directory / METRICS) as log:
        run = _Run(phases, plan, store, log, fabric, signals, every, show_progress, seed)
        run.restore(resume)
        for number in range(len(run.finished), len(phases)):
            run.train_phase(number)
    return TrainingResult(tuple(run.finished))


def _check_names(phases: Sequence[AnyPhase]) -> None:
    names = [phase.name for phase in phases]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"phases are named {names}; a run has at least one phase, and each name once")
    for at, phase in enumerate(phases):
        for start in phase.starts_from:
            if isinstance(start.source, str) and start.source not in names[:at]:
                hint = suggest(start.source, names[:at])
                raise ConfigError(f"phase '{phase.name}' starts from '{start.source}', which is no earlier phase{hint}")


def _fabric(hardware: Hardware) -> Any:
    from lightning_fabric import Fabric  # costs a second

    devices = list(hardware.devices) if isinstance(hardware.devices, tuple) else hardware.devices
    if (len(devices) if isinstance(devices, list) else devices) != 1:
        raise ConfigError(
            f"devices = {hardware.devices}: training runs in one process on one device; give 1, or [n] for device n"
        )
    return Fabric(accelerator=device_of(hardware.accelerator).type, devices=devices, precision=hardware.precision)


def _plan(phase: AnyPhase) -> dict[str, Any]:
    """Everything that decides how a phase goes, as JSON: a checkpoint is resumed under the same plan only."""
    starts = [[str(start.source), dict(start.names)] for start in phase.starts_from]
    if isinstance(phase, FittedPhase):
        return {"name": phase.name, "fitted": True, "starts_from": starts}
    names = {id(parameter): name for name, parameter in phase.module.named_parameters()}

    def describe(group: OptimiserGroup) -> dict[str, Any]:
        settings = {"lr": group.lr, "weight_decay": group.weight_decay, "betas": list(group.betas), "eps": group.eps}
        trained = {names[id(each)]: list(each.shape) for each in group.parameters}
        rowwise = {"rowwise": True, "table_lr": group.table_lr} if group.rowwise else {}
        return settings | {"steps": group.steps, "decoupled": group.decoupled, "parameters": trained} | rowwise

    return {
        "name": phase.name,
        "batches": len(phase.batches),
        "groups": {group.name: describe(group) for group in phase.groups},
        "weights": dict(phase.weights),
        "monitor": phase.monitor,
        "mode": phase.mode,
        "stop": phase.stop.model_dump(),
        "clip_norm": phase.clip_norm,
        "averaging": phase.averaging,
        "starts_from": starts,
    }


def _completed(plan: Mapping[str, Any], source: str | None) -> dict[str, Any]:
    """A stored plan with what an earlier version did not write yet: it trained by what is the default now, from any source."""
    rule = StopRule().model_dump()
    phases = [each if "fitted" in each else {"averaging": 0.0, **each, "stop": rule | each["stop"]} for each in plan["phases"]]
    return {"source": source, **plan, "phases": phases}


def _difference(old: Any, new: Any, at: str = "") -> str | None:
    """Where two JSON values first differ, in words."""
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [(f"{at}.{key}" if at else key, old.get(key), new.get(key)) for key in {**old, **new}]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(f"{at}[{index}]", before, now) for index, (before, now) in enumerate(zip(old, new, strict=True))]
    else:
        return None if old == new else f"{at} was {old!r} and is now {new!r}"
    return next((found for where, before, now in pairs if (found := _difference(before, now, where))), None)


@dataclass(frozen=True)
class _Best:
    check: int
    step: int
    metric: float
    metrics: Mapping[str, float]
    weights: str


class _Run:
    """What all phases share, and where the run stands."""

    def __init__(
        self,
        phases: Sequence[AnyPhase],
        plan: Mapping[str, Any],
        store: Store,
        log: MetricsLog,
        fabric: Any,
        signals: Signals,
        every: CheckpointEvery,
        show_progress: bool,
        seed: int,
    ):
        self.phases, self.plan, self.store, self.log, self.fabric = phases, plan, store, log, fabric
        self.signals, self.every, self.show_progress, self.seed = signals, every, show_progress, seed
        self.modules = [phase.module for phase in phases]
        self.finished: list[PhaseResult] = []
        self._resumed: Archive | None = None

    def restore(self, resume: bool) -> None:
        """Return to the last checkpoint, if there is one."""
        archive = self.store.latest()
        if not resume and (archive is not None or self.log.size):
            raise RunError("the directory holds a run already; resume it, or choose another directory")
        self.store.clear_leftovers()
        if archive is None:
            self.log.cut(0)
            return
        if archive.facts["plan"].get("source", source := self.plan["source"]) != source:
            raise RunError(
                "the last checkpoint is of another training, on other data, of other settings or in another folder; bring this "
                "one's back, or delete its folder 'training' to begin again"
            )
        if found := _difference(_completed(archive.facts["plan"], source), dict(self.plan)):
            raise RunError(f"the checkpoint belongs to another plan: {found}; restore that setting or choose another directory")
        self.log.cut(archive.facts["metrics_bytes"], archive.facts.get("metrics_sha256"))
        self.store.digests.update(archive.facts.get("digests", {}))
        self.finished = [PhaseResult(**result) for result in archive.facts["finished"]]
        for phase, result in zip(self.phases, self.finished, strict=False):
            tensors = self.store.read_weights(result.weights)
            if isinstance(phase, FittedPhase):
                put_fitted(phase.module, tensors)
                phase.module.to(self.fabric.device)  # new buffers are where they were read, on the CPU
            else:
                _load(phase.module, tensors, f"the weights of phase '{phase.name}'")
            phase.module.eval()
        restore_randomness(Randomness(archive.files["random"], archive.facts["random"]), self.modules)
        self._resumed = archive if archive.facts["progress"] is not None else None

    def train_phase(self, number: int) -> None:
        phase = self.phases[number]
        if isinstance(phase, FittedPhase):
            self.finished.append(self._fit(phase))
            self.save(None)
            return
        current = _PhaseRun(self, phase)
        if self._resumed is not None:
            current.restore(self._resumed)
            self._resumed = None
        else:
            seed_everything(spawn(self.seed, "phase", phase.name))
            self._start_from(phase)
        title, left = f"{phase.name}", phase.stop.max_epochs * len(phase.batches) - current.step
        with progress(title, left, "batches", show=self.show_progress) as advance:
            self.finished.append(current.train(advance))
        self.save(None)

    def _fit(self, phase: FittedPhase) -> PhaseResult:
        """Fit a phase at once, and validate it; a kill before its end leaves nothing of it."""
        seed_everything(spawn(self.seed, "phase", phase.name))
        self._start_from(phase)
        begun = time.perf_counter()
        try:
            with self.signals.at_once(), torch.no_grad():
                put_fitted(phase.module, phase.fit())
                seconds = time.perf_counter() - begun
                phase.module.to(self.fabric.device).eval()
                metrics = {name: float(value) for name, value in phase.validate(phase.module).items()}
        except Interrupted:
            self.signals.leave(f"in phase '{phase.name}', which is fitted at once and then begins again")
            raise AssertionError("unreachable") from None
        tensors = {name: tensor.detach().cpu() for name, tensor in phase.module.state_dict().items()}
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        if bad := bad + [name for name, tensor in tensors.items() if not _finite(tensor)]:
            raise TrainingError(f"phase '{phase.name}': '{bad[0]}' is not finite; look for such numbers in the input")
        facts = {"phase": phase.name, "step": 0, "metrics": metrics}
        weights = f"{phase.name}-{0:08d}"
        self.store.write_weights(weights, Archive({"model": tensors}, facts))
        self.log.append(
            {"phase": phase.name, "check": 1, "epoch": 0.0, "step": 0, "losses": {}, "first": {}, "monitors": {}}
            | {"validation": metrics, "best": True, "samples_per_second": 0.0, "seconds": round(seconds, 3)}
        )
        self.show(phase.name, "", metrics, best=True)
        metric = next(iter(metrics.values()), 0.0)
        return PhaseResult(phase.name, 1, 0, metric, metrics, 0, seconds, 0.0, weights)

    def show(self, phase: str, where: str, metrics: Mapping[str, float], *, best: bool) -> None:
        """The validation figures of a check as soon as they are known: above the bar on a terminal, else a line."""
        if self.show_progress:
            named = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
            tell(f"{phase}: {where}validation {named}{' (best so far)' if best else ''}")

    def save(self, current: _PhaseRun | None) -> Path:
        """A checkpoint in the middle of a phase, or between two."""
        random = randomness(self.modules)
        files: dict[str, Mapping[str, Tensor]] = {"random": random.tensors}
        facts: dict[str, Any] = {
            "plan": self.plan,
            "finished": [asdict(result) for result in self.finished],
            "metrics_bytes": self.log.size,
            "metrics_sha256": self.log.digest,
            "random": random.facts,
            "progress": None,
        }
        names = [result.weights for result in self.finished]
        if current is not None:
            tensors, facts["progress"] = current.state()
            files |= tensors
            names += [current.best.weights] if current.best else []
        facts |= {"weights": names, "digests": {name: self.store.digests[name] for name in names if name in self.store.digests}}
        return self.store.save(Archive(files, facts))

    def _start_from(self, phase: AnyPhase) -> None:
        for start in phase.starts_from:
            if isinstance(start.source, Path):
                tensors = read_archive(start.source).files["model"]
            else:
                tensors = self.store.read_weights(next(each.weights for each in self.finished if each.name == start.source))
            what = f"phase '{phase.name}' starts from '{start.source}', whose weights"
            _load(phase.module, _renamed(tensors, start.names, what), what, partly=True)


def _renamed(tensors: Mapping[str, Tensor], names: Mapping[str, str], what: str) -> Mapping[str, Tensor]:
    """The tensors under each prefix, under its new one; all of them where no prefix is given."""
    if not names:
        return tensors
    found: dict[str, Tensor] = {}
    for old, new in names.items():
        part = {new + name.removeprefix(old): tensor for name, tensor in tensors.items() if name.startswith(old)}
        if not part:
            raise RunError(f"{what} do not fit the module: none is named '{old}...'{suggest(old, tensors)}")
        found |= part
    return found


def _load(module: nn.Module, tensors: Mapping[str, Tensor], what: str, *, partly: bool = False) -> None:
    """Copy ``tensors`` into the module by name; ``partly`` lets the module have more of them than are given."""
    own = module.state_dict()
    missing = set() if partly else own.keys() - tensors.keys()
    if wrong := sorted((tensors.keys() - own.keys()) | missing):
        raise RunError(f"{what} do not fit the module: '{wrong[0]}' and {len(wrong) - 1} more are on one side only")
    for name, tensor in tensors.items():
        if own[name].shape != tensor.shape:
            shapes = f"{tuple(tensor.shape)}, in the module {tuple(own[name].shape)}"
            raise RunError(f"{what} do not fit the module: '{name}' has shape {shapes}")
    module.load_state_dict(tensors, strict=False)


class _PhaseRun:
    """One phase under way."""

    def __init__(self, run: _Run, phase: Phase):
        self.run, self.phase, self.fabric = run, phase, run.fabric
        self.module = phase.module
        self.model = cast(Trainable, phase.module)
        self.size = len(phase.batches)
        self.check_at = phase.stop.within(self.size)
        self.names = dict(self.module.named_parameters())
        self.tables = self._lazy_tables()
        self.optimisers = {group.name: build(group, list(self.tables.values())) for group in phase.groups}
        self.groups = {group.name: group for group in phase.groups}
        self.lazy = [each for built in self.optimisers.values() for each in built if isinstance(each, LazyAdam)]
        self.main = [each for group in phase.groups if group.is_main for each in group.parameters]
        if phase.averaging and self.tables:
            raise ConfigError(
                f"phase '{phase.name}': averaging visits every row at every step; use dense tables, or averaging = 0"
            )
        self.average = [each.detach().clone() for each in self.main] if phase.averaging else []
        self.main_optimisers = [each for group in phase.groups if group.is_main for each in self.optimisers[group.name]]
        self.step = self.samples = self.rows = self.checks = self.stale = 0
        self.seconds, self.seconds_before, self._mark = 0.0, 0.0, time.perf_counter()
        self.due = False  # a check is to be made at this step
        self.best: _Best | None = None
        self.best_weights: Mapping[str, Tensor] = {}
        self.meter, self.guard = Meter(), Guard()

    def _lazy_tables(self) -> dict[str, nn.Parameter]:
        """The big tables that some optimiser group trains, by name."""
        trained = {id(parameter) for group in self.phase.groups for parameter in group.parameters}
        sparse = [
            part.weight for part in self.module.modules() if isinstance(part, nn.Embedding | nn.EmbeddingBag) and part.sparse
        ]
        wanted = {id(table) for table in sparse} & trained
        tables = {name: parameter for name, parameter in self.names.items() if id(parameter) in wanted}
        if tables and not hasattr(self.module, "lazy_rows"):
            raise ConfigError(
                f"phase '{self.phase.name}': '{next(iter(tables))}' is an embedding with sparse=True, so "
                f"{type(self.module).__name__} must have lazy_rows(batch), which names the rows a step reads"
            )
        return tables

    # ---- the loop

    def train(self, advance: Advance) -> PhaseResult:
        if self.step == 0 and self.phase.batches.state()["position"]:
            raise TrainingError(f"phase '{self.phase.name}': its batches were begun before training; hand over a fresh source")
        self.module.train()
        shown, pending, self._mark = 0.0, 0, time.perf_counter()
        saved, stop = self._mark, self.phase.stop
        over = self.due and self._check()
        while not over:
            epoch_end = (self.step // self.size + 1) * self.size
            if self.step and self.phase.batches.state()["position"] == self.size:
                epoch_end = self.step  # resumed at the very end of an epoch: the source has yet to turn the page
            for batch in self.phase.batches:
                self._train_on(batch)
                epoch, place = divmod(self.step - 1, self.size)
                self.due = place + 1 in self.check_at and stop.in_epoch(epoch + 1)
                if self.run.signals.caught is not None:
                    self._leave()
                if self.due and (over := self._check()):
                    break
                now = time.perf_counter()
                pending += 1
                if now - shown >= _SHOW_EVERY:
                    advance(pending)
                    shown, pending = now, 0
                if self._save_due(now - saved):
                    self._save()
                    saved = time.perf_counter()
            if not over and self.step != epoch_end:
                raise TrainingError(
                    f"phase '{self.phase.name}': the epoch ended after {self.step} steps in all, {epoch_end} were announced; "
                    "len(batches) must be the number of batches that iteration gives"
                )
        advance(pending)
        return self._finish()

    def _train_on(self, batch: Any) -> None:
        batch = batch.to(self.fabric.device)
        if self.lazy:
            self._catch_up(batch)
        with self.fabric.autocast():
            step = self.model.step(batch)
        first = {name: self._step_first(name, loss) for name, loss in step.first.items()}
        with self.fabric.autocast():
            losses = step.losses()
        if losses.keys() != self.phase.weights.keys():
            self._explain_names(losses)
        total = sum(weight * losses[name] for name, weight in self.phase.weights.items() if weight)
        # gradients for the main parameters only: estimators stand still under the main loss
        self.fabric.backward(total, inputs=self.main)
        self.step += 1
        self._watch(losses, first, step)
        for optimiser in self.main_optimisers:
            optimiser.step()
            optimiser.zero_grad()
        if self.average:  # a plain mean at first, so that the initial weights do not linger
            share = max(1.0 - self.phase.averaging, 1.0 / self.step)
            torch._foreach_lerp_(self.average, [each.detach() for each in self.main], share)
        self.rows += len(batch)
        self.samples += len(batch)

    def _step_first(self, name: str, loss: Callable[[], Tensor]) -> Tensor:
        """Step a group on its own loss, ``steps`` times; the loss of the last time comes back."""
        if name not in self.groups or self.groups[name].is_main:
            own = [group.name for group in self.phase.groups if not group.is_main]
            raise TrainingError(
                f"phase '{self.phase.name}': step() trains the group '{name}', which has no optimiser{suggest(name, own)}"
            )
        group = self.groups[name]
        for _ in range(group.steps):
            with self.fabric.autocast():
                value = loss()
            self.fabric.backward(value, inputs=list(group.parameters))
            for optimiser in self.optimisers[name]:
                optimiser.step()
                optimiser.zero_grad()
        return value.detach()

    def _watch(self, losses: Mapping[str, Tensor], first: Mapping[str, Tensor], step: Step) -> None:
        """Guard this step's losses and gradient, and add them and the monitors to the means."""
        watched = {f"first/{name}": value for name, value in first.items()}
        watched |= {f"losses/{name}": value for name, value in losses.items()}
        names = (*watched, *(f"monitors/{name}" for name in step.monitors))
        values = torch.stack([value.detach().float() for value in (*watched.values(), *step.monitors.values())])
        self.meter.add(names, values)
        guarded = values[: len(watched)]
        if self.phase.clip_norm is not None or self.step % _GRADIENT_CHECK == 1:
            guarded = torch.cat([guarded, self._clip()[None]])
        at = self.step
        self.guard.watch(guarded, lambda floats: self._not_finite([*watched], floats, at))

    def _clip(self) -> Tensor:
        """Norm () of the main gradient, which is scaled to at most ``clip_norm`` where that is set."""
        values = []
        for parameter in self.main:
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce()
                values.append(parameter.grad.values())
            elif parameter.grad is not None:
                values.append(parameter.grad)
        norm = torch.nn.utils.get_total_norm(values)
        if self.phase.clip_norm is not None:
            # a norm that is no number would spread to every parameter and hide the one it came from
            scale = torch.where(norm.isfinite(), (self.phase.clip_norm / (norm + 1e-6)).clamp(max=1.0), 1.0)
            for value in values:
                value.mul_(scale)
        return norm

    def _catch_up(self, batch: Any) -> None:
        rows = cast(Any, self.module).lazy_rows(batch)
        if not self.tables.keys() <= rows.keys():
            missing = sorted(self.tables.keys() - rows.keys())
            raise TrainingError(
                f"phase '{self.phase.name}': lazy_rows(batch) does not name the table '{missing[0]}' (it names {sorted(rows)})"
            )
        for optimiser in self.lazy:
            for name, read in rows.items():
                if name in self.tables and self.tables[name] in optimiser.state:
                    optimiser.catch_up(self.tables[name], read)

    # ---- checks

    def _check(self) -> bool:
        """Validate, log, keep the weights if they are the best; True when the phase is over."""
        self._clock()
        self.guard.flush()
        for optimiser in self.lazy:
            optimiser.catch_up_all()
        self._refuse_broken_weights()
        metrics = self._validate()
        self.checks += 1
        self.stale += 1
        metric, mode, stop = metrics[self.phase.monitor], self.phase.mode, self.phase.stop
        gain = math.inf if self.best is None else (metric - self.best.metric) * (1 if mode == "max" else -1)
        if gain > stop.min_delta:
            self._keep_best(metric, metrics)
        self._log(metrics)
        self.run.show(self.phase.name, f"epoch {self.step / self.size:.2f}, ", metrics, best=self.stale == 0)
        self.meter.clear()
        self.rows, self.seconds_before, self.due = 0, self.seconds, False
        self._mark = time.perf_counter()
        tired = self.stale >= stop.patience and self.step >= stop.min_epochs * self.size
        return tired or self.step >= stop.max_epochs * self.size

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """The averaged weights in the place of the stepped ones, where there are any."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, mean in zip(self.main, self.average, strict=False):
            parameter.data, mean.data = mean.data, parameter.data

    def _validate(self) -> dict[str, float]:
        before = randomness(self.run.modules)
        self.module.eval()
        try:
            with self.run.signals.at_once(), torch.no_grad(), self.fabric.autocast(), self._averaged():
                metrics = {name: float(value) for name, value in self.phase.validate(self.module).items()}
        except Interrupted:
            restore_randomness(before, self.run.modules)
            self._leave()
            raise AssertionError("unreachable") from None
        finally:
            self.module.train()
        at = f"phase '{self.phase.name}', {self._place(self.step)}: validation"
        if self.phase.monitor not in metrics:
            hint = suggest(self.phase.monitor, metrics)
            raise TrainingError(f"{at} gave no metric '{self.phase.monitor}', which the phase monitors{hint}")
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise TrainingError(f"{at} metric '{name}' is {value}")
        return metrics

    def _keep_best(self, metric: float, metrics: Mapping[str, float]) -> None:
        self.stale = 0
        self.best = _Best(self.checks, self.step, metric, metrics, f"{self.phase.name}-{self.step:08d}")
        with self._averaged():
            self.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in self.module.state_dict().items()}
        facts = {"phase": self.phase.name, "step": self.step, "metrics": dict(metrics)}
        self.run.store.write_weights(self.best.weights, Archive({"model": self.best_weights}, facts))

    def _log(self, metrics: Mapping[str, float]) -> None:
        means = {name: value if math.isfinite(value) else None for name, value in self.meter.means().items()}
        seconds = self.seconds - self.seconds_before

        def part(kind: str) -> dict[str, float | None]:
            return {name.removeprefix(kind): value for name, value in means.items() if name.startswith(kind)}

        self.run.log.append(
            {
                "phase": self.phase.name,
                "check": self.checks,
                "epoch": self.step / self.size,
                "step": self.step,
                "losses": part("losses/"),
                "first": part("first/"),
                "monitors": part("monitors/"),
                "validation": dict(metrics),
                "best": self.stale == 0,
                "samples_per_second": round(self.rows / seconds, 1) if seconds else 0.0,
                "seconds": round(self.seconds, 3),
            }
        )

    def _finish(self) -> PhaseResult:
        assert self.best is not None, "every phase ends with a check"
        _load(self.module, self.best_weights, f"the best weights of phase '{self.phase.name}'")
        self.module.eval()
        best = self.best
        return PhaseResult(
            name=self.phase.name,
            best_check=best.check,
            best_step=best.step,
            best_metric=best.metric,
            metrics=best.metrics,
            steps=self.step,
            seconds=self.seconds,
            samples_per_second=self.samples / self.seconds if self.seconds else 0.0,
            weights=best.weights,
        )

    # ---- checkpoints

    def _save_due(self, waited: float) -> bool:
        every = self.run.every
        by_batches = every.batches is not None and self.step % every.batches == 0
        return by_batches or (every.seconds is not None and waited >= every.seconds)

    def _save(self) -> Path:
        self.guard.flush()
        self._refuse_broken_weights()
        at = self.phase.batches.state()["position"] % self.size
        if at != self.step % self.size:
            raise TrainingError(
                f"phase '{self.phase.name}': {self.step % self.size} batches of this epoch were trained on, but their source "
                f"says that it gave {at}; state()['position'] must count the batches given, no more and no less"
            )
        self._clock()
        return self.run.save(self)

    def _leave(self) -> None:
        path = self._save()
        self.run.signals.leave(f"in phase '{self.phase.name}', {self._place(self.step)}; the checkpoint is {path}")

    def state(self) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, Any]]:
        """Tensors by file, and facts."""
        optimisers: dict[str, Tensor] = {}
        numbers: dict[str, Any] = {}
        for name, built in self.optimisers.items():
            for at, optimiser in enumerate(built):
                tensors, numbers[f"{name}/{at}"] = optimiser_state(optimiser)
                optimisers |= {f"{name}/{at}/{key}": tensor for key, tensor in tensors.items()}
        sums, counts = self.meter.state()
        facts = {
            "step": self.step,
            "samples": self.samples,
            "rows": self.rows,
            "checks": self.checks,
            "stale": self.stale,
            "seconds": self.seconds,
            "seconds_before": self.seconds_before,
            "due": self.due,
            "best": None if self.best is None else asdict(self.best),
            "batches": dict(self.phase.batches.state()),
            "meter": counts,
            "optimisers": numbers,
        }
        average = {str(at): mean for at, mean in enumerate(self.average)}
        return {"model": self.module.state_dict(), "optimisers": optimisers, "meter": sums, "average": average}, facts

    def restore(self, archive: Archive) -> None:
        facts = archive.facts["progress"]
        _load(self.module, archive.files["model"], "the checkpoint's weights")
        for key, numbers in facts["optimisers"].items():
            name, at = key.rsplit("/", 1)
            tensors = archive.files["optimisers"]
            own = {each.removeprefix(f"{key}/"): tensors[each] for each in tensors if each.startswith(f"{key}/")}
            restore_optimiser(self.optimisers[name][int(at)], own, numbers)
        for at, mean in enumerate(self.average):
            mean.copy_(archive.files["average"][str(at)])
        for name in ("step", "samples", "rows", "checks", "stale", "seconds", "seconds_before", "due"):
            setattr(self, name, facts[name])
        if facts["best"] is not None:
            self.best = _Best(**facts["best"])
            self.best_weights = self.run.store.read_weights(self.best.weights)
        self.phase.batches.restore(facts["batches"])
        self.meter.restore(archive.files["meter"], facts["meter"], self.fabric.device)

    def _clock(self) -> None:
        """Add the time since the last mark to the phase's seconds."""
        now = time.perf_counter()
        self.seconds += now - self._mark
        self._mark = now

    # ---- trouble

    def _place(self, step: int) -> str:
        epoch, batch = divmod(max(step - 1, 0), self.size)
        return f"epoch {epoch + 1}, batch {batch + 1} of {self.size} (step {step})"

    def _not_finite(self, names: Sequence[str], values: Sequence[float], step: int) -> None:
        at = f"phase '{self.phase.name}', {self._place(step)}"
        remedy = f"{self._remedy}, and look for such numbers in the input; the last checkpoint and best weights are intact"
        broken = [f"{_spell(name)} is {value}" for name, value in zip(names, values, strict=False) if not math.isfinite(value)]
        if not broken:
            bad = next((name for name, each in self.names.items() if each.grad is not None and not _finite(each.grad)), None)
            broken = [f"gradient of '{bad}' is not finite" if bad else "the gradient is not finite"]
        if earlier := self._broken_weights():
            broken.append(f"'{earlier}' is already not finite, from a gradient before")
        raise TrainingError(f"{at}: {'; '.join(broken)}; {remedy}")

    def _refuse_broken_weights(self) -> None:
        if name := self._broken_weights():
            raise TrainingError(
                f"phase '{self.phase.name}', {self._place(self.step)}: '{name}' is not finite, from its gradient in one of the "
                f"last {_GRADIENT_CHECK} steps; nothing was saved over the last checkpoint; {self._remedy}"
            )

    @property
    def _remedy(self) -> str:
        apart = ", ".join(f"'{group.name}' ({group.lr:g})" for group in self.phase.groups if not group.is_main)
        return "lower lr or set clip_norm" + (f", or lower the rate of {apart}" if apart else "")

    def _broken_weights(self) -> str | None:
        return next((name for name, tensor in self.module.state_dict().items() if not _finite(tensor)), None)

    def _explain_names(self, losses: Mapping[str, Tensor]) -> None:
        at = f"phase '{self.phase.name}'"
        for name in losses.keys() - self.phase.weights.keys():
            raise TrainingError(f"{at}: the loss '{name}' has no weight{suggest(name, self.phase.weights)}")
        for name in self.phase.weights.keys() - losses.keys():
            raise TrainingError(
                f"{at}: a weight is given for the loss '{name}', which step() does not return{suggest(name, losses)}"
            )


def _spell(name: str) -> str:
    kind, _, rest = name.partition("/")
    return f"loss '{rest}'" if kind == "losses" else f"own loss of the group '{rest}'"


def _finite(tensor: Tensor) -> bool:
    values = tensor.coalesce().values() if tensor.is_sparse else tensor
    return bool(torch.isfinite(values).all())
