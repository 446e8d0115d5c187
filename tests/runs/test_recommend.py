"""Who gets what: known users, strangers, everybody; and items that arrive after training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import small_runs
from braidrec.errors import ConfigError, DataError, RunError
from braidrec.files import write_json
from braidrec.ranking.config import settings_of
from braidrec.ranking.history import history_source
from braidrec.registry import TASKS
from braidrec.runs.run import Run, load
from small_runs import copy_of, disco, plain

USER = "10001"


@pytest.fixture(params=[plain, disco], ids=["plain", "disco"])
def run(request: pytest.FixtureRequest) -> Run:
    return request.param()


def logits(run: Run, part: str = "test") -> np.ndarray:
    return run.outcome(part, show_progress=False).values["scores"]


def seen_by(run: Run, user: str) -> set[str]:
    log = run.dataset.log
    row = run.dataset.user_rows[user]
    return {run.dataset.item_ids[item - 1] for item in log.item[log.user == row]}


def test_a_known_user_gets_unseen_items_best_first(run: Run) -> None:
    found = run.recommend(USER, k=10)
    chances = [each.probability for each in found]
    assert len(found) == 10
    assert chances == sorted(chances, reverse=True)
    assert not {each.item for each in found} & seen_by(run, USER)
    assert found[0].title == run.dataset.items["title"][run.dataset.item_rows[found[0].item] - 1]
    np.testing.assert_allclose(run.score_items(USER, [each.item for each in found]), chances, rtol=1e-5)
    assert run.recommend(int(USER), k=10) == found


def test_seen_items_come_back_where_asked_and_k_may_exceed_the_catalogue(run: Run) -> None:
    everything = run.recommend(USER, k=10**6, exclude_seen=False)
    assert len(everything) == run.dataset.num_items
    assert len(run.recommend(USER, k=10**6)) == run.dataset.num_items - len(seen_by(run, USER))


@pytest.mark.parametrize("k", [2.5, True, "3", None])
def test_k_is_a_whole_number(k: object, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"k = {k!r}: a whole number is needed"):
        plain().recommend(USER, k=k)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="a whole number"):
        plain().recommend_all(tmp_path / "out.parquet", k=k)  # type: ignore[arg-type]
    assert len(plain().recommend(USER, k=np.int64(3))) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused(k: int, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ask for at least one item"):
        plain().recommend(USER, k=k)
    with pytest.raises(DataError, match="ask for at least one item"):
        plain().recommend_all(tmp_path / "out.parquet", k=k)
    assert not list(tmp_path.iterdir())


def test_unknown_users_and_items_are_refused_with_a_short_hint() -> None:
    with pytest.raises(DataError, match=r"user '1000' is not in planted \(did you mean '100\d\d'\?\); for somebody new"):
        plain().recommend("1000")
    with pytest.raises(DataError, match=r"'zzz' is not in planted \(its ids look like '10001'\)"):
        plain().recommend("zzz")
    with pytest.raises(DataError, match=r"item 'B0001' is not in the catalogue of planted \(did you mean 'B\d+'\?\)") as caught:
        plain().recommend(items=["B0001"])
    assert len(str(caught.value)) < 200


def test_either_a_user_or_items() -> None:
    ways = r"a user of its data \(user\), or the items that somebody new liked \(items\)"
    with pytest.raises(DataError, match=f"recommend needs to know who it is for: {ways}$"):
        plain().recommend()
    with pytest.raises(
        DataError, match=r"fields describe somebody new, and user '10001' is known by what the data have of them"
    ):
        plain().recommend(USER, fields={"age": 30})


def test_somebody_new_is_known_by_what_they_liked(run: Run) -> None:
    liked = ["B00003", "B00007", "B00003"]
    found = run.recommend(items=liked, k=5)
    assert len(found) == 5
    assert not {each.item for each in found} & set(liked)
    assert liked[0] in {each.item for each in run.recommend(items=liked, k=200, exclude_seen=False)}
    long = [f"B{at:05d}" for at in range(40)]
    assert run.recommend(items=long, k=5)[0].probability > 0
    assert len(run.recommend(items=[], k=5)) == 5  # nothing known: what is liked in general


def test_allow_and_deny(run: Run) -> None:
    allow = [item for item in run.dataset.item_ids if item not in seen_by(run, USER)][:6]
    assert {each.item for each in run.recommend(USER, k=10, allow=[*allow, allow[0]])} == set(allow)
    assert {each.item for each in run.recommend(USER, k=10, allow=allow, deny=allow[:2])} == set(allow[2:])
    with pytest.raises(DataError, match="no candidate is left"):
        run.recommend(USER, allow=allow, deny=allow)
    with pytest.raises(DataError, match="no candidate is left"):
        run.recommend(USER, allow=[])
    with pytest.raises(DataError, match="not in the catalogue"):
        run.recommend(USER, deny=["nothing"])


def test_ties_go_to_the_earlier_catalogue_row() -> None:
    run = load(plain().path)
    vars(run.model)["_logits"] = lambda batch: torch.zeros(len(batch))
    found = run.recommend(USER, k=7, exclude_seen=False)
    assert [each.item for each in found] == run.dataset.item_ids[:7]
    assert {each.probability for each in found} == {0.5}


def test_everybody_goes_to_one_parquet_file(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "recs.parquet"
    rows = run.recommend_all(out, k=3, show_progress=False)
    frame = pl.read_parquet(out)
    assert frame.schema == {"user": pl.String, "rank": pl.Int32, "item": pl.String, "probability": pl.Float32}
    assert rows == len(frame) == 3 * run.dataset.num_users
    assert frame["rank"].to_list() == [1, 2, 3] * run.dataset.num_users
    falling = frame.group_by("user").agg(pl.col("probability").diff().max())["probability"].max()
    assert falling is not None
    assert falling <= 0
    one = frame.filter(pl.col("user") == USER)
    assert one["item"].to_list() == [each.item for each in run.recommend(USER, k=3)]
    assert [each.name for each in out.parent.iterdir()] == ["recs.parquet"]


def test_a_failed_table_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "recs.parquet"
    out.write_text("old")

    def broken(frame: pl.DataFrame, file: Path) -> None:
        file.write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", broken)
    with pytest.raises(OSError, match="disk full"):
        plain().recommend_all(out, k=1, show_progress=False)
    assert out.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_table_without_any_candidate_keeps_its_columns(tmp_path: Path) -> None:
    out = tmp_path / "recs.parquet"
    assert plain().recommend_all(out, allow=[], show_progress=False) == 0
    assert pl.read_parquet_schema(out)["user"] == pl.String


# -- items added after training -------------------------------------------------------------------------------------------

NEW = {"late-1": "A story of ghosts, vampires and demons.", "late-2": "A tale of violins, choirs and drummers."}


def test_added_items_are_scored_recommended_and_stay(tmp_path: Path) -> None:
    run = copy_of(disco(), tmp_path / "run")
    before = logits(run)
    assert run.add_items(NEW) == 2
    assert run.num_items == run.dataset.num_items + 2
    scores = run.score_items(USER, ["late-1", "late-2", "B00001"])
    assert len(set(scores.tolist())) == 3
    everything = run.recommend(USER, k=10**6, exclude_seen=False)
    assert {"late-1", "late-2"} < {each.item for each in everything}
    assert next(each.title for each in everything if each.item == "late-1") == NEW["late-1"]
    assert run.recommend(items=["late-1"], k=3)
    again = load(run.path)
    np.testing.assert_array_equal(again.score_items(USER, ["late-1", "late-2", "B00001"]), scores)
    np.testing.assert_array_equal(logits(again), before)
    assert again.add_items({"late-3": "wizards"}) == 1
    assert load(run.path).num_items == run.dataset.num_items + 3
    assert len(list((run.path / "added").iterdir())) == 2
    assert run.recommend(USER, allow=["late-2"])[0].item == "late-2"


def test_an_item_added_with_a_known_item_s_text_and_fields_reads_as_the_same_text(tmp_path: Path) -> None:
    run = copy_of(disco(), tmp_path / "run")
    twin = run.dataset.items.head(1).with_columns(item_id=pl.lit("twin"))
    assert run.add_items(twin) == 1
    source = run.model.module.sources[0]
    torch.testing.assert_close(source.semantic.reduced[-1], source.semantic.reduced[1], atol=2e-3, rtol=0)
    fields = run.model.module.embed.item_fields
    assert fields[-1, 1:].tolist() == fields[1, 1:].tolist()  # all but the id, which takes its unknown row
    assert fields[-1, 0] == run.model.module.embed.layout.unknown[run.model.module.embed.layout.names.index("item_id")]
    assert run.recommend(USER, allow=["twin"])[0].title == run.dataset.items["title"][0]


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ({"B00001": "known"}, "item 'B00001' is already known"),
        ({"x": "  "}, "item 'x' has no text"),
        ({"x": None}, "item 'x' has no text"),
        ({"x": 5}, "item 'x': its text is 5; .* so a string is needed"),
        ({"": "text"}, "the id is empty"),
        (["x"], "the new items: builtins.list is no table; accepted: a path, or a Polars, Arrow or pandas frame"),
        (pl.DataFrame({"item_id": ["x", "x"], "title": ["a", "b"]}), "item 'x' is already known"),
        (pl.DataFrame({"item_id": ["x"], "genre": ["comedy"]}), "item 'x' has no text"),
        ({"x": "text", "y": "", "z": ""}, "item 'y' has no text; .*; 2 of 3 are such: give them a text or leave them out"),
        (pl.DataFrame({"item_id": ["x", ""], "title": ["a", "b"]}), "the new items, row 2: the id is empty"),
        (pl.DataFrame({"id": ["x"]}), "no id column 'item_id'"),
    ],
)
def test_items_that_cannot_be_added_change_nothing(items: object, said: str, tmp_path: Path) -> None:
    run = copy_of(disco(), tmp_path / "run")
    with pytest.raises(DataError, match=said):
        run.add_items(items)  # type: ignore[arg-type]
    assert run.num_items == run.dataset.num_items
    assert not (run.path / "added").exists()


def test_adding_nothing_or_the_same_twice(tmp_path: Path) -> None:
    run = copy_of(disco(), tmp_path / "run")
    assert run.add_items({}) == 0
    assert run.add_items({7: "numbers may be ids"}) == 1  # type: ignore[dict-item]
    assert run.add_items({"7": "numbers may be ids"}) == 0
    with pytest.raises(DataError, match="item '7' was added before, with another text"):
        run.add_items({"7": "again"})
    assert run.catalogue.added_ids == ("7",)


def test_a_plain_model_takes_no_items() -> None:
    with pytest.raises(
        RunError, match=r"DIN knows items by id alone; add_items needs a model that reads text, such as enhance = 'disco'"
    ):
        plain().add_items(NEW)


def test_a_plain_model_takes_no_items_whatever_else_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    small_runs.break_plug_in(monkeypatch, TASKS["ranking"].methods)
    with pytest.raises(RunError, match=r"knows items by id alone; .* such as enhance = 'disco'"):
        plain().add_items(NEW)


def test_another_knowledge_base_in_the_old_place_is_refused(tmp_path: Path) -> None:
    run = copy_of(disco(), tmp_path / "run")
    run.record = {**run.record, "knowledge": [{**run.record["knowledge"][0], "encoder": "vicuna"}]}
    with pytest.raises(RunError, match="trained on a knowledge base with encoder 'vicuna', which now has 'tfidf'"):
        run.add_items(NEW)


def test_two_handles_on_one_run_do_not_overwrite_each_other(tmp_path: Path) -> None:
    first = copy_of(disco(), tmp_path / "run")
    second = load(first.path)
    first.add_items({"a": "whales"})
    assert second.add_items({"b": "camels"}) == 1
    assert load(first.path).num_items == second.num_items == first.num_items + 1


def test_added_items_that_were_damaged_are_refused(tmp_path: Path) -> None:
    run = copy_of(disco(), tmp_path / "run")
    run.add_items(NEW)
    file = next((run.path / "added").glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(RunError, match="damaged or was replaced"):
        load(run.path)


# -- every kind of field, statistics, histories by meaning ----------------------------------------------------------------

RICH = {"data": small_runs.rich, "training": {"batch_size": 128}}


@pytest.mark.parametrize("enhance", [None, "disco"])
@pytest.mark.parametrize("backbone", ["deepfm", "dcn", "din"])
def test_context_bags_numbers_and_weights_end_to_end(backbone: str, enhance: str | None, tmp_path: Path) -> None:
    run = small_runs.train(
        tmp_path / "run",
        small_runs.rich(),
        backbone=backbone,
        enhance=enhance,
        knowledge=small_runs.rich_knowledge(),
        training={"batch_size": 128},
        model={"statistics": True},
    )
    assert 0 < run.evaluate(show_progress=False, min_rows=1)["all"]["auc"] < 1  # type: ignore[operator]
    found = run.recommend(5, k=4)
    assert found[0].title.endswith("[rec]")
    assert len(run.recommend("41", k=4)) == 4  # in the users table, never in the log
    assert len(run.recommend(items=[100, 101], k=4)) == 4
    assert len({each.probability for each in run.recommend(5, k=30)}) > 1
    if enhance:
        late = pl.DataFrame(
            {"item": [900], "title": ["Film of late"], "genres": ["War|Drama|Comedy|Horror|War"], "price": [3.5]}
        )
        run.add_items({"950": "a film of war"})
        run.add_items(late)
        again = load(run.path)
        np.testing.assert_allclose(again.score_items(5, [900, 950]), run.score_items(5, [900, 950]), rtol=1e-6)


def test_weights_count_in_validation_evaluation_and_baselines(tmp_path: Path) -> None:
    from braidrec.evaluation.metrics import auc
    from braidrec.ranking.scoring import part_labels, part_weights
    from braidrec.runs.tables import baseline_reports

    run = small_runs.train(tmp_path / "run", small_runs.rich(), training={"batch_size": 128})
    labels, weights = part_labels(run.dataset, "valid", None), part_weights(run.dataset, "valid", None)
    assert weights is not None
    assert run.record["best"]["metrics"]["auc"] == pytest.approx(auc(labels, logits(run, "valid"), weights))
    assert len(baseline_reports(run.task, run.config, run.dataset, "test")) == 3


def test_statistics_need_a_clock(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="need a timestamp column"):
        small_runs.train(tmp_path / "run", small_runs.positives(), negatives=1, model={"statistics": True})


def test_a_history_by_meaning_end_to_end(tmp_path: Path) -> None:
    settings = {"history": {"kind": "semantic_topk", "length": 6}}
    with pytest.raises(ConfigError, match="give the run a knowledge base"):
        small_runs.train(tmp_path / "none", model=settings)
    run = small_runs.train(tmp_path / "run", enhance="disco", knowledge=small_runs.knowledge(), model=settings)
    slots = next(small_runs.root().glob("planted.semantic-6-*.npy"))
    np.testing.assert_array_equal(logits(load(run.path), "valid"), logits(run, "valid"))

    # the history cut for a candidate today is the one that was prepared for the same event at its time
    log = run.dataset.log
    event = int(log.slot_event[log.start[run.dataset.user_rows[USER] + 1] - 1])
    model = run.model
    source = history_source(run.dataset, settings_of(run.config).history, model.directions, show_progress=False)
    prepared = source.before(torch.tensor([event]))
    past = model.past(run.dataset.user_rows[USER])
    today = model.window(replace(past, items=past.items[:-1], signals=past.signals[:-1]), past.items[-1:])
    assert torch.equal(today.items, prepared.items)
    assert torch.equal(today.signals, prepared.signals)
    assert torch.equal(today.mask, prepared.mask)

    assert run.model.window(past, torch.arange(1, 9, dtype=torch.int32)).items.shape == (8, 6)
    assert len(run.recommend(USER, k=5)) == 5
    assert len(run.recommend(items=[], k=5)) == 5
    assert len(run.recommend(items=["B00001"], k=5)) == 5
    before = run.score_items(USER, ["B00001"])
    run.add_items(NEW)
    np.testing.assert_allclose(run.score_items(USER, ["B00001"]), before, rtol=1e-6)
    assert run.recommend(items=["late-1"], k=5)
    np.testing.assert_allclose(load(run.path).score_items(USER, list(NEW)), run.score_items(USER, list(NEW)), rtol=1e-6)

    data = bytearray(slots.read_bytes())
    data[-1] ^= 1
    slots.write_bytes(data)  # damaged: made again
    (run.path / "outcome.valid.safetensors").unlink()
    np.testing.assert_array_equal(logits(load(run.path), "valid"), logits(run, "valid"))


def test_directions_of_added_items_are_those_they_would_have_had() -> None:
    from braidrec.data.history import principal_directions
    from braidrec.ranking.history import Directions

    rng = np.random.default_rng(0)
    for width in (40, 600):
        vectors = np.concatenate([np.zeros((1, width)), rng.standard_normal((700, width))]).astype(np.float32)
        found = Directions.of(vectors).with_items(torch.from_numpy(vectors[5:8])).rows.numpy()
        np.testing.assert_array_equal(found[: len(vectors)], principal_directions(vectors))
        np.testing.assert_allclose(found[-3:], found[5:8], atol=1e-4)


def test_everything_known_of_a_vocabulary_over_training_rows_only() -> None:
    """Items first met after training have no row of their own: they take the unknown row, and are still ranked."""
    run = disco()
    ids = run.model.module.embed.item_fields[1:, 0]
    unknown = run.model.module.embed.layout.unknown[run.model.module.embed.layout.names.index("item_id")]
    trained = set(run.dataset.log.item[run.dataset.split["train"]].tolist())
    late = [row for row in range(1, 121) if ids[row - 1] == unknown]
    assert late
    assert not set(late) & trained
    scores = run.score_items(USER, [run.dataset.item_ids[row - 1] for row in late])
    assert len(set(scores.tolist())) > 1, "the text tells them apart"


def test_a_damaged_list_of_added_items_is_refused(tmp_path: Path) -> None:
    run = copy_of(disco(), tmp_path / "run")
    run.add_items(NEW)
    write_json(run.path / "added" / "items.json", [])
    with pytest.raises(RunError, match="damaged"):
        load(run.path)
