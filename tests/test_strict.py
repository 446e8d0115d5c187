"""Strict configs: immutable, typed, and a misspelt key at any depth is refused with the nearest known one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pytest
from pydantic import BeforeValidator, ValidationError
from pydantic import Field as Setting

from braidrec.errors import ConfigError
from braidrec.strict import Strict, merge, parse


class Inner(Strict):
    width: int = 3
    name_of_it: str = "x"


class Left(Strict):
    kind: Literal["left"] = "left"
    speed: float = 1.0


class Right(Strict):
    kind: Literal["right"] = "right"
    height: float = 1.0
    deeper: Inner = Inner()


class Whole(Strict):
    required: int
    inner: Inner = Inner()
    many: tuple[Inner, ...] = ()
    perhaps: Inner | None = None
    by_name: dict[str, Inner] = {}  # noqa: RUF012
    side: Annotated[Left | Right, Setting(discriminator="kind")] = Left()


def problem(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(Whole, values, "some.toml")
    assert str(caught.value).startswith("some.toml: ")
    return str(caught.value).removeprefix("some.toml: ")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"require": 1}, "required key 'required' is missing; unknown key 'require' (did you mean 'required'?)"),
        ({"required": 1, "iner": {}}, "unknown key 'iner' (did you mean 'inner'?)"),
        ({"required": 1, "inner": {"with": 3}}, "unknown key 'inner.with' (did you mean 'width'?)"),
        ({"required": 1, "many": [{}, {"widht": 3}]}, "unknown key 'many.1.widht' (did you mean 'width'?)"),
        ({"required": 1, "perhaps": {"widht": 3}}, "unknown key 'perhaps.widht' (did you mean 'width'?)"),
        ({"required": 1, "by_name": {"a": {"widht": 3}}}, "unknown key 'by_name.a.widht' (did you mean 'width'?)"),
        ({"required": 1, "side": {"kind": "right", "heigth": 3}}, "unknown key 'side.heigth' (did you mean 'height'?)"),
        ({"required": 1, "side": {"kind": "left", "height": 3}}, "unknown key 'side.height' (accepted: kind, speed)"),
        (
            {"required": 1, "side": {"kind": "right", "deeper": {"name_of_itt": 3}}},
            "unknown key 'side.deeper.name_of_itt' (did you mean 'name_of_it'?)",
        ),
        ({"required": 1, "inner": {"qqq": 3}}, "unknown key 'inner.qqq' (accepted: name_of_it, width)"),
        ({"required": 1, "name_of_it": "y"}, "unknown key 'name_of_it' (did you mean 'inner.name_of_it'?)"),
        ({"required": 1, "naem_of_it": "y"}, "unknown key 'naem_of_it' (did you mean 'inner.name_of_it'?)"),
        (
            {"required": 1, "side": {"kind": "right", "width": 3}},
            "unknown key 'side.width' (did you mean 'side.deeper.width'?)",
        ),
        ({"required": "one"}, "'required' = 'one': input should be a valid integer, unable to parse string as an integer"),
        ({"required": 1, "side": {"kind": "right", "height": "x"}}, "'side.height' = 'x': input should be a valid number"),
    ],
)
def test_messages(values: dict[str, Any], message: str) -> None:
    assert problem(values).startswith(message)


def test_an_unknown_alternative_names_the_accepted_ones() -> None:
    text = problem({"required": 1, "side": {"kind": "up"}})
    assert re.search(r"'side' = .*'up'.*'left', 'right'", text)


def test_an_error_of_a_look_up_says_where() -> None:
    def look_up(_: object) -> None:
        raise ConfigError("unknown thing 'x'")

    class Holder(Strict):
        thing: Annotated[str, BeforeValidator(look_up)]

    with pytest.raises(ConfigError, match=r"^my\.toml: unknown thing 'x'$"):
        parse(Holder, {"thing": "x"}, "my.toml")


def test_all_problems_come_at_once() -> None:
    assert problem({"required": "x", "inner": {"a": 1, "b": 2}}).count("; ") == 2


def test_a_good_config() -> None:
    whole = parse(Whole, {"required": 1, "side": {"kind": "right", "deeper": {"width": 7}}}, "x")
    assert isinstance(whole.side, Right)
    assert whole.side.deeper.width == 7
    assert parse(Whole, whole.model_dump(), "x") == whole


def test_immutable_and_finite() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Inner().width = 4  # type: ignore[misc]
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="finite number"):
            parse(Left, {"speed": bad}, "x")


def test_defaults_are_validated_too() -> None:
    class Wrong(Strict):
        count: int = Setting(default=0, ge=1)

    with pytest.raises(ConfigError, match="'count' = 0"):
        parse(Wrong, {}, "x")


def test_merge_leaves_its_inputs_alone() -> None:
    values: Mapping[str, Any] = {"a": {"b": 1, "c": 2}, "d": 3}
    assert merge(values, {"a": {"c": 4}, "e": 5}) == {"a": {"b": 1, "c": 4}, "d": 3, "e": 5}
    assert merge(values, {"a": 0, "d": {"f": 1}}) == {"a": 0, "d": {"f": 1}}
    assert values == {"a": {"b": 1, "c": 2}, "d": 3}


def test_a_table_that_is_checked_elsewhere_offers_its_keys() -> None:
    tables = {"training": ["lr", "max_epochs"], "model": ["dim"]}
    for key, meant in (
        ("lr", "training.lr"),
        ("learning_rate", "training.lr"),
        ("max_epoch", "training.max_epochs"),
        ("dim", "model.dim"),
    ):
        with pytest.raises(ConfigError, match=rf"unknown key '{key}' \(did you mean '{meant}'\?\)"):
            parse(Whole, {"required": 1, key: 1}, "x", tables=tables)
    with pytest.raises(ConfigError, match=r"unknown key 'inner.lr' \(accepted: name_of_it, width\)"):
        parse(Whole, {"required": 1, "inner": {"lr": 1}}, "x", tables=tables)
