"""Moments in any form to whole seconds since 1970; where a form has two readings, both are named and nothing is read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from braidrec.data.intake.checked import CheckedTable, as_whole, last_place
from braidrec.data.intake.delimited import SAID_IN
from braidrec.data.intake.numbers import stripped
from braidrec.errors import DataError

if TYPE_CHECKING:
    import polars as pl

_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_BORDERS = (10**11, 10**14, 10**17)  # 10^11 s is the year 5138; 10^11 ms is March 1973
_YEAR = 31_536_000  # seconds; what ends before 1971 is no clock
_COMPACT = {4: "%Y", 8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

_DAY = r"(?P<d>\d{1,2})(?:st|nd|rd|th)?"
_MONTH = r"(?P<mon>[A-Za-z]{3,9})"
_WEEKDAY = r"(?:[A-Za-z]{3,9},?\s+)?"
_CLOCK = r"(?P<H>\d{1,2}):(?P<M>\d{2})(?::(?P<S>\d{2})(?:[.,](?P<f>\d{1,9}))?)?"
_ZONE = r"(?P<z>Z|z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?"
_TIME = rf"(?:(?:[Tt]|,?\s+){_CLOCK}\s*(?P<ap>[AaPp])?(?:\.?[Mm]\.?)?)?\s*{_ZONE}$"
_FORMS = {
    "iso": rf"^(?P<y>\d{{4}})[-/.](?P<m>\d{{1,2}})[-/.](?P<d>\d{{1,2}}){_TIME}",
    "numbers": rf"^(?P<a>\d{{1,2}})[-/. ](?P<b>\d{{1,2}}),?[-/. ](?P<y>\d{{4}}){_TIME}",
    "day first": rf"^{_WEEKDAY}{_DAY}[-\s./]+{_MONTH}\.?,?[-\s./]+(?P<y>\d{{4}}){_TIME}",
    "month first": rf"^{_WEEKDAY}{_MONTH}\.?\s+{_DAY},?\s+(?P<y>\d{{4}}){_TIME}",
    "year last": rf"^{_WEEKDAY}{_MONTH}\s+{_DAY}\s+{_CLOCK}\s+{_ZONE}\s*(?P<y>\d{{4}})$",
}
_SHORT_YEAR = rf"^\d{{1,2}}[-/.]\d{{1,2}}[-/.]\d{{2}}{_TIME}"
_NO_TIME = "is not a time; seconds since 1970 or ISO 8601 dates such as 2024-05-31T18:00:00+02:00 are accepted"
_SETTLES = f"{SAID_IN}, or bring dates"


def seconds_of(log: CheckedTable, column: str) -> pl.Series:
    """Whole seconds since 1970 from numbers in any unit, dates, or text of either."""
    import polars as pl

    values, read = log.column(column), log.raw.read
    if read.time_format is not None:
        values = as_whole(values)
        if values.dtype.is_float() and not log.raw.typed:
            values = values.cast(pl.String)  # as it was written: only what can be written back became a number
        if not (values.dtype == pl.String or values.dtype.is_integer()):
            raise DataError(
                f"{log.raw.where}, column '{column}': type {values.dtype} where time_format = {read.time_format!r} reads text "
                f"or whole numbers; leave it out {SAID_IN} or bring text"
            )
        return _seconds_of_clock(log, column, _by_format(log, column, values, read.time_format))
    if values.dtype == pl.String:
        values = _clock_of_text(log, column, values)
    if values.dtype == pl.Date:
        log.note(f"column '{column}': dates without a time of day, so what happened in one day has no order")
        values = values.cast(pl.Datetime("us"))
    if isinstance(values.dtype, pl.Datetime):
        return _seconds_of_clock(log, column, values)
    if values.dtype.is_temporal():
        raise DataError(
            f"{log.raw.where}, column '{column}': type {values.dtype} is no point in time; use dates or seconds since 1970"
        )
    log.put(column, values)
    if read.time_unit is not None:
        return _by_unit(log, column, read.time_unit)
    cut = f', or say time_unit = "s" {SAID_IN}: fractions then say what came first'
    return _by_size(log, column, log.whole(column, "seconds since 1970", otherwise=cut))


def _by_unit(log: CheckedTable, column: str, unit: str) -> pl.Series:
    import polars as pl

    numbers, factor = log.numbers(column, f"{_UNITS[unit]} since 1970"), 1000 ** list(_UNITS).index(unit)
    log.refuse(column, (numbers < 0).fill_null(False), "is negative (the timestamp); numbers from 0 on are accepted")
    whole = numbers.cast(pl.Int64, strict=False)  # towards zero
    log.refuse(column, numbers.is_not_null() & whole.is_null(), "does not fit 64 bits (the timestamp)")
    cut = int(((whole % factor != 0) | (whole.cast(pl.Float64) != numbers.cast(pl.Float64))).sum())
    if cut:
        _keep_fractions(log, column, numbers if factor == 1 else whole, cut)
    return whole // factor


def _keep_fractions(log: CheckedTable, column: str, fine: pl.Series, cut: int) -> None:
    log.note(f"column '{column}': fractions of a second cut in {cut:,} rows; they still say which event came first")
    log.keep_moment(fine)


def _by_size(log: CheckedTable, column: str, numbers: pl.Series) -> pl.Series:
    """The unit that makes moments of whole numbers; refused where they are dates in digits as well."""
    low, high = numbers.arg_min(), numbers.arg_max()
    if low is None or high is None:
        return numbers
    _refuse_compact(log, column, numbers)
    units = [sum(int(numbers[row]) >= border for border in _BORDERS) for row in (low, high)]
    names = list(_UNITS.values())
    if units[0] != units[1]:
        parts = [
            f"{numbers[row]} ({last_place(log, row)}) looks like {names[unit]}"
            for row, unit in zip((low, high), units, strict=True)
        ]
        raise DataError(
            f"{log.raw.where}, column '{column}': mixed units, {' and '.join(parts)}; write all of them in seconds since 1970"
        )
    seconds = numbers // 1000 ** units[0]
    cut = int((numbers % 1000 ** units[0] != 0).sum())
    if cut:
        _keep_fractions(log, column, numbers, cut)
    first, last = (_moment(int(seconds[row])) for row in (low, high))
    if units[0]:
        log.note(
            f"column '{column}': timestamps in {names[units[0]]} (told by their size), made whole seconds: {first} to {last}; "
            "time_unit says otherwise"
        )
    elif int(seconds[high]) < _YEAR:
        log.note(
            f"the times are {seconds[low]} to {seconds[high]}, read as seconds from {first} to {last}: where they count places "
            f'and are no clock, order = "{column}" says so'
        )
    return seconds


def _refuse_compact(log: CheckedTable, column: str, numbers: pl.Series) -> None:
    """Raise DataError where most numbers are dates in digits, such as 20210304, as well as seconds since 1970."""
    import polars as pl

    middle = numbers.quantile(0.5, "nearest")  # of one length with most of them, if most have one
    assert middle is not None
    digits = len(str(int(middle)))
    form, count = _COMPACT.get(digits), len(numbers) - numbers.null_count()
    if form is None:
        return
    possible = numbers.is_between(10 ** (digits - 1), 10**digits - 1) & (numbers // 10 ** (digits - 4)).is_between(1900, 2100)
    possible = possible.fill_null(False)
    if 2 * int(possible.sum()) <= count:
        return
    clock = _parsed(numbers.set(~possible, None).cast(pl.String), form)
    dates = clock.is_not_null()
    odd = ~dates & numbers.is_not_null()
    if 2 * int(dates.sum()) <= count or (form == "%Y" and odd.any()):  # a number beside years may count anything
        return
    row, other = dates.arg_max(), odd.arg_max()
    assert row is not None
    assert other is not None
    first = int(numbers[row])
    unit = sum(first >= border for border in _BORDERS)
    dated = f"{'the year' if form == '%Y' else 'the date'} {clock[row]}"
    if odd.any():
        dated += f" (like {int(dates.sum()):,} of {count:,} values, but not {numbers[other]}, {last_place(log, other)})"
    raise log.fail(
        column,
        row,
        f"can be read two ways: as {dated}, or as {list(_UNITS.values())[unit]} since 1970 ({_moment(first // 1000**unit)}); "
        f'say which: time_format = "{form}" or time_unit = "{list(_UNITS)[unit]}" {_SETTLES}',
    )


def _by_format(log: CheckedTable, column: str, values: pl.Series, form: str) -> pl.Series:
    import polars as pl

    text = stripped(values.cast(pl.String))
    try:
        clock = _parsed(text, form)
    except pl.exceptions.PolarsError as cause:
        raise DataError(f"{log.raw.where}, column '{column}': time_format = {form!r} is no format of times ({cause})") from None
    log.refuse(column, clock.is_null() & text.is_not_null(), f"is not a time as time_format = {form!r} says")
    return clock


def _parsed(text: pl.Series, form: str) -> pl.Series:
    """As Datetime, null where the text does not fit; what the format leaves out is the first of its kind."""
    import polars as pl

    for more, needs, filling in (("%m", "%Y", "01"), ("%d", "%m", "01"), ("%M", "%H", "00")):
        if needs in form and more not in form and not any(each in form for each in ("%b", "%B", "%j", "%s", "%T", "%R", "%F")):
            form, text = f"{form} {more}", text + f" {filling}"
    zoned = "%z" in form or "%#z" in form
    if not any(each in form for each in ("%H", "%I", "%T", "%R", "%s", "%X", "%c")):
        if zoned:
            return _parsed(text + " 00:00", f"{form} %H:%M")
        return text.str.to_date(form, strict=False).cast(pl.Datetime("us"))
    return text.str.to_datetime(form, strict=False, time_unit="us", time_zone="UTC" if zoned else None)


def _clock_of_text(log: CheckedTable, column: str, text: pl.Series) -> pl.Series:
    """Text as numbers when all of it is, else as moments in UTC."""
    import polars as pl

    bare = stripped(text)
    given = bare.is_not_null()
    numbers = bare.cast(pl.Float64, strict=False)
    if not (given & numbers.is_null()).any() or 2 * int(numbers.is_not_null().sum()) >= int(given.sum()):
        return text  # all or most of it is numbers: the others are named as such
    clock = pl.Series([None], dtype=pl.Datetime("us", "UTC")).new_from_index(0, len(bare))
    zoned = dated = 0
    for name, form in _FORMS.items():
        open_cells = given & clock.is_null()
        if not open_cells.any():
            break
        at = open_cells.arg_true()
        parts = bare.gather(at).str.extract_groups(form).struct.unnest()
        fits = parts["y"].is_not_null()
        if not fits.any():
            continue
        at, parts = at.filter(fits), parts.filter(fits)
        if name == "numbers":
            parts = _day_and_month(log, column, at, parts)
        found = _moments(parts)
        clock = clock.scatter(at, found)
        zoned += int((parts["z"].is_not_null() & found.is_not_null()).sum())
        dated += int((parts["H"].is_null() & found.is_not_null()).sum())
    _refuse_short_years(log, column, bare, clock)
    if not clock.is_not_null().any():
        row = given.arg_max()
        assert row is not None
        raise log.fail(column, row, _NO_TIME)
    log.refuse(column, clock.is_null() & given, _NO_TIME)
    read = int(clock.is_not_null().sum())
    if dated:
        log.note(
            f"column '{column}': {dated:,} of {read:,} dates have no time of day, so what happened in one day has no order"
        )
    if 0 < zoned < read:
        log.note(f"column '{column}': {read - zoned:,} of {read:,} times name no zone; read as UTC")
    return clock


def _day_and_month(log: CheckedTable, column: str, at: pl.Series, parts: pl.DataFrame) -> pl.DataFrame:
    """Which of two numbers is the day: the one that is above 12 anywhere.  Raises DataError where neither is, or both are."""
    import polars as pl

    first, second = (parts[name].cast(pl.Int64) for name in ("a", "b"))
    day_first, month_first = first > 12, second > 12
    if day_first.any() and month_first.any():
        rows = [int(at[int(marks.arg_max() or 0)]) for marks in (day_first, month_first)]
        raise log.fail(
            column,
            rows[1],
            f"has the month first, but {log.raw.frame[column][rows[0]]!r} ({last_place(log, rows[0])}) the day; write one form",
        )
    if not (day_first.any() or month_first.any()):
        row = int(at[0])
        year, one, two = parts["y"][0], int(first[0]), int(second[0])
        raise log.fail(
            column,
            row,
            f"can be read two ways: as {year}-{two:02}-{one:02} (day first), or as {year}-{one:02}-{two:02} (month first), and "
            f'no row tells; say which: time_format = "{_format_of(log, column, row, day=True)}" or '
            f'"{_format_of(log, column, row, day=False)}" {_SETTLES}',
        )
    named = "day first" if day_first.any() else "month first"
    seen = parts.filter(day_first | month_first)
    log.note(f"column '{column}': dates read with the {named}, as {seen['a'][0]} and {seen['b'][0]} can only be")
    day, month = ("a", "b") if day_first.any() else ("b", "a")
    return parts.with_columns(d=pl.col(day), m=pl.col(month))


def _format_of(log: CheckedTable, column: str, row: int, *, day: bool) -> str:
    """The format in which one cell is written."""
    import re

    order = iter(("%d", "%m") if day else ("%m", "%d"))
    cell = str(log.raw.frame[column][row]).strip()
    date, *clock = re.split(r"(?<=\d{4})", cell, maxsplit=1)
    form = re.sub(r"\d{1,4}", lambda match: "%Y" if len(match[0]) == 4 else next(order), date)
    rest = iter(("%H", "%M", "%S"))
    return form + re.sub(r"\d{1,2}", lambda match: next(rest, match[0]), "".join(clock))


def _moments(parts: pl.DataFrame) -> pl.Series:
    """Datetime in UTC of groups of digits and names; null where there is no such day or hour."""
    import polars as pl

    def part(name: str, empty: str) -> pl.Series:
        return (
            parts[name] if name in parts.columns else pl.Series([None], dtype=pl.String).new_from_index(0, len(parts))
        ).fill_null(empty)

    month = part("m", "")
    if "mon" in parts.columns:
        months = {name: str(at) for at, name in enumerate(_MONTHS, start=1)}
        month = parts["mon"].str.to_lowercase().str.head(3).replace_strict(months, default=None, return_dtype=pl.String)
    hour = part("H", "0").cast(pl.Int64)
    noon = part("ap", "").str.to_lowercase()
    valid = (noon == "") | hour.is_between(1, 12)
    hour = (hour % 12 + 12).zip_with(noon == "p", (hour % 12).zip_with(noon == "a", hour))
    pieces = pl.DataFrame(
        {"y": parts["y"], "m": month, "d": part("d", ""), "H": hour.cast(pl.String), "M": part("M", "0"), "S": part("S", "0")}
    )
    text = pieces.select(pl.format("{}-{}-{} {}:{}:{}", *pieces.columns)).to_series()
    clock = text.str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False, time_unit="us")
    zone = part("z", "").str.to_uppercase()
    offset = zone.str.extract(r"^[+-](\d{2})").fill_null("0").cast(pl.Int64) * 60
    offset += zone.str.extract(r"^[+-]\d{2}:?(\d{2})").fill_null("0").cast(pl.Int64)
    offset = (-offset).zip_with(zone.str.starts_with("-"), offset)
    fraction = part("f", "0").str.head(6).str.pad_end(6, "0").cast(pl.Int64)
    micro = clock.dt.epoch("us") + fraction - offset * 60_000_000
    return micro.set(~valid, None).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def _refuse_short_years(log: CheckedTable, column: str, bare: pl.Series, clock: pl.Series) -> None:
    """Raise DataError for dates such as 03/04/21, whose year may stand first or last."""
    short = clock.is_null() & bare.str.contains(_SHORT_YEAR).fill_null(False)
    row = short.arg_max()
    if row is None or not short.any():
        return
    raise log.fail(
        column,
        row,
        'can be read two ways or more: day, month and year have two digits each; say which: time_format = "%d/%m/%y", '
        f'"%m/%d/%y" or "%y/%m/%d" {_SETTLES}',
    )


def _seconds_of_clock(log: CheckedTable, column: str, clock: pl.Series) -> pl.Series:
    import polars as pl

    log.refuse(column, clock.is_null() & ~log.bad, "is empty (the timestamp); fill it in or delete the row")
    kind: Any = clock.dtype
    fine = clock.cast(pl.Datetime("us", kind.time_zone)).dt.epoch("us")
    seconds = fine // 1_000_000
    log.refuse(column, (seconds < 0).fill_null(False), "lies before 1970; later times are accepted")
    zone = "as UTC" if kind.time_zone in (None, "UTC") else f"from {kind.time_zone}"
    cut = int((fine % 1_000_000 != 0).sum())
    log.note(f"column '{column}': dates read {zone} to seconds since 1970")
    if cut:
        _keep_fractions(log, column, fine, cut)
    return seconds


def _moment(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return f"{seconds} s"
