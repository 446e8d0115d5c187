"""The three ratios of a split: shares of a whole, used as they stand, refused with a remedy where they are none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from small_data import log_of, plain_tables

from braidrec.data.dataset import Dataset, PrepareSettings, _digest
from braidrec.data.intake.description import DatasetDescription, load_description
from braidrec.data.schema import Schema
from braidrec.data.settings import SplitConfig
from braidrec.data.splits import check_split, make_split
from braidrec.errors import ConfigError, DataError
from braidrec.files import read_json, write_json
from braidrec.strict import parse

Ratios = tuple[float, float, float]
ROWS = [(f"u{user}", f"i{at % 7}", 10 * at + user, 5) for user in range(5) for at in range(20)]
CLOCKED = Schema(user="user", item="item", timestamp="time", part="part")

ACCEPTED = "accepted: three numbers above 0 that add up to 1"
WRONG: list[tuple[Ratios, str]] = [
    (
        (0.6, 0.1, 0.1),
        "split.ratios = (0.6, 0.1, 0.1) (training, validation, test) adds up to 0.8; "
        + ACCEPTED
        + "; (0.75, 0.125, 0.125) keeps their proportions, (0.6, 0.1, 0.3) gives 'test' all that is left",
    ),
    (
        (0.5, 0.2, 0.9),
        "split.ratios = (0.5, 0.2, 0.9) (training, validation, test) adds up to 1.6; "
        + ACCEPTED
        + "; (0.3125, 0.125, 0.5625) keeps their proportions, (0.5, 0.2, 0.3) gives 'test' all that is left",
    ),
    (
        (8.0, 1.0, 1.0),
        "adds up to 10; accepted: three numbers above 0 that add up to 1; (0.8, 0.1, 0.1) keeps their proportions",
    ),
    ((0.8, 0.1, 0.100002), "adds up to 1.000002; accepted"),
    (
        (0.9, 0.0, 0.1),
        "gives 'valid' a share of 0, so that part would be empty; accepted: three numbers above 0 that add up to 1",
    ),
    ((0.9, 0.1, 0.0), "gives 'test' a share of 0, so that part would be empty"),
    ((0.0, 0.5, 0.5), "gives 'train' a share of 0, so that part would be empty"),
    ((1.1, -0.2, 0.1), "gives 'valid' a share of -0.2; accepted: three numbers above 0 that add up to 1"),
]
by_share = pytest.mark.parametrize("kind", [{"kind": "temporal"}, {"kind": "ratio"}, {"kind": "ratio", "per_user": True}])


def config(ratios: Any, **kind: Any) -> SplitConfig:
    return SplitConfig.model_validate({"kind": "temporal", "min_history": 0, "ratios": ratios, **kind})


@by_share
@pytest.mark.parametrize(("ratios", "said"), WRONG, ids=lambda each: str(each)[:20])
def test_what_is_no_share_of_a_whole_is_refused(tmp_path: Path, kind: dict[str, Any], ratios: Ratios, said: str) -> None:
    with pytest.raises(DataError, match=re.escape(said)):
        Dataset.prepare(plain_tables(ROWS), tmp_path / "d", PrepareSettings(split=config(ratios, **kind)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "ratios", [(0.7, 0.2, 0.1), (1 / 3, 1 / 3, 1 / 3), (0.8, 0.1, 0.1000005), (0.333333, 0.333333, 0.333333)]
)
def test_rounding_is_forgiven(ratios: Ratios) -> None:
    check_split(config(ratios), CLOCKED)


@given(st.tuples(*[st.floats(0.1, 5)] * 3), st.sampled_from(["temporal", "ratio"]))
def test_the_third_ratio_is_the_test_part_s(parts: Ratios, kind: str) -> None:
    """Whatever is accepted gives every part its share of the events, to the row; what is proposed is accepted."""
    log = log_of([(1, 1 + at % 9, 4) for at in range(300)])
    asked = config(parts, kind=kind)
    if asked.fault_of_ratios is not None:
        (proposed,) = re.findall(r"1; \((.*?)\) keeps their proportions", asked.fault_of_ratios)
        asked = config([float(each) for each in proposed.split(", ")], kind=kind)
    check_split(asked, CLOCKED)
    split = make_split(log, asked)
    for name, share, before in zip(("train", "valid", "test"), asked.ratios, (0, 0, 2), strict=True):
        assert share * 300 - 1 < len(split[name]) < share * 300 + before + 1e-3


@pytest.mark.parametrize("kind", ["leave_last_two", "given"])
def test_ratios_are_refused_where_they_say_nothing(kind: str) -> None:
    said = (
        rf"split.ratios = \(0.6, 0.2, 0.2\) \(training, validation, test\) says nothing to split.kind = '{kind}'; leave it out"
    )
    with pytest.raises(DataError, match=said):
        check_split(config((0.6, 0.2, 0.2), kind=kind), CLOCKED)
    check_split(config((0.8, 0.1, 0.1), kind=kind), CLOCKED)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_no_number_is_refused_by_its_key(value: str) -> None:
    ratios = (0.8, float(value), 0.1)
    with pytest.raises(ConfigError, match=rf"'split.ratios.1' = {value}: input should be a finite number"):
        parse(PrepareSettings, {"split": {"ratios": ratios}}, "test")
    with pytest.raises(ValidationError, match="finite number"):
        config(ratios)
    with pytest.raises(DataError, match=f"gives 'valid' a share of {value};"):
        check_split(config((0.8, 0.1, 0.1)).model_copy(update={"ratios": ratios}), CLOCKED)


def test_a_description_is_refused_before_its_files_are_read(tmp_path: Path) -> None:
    file = tmp_path / "shop.toml"
    file.write_text('name = "shop"\n[interactions]\nfile = "nowhere.csv"\n[split]\nratios = [0.6, 0.1, 0.1]\n')
    with pytest.raises(ConfigError, match=r"shop.toml: split.ratios = \(0.6, 0.1, 0.1\) .*adds up to 0.8"):
        load_description(file)
    assert DatasetDescription.model_validate({"name": "a", "interactions": {"file": "x"}}).split == SplitConfig()


def test_data_prepared_before_anybody_asked_still_open(tmp_path: Path) -> None:
    """The settings stand in the manifest; the parts are the ones that were cut then."""
    dataset = Dataset.prepare(plain_tables(ROWS), tmp_path / "d", PrepareSettings(split=config((0.6, 0.1, 0.3))))
    manifest = read_json(dataset.path / "manifest.json", DataError)
    manifest["settings"]["split"]["ratios"] = [0.6, 0.1, 0.1]
    del manifest["digest"]
    write_json(dataset.path / "manifest.json", manifest | {"digest": _digest(manifest)})
    again = Dataset.open(dataset.path)
    assert again.settings.split.ratios == (0.6, 0.1, 0.1)
    assert [len(again.split[name]) for name in ("train", "valid", "test")] == [60, 10, 30]


def test_a_share_too_small_for_the_log_is_named() -> None:
    log = log_of([(1, 1, 5)] * 30)
    said = (
        r"no row for 'valid': 30 events.*lower split.min_history, give 'valid' a larger share than .* = \(0.9, 0.02, 0.08\) or"
    )
    with pytest.raises(DataError, match=said):
        make_split(log, config((0.9, 0.02, 0.08)))
