"""The command line: each command parses, calls one function, prints.  Heavy imports wait until a command needs them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from braidrec.registry import TASKS

if TYPE_CHECKING:
    from rich.table import Table

    from braidrec.data.intake.readers import ReadConfig
    from braidrec.runs.run import Run

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
RunData = Annotated[
    Path | None,
    typer.Option("--data", help="The run's prepared data set, where it is no longer where it was, or the log has grown since."),
]
RunKnowledge = Annotated[
    list[Path] | None,
    typer.Option("--knowledge", help="The run's knowledge base, where it is no longer where it was; repeated, in its order."),
]
Reading = Annotated[
    list[str] | None,
    typer.Option(
        "--read",
        help="How your files are read: encoding=cp1252, separator=';', quoting=false, on_bad_rows=skip; may be repeated.",
    ),
]
Device = Annotated[str, typer.Option(help="auto | cpu | cuda | mps")]


def _more_threads(wanted: int | None) -> int | None:
    if wanted is not None:
        from braidrec.threads import settle

        settle(wanted)
    return wanted


Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1024,
        callback=_more_threads,
        help="Threads to compute with, else BRAIDREC_THREADS, else as many cores as are free.",
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        import braidrec

        typer.echo(f"braidrec {braidrec.__version__}")
        raise typer.Exit


@app.callback()
def whole(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version this is, and end.")
    ] = False,
    threads: Threads = None,
) -> None:
    from braidrec.threads import settle

    settle(threads)


def main() -> None:
    """Entry point: a braidrec error is one line on stderr and exit code 2, never a traceback."""
    from braidrec.errors import BraidError, at_command_line
    from braidrec.memory import keep_freed_pages
    from braidrec.shown import plain_logs, tell

    plain_logs()
    keep_freed_pages()
    try:
        with at_command_line():
            app(prog_name="braidrec")
    except (BraidError, OSError) as error:
        tell("error: " + " ".join(str(error).split()))
        sys.exit(error.exit_code if isinstance(error, BraidError) else 2)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # how Typer ends on Ctrl-C, without a word
            tell("interrupted; the same command goes on where it stopped")
        raise


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for everything the tour makes.")] = Path("quickstart"),
    planted: Annotated[
        bool, typer.Option("--planted", help="Use the generated planted world even where MovieLens is at hand.")
    ] = False,
) -> None:
    """A tour in minutes: data, knowledge base, a ranker, a next-item model, EASE with text, honest test numbers."""
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
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="One setting of the preparation, such as split.kind=knowledge; may be repeated, and goes above all others.",
        ),
    ] = None,
    reading: Reading = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            help="Replace the folder if it is there.  Where runs were trained on it (in ./runs or beside it), a terminal asks "
            "first; a script has to say --yes as well."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Replace data that runs were trained on without asking.")] = False,
) -> None:
    """Number, order and split a log into a folder that opens instantly."""
    from braidrec.config import parse_changes
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
        values=parse_changes(changes or ()),
        read=parse_changes(reading or (), "--read", "encoding=cp1252"),
        overwrite=overwrite,
        confirm=_replace(yes),
    )
    _show_dataset(dataset)
    _print(f"next: braidrec knowledge build {dataset.path}")


def _replace(yes: bool) -> Callable[[str], bool]:
    """How it is settled whether data that runs need are replaced."""
    from braidrec.errors import DataError

    def settle(said: str) -> bool:
        if yes:
            print(f"note: {said}", file=sys.stderr)
        elif not sys.stdin.isatty():
            raise DataError(f"{said}; say --yes to replace them, or choose another folder (--out)")
        return yes or typer.confirm(f"{said}. Replace them?", err=True)

    return settle


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


@knowledge.command("profiles")
def knowledge_profiles(
    dataset: DataPath,
    writer: Annotated[
        Path,
        typer.Option(
            "--writer",
            help="A TOML file with one [writer] table: url and model of an OpenAI-compatible chat endpoint, key_variable, "
            "price and answer_price per million tokens, language, users = false for items alone.",
        ),
    ],
    out: Out = None,
    encoder: Annotated[str, typer.Option(help="What reads the profiles, as in 'knowledge build'.")] = "offline",
    missing: Annotated[str, typer.Option(help="Items without text: mean (of the others), or error.")] = "mean",
    again: Annotated[bool, typer.Option("--again", help="Ask once more for profiles that failed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Start without asking; what it is expected to take is said.")] = False,
) -> None:
    """Let a language model write who would like each item and, from training alone, what each user likes; encode both.

    The same command goes on where it stopped.
    """
    from braidrec.runs.knowledge import write_profiles

    _print(write_profiles(dataset, out, writer, encoder, missing=missing, again=again, confirm=None if yes else typer.confirm))


@knowledge.command("sync")
def knowledge_sync(
    dataset: DataPath,
    path: KnowledgePath,
    again: Annotated[bool, typer.Option("--again", help="Ask once more for profiles that failed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Start a paid endpoint without asking.")] = False,
) -> None:
    """Encode only new and changed text, with the encoder, prompt and writer of the knowledge base."""
    from braidrec.runs.knowledge import sync

    _print(sync(dataset, path, again=again, confirm=None if yes else typer.confirm))


@knowledge.command("nearest")
def knowledge_nearest(
    path: KnowledgePath,
    item: Annotated[str | None, typer.Option("--id", help="An item id.")] = None,
    user: Annotated[str | None, typer.Option("--user", help="A user id, where the base holds profiles of users.")] = None,
    text: Annotated[str | None, typer.Option(help="Any text.")] = None,
    kind: Annotated[str, typer.Option(help="What is listed: item | user.")] = "item",
    k: Annotated[int, typer.Option("-k")] = 10,
) -> None:
    """Items (or users) nearest in meaning to an item, a user or a text."""
    from braidrec.runs.knowledge import nearest

    found = nearest(path, item, text, k, user=user, kind=kind)  # type: ignore[arg-type]  # an odd word is refused there
    _print(_table("nearest in meaning", (kind, "text", "cosine"), found))


@knowledge.command("versions")
def knowledge_versions(path: KnowledgePath) -> None:
    """Kept versions of the knowledge base, newest last."""
    from braidrec.runs.knowledge import versions

    _print(_table("versions", ("version", "time", "rows", "of users"), versions(path)))


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
    address: Annotated[
        str | None, typer.Option(help="Which address, where the base names one to encode and another to write profiles.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Let a knowledge base that you did not build send text to the address that it names; asked once, then remembered."""
    from braidrec.runs.knowledge import trust

    confirm = None if yes else typer.confirm
    _print(trust(path, key_variable, allow_private=allow_private, confirm=confirm, address=address))


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
    device: Annotated[str | None, typer.Option(help="auto | cpu | cuda | mps; short for training.accelerator.")] = None,
    out: Out = None,
) -> None:
    """Train one model into a run directory; the same command again resumes or loads it."""
    from braidrec.config import check_names, parse_changes, read_request
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
        "training": {"accelerator": device} if device is not None else None,
    }
    given = merge({name: value for name, value in options.items() if value is not None}, parse_changes(changes or ()))
    where = str(file) if file else "fit"
    if file is None and "data" not in given:
        raise ConfigError("fit: give a run file, or --data with a prepared data set")
    request = read_request(file, given)
    check_names(request, where)  # before anything heavy is imported
    from braidrec.runs.fit import fit_config, prepare_fit

    config, data_set = prepare_fit(request, where)
    if request.backbone is None:
        _print(f"no backbone is named: {config.backbone}, of the task '{config.task}' ({config.chosen.task.title})")
    name = "-".join((config.backbone, *config.enhance, config.preset, f"s{config.seed}"))
    run = fit_config(config, out or Path("runs") / Path(request.data).name / name, dataset=data_set)
    if config.knowledge and not run.task.reads_text(config):
        _print(f"note: {', '.join(config.knowledge)}: not read, for {run.title} reads no text")
    best, training, tables = run.record["best"], run.record["training"], run.record["choices"].get("tables")
    if training["steps"]:
        reached = f"best validation {run.headline} at step {best['step']:,}"
        speed = f"{training['samples_per_second']:,.0f} samples/s{f', tables {tables}' if tables else ''}"
    else:  # fitted at once
        reached, speed = f"validation {run.headline}", f"{training['seconds']:.2f} s"
    _print(f"{run.title}: {reached}; {speed}\n{run.path}\nnext: braidrec evaluate {run.path}")
    if run.sized:
        _print(f"note: {run.sized}")
    for warning in run.warnings:
        _print(f"warning: {warning}")


