"""What the catalogue calls its ids is known where new items come, and text that is nobody's is no text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

import small_runs
from braidrec.data.dataset import Dataset
from braidrec.errors import DataError, KnowledgeError
from braidrec.files import read_json, write_json
from braidrec.runs.directory import digest_of_json
from braidrec.runs.fit import fit
from braidrec.runs.knowledge import build
from braidrec.runs.preparing import prepare
from braidrec.runs.run import Run, load

LOG = "".join(
    f"{user},{item},{100 * user + at},{(user + item) % 2}\n" for user in range(20) for at, item in enumerate(range(12))
)
ITEMS = "".join(f"{item},robot story {item},{'ab'[item % 2]}\n" for item in range(12))


def shop(folder: Path, own: str, given: str = "") -> Dataset:
    """A log that says item_id, and a catalogue that calls it ``own``."""
    (folder / "log.csv").write_text("user_id,item_id,timestamp,label\n" + LOG)
    (folder / "items.csv").write_text(f"{own},title,genre\n" + ITEMS)
    (folder / "d.toml").write_text(f'name = "shop"\n[interactions]\nfile = "log.csv"\n[items]\nfile = "items.csv"\n{given}')
    return prepare(str(folder / "d.toml"), None, folder / "data")


def trained(folder: Path, data: Dataset) -> Run:
    build(data.path, folder / "kb", "tfidf")
    training = {"max_epochs": 1, "batch_size": 64}
    return fit(data, path=folder / "run", enhance="disco", knowledge=folder / "kb", training=training, show_progress=False)


@pytest.mark.parametrize(("own", "given"), [("id", ""), ("sku", 'id = "sku"'), ("item_id", "")])
def test_new_items_come_by_the_name_that_the_catalogue_has_for_ids(own: str, given: str, tmp_path: Path) -> None:
    data = shop(tmp_path, own, given)
    assert data.manifest.get("ids", {}) == ({} if own == "item_id" else {"items": own})
    run = trained(tmp_path, data)
    assert run.add_items(pl.DataFrame({own: [100], "title": ["robot fresh"], "genre": ["a"]})) == 1
    assert run.add_items(pl.DataFrame({"item_id": [101], "title": ["robot fresher"], "genre": ["a"]})) == 1
    assert load(run.path).catalogue.added_ids == ("100", "101")
    also = "" if own == "item_id" else f", nor '{own}', as the catalogue calls it"
    with pytest.raises(DataError, match=rf"the new items have no id column 'item_id'{also} \(columns: number, title\)"):
        run.add_items(pl.DataFrame({"number": [102], "title": ["robot"]}))


def test_a_run_that_kept_no_name_takes_what_looks_like_the_id(tmp_path: Path) -> None:
    run = trained(tmp_path, shop(tmp_path, "id"))
    record = read_json(run.path / "run.json", DataError)
    del record["data"]["ids"], record["digest"]
    write_json(run.path / "run.json", {**record, "digest": digest_of_json(record)})
    (tmp_path / "data").rename(tmp_path / "gone")
    assert load(run.path).add_items(pl.DataFrame({"id": [100], "title": ["robot fresh"]})) == 1


def test_a_knowledge_base_that_knows_nothing_of_the_log_is_refused(tmp_path: Path) -> None:
    """The log's ids are written otherwise than the catalogue's."""
    world = small_runs.world_tables()
    log = world.interactions.with_columns(pl.format("0{}", pl.col(world.schema.item)).alias(world.schema.item))
    data = Dataset.prepare(replace(world, name="odd", interactions=log), tmp_path / "data")
    build(data.path, tmp_path / "kb", "tfidf")
    said = r"kb: has no vector for any of the \d+ items in the log of odd, whose ids look like '0B\d+', while it has 'B00000'"
    with pytest.raises(KnowledgeError, match=said):
        small_runs.train(tmp_path / "run", data, enhance="disco", knowledge=tmp_path / "kb")
    assert not (tmp_path / "run").exists()


def test_a_catalogue_without_a_single_text_fills_no_knowledge_base(tmp_path: Path) -> None:
    world = small_runs.world_tables()
    assert world.items is not None
    items = world.items.with_columns(pl.lit(None, pl.String).alias(name) for name in world.schema.text)
    data = Dataset.prepare(replace(world, name="mute", items=items), tmp_path / "data")
    with pytest.raises(KnowledgeError, match=r"mute: none of its 120 items has text \(columns: title, description\), so there"):
        build(data.path, tmp_path / "kb", "tfidf")
    assert not (tmp_path / "kb").exists()
