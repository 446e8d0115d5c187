"""A log of positives from start to end: EASE by default, reasons behind what is recommended, items alike, items added."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from braidrec.cli import app
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.planted import PlantedConfig, planted_world
from braidrec.data.schema import Schema
from braidrec.data.settings import SplitConfig
from braidrec.data.tables import Tables
from braidrec.errors import ConfigError, DataError, RunError
from braidrec.runs.additions import ids_as_text
from braidrec.runs.fit import fit, with_default
from braidrec.runs.knowledge import build
from braidrec.runs.pairs import vector_table, write_table
from braidrec.runs.run import Run, load
from small_runs import dataset as ranking_data
from small_runs import root


@cache
def positives() -> Dataset:
    """The positives of a planted world, without labels."""
    tables = planted_world(PlantedConfig(users=120, items=60, interactions=6_000)).tables
    schema = tables.schema
    label = pl.col(schema.label) == 1 if schema.label else pl.col(str(schema.rating)) > schema.positive_above
    kept = tables.interactions.filter(label)
    own = Schema(user=schema.user, item=schema.item, timestamp=schema.timestamp, text=schema.text, noun=schema.noun)
    settings = PrepareSettings(split=SplitConfig(kind="leave_last_two", min_history=0))
    return Dataset.prepare(Tables("liked", own, kept, tables.items, tables.users), root() / "liked", settings)


@cache
def knowledge() -> Path:
    build(positives().path, root() / "liked-texts", "tfidf")
    return root() / "liked-texts"


@cache
def run() -> Run:
    return fit(positives(), path=root() / "liked-run", knowledge=knowledge(), show_progress=False)


def test_a_log_of_positives_is_trained_by_ease_with_text_where_there_is_any(tmp_path: Path) -> None:
    assert (run().config.task, run().config.backbone, run().record["title"]) == ("collaborative", "ease", "EASE with text")
    plain = fit(positives(), path=tmp_path / "plain", show_progress=False)
    assert plain.record["title"] == "EASE"
    done = CliRunner().invoke(app, ["fit", "--data", str(positives().path), "--out", str(tmp_path / "said")])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("no backbone is named: ease, of the task 'collaborative'")


def test_what_is_named_stays_and_labels_mean_ranking() -> None:
    from braidrec.config import RunRequest

    for named in ({"backbone": "din"}, {"task": "sequential"}, {"negatives": 2}, {"enhance": ("disco",)}):
        request = RunRequest(data="-", **named)  # type: ignore[arg-type]
        assert with_default(request, positives()) is request
    assert with_default(RunRequest(data="-"), ranking_data()).task is None
    assert with_default(RunRequest(data="-"), positives()).task == "collaborative"


def test_recommendations_say_which_items_and_how_much_text_is_behind_them() -> None:
    user = positives().user_ids[0]
    found = run().recommend(user, k=3, explain=True)
    own = {positives().item_ids[row - 1] for row in positives().log.item[positives().log.user == 1].tolist()}
    for each in found:
        assert {reason.item for reason in each.because} == own
        assert sum(reason.share for reason in each.because) == pytest.approx(1.0, abs=1e-4)
        shares = [reason.share for reason in each.because]
        assert shares == sorted(shares, reverse=True)
        assert all(reason.text is not None for reason in each.because)
    assert [each.item for each in found] == [each.item for each in run().recommend(user, k=3)]
    assert run().recommend(user, k=1)[0].because == ()
    assert run().recommend(items=[], k=1, explain=True)[0].because == ()


def test_a_model_that_cannot_explain_says_which_can(tmp_path: Path) -> None:
    popular = fit(positives(), path=tmp_path / "popular", backbone="popularity", show_progress=False)
    with pytest.raises(RunError, match="popularity gives everybody the same scores"):
        popular.recommend(positives().user_ids[0], explain=True)
    small = {"max_epochs": 1, "checks_per_epoch": 1}
    other = fit(positives(), path=tmp_path / "s", backbone="sasrec", model={"dim": 8}, training=small, show_progress=False)
    with pytest.raises(RunError, match="SASRec does not say what is behind a score; models that do are those such as backbone"):
        other.recommend(positives().user_ids[0], explain=True)
    assert len(other.similar(positives().item_ids[0], "model", k=3)) == 3


def test_items_are_alike_in_meaning_behaviour_and_to_the_model() -> None:
    data, item = positives(), positives().item_ids[4]
    for by in ("meaning", "behaviour", "model"):
        found = run().similar(item, by, k=4)  # type: ignore[arg-type]
        assert len(found) == 4
        assert item not in [each.item for each in found]
        assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    has = np.zeros((data.num_users + 1, data.num_items + 1))
    has[data.log.user, data.log.item] = 1
    cosine = has.T @ has[:, 5] / np.sqrt(np.maximum(has.sum(0), 1) * has[:, 5].sum())
    cosine[[0, 5]] = -1
    best = run().similar(item, "behaviour", k=1)[0]
    assert best.score == pytest.approx(cosine.max(), abs=1e-6)


def test_likeness_without_what_it_needs_says_so(tmp_path: Path) -> None:
    plain = fit(positives(), path=tmp_path / "plain", show_progress=False)
    item = positives().item_ids[0]
    with pytest.raises(RunError, match="this run has no knowledge base, so it knows no texts"):
        plain.similar(item, "meaning")
    with pytest.raises(ConfigError, match=r"by = 'behavior': accepted are meaning, behaviour, model.*did you mean 'behaviour'"):
        plain.similar(item, "behavior")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="is not in the catalogue"):
        plain.similar("nothing")


def test_an_item_known_by_text_alone_is_recommended_to_who_has_the_like(tmp_path: Path) -> None:
    own = fit(positives(), path=tmp_path / "grown", knowledge=knowledge(), show_progress=False)
    old, title = positives().item_ids[7], own.catalogue.title(8)
    assert own.add_items({"NEW": title}) == 1
    new = own.recommend(items=[old], k=own.num_items, allow=["NEW"], explain=True)
    assert new[0].item == "NEW"
    assert new[0].score > 0
    assert new[0].because[0].text == pytest.approx(1.0)
    assert any("1 item was added after training: text speaks there" in note for note in own.notes(new_user=True))
    again = load(own.path)
    assert again.recommend(items=[old], k=1, allow=["NEW"]) == own.recommend(items=[old], k=1, allow=["NEW"])
    with pytest.raises(RunError, match="came after training, so the data know nothing of it"):
        own.similar("NEW", "behaviour")
    assert own.similar("NEW", "model", k=1)[0].score != 0


def test_an_item_that_came_later_is_alike_by_the_vector_that_the_model_has_of_it(tmp_path: Path) -> None:
    once = {"max_epochs": 1, "checks_per_epoch": 1}
    own = fit(
        positives(),
        path=tmp_path / "nodes",
        backbone="lightgcn",
        enhance="darec",
        knowledge=knowledge(),
        model={"dim": 8},
        training=once,
        show_progress=False,
    )
    own.add_items({"NEW": own.catalogue.title(8)})
    ids, vectors, _ = own.item_vectors()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = {each.item: each.score for each in own.similar("NEW", k=own.num_items)}
    assert found == pytest.approx(dict(zip(ids[:-1], (unit @ unit[-1])[:-1].tolist(), strict=True)), abs=1e-5)
    other = max(found, key=lambda each: found[each])
    assert {each.item: each.score for each in own.similar(other, k=own.num_items)}["NEW"] == pytest.approx(
        found[other], abs=1e-5
    )


def test_the_command_line_explains_and_finds_what_is_alike() -> None:
    user, item = positives().user_ids[0], positives().item_ids[0]
    done = CliRunner().invoke(app, ["recommend", str(run().path), "--user", user, "-k", "2", "--explain"])
    assert done.exit_code == 0, done.output
    assert "because of" in done.output
    assert "of all)" in " ".join(done.output.split())
    done = CliRunner().invoke(app, ["similar", str(run().path), "--item", item, "--by", "meaning", "-k", "2"])
    assert done.exit_code == 0, done.output
    assert f"like {item} by meaning" in done.output


def test_everybody_gets_a_list_and_runs_are_compared(tmp_path: Path) -> None:
    rows = run().recommend_all(tmp_path / "all.parquet", k=5, show_progress=False)
    frame = pl.read_parquet(tmp_path / "all.parquet")
    assert rows == len(frame) == 5 * frame["user"].n_unique()
    assert "score" in frame.columns
    other = fit(positives(), path=tmp_path / "knn", backbone="item-knn", show_progress=False)
    done = CliRunner().invoke(app, ["compare", str(run().path), str(other.path)], env={**os.environ, "COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "Recall@20" in done.output


def test_the_default_may_be_set_without_being_named(tmp_path: Path) -> None:
    words = ["fit", "--data", str(positives().path), "--set", "model.penalty=50", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert load(tmp_path / "run").config.model.backbone.penalty == 50  # type: ignore[attr-defined]
    done = CliRunner().invoke(app, [*words[:3], "--set", "modle.penalty=50"])
    assert done.exit_code != 0


def test_what_came_later_does_not_hide_what_behaviour_says(tmp_path: Path) -> None:
    run_ = fit(positives(), path=tmp_path / "run", knowledge=knowledge(), show_progress=False)
    item = positives().item_ids[3]
    [before] = run_.recommend(items=[item], k=1, explain=True)
    run_.add_items({"late-1": "a tale of ghosts"})
    [after] = run_.recommend(items=[item, "late-1"], k=1, explain=True, allow=[before.item])
    own = {each.item: each for each in after.because}
    assert before.because[0].text is not None
    assert own[item].text is not None
    ratio = own[item].text / own[item].share
    assert ratio == pytest.approx(before.because[0].text / before.because[0].share, rel=1e-3)
    assert own["late-1"].text == pytest.approx(own["late-1"].share, rel=1e-3)


def test_items_without_text_are_like_nothing_in_meaning(tmp_path: Path) -> None:
    tables = positives()
    items = tables.items.with_columns(
        [
            pl.when(pl.int_range(pl.len()) < 3).then(pl.lit("")).otherwise(pl.col(name)).alias(name)
            for name in tables.schema.text
        ]
    )
    log = pl.DataFrame({"user": np.arange(240) % 40, "item": tables.items[tables.schema.item].gather(np.arange(240) % 60)})
    log = log.with_columns(time=pl.int_range(pl.len()))
    schema = Schema(user="user", item="item", timestamp="time", text=tables.schema.text)
    settings = PrepareSettings(split=SplitConfig(kind="leave_last_two"))
    data = Dataset.from_frames(
        log, items.rename({tables.schema.item: "item"}), schema=schema, settings=settings, path=tmp_path / "data"
    )
    build(data.path, tmp_path / "texts", "tfidf")
    own = fit(data, path=tmp_path / "run", backbone="text-knn", knowledge=tmp_path / "texts", show_progress=False)
    blank = data.item_ids[:3]
    scores = own.model.scores([own.model.past(None, np.array([1], np.int32))], np.arange(1, 61, dtype=np.int32))
    assert not scores.any()
    with pytest.raises(DataError, match="has no text, so meaning says nothing of it"):
        own.similar(blank[0], by="meaning")
    assert blank[1] not in {each.item for each in own.similar(data.item_ids[10], by="meaning", k=60)}


def test_vectors_are_no_csv_and_no_number_is_no_id(tmp_path: Path) -> None:
    table = vector_table(["a"], np.zeros((1, 2), np.float32))
    with pytest.raises(ConfigError, match=r"a CSV cell holds one value, and column 'vector' has vectors; name a .parquet file"):
        write_table(table, tmp_path / "v.csv")
    assert ids_as_text(pl.Series([3.0, float("nan"), None]), "here").to_list() == ["3", None, None]
    with pytest.raises(DataError, match="here: ids of type Float64"):
        ids_as_text(pl.Series([1e30]), "here")