@app.command()
def choose(
    path: DataPath,
    encoders: Annotated[
        str | None,
        typer.Option(help="Text encoders to try, by commas, each as in 'knowledge build'; tfidf and offline when left out."),
    ] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Also train the default of each task.")] = False,
    minutes: Annotated[float, typer.Option(help="Begin nothing after so many.")] = 5.0,
    base: Annotated[Path, typer.Option("--knowledge", help="Folder for the knowledge bases.")] = Path("knowledge"),
    runs: Annotated[Path, typer.Option(help="Folder for what --deep trains.")] = Path("runs/choose"),
) -> None:
    """Which model and which text encoder suits a log, by validation, in minutes; prints the command of the winner."""
    from braidrec.runs.choose import choose as chosen

    names = None if encoders is None else [part.strip() for part in encoders.split(",") if part.strip()]
    found = chosen(path, encoders=names, deep=deep, minutes=minutes, knowledge=base, runs=runs, confirm=typer.confirm)
    _print(found.table())
    for note in found.notes:
        _print(note)
    _print(f"next: {found.command}")


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
    min_rows: Annotated[
        int | None, typer.Option(min=0, help="Slices of fewer rows are marked as few; 1,000 when left out.")
    ] = None,
    dataset: RunData = None,
    base: RunKnowledge = None,
    device: Device = "auto",
) -> None:
    """A held-out part by slice, beside simple baselines: AUC, log loss and lists by user, or hits and nDCG of next items."""
    from braidrec.runs.tables import evaluation_table

    def opened(each: Path) -> Run:
        return _load(each, dataset, base, device)

    _print(evaluation_table([path], part, baselines=baselines, min_rows=min_rows, opened=opened))


