"""The command line: each command parses, calls one function, prints.  Heavy imports wait until a command needs them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from braidrec.registry import TASKS

if TYPE_CHECKING:
    from rich.table import Table

INTERRUPTED = 130


def _names(kind: str) -> str:
    """What each task has of ``kind``, for the help: names cost no import of what they name."""
    known = [TASKS[name] for name in TASKS if TASKS.readable(name)]
    return "; ".join(f"{task.title}: {' | '.join(own)}" for task in known if (own := _of_kind(task, kind)))


def _of_kind(task: Any, kind: str) -> tuple[str, ...]:
    return tuple(task.methods) if kind == "methods" else (*task.backbones, *task.models)


def _presets() -> str:
    return " | ".join(dict.fromkeys(preset for name in TASKS if TASKS.readable(name) for preset in TASKS[name].presets))


app = typer.Typer(
    help="Recommenders from behaviour and meaning: prepare a log, read the catalogue, train, compare, recommend.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data = typer.Typer(help="Prepare interaction logs and catalogues.", no_args_is_help=True)
knowledge = typer.Typer(help="Item text to vectors, stored once by id.", no_args_is_help=True)
app.add_typer(data, name="data")
app.add_typer(knowledge, name="knowledge")

Out = Annotated[Path | None, typer.Option("--out", help="Folder to write; made from the name when left out.")]
RunPath = Annotated[Path, typer.Argument(help="A run directory.")]
DataPath = Annotated[Path, typer.Argument(help="A prepared data set.")]
KnowledgePath = Annotated[Path, typer.Argument(help="A knowledge base folder.")]


def main() -> None:
    """Entry point: a braidrec error is one line on stderr and exit code 2, never a traceback."""
    from braidrec.errors import BraidError
    from braidrec.memory import keep_freed_pages

    keep_freed_pages()
    try:
        app(prog_name="braidrec")
    except (BraidError, OSError) as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # how Typer ends on Ctrl-C, without a word
            print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        raise


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for everything the tour makes.")] = Path("quickstart"),
    planted: Annotated[
        bool, typer.Option("--planted", help="Use the generated planted world even where MovieLens is at hand.")
    ] = False,
) -> None:
    """A tour in minutes: data, knowledge base, a ranker and a next-item model, plain and enhanced, honest test numbers."""
    from braidrec.quickstart import run

    run(out, planted=planted, show=_print)


# -- data ---------------------------------------------------------------------------------------------------------------


@data.command("list")
def data_list() -> None:
    """The public data sets that can be prepared by name."""
    from braidrec.data.intake.sources import DATA_SETS

    known = [DATA_SETS[name] for name in DATA_SETS if DATA_SETS.readable(name)]
    _print(_table("public data sets", ("name", "what", "licence"), [(each.name, each.title, each.license) for each in known]))


@data.command("prepare")
def data_prepare(
    what: Annotated[
        str, typer.Argument(help="A public data set's name (see 'data list'), or a TOML file that describes yours.")
    ],
    source: Annotated[
        Path | None, typer.Option(help="The data set's official archive, where it is not in BRAIDREC_DATA.")
    ] = None,
    out: Out = None,
    vocabulary: Annotated[str | None, typer.Option(help="train (default), or all: every id of the log has its row.")] = None,
    negatives: Annotated[
        int | None,
        typer.Option(help="Negatives per positive, for logs of positives only; each takes its positive's sample weight."),
    ] = None,
    cold_items: Annotated[float | None, typer.Option(help="Share of items to hide from training, seeded.")] = None,
    tie: Annotated[str | None, typer.Option(help="integer (default) or string: how ids break ties in time.")] = None,
    duplicates: Annotated[str | None, typer.Option(help="Rows equal in every column: merge (default), keep, or error.")] = None,
    repeats: Annotated[str | None, typer.Option(help="A user's events with one item: keep (all), first, or last.")] = None,
    k_core: Annotated[int | None, typer.Option(help="Leave out users and items with fewer events.")] = None,
    ties: Annotated[
        str | None, typer.Option(help="A user's events of one second: order (by item id), or exclude (from each other's past).")
    ] = None,
    sequences: Annotated[
        str | None, typer.Option(help="What next-item models follow and name: positives (default), or all events.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the folder if it is there.")] = False,
) -> None:
    """Number, order and split a log into a folder that opens instantly."""
    from braidrec.runs.preparing import prepare

    dataset = prepare(
        what,
        source,
        out,
        vocabulary=vocabulary,
        negatives=negatives,
        cold_items=cold_items,
        tie=tie,
        duplicates=duplicates,
        repeats=repeats,
        k_core=k_core,
        ties=ties,
        sequences=sequences,
        overwrite=overwrite,
    )
    _show_dataset(dataset)
    _print(f"next: braidrec knowledge build {dataset.path}")


@data.command("show")
def data_show(path: DataPath) -> None:
    """Counts, fields and notes of a prepared data set; every file is checked against its digest."""
    from braidrec.data.dataset import Dataset

    _show_dataset(Dataset.open(path))


# -- knowledge ------------------------------------------------------------------------------------------------------------


@knowledge.command("build")
def knowledge_build(
    dataset: DataPath,
    out: Out = None,
    encoder: Annotated[
        str,
        typer.Option(
            help="offline | tfidf | a sentence-transformers name or folder | a TOML file with one encoder's settings; "
            "'braidrec list' has the kinds."
        ),
    ] = "offline",
    missing: Annotated[str, typer.Option(help="Items without text: mean (of the others), or error.")] = "mean",
    yes: Annotated[bool, typer.Option("--yes", help="Start a paid endpoint without asking.")] = False,
) -> None:
    """Encode the catalogue's text; what is already encoded stays as it is."""
    from braidrec.runs.knowledge import build

    report = build(dataset, out, encoder, missing=missing, confirm=None if yes else typer.confirm)
    _print(report)


