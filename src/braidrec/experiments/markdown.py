"""Tables as Markdown, and what headings are called in links."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def markdown(table: Table, *, titled: bool = True) -> str:
    """A table as it is printed, its title above it; of two lines of a header an empty first one is that to its left."""
    from rich.text import Text

    def plain(value: Any) -> str:
        return Text.from_markup(str(value)).plain

    heads, group = list[str](), ""
    for column in table.columns:
        above, broken, below = plain(column.header).partition("\n")
        group = above or (group if broken else "")
        heads.append(f"{group} {below}".strip())
    columns = [[plain(cell) for cell in column.cells] for column in table.columns]
    right = [column.justify == "right" for column in table.columns]
    body = rows(heads, list(zip(*columns, strict=True)), right).rstrip()
    return f"**{plain(table.title)}**\n\n{body}" if table.title and titled else body


def rows(head: Sequence[str], lines: Sequence[Sequence[str]], right: Sequence[bool] | None = None) -> str:
    """Lines of one table, without columns that hold nothing; a bar within a cell is text, a line break within one a space."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(' '.join(cells[at].split()).replace('|', chr(92) + '|') for at in kept)} |\n"

    kept = [at for at, name in enumerate(head) if not lines or not name or any(cells[at].strip() for cells in lines)]
    aligned = right or [False] * len(head)
    rule = ["---:" if aligned[at] else "---" for at in kept]
    return line(head) + f"| {' | '.join(rule)} |\n" + "".join(map(line, lines))


def anchor(heading: str) -> str:
    """What a link to a heading ends in, as GitHub makes it: small letters, spaces as hyphens, no marks but - and _."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