@app.command()
def compare(
    paths: Annotated[
        list[Path], typer.Argument(help="Runs; those that differ by seed alone count as one model, the first is the reference.")
    ],
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Test every model against each ranking without learning, too; one run will do.")
    ] = False,
    dataset: RunData = None,
    device: Device = "auto",
) -> None:
    """Several models on the same test rows, with a paired test against the first."""
    from braidrec.runs.tables import comparison_tables

    for table in comparison_tables(paths, lambda path: _load(path, dataset, None, device), baselines=baselines):
        _print(table)


@app.command()
def recommend(
    path: RunPath,
    user: Annotated[str | None, typer.Option(help="A user of the data set.")] = None,
    items: Annotated[
        str | None,
        typer.Option(
            help="For somebody new: ids they liked, oldest first, by commas; of a --user, what they met since the log ended."
        ),
    ] = None,
    fields: Annotated[
        list[str] | None,
        typer.Option("--field", help="For somebody new: what is known of them, such as age=30, to rankers; may be repeated."),
    ] = None,
    all_users: Annotated[bool, typer.Option("--all-users", help="Everybody, into the Parquet file --out.")] = False,
    out: Annotated[Path | None, typer.Option(help="Parquet file for --all-users.")] = None,
    k: Annotated[int, typer.Option("-k", help="How many.")] = 10,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Which items, how much of their text, and which parts of the model are behind each, where it can say.",
        ),
    ] = False,
    exclude_seen: Annotated[bool, typer.Option("--exclude-seen/--include-seen")] = True,
    allow: Annotated[Path | None, typer.Option(help="Only these ids, one a line.")] = None,
    deny: Annotated[Path | None, typer.Option(help="Never these ids, one a line.")] = None,
    reading: Reading = None,
    dataset: RunData = None,
    base: RunKnowledge = None,
    device: Device = "auto",
) -> None:
    """The best items for a user, for a list of liked items, or for everybody."""
    from braidrec.errors import ConfigError
    from braidrec.runs.tables import read_ids

    run = _load(path, dataset, base, device)
    read = _read(reading)
    if read is not None and not (allow or deny):
        raise ConfigError("recommend --read says how the files of --allow and --deny are read; name one, or drop it")
    allowed, denied = read_ids(allow, read) if allow else None, read_ids(deny, read) if deny else ()
    if all_users:
        if out is None or user is not None or items is not None or fields:
            raise ConfigError(
                "recommend --all-users writes a file: give --out recs.parquet, and neither --user nor --items nor --field"
            )
        rows = run.recommend_all(out, k=k, exclude_seen=exclude_seen, allow=allowed, deny=denied)
        _print(f"{rows:,} recommendations for {run.num_users:,} users: {out}")
        return
    liked = [part.strip() for part in items.split(",") if part.strip()] if items is not None else None
    described = _pairs(fields) if fields else None
    found = run.recommend(
        user, items=liked, fields=described, k=k, exclude_seen=exclude_seen, allow=allowed, deny=denied, explain=explain
    )
    if user is not None:
        title = f"for user {user}" + (f" who has since met {items}" if liked else "")
    else:
        parts = [f"who liked {items}"] if items is not None else []
        title = " ".join(["for somebody new", *parts, *(["with", ", ".join(fields)] if fields else [])])
    scale = "p(positive)" if run.model.probabilities else "score"
    listed = [(at, each.item, each.title, f"{each.score:.3f}") for at, each in enumerate(found, 1)]
    if explain:
        from braidrec.runs.tables import divided, reasons

        told: list[tuple[Any, ...]] = [(*row, reasons(each.because)) for row, each in zip(listed, found, strict=True)]
        columns: tuple[str, ...] = ("#", "item", "title", scale, "because of")
        if any(each.parts for each in found):
            told = [(*row, divided(each.parts)) for row, each in zip(told, found, strict=True)]
            columns = (*columns, "by (category: its share of the user's taste)")
        _print(_table(title, columns, told))
    else:
        _print(_table(title, ("#", "item", "title", scale), listed))
    for note in run.notes(new_user=user is None, fields=described):
        _print(note)


