"""Tables as Markdown."""

from __future__ import annotations

from rich.table import Table

from braidrec.experiments import markdown
from braidrec.runs.tables import plain_table


def test_a_table_becomes_markdown() -> None:
    table = plain_table("a [b]", ("x", "n"), [("one | two", 1234), ("[red]", 5)])
    body = "| x | n |\n| --- | ---: |\n| one \\| two | 1,234 |\n| [red] | 5 |"
    assert markdown.markdown(table) == f"**a [b]**\n\n{body}"
    assert markdown.markdown(table, titled=False) == body


def test_a_header_of_two_lines_is_told_in_full_and_columns_that_hold_nothing_are_left_out() -> None:
    table = Table()
    for header in ("row", "AUC\nprinted", "\nhere", "gain\nprinted", "\nhere", ""):
        table.add_column(header)
    table.add_row("a", "", ".8", " ", "+1%", "")
    assert markdown.markdown(table) == "| row | AUC here | gain here |  |\n| --- | --- | --- | --- |\n| a | .8 | +1% |  |"
    assert markdown.rows(("x", "y"), []) == "| x | y |\n| --- | --- |\n"


def test_a_link_to_a_heading() -> None:
    heading = "pad/fig6 on prime-pantry: Kendall's tau, (Fig. 5a)"
    assert markdown.anchor(heading) == "padfig6-on-prime-pantry-kendalls-tau-fig-5a"
