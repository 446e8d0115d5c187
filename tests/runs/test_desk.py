"""What is asked at the desk: known users with news, somebody new by their fields, pairs from a file, vectors of items."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import sequence_runs
from typer.testing import CliRunner

import small_runs
import toy_run
from braidrec.cli import app
from braidrec.data.intake.readers import ReadConfig
from braidrec.errors import ConfigError, DataError, RunError, at_command_line
from braidrec.runs.run import Run, load
from braidrec.runs.tables import read_ids

USER = "10001"


@cache
def rich_run() -> Run:
    return small_runs.train(small_runs.root() / "rich-run", small_runs.rich(), seed=1)


# -- newer events than the log has ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [small_runs.plain, small_runs.disco, sequence_runs.sasrec, sequence_runs.pad])
def test_newer_events_come_behind_those_of_the_log(made: Any) -> None:
    run = made()
    user = run.dataset.user_ids[3]
    unseen = [each.item for each in run.recommend(user, k=500)]
    news = [unseen[0], unseen[-1]]
    found = run.recommend(user, items=news, k=500)
    assert {each.item for each in found} == set(unseen) - set(news)
    assert [each.score for each in found] != [each.score for each in run.recommend(user, k=500, deny=news)]
    assert run.recommend(user, items=[], k=500) == run.recommend(user, k=500)
    past = run.model.past(run.dataset.user_rows[user], np.array([run.catalogue.row(item) for item in news], np.int32))
    assert [run.catalogue.id(row) for row in run.model.seen(past).tolist()[-2:]] == news


def test_news_of_a_known_user_are_as_a_longer_list_of_somebody_new() -> None:
    """In a sequence model a past is the items met and nothing else."""
    run = sequence_runs.sasrec()
    met = [run.catalogue.id(row) for row in run.model.past(run.dataset.user_rows["u5"]).items.tolist()]
    assert run.recommend("u5", items=["i4", "i9"], k=9) == run.recommend(items=[*met, "i4", "i9"], k=9)


def test_a_model_that_takes_no_news_says_so_instead_of_passing_over_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with toy_run.held():
        run = toy_run.toy(tmp_path / "run")
        user, news = run.dataset.user_ids[3], [each.item for each in run.recommend(run.dataset.user_ids[3], k=2)]
        assert not {each.item for each in run.recommend(user, items=news, k=500)} & set(news)
        past = toy_run.Toy.past
        monkeypatch.setattr(toy_run.Toy, "past", lambda model, user, items=None: past(model, user))
        with pytest.raises(RunError, match=r"Toy \(ours\) takes no newer events of a known user; leave items out"):
            run.recommend(user, items=news)


# -- somebody new by their fields -----------------------------------------------------------------------------------------


def test_somebody_new_is_described_by_fields() -> None:
    run = rich_run()
    people = run.dataset.users
    row = 8
    described = {"hobbies": people["hobbies"][row].to_list(), "age": people["age"][row]}
    nobody = run.recommend(items=["100", "101"], k=60)
    found = run.recommend(items=["100", "101"], fields=described, k=60)
    assert [each.score for each in found] != [each.score for each in nobody]
    assert run.recommend(items=["100", "101"], fields={}, k=60) == nobody
    assert run.recommend(fields=described, k=60)
    assert run.recommend(fields={"hobbies": "chess|go", "age": "28"}, k=3) == run.recommend(
        fields={"hobbies": ("go", "chess"), "age": 28.0}, k=3
    )
    past = run._past(run._held, None, [], described)
    known = run.model.past(row + 1).user
    assert past.user.numbers.tolist() == known.numbers.tolist()
    assert sorted(set(past.user.bags[0].tolist())) == sorted(set(known.bags[0].tolist()))
    assert past.user.fields.tolist() == run.model.candidates.nobody.fields.tolist(), "nobody has their id"


def test_what_training_never_met_of_somebody_is_said() -> None:
    run = rich_run()
    notes = run.notes(new_user=True, fields={"hobbies": ["chess", "golf"], "age": 30})
    assert notes[1:] == ["field 'hobbies': 'golf' was not met in training, so it counts as unknown"]
    assert run.notes(new_user=True, fields={"hobbies": ["chess"]}) == run.notes(new_user=True)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"hobby": "chess"}, r"fields: users have no 'hobby' here \(did you mean 'hobbies'\?\)"),
        ({"user": 3}, r"fields: users have no 'user' here"),
        ({"age": "old"}, r"fields: 'age' = 'old': a number is needed"),
        ({"age": float("inf")}, r"fields: 'age' = inf: a finite number is needed"),
        ({"hobbies": {"chess": 1}}, r"fields: 'hobbies' = .*: text or a number is needed"),
        (["age"], r"fields: list where values by name are needed"),
    ],
)
def test_fields_that_make_no_sense_are_refused(fields: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        rich_run().recommend(items=["100"], fields=fields)


def test_where_users_are_ids_alone_nobody_is_described() -> None:
    with pytest.raises(DataError, match="users have no 'age' here; of users these data have ids alone"):
        small_runs.plain().recommend(fields={"age": 3})
    with pytest.raises(RunError, match=r"SASRec knows people by what they met alone, so it reads no fields; leave them out"):
        sequence_runs.sasrec().recommend(fields={})


# -- pairs ----------------------------------------------------------------------------------------------------------------


def pairs(run: Run, count: int = 200) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    users, items = (rng.choice(ids, count).tolist() for ids in (run.dataset.user_ids, run.catalogue.all_ids))
    return pl.DataFrame({run.dataset.schema.user: users, run.dataset.schema.item: items, "more": range(count)})


@pytest.mark.parametrize("made", [small_runs.disco, sequence_runs.sasrec, rich_run])
def test_pairs_are_scored_as_users_are_one_by_one(made: Any, tmp_path: Path) -> None:
    run = made()
    schema, frame = run.dataset.schema, pairs(run)
    found = run.score(frame, show_progress=False)
    name = "probability" if run.model.probabilities else "score"
    assert found.columns == [*frame.columns, name]
    assert found.drop(name).equals(frame)
    for user, item, _, score in found.rows()[:40]:
        assert score == pytest.approx(run.score_items(user, [item])[0], rel=1e-4)
    frame.write_parquet(tmp_path / "pairs.parquet")
    others = [
        tmp_path / "pairs.parquet",
        frame.to_arrow(),
        frame.rename({schema.user: "user", schema.item: "item"}) if schema.user != "user" else frame,
    ]
    for other in others:
        assert run.score(other, show_progress=False)[name].to_list() == found[name].to_list()
    assert run.score(frame.clear(), show_progress=False).columns == found.columns


def test_whole_numbers_of_any_kind_are_ids() -> None:
    run = rich_run()
    frame = pl.DataFrame({"user": [1, 2], "item": [100, 101]})
    wanted = run.score(frame, show_progress=False)["probability"].to_list()
    assert run.score(frame.cast(pl.Float64), show_progress=False)["probability"].to_list() == wanted
    assert run.score(frame.cast(pl.String), show_progress=False)["probability"].to_list() == wanted


def test_whom_nobody_knows_is_an_error_or_has_no_score(tmp_path: Path) -> None:
    run = small_runs.copy_of(small_runs.disco(), tmp_path / "run")
    run.add_items({"late": "ghosts"})
    user, item = run.dataset.schema.user, run.dataset.schema.item
    frame = pl.DataFrame({user: [USER, "nobody", USER, None, USER], item: ["B00001", "B00001", "nothing", "B00001", "late"]})
    with pytest.raises(
        DataError, match=r"the pairs, row 2: user 'nobody' is not in planted.*; 2 of 5 rows are such; .*unknown="
    ):
        run.score(frame, show_progress=False)
    with pytest.raises(DataError, match=r"the pairs, row 2: item 'nothing' is not in the catalogue of planted.*; 1 of 3 rows"):
        run.score(frame.filter(pl.col(user) == USER), show_progress=False)
    with at_command_line(), pytest.raises(DataError, match=r"leave their scores empty with --unknown null"):
        run.score(frame, show_progress=False)
    found = run.score(frame, unknown="null", show_progress=False)["probability"]
    assert found.is_null().to_list() == [False, True, True, True, False]
    with pytest.raises(ConfigError, match=r"unknown = 'nul' \(did you mean 'null'\?\)"):
        run.score(frame, unknown="nul")  # type: ignore[arg-type]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16"])
def test_files_of_any_encoding_are_read_where_it_is_said(encoding: str, tmp_path: Path) -> None:
    """Pairs, new items and lists of ids, in a call and at the command line, as [read] says it of a log."""
    run = small_runs.copy_of(small_runs.disco(), tmp_path / "run")
    schema, items = run.dataset.schema, tmp_path / "items.csv"
    items.write_text(f"{schema.item};{schema.text[0]}\nä-1;Fantômes et sorcières\nä-2;Gespenster\n", encoding=encoding)
    read, said = ReadConfig(encoding=encoding), ["--read", f"encoding={encoding}"]  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"UTF-8|utf-8|NUL"):
        run.add_items(items)
    assert run.add_items(items, read=read) == 2
    assert [run.catalogue.title(row) for row in (run.num_items - 1, run.num_items)] == ["Fantômes et sorcières", "Gespenster"]

    def asked(*words: str, code: int = 0) -> str:
        with at_command_line():
            done = CliRunner().invoke(app, [words[0], str(run.path), *words[1:]])
        assert done.exit_code == code, done.output
        return done.output if code == 0 else str(done.exception)

    assert "0 items added" in asked("add-items", str(items), *said)  # the same ones
    asked_for = tmp_path / "pairs.csv"
    asked_for.write_text(f"user;item;note\n{USER};ä-1;déjà vu\n", encoding=encoding)
    found = run.score(asked_for, read=read, show_progress=False)
    assert found["note"].to_list() == ["déjà vu"]
    out = tmp_path / "scores.parquet"
    assert "--read of a command" in asked("score", str(asked_for), "--out", str(out), code=1) or encoding == "utf-16"
    assert "1 pairs scored" in asked("score", str(asked_for), "--out", str(out), *said)
    assert pl.read_parquet(out).equals(found)
    allowed = tmp_path / "allowed.txt"
    allowed.write_text("ä-1\n", encoding=encoding)
    assert "--read encoding=" in asked("recommend", "--user", USER, "--allow", str(allowed), code=1)
    assert "sorcières" in asked("recommend", "--user", USER, "--allow", str(allowed), *said)


def test_what_reading_would_not_follow_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run, file = small_runs.disco(), tmp_path / "pairs.csv"
    file.write_text(f"user;item\n{USER};B00001\n{USER}\n{USER};B00002\n")
    alone = "encoding, separator, quoting, on_bad_rows alone can be said; drop decimal, which nothing would follow"
    with pytest.raises(ConfigError, match=f"read: of the pairs, {alone}"):
        run.score(file, read=ReadConfig(decimal=","))
    with at_command_line(), pytest.raises(ConfigError, match=f"--read: of the new items, {alone}"):
        run.add_items(file, read=ReadConfig(decimal=","))
    with pytest.raises(ConfigError, match=r"read: str where a ReadConfig is needed; write ReadConfig\(...\)"):
        run.score(file, read="latin-1")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"line 3: .*on_bad_rows = \"skip\" .*ReadConfig in Python"):
        run.score(file)
    kept = run.score(file, read=ReadConfig(on_bad_rows="skip"), show_progress=False)
    assert kept["item"].to_list() == ["B00001", "B00002"]
    assert "left out 1 bad rows" in caplog.text
    with pytest.raises(ConfigError, match="of a list of ids, encoding alone can be said; drop separator"):
        read_ids(file, ReadConfig(separator=";"))


def test_a_table_that_has_no_pairs_is_refused() -> None:
    run = small_runs.plain()
    with pytest.raises(DataError, match=r"no column of the users, 'user_id' or 'user' \(columns: who, item\)"):
        run.score(pl.DataFrame({"who": ["x"], "item": ["y"]}))
    with pytest.raises(DataError, match="have a column 'probability' already"):
        run.score(pl.DataFrame({"user": [USER], "item": ["B00001"], "probability": [0.5]}))


def test_pairs_need_the_data(tmp_path: Path) -> None:
    data = small_runs.root() / "moved-away"
    run = small_runs.train(tmp_path / "run", small_runs.rich(), seed=1)
    assert not data.exists()
    alone = Run(run.path, run.config, run.record, run.model, run.catalogue, None)
    with pytest.raises(RunError, match="this needs the data set"):
        alone.score(pl.DataFrame({"user": [1], "item": [100]}))


# -- vectors of items -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "space"),
    [
        (small_runs.plain, "id"),
        (small_runs.disco, "id"),
        (sequence_runs.sasrec, "id"),
        (sequence_runs.pad, "aligned"),
        (sequence_runs.morec, "text"),
    ],
)
def test_item_vectors_come_with_their_ids(made: Any, space: str, tmp_path: Path) -> None:
    run = made()
    ids, vectors, named = run.item_vectors()
    assert (ids, named) == (run.catalogue.all_ids, space)
    np.testing.assert_array_equal(vectors, run.inspect()[space][1:])
    for name, wanted in run.inspect().items():
        np.testing.assert_array_equal(run.item_vectors(name).vectors, wanted[1:])
    with pytest.raises(RunError, match=rf"has no item vectors '{space}x' \(did you mean '{space}'\?\)"):
        run.item_vectors(f"{space}x")
    if run.model.reads_text:
        grown = small_runs.copy_of(run, tmp_path / "run")
        grown.add_items({"late": "ghosts and demons"})
        found = load(grown.path).item_vectors()
        assert (found.ids[-1], len(found.vectors)) == ("late", len(ids) + 1)
        np.testing.assert_allclose(found.vectors[:-1], vectors, rtol=1e-6)


def test_a_model_without_item_vectors_says_so(tmp_path: Path) -> None:
    with toy_run.held(), pytest.raises(RunError, match="Toy has no item vectors"):
        toy_run.toy(tmp_path / "run").item_vectors()