@app.command()
def score(
    path: RunPath,
    pairs: Annotated[Path, typer.Argument(help="A table with a column of users and one of items, by the names of the log.")],
    out: Annotated[Path, typer.Option("--out", help="Parquet file (or .csv) to write: the table and one more column.")],
    unknown: Annotated[
        str, typer.Option(help="error, or null: a pair whose user or item nobody knows stops, or has no score.")
    ] = "error",
    reading: Reading = None,
    dataset: RunData = None,
    base: RunKnowledge = None,
    device: Device = "auto",
) -> None:
    """The score of each pair of a user and an item in a file, as of now."""
    from braidrec.runs.pairs import write_table

    run = _load(path, dataset, base, device)
    found = run.score(pairs, unknown=unknown, read=_read(reading))  # type: ignore[arg-type]  # checked there
    write_table(found, out)
    empty = found.to_series(len(found.columns) - 1).null_count()
    _print(f"{len(found):,} pairs scored{f', {empty:,} of them without a score' if empty else ''}: {out}")
    for note in run.notes(new_user=False):
        _print(note)


@app.command()
def vectors(
    path: RunPath,
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write: item, vector.")],
    space: Annotated[str | None, typer.Option(help="Which of the model's spaces; left out, it is chosen and said.")] = None,
    dataset: RunData = None,
    base: RunKnowledge = None,
    device: Device = "auto",
) -> None:
    """The vectors of all items of a run whose model has such, those added after training last."""
    from braidrec.runs.pairs import vector_table, write_table

    found = _load(path, dataset, base, device).item_vectors(space)
    write_table(vector_table(found.ids, found.vectors), out)
    _print(f"{len(found.ids):,} item vectors of width {found.vectors.shape[1]}, space '{found.space}': {out}")


