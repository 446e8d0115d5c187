"""What `print` says of a run: ten lines."""

from __future__ import annotations

from pathlib import Path

import sequence_runs

import small_runs


def test_a_run_is_printed_in_ten_lines(tmp_path: Path) -> None:
    run = small_runs.copy_of(small_runs.disco(), tmp_path / "run")
    run.add_items({"late": "ghosts"})
    lines = str(run).splitlines()
    assert len(lines) <= 10
    assert lines[0] == f"run DIN + DisCo (ours) at {run.path}"
    said = {line.split()[0]: line for line in lines[1:]}
    assert f"planted, 12,000 events, at hand: {run.config.data}" in said["data"]
    assert "121, 1 of them added after training" in said["items"]
    assert ("warning" in said) == bool(run.warnings)
    assert run._repr_html_().count("<tr>") == len(lines) - 1
    assert repr(run).count("\n") == 0
    assert "scores without a unit" in str(sequence_runs.sasrec())
    assert "reads no text" in str(sequence_runs.sasrec())
