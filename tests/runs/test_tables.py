"""What is printed: evaluations by slice beside baselines, comparisons over seeds, ids from files."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

import small_runs
from braidrec.errors import ConfigError, DataError, RunError
from braidrec.files import read_json
from braidrec.ranking import task
from braidrec.registry import TASKS
from braidrec.runs.run import Run
from braidrec.runs.tables import (
    comparison_tables,
    dataset_tables,
    evaluation_table,
    models_by_seed,
    plain_table,
    read_ids,
)
from small_runs import copy_of, disco, plain, train


def printed(value: object) -> str:
    stream = io.StringIO()
    Console(width=200, file=stream).print(value)
    return stream.getvalue()


def test_evaluation_shows_slices_and_baselines_and_scores_the_test_part_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_of(disco(), tmp_path / "run")
    calls: list[str] = []
    scored = task.score_with_progress

    def counted(*arguments: object) -> object:
        calls.append(str(arguments[3]))
        return scored(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(task, "score_with_progress", counted)
    text = printed(evaluation_table([run.path], "test", baselines=True))
    for word in (
        "all",
        "seen users",
        "unseen users",
        "warm items",
        "cold items",
        "tail",
        "popularity",
        "item mean",
        "residual",
    ):
        assert word in text, word
    assert "DIN + DisCo (ours)" in text
    assert " few " in text
    assert "few: fewer than 1,000 rows" in text
    assert printed(evaluation_table([run.path], "test", baselines=True)) == text
    assert calls == ["scoring test"]
    valid, note = printed(evaluation_table([run.path], "valid", baselines=True)).split("note: not here, ")
    assert "popularity" not in valid
    assert " ".join(note.split()).startswith("as it does not go with these rows: popularity, item mean,")
    stored = read_json(run.path / "evaluation.test.json", RunError)
    assert stored["slices"][0]["name"] == "all"
    with pytest.raises(DataError, match="the split has no part 'tests'"):
        evaluation_table([run.path], "tests", baselines=True)


def test_comparison_groups_seeds_and_tests_them_in_pairs() -> None:
    paths = [plain(1).path, disco(1).path, plain(2).path, disco(2).path]
    table, test = comparison_tables(paths)
    text = printed(table)
    for name in ("DIN (ours) s1", "DIN (ours) s2", "DIN + DisCo (ours) s1", "DIN + DisCo (ours) s2"):
        assert name in text
    text = printed(test)
    assert text.startswith("against DIN (ours): ")
    assert [str(cell) for cell in test.columns[1].cells] == ["AUC"]
    assert "1:" in text
    assert "2:" in text
    assert text.count("DIN + DisCo (ours)") == 1
    assert "users, two-sided, Holm over 1" in text


def test_runs_of_one_name_are_told_apart_by_path(tmp_path: Path) -> None:
    wide = train(tmp_path / "wide", seed=1, model={"dim": 16})
    table, test = comparison_tables([plain(1).path, wide.path])
    assert printed(table).count("DIN (ours) s1") == 2
    assert "[wide]" in printed(test)


def test_comparisons_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least two models"):
        comparison_tables([plain(1).path])
    with pytest.raises(ConfigError, match="differ by their seed alone"):
        comparison_tables([plain(1).path, plain(2).path])
    other = train(tmp_path / "other", small_runs.other_dataset())
    with pytest.raises(ConfigError, match="trained on different data"):
        comparison_tables([plain(1).path, other.path])
    with pytest.raises(ConfigError, match="share no seed"):
        comparison_tables([plain(1).path, disco(2).path])


def test_positives_with_drawn_negatives_are_compared_on_the_same_rows(tmp_path: Path) -> None:
    data, batch = small_runs.positives(), {"batch_size": 256}
    runs = [
        train(tmp_path / f"{backbone}-{seed}", data, backbone=backbone, seed=seed, negatives=2, training=batch)
        for backbone in ("din", "dcn")
        for seed in (1, 2)
    ]
    assert len(comparison_tables([run.path for run in runs])) == 2
    more = train(tmp_path / "more", data, backbone="dcn", seed=1, negatives=3, training=batch)
    with pytest.raises(ConfigError, match="draw different numbers of negatives"):
        comparison_tables([runs[0].path, more.path])


def test_a_baseline_that_cannot_be_imported_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    small_runs.break_plug_in(monkeypatch, TASKS["ranking"].baselines)
    for table in (evaluation_table([plain().path], "test", baselines=True), comparison_tables([plain().path, disco().path])[0]):
        assert "note: baseline 'lost' (no_such_module_at_all:X, of the package no_such" in " ".join(printed(table).split())
        assert "popularity" in printed(table)
    assert "lost" not in printed(evaluation_table([plain().path], "test", baselines=False))


def test_where_and_how_safely_a_seed_was_trained_makes_it_no_other_model(tmp_path: Path) -> None:
    other = train(tmp_path / "other", seed=2, training={"checkpoint_seconds": 30, "accelerator": "cpu"})
    models, _ = models_by_seed([plain(1), other, disco(1)])
    assert [sorted(model.runs) for model in models] == [[1, 2], [1]]


def test_a_folder_that_a_model_does_not_read_makes_it_no_other_model(tmp_path: Path) -> None:
    other = train(tmp_path / "other", seed=2, knowledge="nowhere")
    models, _ = models_by_seed([plain(1), other, disco(1)])
    assert [sorted(model.runs) for model in models] == [[1, 2], [1]]
    elsewhere = disco(2).config.model_copy(update={"knowledge": ("elsewhere",)})
    read = Run(disco(2).path, elsewhere, disco(2).record, disco(2).model, disco(2).catalogue, disco(2).dataset)
    assert len(models_by_seed([plain(1), disco(1), read])[0]) == 3


def test_brackets_are_text_and_numbers_stand_right() -> None:
    table = plain_table("a [b]", ("item", "title", "n"), [("x", "[rec] the [/b] film", 1234), ("y", "", 5)])
    text = printed(table)
    assert "a [b]" in text
    assert "[rec] the [/b] film" in text
    assert "1,234" in text
    assert [column.justify for column in table.columns] == ["left", "left", "right"]
    assert printed(plain_table("empty", ("a",), []))


def test_a_data_set_is_shown_with_all_its_fields() -> None:
    text = "".join(printed(table) for table in dataset_tables(small_runs.rich()))
    for name in ("genres", "price", "year", "device", "hour", "tags", "hobbies", "age", "events", "temporal, train"):
        assert name in text, name


def test_id_files(tmp_path: Path) -> None:
    file = tmp_path / "ids.txt"
    file.write_bytes("\ufeffB1\r\n\r\n  B2 \nÄ\n".encode())
    assert read_ids(file) == ["B1", "B2", "Ä"]
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot be read as a list of ids"):
        read_ids(file)
    with pytest.raises(DataError, match="cannot be read as a list of ids"):
        read_ids(tmp_path / "nowhere")