@knowledge.command("sync")
def knowledge_sync(
    dataset: DataPath,
    path: KnowledgePath,
    yes: Annotated[bool, typer.Option("--yes", help="Start a paid endpoint without asking.")] = False,
) -> None:
    """Encode only new and changed text, with the encoder and prompt of the knowledge base."""
    from braidrec.runs.knowledge import sync

    _print(sync(dataset, path, confirm=None if yes else typer.confirm))


@knowledge.command("nearest")
def knowledge_nearest(
    path: KnowledgePath,
    item: Annotated[str | None, typer.Option("--id", help="An item id.")] = None,
    text: Annotated[str | None, typer.Option(help="Any text.")] = None,
    k: Annotated[int, typer.Option("-k")] = 10,
) -> None:
    """Items nearest in meaning to an item or a text."""
    from braidrec.runs.knowledge import nearest

    _print(_table("nearest in meaning", ("item", "text", "cosine"), nearest(path, item, text, k)))


@knowledge.command("versions")
def knowledge_versions(path: KnowledgePath) -> None:
    """Kept versions of the knowledge base, newest last."""
    from braidrec.runs.knowledge import versions

    _print(_table("versions", ("version", "time", "rows"), versions(path)))


@knowledge.command("verify")
def knowledge_verify(path: KnowledgePath) -> None:
    """Check counts, duplicates and the digest of the derived matrix."""
    from braidrec.runs.knowledge import verify

    _print(verify(path))


