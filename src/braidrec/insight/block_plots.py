"""Vectors made of blocks as pictures: strips of people's vectors, lines over epochs, bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braidrec.errors import DataError
from braidrec.insight.plots import COLOURS, FAINT, save_plot


def strip_plot(
    people: Mapping[str, NDArray[np.floating[Any]]], blocks: Mapping[str, int], path: Path | str, title: str
) -> Path:
    """A strip of colours for each vector (k,), cut where a block ends; one scale for all, white at 0.

    Raises DataError where the blocks' sizes do not add up to a vector's length.
    """
    total = sum(blocks.values())
    for name, vector in people.items():
        if vector.shape != (total,):
            raise DataError(f"the vector of '{name}' has shape {vector.shape}, the blocks {dict(blocks)} have {total} columns")
    values = np.stack(list(people.values()))
    most = float(np.abs(values).max()) or 1.0

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        shown = axes.imshow(values, aspect="auto", cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
        ends = np.cumsum(list(blocks.values()))
        for end in ends[:-1]:
            axes.axvline(end - 0.5, color="#222222", linewidth=1)
        axes.set_xticks(ends - np.array(list(blocks.values())) / 2 - 0.5, list(blocks))
        axes.set_yticks(range(len(people)), list(people))
        axes.tick_params(length=0)
        figure.colorbar(shown, ax=axes, label="value")

    return save_plot(draw, path, title)


def lines_plot(series: Mapping[str, Mapping[str, Sequence[float]]], path: Path | str, title: str, ylabel: str) -> Path:
    """One panel for each model, a line for each of its losses from epoch 1 on."""
    if not series:
        raise DataError("there is nothing to draw: pass at least one model")
    names = list(dict.fromkeys(name for lines in series.values() for name in lines))

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, len(series), squeeze=False, sharey=True)[0]
        for axes, (model, lines) in zip(panels, series.items(), strict=True):
            for name, values in lines.items():
                at = names.index(name) % len(COLOURS)
                axes.plot(np.arange(1, len(values) + 1), values, color=COLOURS[at], linewidth=1.4, label=name)
            axes.set_title(model, fontweight="bold")
            axes.set_xlabel("epoch")
            axes.grid(axis="y", color=FAINT)
            axes.legend(frameon=False, fontsize=8)
        panels[0].set_ylabel(ylabel)

    return save_plot(draw, path, title, width=max(7.0, 3.0 * len(series)))


def bars_plot(values: Mapping[str, Sequence[float]], labels: Sequence[str], path: Path | str, title: str, ylabel: str) -> Path:
    """Bars side by side: a group for each label, a colour for each series."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        width = 0.8 / len(values)
        for at, (name, numbers) in enumerate(values.items()):
            places = np.arange(len(labels)) + (at - (len(values) - 1) / 2) * width
            axes.bar(places, numbers, width * 0.94, color=COLOURS[at % len(COLOURS)], label=name)
        axes.set_xticks(range(len(labels)), labels)
        axes.tick_params(axis="x", length=0)
        axes.set_ylabel(ylabel)
        axes.grid(axis="y", color=FAINT)
        if len(values) > 1:
            axes.legend(frameon=False)

    return save_plot(draw, path, title)
