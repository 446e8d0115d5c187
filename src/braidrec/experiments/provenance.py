"""What a cell was made from, kept in the cell, and whether a table's row would be made from the same today.

A cell keeps the settings of its run as resolved, with a digest; what was prepared, with the data's fingerprint; the version.
Settings that later versions add do not make a cell stale where their default is what they say, so a cell is compared by its
settings as today's classes read them.  The version is kept for the reader; another cell format is stale.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from braidrec.config import RunConfig, from_values
from braidrec.data.dataset import Dataset
from braidrec.data.fingerprint import Fingerprint
from braidrec.data.settings import FORMER, PrepareSettings
from braidrec.errors import BraidError, ConfigError
from braidrec.experiments.material import VARIANTS, settings_of, unequal
from braidrec.experiments.rows import Row, Workshop, encoder_name
from braidrec.registry import TASKS
from braidrec.runs.directory import environment
from braidrec.strict import parse
from braidrec.training.config import MACHINE

CELL_FORMAT = 2
Facts = dict[str, Any]  # JSON

# Which folders, which seed: kept elsewhere, or no part of what a number is of; no more is the machine.
_PLACES = ("data", "knowledge", "seed")


def config_facts(config: RunConfig) -> Facts:
    """A resolved run as plain values, without seed, folders and machine; as in a run's own file, None is left out.

    Runs that give it stages are folders, too: `run_facts` says whose they are.
    """
    plain = config.model_copy(update={"model": config.model.without_givers()}).model_dump(mode="json", exclude_none=True)
    facts = {key: value for key, value in plain.items() if key not in _PLACES}
    facts["training"] = {key: value for key, value in facts["training"].items() if key not in MACHINE}
    return facts


def run_facts(config: RunConfig, encoder: str | None, starts: Mapping[str, str], givers: Mapping[str, Facts]) -> Facts:
    """All that the numbers of a run follow from, but seed and data.

    encoder: who reads the text, where any is read    starts: stage -> row that gives it    givers: the facts of those rows
    """
    return {"run": config_facts(config), "encoder": encoder, "starts": dict(starts), "givers": dict(givers)}


def digest_of(facts: Mapping[str, Any]) -> str:
    """Short digest of plain values, whatever order they stand in."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def data_facts(name: str, settings: PrepareSettings, known: Fingerprint | None) -> Facts:
    """known: what the prepared folder is known by; None where there is none"""
    return {"name": name, **({"fingerprint": None} if known is None else known.to_json()), **settings.model_dump(mode="json")}


def record(settings: Facts, data: Facts | None) -> Facts:
    """The entries of a cell that say what it was made from."""
    version = environment()["versions"]["braidrec"]
    return {"format": CELL_FORMAT, "version": version, "digest": digest_of(settings), "settings": settings, "data": data}


@dataclass
class Provenance:
    """What the cells of a workshop would be made from as things stand; each row and each folder is looked at once."""

    shop: Workshop
    _settings: dict[str, Facts] = field(default_factory=dict)
    _data: dict[str, Facts | None] = field(default_factory=dict)

    def record(self, row: Row) -> Facts:
        return record(self.settings(row), self.data(row.data))

    def settings(self, row: Row) -> Facts:
        if row.name not in self._settings:
            self._settings[row.name] = self._of_row(row)
        return self._settings[row.name]

    def data(self, variant: str) -> Facts | None:
        """Of the prepared folder, or, where there is none, what a variant of the name is; None where neither is known."""
        if variant not in self._data:
            folder = self.shop.prepared.get(variant)
            if folder is not None and (folder / "manifest.json").exists():
                dataset = Dataset.open(folder, verify=False)
                self._data[variant] = data_facts(dataset.name, dataset.settings, dataset.identity)
            else:
                self._data[variant] = data_facts(*settings_of(variant), None) if variant in VARIANTS else None
        return self._data[variant]

    def differences(self, row: Row, cell: Mapping[str, Any]) -> list[str]:
        """Why a cell of ``row`` is stale, in words; empty for one that would be made from the same today."""
        if cell.get("format", 1) != CELL_FORMAT:
            why = "it keeps nothing of what it was made from" if "format" not in cell else f"this version has {CELL_FORMAT}"
            return [f"a cell of format {cell.get('format', 1)}: {why}"]
        if cell["settings"] is None:
            return [f"its command cannot be resolved: {cell['unresolved']}"]
        found: list[str] = []
        if cell["digest"] != digest_of(cell["settings"]):
            found.append("its settings do not have its digest, so somebody edited them")
        wanted = self.settings(row)
        if cell["digest"] != digest_of(wanted):
            try:
                found += _differing(_today(cell["settings"]), wanted)
            except BraidError as cause:
                found.append(f"its settings are none of this version: {cause}")
        return [*found, *self._data_differences(row, cell["data"])]

    def _data_differences(self, row: Row, held: Facts | None) -> list[str]:
        wanted = self.data(row.data)
        if held is None or wanted is None:
            return []
        now, known = (Fingerprint.of_record(each) if each["fingerprint"] else None for each in (wanted, held))
        try:
            keys = PrepareSettings.model_fields
            settings = parse(PrepareSettings, FORMER | {key: value for key, value in held.items() if key in keys}, "data")
        except ConfigError as cause:
            return [f"its data are prepared as no more: {cause}"]
        if now is None or known is None or known.matches(now):
            known = now
        return _differing(data_facts(held["name"], settings, known), wanted, "data.")

    def _of_row(self, row: Row) -> Facts:
        if row.simple:
            spec = row.of_task.baselines[row.backbone]
            return baseline_facts(row.of_task.name, row.backbone, spec.config().model_dump(mode="json"))
        givers = {(giver := self.shop.origin(row, stage)).name: giver for stage in row.starts}
        return run_facts(
            row.config(),
            encoder_name(row.encoder) if row.reads_text else None,
            row.starts,
            {name: self.settings(giver) for name, giver in givers.items()},
        )


def baseline_facts(task: str, name: str, config: Facts) -> Facts:
    """Of a ranking without learning."""
    return {"task": task, "baseline": name, "config": config}


def _differing(held: Mapping[str, Any], wanted: Mapping[str, Any], at: str = "") -> list[str]:
    return [f"{key} was {old} and is {new}" for key, old, new in unequal(held, wanted, at)]


def _today(facts: Facts) -> Facts:
    """What was kept, as today's classes read it: keys that came later have their defaults.  Raises ConfigError."""
    if "run" not in facts:
        spec = TASKS[facts["task"]].baselines[facts["baseline"]]
        config = parse(spec.config, facts["config"], f"baseline '{facts['baseline']}'")
        return baseline_facts(facts["task"], facts["baseline"], config.model_dump(mode="json"))
    config = from_values({**facts["run"], "data": "", "seed": 0}, "settings")
    givers = {name: _today(giver) for name, giver in facts["givers"].items()}
    return run_facts(config, facts["encoder"], facts["starts"], givers)
