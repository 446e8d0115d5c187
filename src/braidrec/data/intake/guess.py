"""Column roles from names and contents, each with its reason, to be shown before they are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from braidrec.data.intake.numbers import of_words, read_numbers, stripped, trouble_of_labels
from braidrec.data.schema import Field, Schema
from braidrec.data.values import listed
from braidrec.errors import DataError

if TYPE_CHECKING:
    import polars as pl

# Names are compared in lower case without punctuation; an earlier tier wins over a later one.
_Tiers = tuple[frozenset[str], ...]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _tiers(*groups: str) -> _Tiers:
    return tuple(_names(group) for group in groups)


_USER = _tiers(
    "userid user uid",
    "reviewerid customerid customer memberid member visitorid visitor accountid listenerid readerid",
    "sessionid session",
)
_ITEM = _tiers(
    "itemid item iid",
    "movieid movie productid product asin sku bookid book isbn songid song trackid track artistid artist newsid news articleid "
    "article videoid video businessid gameid game adid recipeid courseid",
    "parentasin id",
)
_ITEMS = _names("items itemids history sequence itemsequence interactions")
_TIMESTAMP = _tiers(
    "timestamp ts unixtime unixreviewtime unixtimestamp eventtimestamp",
    "time datetime eventtime createdat when clickedat viewedat orderedat purchasedat ratedat watchedat",
    "date reviewtime day eventdate orderdate purchasedate",
)
_ORDER = _tiers("order position seq sequence step")
_RATING = _tiers("rating ratings", "stars score overall")
_LABEL = _tiers("label click clicked isclick", "target liked like y")
_WEIGHT = _tiers("weight sampleweight")
_TITLES = _names("title headline name itemname productname movietitle booktitle")
_KINDS = _names("genre genres category categories brand maincategory topic subject author")
_SEVERAL = _KINDS | {"tags"}
_BODIES = _names("description desc summary abstract plot synopsis text body content about features")
_CATEGORY = _tiers("category maincategory genre topic", "categories genres")
_SEPARATORS = ("|", ";", ",")
GIVEN = "given"
_LISTS, _WRITTEN, _OWN_VALUES = "lists", "lists written as text", "nearly every row has its own value"  # reasons
_DECIMALS, _SENTENCES = "lists of decimal numbers", "long sentences"
_CODES = ("id", "code", "zip")  # endings of names whose numbers are no quantities
_MANY = 50  # distinct integers beyond which a column counts as a quantity, not as a choice
_LOOKED_AT = 50_000  # rows of the interactions whose contents are looked at


@dataclass(frozen=True)
class RoleGuess:
    """One line of the table shown to the user."""

    column: str  # "interactions.userId"
    role: str  # "user", "text 1", "field (multi, cut at '|')", "not used"
    why: str


def guess_schema(
    interactions: pl.DataFrame,
    items: pl.DataFrame | None = None,
    users: pl.DataFrame | None = None,
    *,
    given: Mapping[str, Any] | None = None,
    ids: Mapping[str, str | None] | None = None,
    ignore: Sequence[str] = (),
) -> tuple[Schema, list[RoleGuess]]:
    """What each column means; ``given`` (keys of `Schema`) is decided already and is not guessed again.

    ``ids`` says what the id columns of "items" and "users" are called; columns of the interactions in ``ignore`` mean nothing,
    whatever they are called.  Columns of the interactions become no fields by themselves: what is known only after the fact
    would leak into the prediction.
    Raises DataError listing the candidates and the TOML line that decides, when names do not, and for a label or rating that
    cannot be read where nothing else says which rows are positive.
    """
    schema: dict[str, Any] = dict(given or {})
    ids = ids or {}
    guesses = [RoleGuess(f"interactions.{schema[role]}", role, GIVEN) for role in _INTERACTION_ROLES if schema.get(role)]
    taken = {schema[role] for role in _INTERACTION_ROLES if schema.get(role)}
    unread: dict[str, tuple[str, str]] = {}  # column called like a label or rating -> the role, why it has it not
    for role, tiers in _INTERACTION_ROLES.items():
        if role in schema or (role == "order" and schema.get("timestamp")) or (role == "timestamp" and schema.get("order")):
            continue
        free = [name for name in interactions.columns if name not in taken and name not in ignore]
        for at, tier in enumerate(tiers):
            column, why = _named(role, tier, free)
            if column is None:
                continue
            problem = _unfit(role, interactions[column].alias("").head(_LOOKED_AT))
            if not problem:
                others = [name for later in tiers[at + 1 :] for name in free if _plain(name) in later]
                if others and role in ("user", "item"):
                    why += f'; {role} = "{others[0]}" says otherwise'
                break
            if role in ("label", "rating"):
                unread[column] = (role, problem)
            guesses.append(RoleGuess(f"interactions.{column}", "not used", f"called like the {role}, but {problem}"))
            column = None
        else:
            column = None
        if column is None and role in ("user", "item"):
            column, why = _shared(role, interactions, free, users if role == "user" else items, ids.get(f"{role}s"))
        if column is None:
            continue
        schema[role] = column
        taken.add(column)
        guesses.append(RoleGuess(f"interactions.{column}", role, why))
    if unread and not (schema.get("label") or schema.get("rating")):
        raise DataError(_all_positive(unread))
    used = (
        taken
        | {entry.name for entry in schema.get("context_fields", ())}
        | {guess.column.partition(".")[2] for guess in guesses}
    )
    passed = (
        column_of("timestamp", interactions, [*used, *ignore]) if schema.get("order") and not schema.get("timestamp") else None
    )
    if passed is not None:
        said = f"the order is '{schema['order']}', as given; timestamp = \"{passed}\" brings a clock"
        guesses.append(RoleGuess(f"interactions.{passed}", "not used", said))
    guesses += [
        RoleGuess(f"interactions.{name}", "not used", "to use it write it under [[interactions.fields]]")
        for name in interactions.columns
        if name not in used and name != passed
    ]
    if items is not None:
        key = ids.get("items") or guess_id("items", items, schema["item"])
        guesses += _catalogue("items", items, key, schema, "item_fields")
    if users is not None:
        key = ids.get("users") or guess_id("users", users, schema["user"])
        guesses += _catalogue("users", users, key, schema, "user_fields")
    return Schema(**schema), guesses


def column_of(role: str, log: pl.DataFrame, ignore: Sequence[str] = ()) -> str | None:
    """The one column that is called like ``role``, whatever it holds; for the item also one called like a list of items."""
    tiers = (*_INTERACTION_ROLES[role], *((_ITEMS,) if role == "item" else ()))
    for tier in tiers:
        found = [name for name in log.columns if name not in ignore and _plain(name) in tier]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def guess_id(kind: str, table: pl.DataFrame, same_as: str | None) -> str:
    """The id column of the ``items`` or ``users`` table; ``same_as`` is what the interactions call it, where that is known."""
    if same_as in table.columns:
        return str(same_as)
    for tier in (*(_ITEM if kind == "items" else _USER), frozenset(["id"])):
        column, _ = _named("id", tier, table.columns, kind)
        if column is not None:
            return column
    raise DataError(
        f"{kind}: no column looks like the id (columns: {', '.join(table.columns)}); "
        f'write under [{kind}]: id = "{table.columns[0]}"'
    )


_INTERACTION_ROLES: Mapping[str, _Tiers] = {
    "user": _USER,
    "item": _ITEM,
    "timestamp": _TIMESTAMP,
    "order": _ORDER,
    "rating": _RATING,
    "label": _LABEL,
    "weight": _WEIGHT,
    "part": (),  # named or not there: half the columns called so are something else
}


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def _named(role: str, tier: frozenset[str], columns: Sequence[str], table: str = "interactions") -> tuple[str | None, str]:
    """The one column whose name is in ``tier``.  Raises DataError where there are several."""
    found = [name for name in columns if _plain(name) in tier]
    if len(found) > 1:
        lines = " or ".join(f'{role} = "{name}"' for name in found)
        raise DataError(
            f"{table}: {len(found)} columns could be the {role}: {', '.join(found)}; write under [{table}]: {lines}"
        )
    if found:
        return found[0], f"called like a {role} column" if role != "item" else "called like an item id"
    return None, ""


def _all_positive(unread: Mapping[str, tuple[str, str]]) -> str:
    """What is wrong where a column is called like a label or rating, cannot be read as one, and nothing else could be."""
    said = [f"column '{name}' is called like the {role}, but {problem}" for name, (role, problem) in unread.items()]
    [first, *_] = unread
    return (
        f"interactions: {'; '.join(said)}; without it every row would count as positive. Correct it (accepted: a label of 0 "
        "and 1, -1 and 1, true and false or yes and no; a rating in numbers), name another column, "
        f'take numbers as a rating: rating = "{first}" with positive_above = ..., or say that it means something else: '
        f'ignore = ["{first}"] (under [interactions] in TOML; in Python pass a schema)'
    )


def _shared(
    role: str, interactions: pl.DataFrame, free: Sequence[str], table: pl.DataFrame | None, key: str | None
) -> tuple[str, str]:
    """The only column that the interactions share with the catalogue."""
    kind = f"{role}s"
    if key in interactions.columns:
        return str(key), f"called like the id of the {kind} table"
    common = [name for name in interactions.columns if table is not None and name in table.columns]
    if len(common) == 1:
        return common[0], f"the only column shared with the {kind} table"
    names = common or free or interactions.columns
    raise DataError(
        f"interactions: no column is called like {'an' if role == 'item' else 'a'} {role} id (candidates: {', '.join(names)}); "
        f'write under [interactions]: {role} = "{names[0]}"'
    )


def _unfit(role: str, values: pl.Series) -> str:
    """Why the contents of a column cannot have its role, or ''."""
    if role in ("user", "item"):
        return ""
    kind = values.dtype
    if role == "label":
        values = of_words(values.cast(_text_type())) if kind in (_text_type(), *_categories()) else values
    numbers = _as_numbers(values)
    if role == "timestamp":
        return "" if kind.is_temporal() or numbers is not None or values.dtype.is_(_text_type()) else f"its type is {kind}"
    if numbers is None and kind == _text_type() and role in ("label", "rating"):
        cells = stripped(values).drop_nulls()
        read = int(read_numbers(cells).values.is_not_null().sum())
        if 2 * read > len(cells):  # mostly numbers: the others are bad rows, and named as such
            return ""
    if numbers is None:
        if kind.is_(_null_type()) or (kind == _text_type() and not stripped(values).count()):
            return "it is empty"
        return "it holds text" if kind in (_text_type(), *_categories()) else f"its type is {kind}"
    if role == "label":
        return trouble_of_labels(numbers)
    if role in ("weight", "order") and (numbers < 0).any():
        return "it holds negative values"
    if role == "order" and not ((numbers.drop_nulls() % 1) == 0).all():
        return "it holds fractions"
    return ""


def _text_type() -> Any:
    import polars as pl

    return pl.String


def _null_type() -> Any:
    import polars as pl

    return pl.Null


def _categories() -> tuple[Any, Any]:
    import polars as pl

    return pl.Categorical, pl.Enum


def _as_numbers(values: pl.Series) -> pl.Series | None:
    """Float64, or None when some cell is no number; numbers that can be read two ways are numbers, which reading tells."""
    import polars as pl

    if values.dtype.is_numeric() or values.dtype == pl.Boolean:
        return values.cast(pl.Float64)
    if values.dtype != pl.String:
        return None
    text = stripped(values)
    found = read_numbers(text)
    numbers = found.values if found.doubt is None else read_numbers(text, ",").values
    return None if (numbers.is_null() & text.is_not_null()).any() or not numbers.is_not_null().any() else numbers


def _catalogue(kind: str, table: pl.DataFrame, key: str, schema: dict[str, Any], fields_key: str) -> list[RoleGuess]:
    """Text, category and fields of the items or users table, written into ``schema``."""
    columns = [name for name in table.columns if name != key]
    roles = {name: field_of(table[name]) for name in columns}
    texts: tuple[str, ...] = tuple(schema.get("text", ())) if kind == "items" else ()
    if kind == "items":
        if "text" not in schema:
            groups = (_TITLES, _KINDS, _BODIES)
            called = [name for group in groups for name in columns if _plain(name) in group]
            texts = (*called, *(name for name in columns if roles[name][1] == _SENTENCES and name not in called))
            schema["text"] = texts
        if "category" not in schema:
            named = next((found for tier in _CATEGORY if (found := [name for name in columns if _plain(name) in tier])), [])
            if named:
                schema["category"] = named[0]
    chosen = (
        tuple(schema[fields_key]) if fields_key in schema else tuple(entry for entry, _ in roles.values() if entry is not None)
    )
    schema[fields_key] = chosen
    by_name = {entry.name: entry for entry in chosen}
    tiers = _ITEM if kind == "items" else _USER
    others = [name for tier in tiers for name in columns if _plain(name) in tier]
    otherwise = f'; id = "{others[0]}" says otherwise' if others else ""
    guesses = [RoleGuess(f"{kind}.{key}", "id", f"the id that the interactions use{otherwise}")]
    for name in columns:
        said = []
        if name in texts:
            said.append(f"text {texts.index(name) + 1}")
        if kind == "items" and name == schema.get("category"):
            said.append("category")
        if name in by_name:
            entry = by_name[name]
            cut = entry.kind == "multi" and roles[name][1] not in (_LISTS, _WRITTEN)
            said.append(f"field ({entry.kind}" + (f", cut at {entry.separator!r})" if cut else ")"))
        why = roles[name][1]
        if kind == "items" and not said and why == _OWN_VALUES:
            why += "; to have it read name it in items.text"
        guesses.append(RoleGuess(f"{kind}.{name}", " + ".join(said) or "not used", why))
    return guesses


def _of_sentences(text: pl.Series) -> bool:
    """Whether most cells are running text: a dozen words or more, at most three in five of them capitalised or no words, and
    three or more between any two marks that lists, paths and tags are cut at.  Scripts without spaces: three signs for a word.
    """
    cells = text.unique().head(_LOOKED_AT)
    signs = cells.str.count_matches(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]") // 3
    words = cells.str.count_matches(r"\S+") + signs
    odd = cells.str.count_matches(r"(?:^|\s)[^\s\p{Ll}\p{Lo}]")
    pieces = 1 + cells.str.count_matches(r"[,;|>/\\»›•、，]")
    written = cells.str.contains(r"^\s*[\[{(]")
    prose = (words >= 12) & (cells.str.len_chars() >= 36) & (5 * odd <= 3 * words) & (words >= 3 * pieces) & ~written
    return 2 * int(prose.sum()) > len(cells)


def _fractional(numbers: pl.Series) -> bool:
    return bool((numbers.drop_nulls() % 1 != 0).any())


def field_of(values: pl.Series) -> tuple[Field | None, str]:
    """The field that a catalogue column can be, or None, and why."""
    import polars as pl

    name, count, values = values.name, len(values), values.alias("")  # Polars reads some names as patterns
    if isinstance(values.dtype, pl.List) and not values.dtype.inner.is_nested():
        inner = values.explode(empty_as_null=True)
        return (None, _DECIMALS) if inner.dtype.is_float() and _fractional(inner) else (Field(name=name, kind="multi"), _LISTS)
    if values.dtype.is_nested() or values.dtype.is_temporal() or values.dtype in (pl.Binary, pl.Object):
        return None, f"values of type {values.dtype}"
    distinct = values.n_unique()
    if distinct < 2:
        return None, "one value for every row"
    # "1,2" under a name such as tags is two values, elsewhere a number with a decimal comma
    several = values.dtype == pl.String and _plain(name) in _SEVERAL and values.str.contains(",", literal=True).any()
    numbers = None if several else _as_numbers(values)
    if numbers is not None and values.dtype != pl.Boolean:
        if _fractional(numbers) or (distinct > _MANY and not _plain(name).endswith(_CODES)):
            return Field(name=name, kind="numeric"), f"{distinct:,} different numbers"
        return Field(name=name), f"{distinct:,} different whole numbers"
    text = values.cast(pl.String).drop_nulls()
    written = listed(text)
    if 2 * int(text.is_in(list(written)).sum()) > len(text):
        inner = pl.Series([each for own in written.values() for each in own], dtype=pl.String).cast(pl.Float64, strict=False)
        decimal = not inner.has_nulls() and _fractional(inner)
        return (None, _DECIMALS) if decimal else (Field(name=name, kind="multi"), _WRITTEN)
    if _of_sentences(text):
        return None, _SENTENCES
    for separator in _SEPARATORS:
        cut = int(text.str.contains(separator, literal=True).sum())
        if 10 * cut >= len(text) > 0 and (separator == "|" or _plain(name) in _SEVERAL):
            pieces = text.str.split(separator).list.explode(empty_as_null=True).str.strip_chars().n_unique()
            if 2 * pieces <= count or count < 20:
                return Field(name=name, kind="multi", separator=separator), f"{pieces:,} different values, several in a cell"
    if distinct > 0.9 * count and count > 1:
        return None, _OWN_VALUES
    return Field(name=name), f"{distinct:,} different values in {count:,} rows"
