"""What a reader of a finished training should doubt: that it was long enough, and that it was worth it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from braidrec.config import RunConfig
from braidrec.task import Plan
from braidrec.training.contracts import Phase, PhaseResult
from braidrec.training.loop import AnyPhase


def doubts(config: RunConfig, plan: Plan, phases: Sequence[AnyPhase], results: Sequence[PhaseResult]) -> list[str]:
    """In words, with what to do; empty where there is nothing to doubt."""
    early = [_early(config, result) for result in results]
    simple = _simple(config, phases[-1], results[-1].metrics, plan.yardsticks())
    return [each for each in (*early, simple or plan.doubt(results[-1].metrics)) if each is not None]


def _early(config: RunConfig, result: PhaseResult) -> str | None:
    """That a phase ended by its number of epochs while it still improved; its first check improves on nothing."""
    if result.best_check < 2 or result.best_step < result.steps:
        return None
    own = config.training.phases.get(result.name)
    key = "training.max_epochs" if own is None or own.max_epochs is None else f"training.phases.{result.name}.max_epochs"
    epochs = config.training.of_phase(result.name).max_epochs
    return (
        f"stage '{result.name}': the last of its {result.best_check} checks is the best, so it still improved when "
        f"{key} = {epochs} ended it; train it anew, in another folder, with {key} = {2 * epochs}"
    )


def _simple(
    config: RunConfig, phase: AnyPhase, reached: Mapping[str, float], yardsticks: Mapping[str, Mapping[str, float]]
) -> str | None:
    """That a ranking without learning is better on validation: by what the last phase watched, or else by the headline."""
    metrics = config.chosen.task.metrics
    watched = phase.monitor if isinstance(phase, Phase) else metrics[0].key
    for key in dict.fromkeys((watched, metrics[0].key)):
        known = {name: values[key] for name, values in yardsticks.items() if key in values}
        if known and key in reached:
            sign = -1 if any(each.key == key and each.mode == "min" for each in metrics) else 1
            name = max(known, key=lambda each: sign * known[each])
            if sign * known[name] <= sign * reached[key]:
                return None
            title = next((each.title for each in metrics if each.key == key), key)
            return (
                f"on validation '{name}', which learns nothing, has {title} {known[name]:.4f}, this model {reached[key]:.4f}; "
                "with so little to learn from take the simple ranking, or give the model more: a longer log, other fields, text"
            )
    return None