@knowledge.command("trust")
def knowledge_trust(
    path: KnowledgePath,
    key_variable: Annotated[str | None, typer.Option(help="The environment variable with your key for this address.")] = None,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="The address may be on this machine or in a private network.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Let a knowledge base that you did not build send text to the address that it names; asked once, then remembered."""
    from braidrec.runs.knowledge import trust

    _print(trust(path, key_variable, allow_private=allow_private, confirm=None if yes else typer.confirm))


# -- runs -----------------------------------------------------------------------------------------------------------------


@app.command()
def fit(
    file: Annotated[Path | None, typer.Argument(help="A run file (TOML); settings can also be given as options.")] = None,
    dataset: Annotated[Path | None, typer.Option("--data", help="A prepared data set.")] = None,
    base: Annotated[
        list[Path] | None,
        typer.Option("--knowledge", help="A knowledge base folder; repeated, their vectors stand side by side."),
    ] = None,
    backbone: Annotated[str | None, typer.Option(help=f"{_names('backbones')}.")] = None,
    enhance: Annotated[list[str] | None, typer.Option(help=f"{_names('methods')}; may be repeated.")] = None,
    task: Annotated[str | None, typer.Option(help="Where two tasks have a backbone of the name.")] = None,
    preset: Annotated[str | None, typer.Option(help=_presets())] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    negatives: Annotated[
        int | None, typer.Option(help="To rank logs of positives only: negatives per positive, which take its sample weight.")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, such as model.dim=64; may be repeated.")
    ] = None,
    out: Out = None,
) -> None:
    """Train one model into a run directory; the same command again resumes or loads it."""
    from braidrec.config import parse_changes, read_request, resolve
    from braidrec.errors import ConfigError
    from braidrec.strict import merge

    options: dict[str, Any] = {
        "data": dataset and str(dataset),
        "knowledge": [str(each) for each in base] if base else None,
        "backbone": backbone,
        "enhance": enhance or None,
        "task": task,
        "preset": preset,
        "seed": seed,
        "negatives": negatives,
    }
    given = merge({name: value for name, value in options.items() if value is not None}, parse_changes(changes or ()))
    where = str(file) if file else "fit"
    if file is None and "data" not in given:
        raise ConfigError("fit: give a run file, or --data with a prepared data set")
    request = read_request(file, given)
    config = resolve(request, where)
    if request.backbone is None:
        _print(f"no backbone is named: {config.backbone}, of the task '{config.task}' ({config.chosen.task.title})")
    from braidrec.runs.fit import fit_config

    name = "-".join((config.backbone, *config.enhance, config.preset, f"s{config.seed}"))
    run = fit_config(config, out or Path("runs") / Path(request.data).name / name)
    if config.knowledge and not run.task.reads_text(config):
        _print(f"note: {', '.join(config.knowledge)}: not read, for {run.title} reads no text")
    best, speed, tables = run.record["best"], run.record["training"]["samples_per_second"], run.record["choices"].get("tables")
    _print(
        f"{run.title}: best validation {run.headline} at step {best['step']:,}; "
        f"{speed:,.0f} samples/s{f', tables {tables}' if tables else ''}\n"
        f"{run.path}\nnext: braidrec evaluate {run.path}"
    )


@app.command("list")
def list_names(
    name: Annotated[str | None, typer.Argument(help="One of the names: its settings, with what each preset sets.")] = None,
) -> None:
    """Everything that can be chosen by name: backbones, enhancers, models, baselines, text encoders, data sets, tasks."""
    from braidrec.runs.listing import listing, settings_tables

    for part in listing() if name is None else settings_tables(name):
        _print(part)


@app.command()
def evaluate(
    path: RunPath,
    part: Annotated[str, typer.Option(help="test | valid")] = "test",
    baselines: Annotated[bool, typer.Option(help="Show the rankings without learning beside it.")] = True,
) -> None:
    """A held-out part by slice, beside simple baselines: AUC and log loss of rankings, hits and nDCG of next items."""
    from braidrec.runs.tables import evaluation_table

    _print(evaluation_table([path], part, baselines=baselines))


@app.command()
def compare(
    paths: Annotated[
        list[Path], typer.Argument(help="Runs; those that differ by seed alone count as one model, the first is the reference.")
    ],
) -> None:
    """Several models on the same test rows, with a paired test against the first."""
    from braidrec.runs.tables import comparison_tables

    for table in comparison_tables(paths):
        _print(table)


@app.command()
def recommend(
    path: RunPath,
    user: Annotated[str | None, typer.Option(help="A user of the data set.")] = None,
    items: Annotated[str | None, typer.Option(help="For somebody new: ids they liked, oldest first, by commas.")] = None,
    all_users: Annotated[bool, typer.Option("--all-users", help="Everybody, into the Parquet file --out.")] = False,
    out: Annotated[Path | None, typer.Option(help="Parquet file for --all-users.")] = None,
    k: Annotated[int, typer.Option("-k", help="How many.")] = 10,
    exclude_seen: Annotated[bool, typer.Option("--exclude-seen/--include-seen")] = True,
    allow: Annotated[Path | None, typer.Option(help="Only these ids, one a line.")] = None,
    deny: Annotated[Path | None, typer.Option(help="Never these ids, one a line.")] = None,
    dataset: Annotated[
        Path | None, typer.Option("--data", help="The run's prepared data set, where it is no longer where it was.")
    ] = None,
) -> None:
    """The best items for a user, for a list of liked items, or for everybody."""
    from braidrec.data.dataset import Dataset
    from braidrec.errors import ConfigError
    from braidrec.runs.run import load
    from braidrec.runs.tables import read_ids

    run = load(path, dataset=Dataset.open(dataset) if dataset else None)
    allowed, denied = read_ids(allow) if allow else None, read_ids(deny) if deny else ()
    if all_users:
        if out is None or user is not None or items is not None:
            raise ConfigError("recommend --all-users writes a file: give --out recs.parquet, and neither --user nor --items")
        rows = run.recommend_all(out, k=k, exclude_seen=exclude_seen, allow=allowed, deny=denied)
        _print(f"{rows:,} recommendations for {run.dataset.num_users:,} users: {out}")
        return
    liked = [part.strip() for part in items.split(",") if part.strip()] if items is not None else None
    found = run.recommend(user, items=liked, k=k, exclude_seen=exclude_seen, allow=allowed, deny=denied)
    title = f"for user {user}" if user is not None else f"for somebody new who liked {items}"
    scale = "p(positive)" if run.model.probabilities else "score"
    listed = [(at, each.item, each.title, f"{each.score:.3f}") for at, each in enumerate(found, 1)]
    _print(_table(title, ("#", "item", "title", scale), listed))
    for note in run.notes(new_user=user is None):
        _print(note)


@app.command("add-items")
def add_items(
    path: RunPath,
    items: Annotated[Path, typer.Argument(help="A table with the catalogue's id and text columns, and any of its fields.")],
) -> None:
    """Make items recommendable that came after training, by their text; they stay with the run."""
    from braidrec.data.intake.readers import ReadConfig, read_table
    from braidrec.runs.run import load

    run = load(path)
    count = run.add_items(read_table(items, what="items", read=ReadConfig()).frame)
    _print(f"{count:,} item{'s' * (count != 1)} added; {run.path} can now recommend {run.num_items:,}")


@app.command()
def reproduce(
    experiment: Annotated[
        str | None, typer.Argument(help="A table or figure, such as pad/table2; left out, all of them are listed.")
    ] = None,
    dataset: Annotated[str | None, typer.Option("--data", help="The data set, where there are several.")] = None,
    seeds: Annotated[
        int | None, typer.Option(help="1 to so many for every row but ablations; left out, each row has its own.")
    ] = None,
    prepared: Annotated[Path, typer.Option(help="Folder of prepared data sets; what is missing is made.")] = Path("prepared"),
    base: Annotated[Path, typer.Option("--knowledge", help="Folder of knowledge bases; what is missing is made.")] = Path(
        "knowledge"
    ),
    runs: Annotated[Path, typer.Option(help="Folder of run directories.")] = Path("runs/reproduce"),
    results: Annotated[Path, typer.Option(help="Folder of finished cells and tables.")] = Path("results"),
    minutes: Annotated[float | None, typer.Option(help="Start no cell after so many.")] = None,
    only: Annotated[str | None, typer.Option(help="Make these rows alone: names by commas, * for any letters.")] = None,
    encoder: Annotated[
        str | None, typer.Option(help="One more row with text by this encoder, as in 'knowledge build' (pad/rq6).")
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(help="Train nothing; write every table to this Markdown file, or the first screen's between its marks."),
    ] = None,
) -> None:
    """Print a paper's table or figure with measured numbers; only the cells that are missing or stale are trained."""
    from braidrec.experiments import reproduce as tables

    if page is not None:
        from braidrec.experiments.page import write_page

        write_page(page, results)
        _print(f"{page}")
        return
    if experiment is None:
        _print(tables.listing(results))
        return
    for part in tables.reproduce(
        experiment,
        dataset,
        seeds,
        prepared=prepared,
        knowledge=base,
        runs=runs,
        results=results,
        minutes=minutes,
        only=only,
        encoder=encoder,
        confirm=typer.confirm,
    ):
        _print(part)


@app.command()
def bench(
    parts: Annotated[
        str | None, typer.Option(help="Some of: memory, data, training, knowledge, tables, sequential, text (by commas).")
    ] = None,
    prepared: Annotated[Path | None, typer.Option("--data", help="A prepared data set; a planted world when left out.")] = None,
    seconds: Annotated[float, typer.Option(help="Time for each measurement.")] = 5.0,
) -> None:
    """Speed and memory of this machine and of the toolkit on it, as ratios."""
    from braidrec.bench.marks import report

    _print(report([part.strip() for part in parts.split(",")] if parts else None, prepared, seconds))


def _show_dataset(dataset: Any) -> None:
    from braidrec.runs.tables import dataset_tables

    for table in dataset_tables(dataset):
        _print(table)


def _table(title: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Table:
    from braidrec.runs.tables import plain_table

    return plain_table(title, columns, rows)


def _print(value: Any) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 140, emoji=False)
    console.print(value, highlight=False, soft_wrap=isinstance(value, str), markup=not isinstance(value, str))