@app.command()
def similar(
    path: RunPath,
    item: Annotated[str, typer.Option(help="An item id.")],
    by: Annotated[
        str, typer.Option(help="meaning (texts) | behaviour (who has both) | model (what the model made of them).")
    ] = "model",
    k: Annotated[int, typer.Option("-k")] = 10,
    dataset: RunData = None,
    base: RunKnowledge = None,
    device: Device = "auto",
) -> None:
    """Items like an item, in meaning, in behaviour or to the model."""
    found = _load(path, dataset, base, device).similar(item, by, k=k)  # type: ignore[arg-type]  # an odd word is refused there
    listed = [(at, each.item, each.title, f"{each.score:.3f}") for at, each in enumerate(found, 1)]
    _print(_table(f"like {item} by {by}", ("#", "item", "title", "alike"), listed))


@app.command("add-items")
def add_items(
    path: RunPath,
    items: Annotated[Path, typer.Argument(help="A table with the catalogue's id and text columns, and any of its fields.")],
    reading: Reading = None,
    dataset: RunData = None,
    base: RunKnowledge = None,
    device: Device = "auto",
) -> None:
    """Make items recommendable that came after training, by their text, to a run that reads text; they stay with the run."""
    run = _load(path, dataset, base, device)
    count = run.add_items(items, read=_read(reading))
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
        typer.Option(
            help="Train nothing; write an overview to this Markdown file and every table to a folder of its name, or the first "
            "screen's between its marks."
        ),
    ] = None,
) -> None:
    """Print a paper's table or figure with measured numbers; only the cells that are missing or stale are trained."""
    from braidrec.experiments import reproduce as tables

    if page is not None:
        from braidrec.experiments.page import write_page

        for written in write_page(page, results):
            _print(f"{written}")
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
        str | None,
        typer.Option(
            help="Some of: memory, data, training, packing, long, old, knowledge, tables, sequential, collaborative, text "
            "(by commas)."
        ),
    ] = None,
    prepared: Annotated[Path | None, typer.Option("--data", help="A prepared data set; a planted world when left out.")] = None,
    seconds: Annotated[float, typer.Option(help="Time for each measurement.")] = 5.0,
) -> None:
    """Speed and memory of this machine and of the toolkit on it, as ratios."""
    from braidrec.bench.marks import report

    _print(report([part.strip() for part in parts.split(",")] if parts else None, prepared, seconds))


def _load(path: Path, dataset: Path | None, base: list[Path] | None, device: str) -> Run:
    from braidrec.data.dataset import Dataset
    from braidrec.runs.run import load

    return load(path, dataset=Dataset.open(dataset) if dataset else None, knowledge=base or None, accelerator=device)


def _read(given: list[str] | None) -> ReadConfig | None:
    """What --read says."""
    if not given:
        return None
    from braidrec.config import parse_changes
    from braidrec.data.intake.readers import ReadConfig
    from braidrec.strict import parse

    return parse(ReadConfig, parse_changes(given, "--read", "encoding=cp1252"), "--read")


def _pairs(given: list[str]) -> dict[str, str]:
    """NAME=VALUE texts by name."""
    from braidrec.errors import ConfigError

    found = {}
    for text in given:
        name, said, value = text.partition("=")
        if not said or not name.strip():
            raise ConfigError(f"--field {text!r}: expected name=value, such as age=30")
        found[name.strip()] = value.strip()
    return found


def _show_dataset(dataset: Any) -> None:
    from braidrec.runs.tables import dataset_tables

    for table in dataset_tables(dataset):
        _print(table)


def _table(title: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Table:
    from braidrec.runs.tables import plain_table

    return plain_table(title, columns, rows)


def _print(value: Any) -> None:
    from braidrec.shown import console, redact

    value = redact(value) if isinstance(value, str) else value
    console().print(value, highlight=False, soft_wrap=isinstance(value, str), markup=not isinstance(value, str))
