"""Descriptions in TOML: what they mean, and what is said of their mistakes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from braidrec.data.dataset import Dataset
from braidrec.data.intake.description import load_description, read_tables
from braidrec.data.schema import Field
from braidrec.errors import BraidError, ConfigError, DataError

TOML = """
name = "shop"
noun = "product"
vocabulary = "all"
[interactions]
file = "clicks.csv"
user = "customer"
item = "sku"
positive_above = 0.5
[[interactions.fields]]
name = "device"
[items]
file = "items.tsv"
id = "code"
text = ["title"]
[[items.fields]]
name = "tags"
kind = "multi"
separator = ";"
[users]
file = "people.csv"
id = "who"
[read]
on_bad_rows = "skip"
[split]
kind = "leave_last_two"
min_history = 2
[negatives]
per_positive = 4
"""


def _write(folder: Path, toml: str = TOML) -> Path:
    (folder / "clicks.csv").write_text(
        "customer,sku,when,rating,device\na,x1,5,1,phone\nb,x2,6,0,desk\nbroken\n".replace("when", "ts")
    )
    (folder / "items.tsv").write_text("code\ttitle\ttags\nx1\tOne\tred;big\nx2\tTwo\tred\n")
    (folder / "people.csv").write_text("who,age,town\na,30,here\nb,40,there\n")
    path = folder / "shop.toml"
    path.write_text(toml)
    return path


def test_a_description_makes_tables(tmp_path: Path) -> None:
    description = load_description(_write(tmp_path))
    tables = read_tables(description, tmp_path)
    schema = tables.schema
    assert (tables.name, schema.user, schema.item, schema.timestamp, schema.rating) == (
        "shop",
        "customer",
        "sku",
        "ts",
        "rating",
    )
    assert (schema.noun, schema.positive_above, schema.text) == ("product", 0.5, ("title",))
    assert schema.context_fields == (Field(name="device"),)
    assert schema.item_fields == (Field(name="tags", kind="multi", separator=";"),)
    assert [entry.name for entry in schema.user_fields] == ["age"]
    assert tables.items is not None
    assert tables.users is not None
    assert tables.items.columns == ["sku", "title", "tags"]
    assert tables.users["customer"].to_list() == ["a", "b"]
    assert tables.report.rows_skipped == 1
    assert "interactions.ts: timestamp (called like a timestamp column)" in tables.report.notes
    assert [source.name for source in tables.sources] == ["clicks.csv", "items.tsv", "people.csv"]
    settings = description.settings
    assert (settings.vocabulary, settings.negatives, settings.split.min_history) == ("all", 4, 2)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("noun =", "nuon =", "unknown key 'nuon' (did you mean 'noun'?)"),
        ("user =", "usr =", "unknown key 'interactions.usr' (did you mean 'user'?)"),
        ("on_bad_rows", "on_bad_row", "unknown key 'read.on_bad_row' (did you mean 'on_bad_rows'?)"),
        ('kind = "multi"', 'kind = "many"', "'items.fields.0.kind' = 'many'"),
        ("min_history = 2", "min_history = -1", "'split.min_history' = -1"),
        ('name = "shop"', 'name = "../shop"', "'name' = '../shop'"),
        ('file = "clicks.csv"', "", "required key 'interactions.file' is missing"),
        ("[read]", "[read", "not valid TOML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = _write(tmp_path, TOML.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load_description(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('id = "code"', 'id = "cod"', "no column 'cod' (named as id of the items) (did you mean 'code'?)"),
        ('user = "customer"', 'user = "custmer"', "no column 'custmer' (named as the user) (did you mean 'customer'?)"),
        ('text = ["title"]', 'text = ["titel"]', "no column 'titel' (named as text) (did you mean 'title'?)"),
        ('file = "clicks.csv"', 'file = "click.csv"', "click.csv: the file does not exist"),
    ],
)
def test_mistakes_about_the_files_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = _write(tmp_path, TOML.replace(old, new, 1))
    with pytest.raises(DataError) as caught:
        read_tables(load_description(path), tmp_path)
    assert message in str(caught.value)


PARTS = ("train", "train", "validation", "test")


def test_pairs_alone_and_a_ready_made_split(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("user,item,fold\n" + "".join(f"a,{at},{part}\n" for at, part in enumerate(PARTS)))
    toml = 'name = "pairs"\n[interactions]\nfile = "pairs.csv"\npart = "fold"\n[split]\nkind = "given"\n'
    (tmp_path / "pairs.toml").write_text(toml)
    description = load_description(tmp_path / "pairs.toml")
    tables = read_tables(description, tmp_path)
    assert (tables.schema.part, tables.schema.clock) == ("fold", None)
    assert tables.interactions["fold"].to_list() == ["train", "train", "valid", "test"]
    dataset = Dataset.prepare(tables, tmp_path / "given", description.settings)
    assert [dataset.item_counts(part).sum() for part in ("train", "valid", "test")] == [2, 1, 1]
    with pytest.raises(DataError, match=r"split.kind = 'temporal' needs to know what came first.*split.kind = \"ratio\""):
        Dataset.prepare(tables, tmp_path / "temporal")


def test_a_missing_description_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_description(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="a TOML file is needed"):
        load_description(tmp_path)


def test_mutations_are_read_or_refused(tmp_path: Path) -> None:
    generator = random.Random(11)
    path = _write(tmp_path)
    files = {name: (tmp_path / name).read_bytes() for name in ("shop.toml", "clicks.csv", "items.tsv", "people.csv")}
    refused = 0
    for _ in range(400):
        name = generator.choice(list(files))
        mutated = bytearray(files[name])
        for _ in range(generator.randint(1, 3)):
            at = generator.randrange(len(mutated))
            mutated[at : at + generator.randint(0, 2)] = bytes(generator.choices(range(256), k=generator.randint(0, 2)))
        (tmp_path / name).write_bytes(mutated)
        try:
            read_tables(load_description(path), tmp_path)
        except BraidError:
            refused += 1
        (tmp_path / name).write_bytes(files[name])
    assert 40 < refused < 400
