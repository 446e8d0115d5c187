"""What a cell was made from: kept in it, compared with today's settings and data, converted for cells of before."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import toy_tables

import small_runs
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.settings import SplitConfig
from braidrec.errors import DataError, RunError
from braidrec.experiments import disco, edk, material, pad, reproduce
from braidrec.experiments.cells import command, differences, make_cell, paired_tests, summary
from braidrec.experiments.conversion import convert, facts_of_command, rewrite
from braidrec.experiments.experiment import Experiment
from braidrec.experiments.material import check_prepared, settings_of
from braidrec.experiments.provenance import CELL_FORMAT, Provenance, digest_of
from braidrec.experiments.rows import Row, Workshop
from braidrec.files import read_json, write_json

RESULTS = Path(__file__).parents[2] / "results"
FOLDERS = {"disco-ml-1m": disco.EXPERIMENTS[0].rows["ml-1m"], "pad-prime-pantry": pad.PANTRY_ROWS}
FOLDERS |= {"pad-ml-1m": pad.ML_1M_ROWS, "edk-ml-1m-knowledge": edk.ROWS[edk.LOGS]}
NOWHERE = Path("/dev/null")


def toy(name: str, **changes: Any) -> Row:
    return replace(toy_tables.pool()[name], **{"seeds": (1,), **changes})


def with_rows(shop: Workshop, *rows: Row) -> Workshop:
    """The same place, with these in the place of rows of their names."""
    return replace(shop, rows={**shop.rows, **{row.name: row for row in rows}})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """PAD, a variant that takes its first two stages, and popularity."""
    shop = toy_tables.shop(tmp_path_factory.mktemp("finished"))
    for name, seed in (("sasrec-pad", 1), ("sasrec-pad-no-text", 1), ("popularity", 0)):
        assert make_cell(toy(name), seed, shop)
    return shop


@pytest.fixture
def shop(finished: Workshop, tmp_path: Path) -> Workshop:
    """A copy that a test may change."""
    shutil.copytree(finished.results, tmp_path / "results")
    return replace(finished, results=tmp_path / "results")


def cell_of(shop: Workshop, row: Row, seed: int = 1) -> dict[str, Any]:
    found: dict[str, Any] = read_json(shop.cell_path(row, seed), RunError)
    return found


def test_a_cell_keeps_settings_data_and_version(finished: Workshop) -> None:
    cell = cell_of(finished, toy("sasrec-pad"))
    data = toy_tables.sequences()
    assert (cell["format"], cell["version"]) == (CELL_FORMAT, "0.1.0")
    assert cell["digest"] == digest_of(cell["settings"])
    assert cell["settings"]["run"]["model"]["dim"] == 8
    assert cell["settings"]["encoder"] == "offline"
    assert not {"data", "knowledge", "seed"} & cell["settings"]["run"].keys()
    assert cell["data"]["name"] == data.name
    assert cell["data"]["fingerprint"] == data.fingerprint
    assert cell["data"]["vocabulary"] == "train"
    assert (cell["data"]["split"]["kind"], cell["data"]["split"]["cold_items"]) == ("leave_last_two", 0.0)
    taken = cell_of(finished, toy("sasrec-pad-no-text"))["settings"]
    assert taken["starts"] == {"pretrain": "sasrec-pad", "align": "sasrec-pad"}
    assert taken["givers"] == {"sasrec-pad": cell["settings"]}
    simple = cell_of(finished, toy("popularity"), 0)["settings"]
    assert simple == {"task": "sequential", "baseline": "popularity", "config": {}}


def test_a_changed_setting_makes_a_cell_stale_and_those_that_start_from_it(shop: Workshop) -> None:
    row, taken = toy("sasrec-pad"), toy("sasrec-pad-no-text")
    assert differences(row, 1, shop) == []
    assert differences(row, 2, shop) is None
    changed = replace(row, training={**row.training, "max_epochs": 2})
    later = with_rows(shop, changed)
    assert differences(changed, 1, later) == ["run.training.max_epochs was 1 and is 2"]
    assert differences(taken, 1, later) == ["givers.sasrec-pad.run.training.max_epochs was 1 and is 2"]
    assert differences(toy("popularity"), 0, later) == []


def test_a_preset_that_changed_makes_its_cells_stale(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    from braidrec.registry import TASKS

    task = TASKS["sequential"]
    monkeypatch.setitem(task.model, "ours", {**task.model["ours"], "negatives": 7})  # type: ignore[index]
    [found] = differences(toy("sasrec-pad"), 1, shop) or []
    assert found == "run.model.negatives was 1 and is 7"


def test_a_setting_that_came_later_makes_nothing_stale_while_its_default_holds(shop: Workshop) -> None:
    row = toy("sasrec-pad")
    cell = cell_of(shop, row)
    del cell["settings"]["run"]["training"]["clip_norm" if "clip_norm" in cell["settings"]["run"]["training"] else "precision"]
    write_json(shop.cell_path(row, 1), cell | {"digest": digest_of(cell["settings"])})
    assert differences(row, 1, shop) == []
    cell["settings"]["run"]["training"]["gone"] = 3  # what no class of today has
    write_json(shop.cell_path(row, 1), cell | {"digest": digest_of(cell["settings"])})
    [found] = differences(row, 1, shop) or []
    assert "its settings are none of this version" in found
    assert "unknown key 'training.gone'" in found


def test_other_data_make_a_cell_stale(shop: Workshop, tmp_path: Path) -> None:
    row = toy("sasrec-pad")
    fewer = PrepareSettings(split=SplitConfig(kind="leave_last_two", min_history=1, cold_items=0.0), vocabulary="all")
    other = Dataset.prepare(small_runs.world_tables(), tmp_path / "all", fewer)
    found = differences(row, 1, replace(shop, prepared={toy_tables.DATA: other.path})) or []
    assert 'data.vocabulary was "train" and is "all"' in found
    assert any(line.startswith("data.fingerprint was ") for line in found)
    assert differences(row, 1, replace(shop, prepared={})) == []  # nothing is known of a folder that is not there


def test_cells_of_another_format_and_edited_ones_are_stale(shop: Workshop) -> None:
    row = toy("sasrec-pad")
    cell = cell_of(shop, row)
    for change, why in (
        ({"format": CELL_FORMAT + 1}, f"a cell of format {CELL_FORMAT + 1}: this version has {CELL_FORMAT}"),
        ({"digest": "0" * 16}, "its settings do not have its digest, so somebody edited them"),
    ):
        write_json(shop.cell_path(row, 1), cell | change)
        assert differences(row, 1, shop) == [why]
    write_json(shop.cell_path(row, 1), {key: value for key, value in cell.items() if key != "format"})
    assert differences(row, 1, shop) == ["a cell of format 1: it keeps nothing of what it was made from"]
    write_json(shop.cell_path(row, 1), {"row": row.name, "seed": 1, "format": 9, "anything": []})
    found = summary([row], shop)
    assert found["rows"] == []  # what a later version wrote is not read
    assert [each["cell"] for each in found["stale"]] == ["sasrec-pad s1"]
    write_json(shop.cell_path(row, 1), cell | {"version": "0.0.1"})
    assert differences(row, 1, shop) == []  # another version of the package is for the reader


def test_a_stale_cell_is_shown_as_one_and_has_neither_gain_nor_test(finished: Workshop, tmp_path: Path) -> None:
    shutil.copytree(finished.results, tmp_path / "results")
    shop = replace(finished, results=tmp_path / "results")
    plain = toy("sasrec-smem", starts={})
    make_cell(plain, 1, shop)
    pad_row = toy("sasrec-pad", against="sasrec-smem")
    over = {"sasrec-pad": "sasrec-smem"}
    whole = summary([plain, pad_row], shop, reference=over)
    assert whole["stale"] == []
    assert [test["holm_over"] for test in paired_tests(whole["rows"][1])] == [2, 2]
    changed = replace(pad_row, training={**pad_row.training, "lr": 0.5})
    found = summary([plain, changed], with_rows(shop, changed), reference=over)
    assert found["not_run"] == []
    [stale] = found["stale"]
    assert stale["cell"] == "sasrec-pad s1"
    assert stale["differs"][0].startswith("run.training.lr was ")
    entry = found["rows"][1]
    assert entry["stale"] is True
    assert "gain" not in entry
    assert "against" not in entry
    # a seed that is not stale is what the row shows
    write_json(shop.cell_path(changed, 2), cell_of(shop, pad_row) | Provenance(shop).record(changed) | {"seed": 2})
    found = summary([plain, replace(changed, seeds=(1, 2))], with_rows(shop, changed), reference=over)
    assert (found["rows"][1]["seeds"], "stale" in found["rows"][1]) == ([2], False)
    assert [each["cell"] for each in found["stale"]] == ["sasrec-pad s1"]


def test_reproduce_refuses_a_stale_cell_and_makes_it_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders, lines = toy_tables.folders(tmp_path), list[str]()
    row = toy("sasrec")

    def table(row: Row) -> None:
        monkeypatch.setitem(reproduce.EXPERIMENTS, "pad/x", Experiment("pad/x", "x", {"toy": {"sasrec": row}}, ("sasrec",)))

    table(row)
    reproduce.reproduce("pad/x", **folders, tell=lines.append)
    cell = folders["results"] / "pad-toy" / "cells" / "sasrec-s1.json"
    before = read_json(cell, RunError)
    changed = replace(row, training={**row.training, "lr": 0.01})
    table(changed)
    lines.clear()
    shown = reproduce.reproduce("pad/x", **folders, minutes=0, tell=lines.append)
    assert lines == ["0 min are used: 1 of 1 cells are left for another time"]
    assert next(iter(shown[0].columns[1].cells)) == "1 stale"  # type: ignore[union-attr]
    assert "stale: sasrec s1: run.training.lr was" in str(shown[1])
    columns = [list(column.cells) for column in reproduce.listing(folders["results"]).columns]
    counted = [column[columns[0].index("pad/x")] for column in columns]
    assert counted[-2:] == ["1", "0"]

    shown = reproduce.reproduce("pad/x", **folders, tell=lines.append)
    assert any("sasrec s1 is stale and made anew" in line and "run.training.lr was" in line for line in lines)
    after = read_json(cell, RunError)
    assert after["settings"]["run"]["training"]["lr"] == 0.01
    assert after["digest"] != before["digest"]
    assert read_json(cell.with_name("sasrec-s1.json.stale"), RunError) == before
    assert (folders["runs"] / "toy" / "sasrec-s1.stale" / "run.json").exists()
    assert next(iter(shown[0].columns[1].cells)) == "1"  # type: ignore[union-attr]
    assert not any("stale: " in str(part) for part in shown[1:])


# -- prepared folders ---------------------------------------------------------------------------------------------------------


def test_a_prepared_folder_of_the_right_name_and_other_rules_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "prepared" / "ml-1m"
    wrong = PrepareSettings(split=SplitConfig(cold_items=0.1), vocabulary="all")
    Dataset.prepare(small_runs.world_tables(), folder, wrong)
    with pytest.raises(DataError, match="was prepared otherwise than the tables' 'ml-1m'") as caught:
        check_prepared("ml-1m", folder)
    name, wanted = settings_of("ml-1m")
    assert (name, wanted.vocabulary) == ("ml-1m", "train")
    for said in (
        'vocabulary is "all" there and "train" in the table\'s',
        "split.cold_items is 0.1 there and 0.0 in the table's",
        'name is "planted" there and "ml-1m" in the table\'s',
        "or name another place with --prepared",
    ):
        assert said in str(caught.value), said
    with pytest.raises(DataError, match="was prepared otherwise"):
        material.open_data("ml-1m", folder, lambda line: None)
    folders = {name: tmp_path / name for name in ("prepared", "knowledge", "runs", "results")}
    with pytest.raises(DataError, match="was prepared otherwise"):
        reproduce.reproduce("disco/table2", **folders, minutes=0)
    assert not (tmp_path / "results").exists()
    check_prepared("mine", folder)  # a name of one's own stands for itself


# -- cells of before ----------------------------------------------------------------------------------------------------------


def former(file: Path) -> None:
    """Take away what cells of before did not have."""
    cell = read_json(file, RunError)
    for key in ("format", "version", "digest", "settings", "data", "digest_from"):
        cell.pop(key, None)
    write_json(file, cell)


def test_cells_of_before_get_what_their_command_gives(shop: Workshop) -> None:
    rows = [toy("sasrec-pad"), toy("sasrec-pad-no-text"), toy("popularity")]
    made = {row.name: cell_of(shop, row, row.cells[0]) for row in rows}
    for row in rows:
        former(shop.cell_path(row, row.cells[0]))
    assert len(summary(rows, shop)["stale"]) == 3
    assert len(convert(shop.results, shop.rows)) == 3
    assert convert(shop.results, shop.rows) == []
    for row in rows:
        cell = cell_of(shop, row, row.cells[0])
        assert cell["digest"] == made[row.name]["digest"]
        assert cell["digest_from"] == ("row" if row.simple else "command")
        assert cell["data"] is None  # nothing says how "toy" was prepared
        assert cell["test"] == made[row.name]["test"]
    found = summary(rows, shop)
    assert found["stale"] == []
    assert found["digest_from_command"] == 3
    [notes] = [part for part in reproduce.render(Experiment("x/y", "", {}), "toy", rows, found) if isinstance(part, str)]
    assert "3 cells were made before digests: theirs is what their command gives today" in notes


def test_a_command_that_gives_nothing_today_leaves_a_stale_cell(shop: Workshop) -> None:
    row, taken = toy("sasrec-pad"), toy("sasrec-pad-no-text")
    for each in (row, taken):
        former(shop.cell_path(each, 1))
    cell = cell_of(shop, row)
    write_json(shop.cell_path(row, 1), cell | {"command": cell["command"].replace("--preset ours", "--preset former")})
    convert(shop.results, shop.rows)
    for each in (row, taken):  # and so does what starts from it
        [why] = differences(each, 1, shop) or []
        assert why.startswith("its command cannot be resolved: command: 'preset' = 'former'")
    assert [each["cell"] for each in summary([row], shop)["stale"]] == ["sasrec-pad s1"]


def test_cells_can_be_moved_to_another_row_and_left_alone(shop: Workshop) -> None:
    row = toy("sasrec-pad")
    former(shop.cell_path(row, 1))
    former(shop.cell_path(toy("popularity"), 0))
    other = replace(row, name="sasrec-pad-authors", preset="authors", training={**row.training, "patience": 10})
    assert convert(shop.results, shop.rows, moved={"sasrec-pad": other}, leave=("popularity",)) == [
        "sasrec-pad-authors-s1.json"
    ]
    assert not shop.cell_path(row, 1).exists()
    cell = cell_of(shop, other)
    assert (cell["row"], cell["command"]) == ("sasrec-pad-authors", command(other, 1))
    assert cell["settings"]["run"]["training"]["patience"] == 10
    assert differences(other, 1, shop) == []
    assert "format" not in cell_of(shop, toy("popularity"), 0)


def test_a_base_that_today_s_model_does_not_read_is_no_encoder(tmp_path: Path) -> None:
    text = command(pad.PANTRY_ROWS["sasrec-pad"], 1).replace("--enhance pad", "--enhance smem")
    facts, data = facts_of_command(text + " --set 'model.enhance.experts=[\"id\"]'", 1, tmp_path)
    assert (facts["encoder"], data) == (None, "prime-pantry")


def test_every_row_s_own_command_gives_its_digest(tmp_path: Path) -> None:
    for rows in FOLDERS.values():
        made = Provenance(Workshop({}, {}, NOWHERE, tmp_path, rows))
        for row in rows.values():
            if not row.simple and not row.starts:
                assert facts_of_command(command(row, 3), 3, tmp_path) == (made.settings(row), row.data), row.name


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_committed_cells_are_converted(folder: str) -> None:
    rows = FOLDERS[folder]
    shop = Workshop({}, {}, NOWHERE, RESULTS / folder, rows)
    made, stale = Provenance(shop), dict[str, Any]()
    for file in sorted((RESULTS / folder / "cells").glob("*.json")):
        cell = read_json(file, RunError)
        if "format" in cell:
            assert cell["digest"] == digest_of(cell["settings"]), file
            assert cell["data"]["vocabulary"] == cell["vocabulary"], file
        if cell["row"] in rows and (why := differences(rows[cell["row"]], cell["seed"], shop, made)):
            stale[file.stem] = why
    assert not stale


# -- result files -------------------------------------------------------------------------------------------------------------


def test_every_p_value_of_a_result_file_has_its_family() -> None:
    for file in RESULTS.glob("*.json"):
        table = read_json(file, RunError)
        tests = [test for entry in table["rows"] for test in paired_tests(entry)] if file.stem != "peers" else []
        sizes = Counter(test.get("family", "") for test in tests)  # a table whose tests have no names is one family
        assert all(test["holm_over"] == sizes[test.get("family", "")] for test in tests), file


def test_result_files_are_written_again_from_cells_where_the_runs_are_gone(tmp_path: Path) -> None:
    """The committed ones come out as they are, the values of figures and the machine that made them with them."""
    shutil.copytree(RESULTS, tmp_path / "results")
    written = rewrite(tmp_path / "results")
    assert {"pad-fig6-prime-pantry.json", "pad-table2-prime-pantry.json"} <= set(written)
    for name in written:
        again, committed = (read_json(folder / name, RunError) for folder in (tmp_path / "results", RESULTS))
        assert again == committed, name
