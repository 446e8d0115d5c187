"""DisCo on MovieLens: Table 2, 3 and 5 rows that a laptop can train, cold items, and what `ours` adds.

    python -m braidrec.experiments.disco --prepared FOLDER --knowledge FOLDER --runs FOLDER --results results/disco-ml-1m

``--prepared`` holds ml-1m, ml-1m-all (vocabulary all), ml-1m-cold (10 % of items hidden) and ml-latest-small, as made by
``braidrec data prepare``; ``--knowledge`` holds ml-1m and ml-latest-small.  Rows come in order of importance; the command
stops starting cells after ``--minutes`` and goes on when called again.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from braidrec.errors import RunError
from braidrec.experiments.cells import make_cell, summary
from braidrec.experiments.experiment import Experiment
from braidrec.experiments.rows import Row, Workshop
from braidrec.files import read_json, write_json

# KDD 2024, Tables 2 and 3, ML-1M: (AUC, log loss), Vicuna-13b text, vocabulary over the whole log.
PLAIN = {"din": (0.7976, 0.5401), "deepfm": (0.7947, 0.5470), "dcn": (0.7961, 0.5417)}
DISCO = {"din": (0.8016, 0.5373), "deepfm": (0.8029, 0.5340), "dcn": (0.8035, 0.5343)}
ABLATIONS = {"unconstrained": (0.7988, 0.5391), "no-sufficiency": (0.8019, 0.5354), "no-disentangle": (0.8011, 0.5377)}

ABOUT = "DisCo (KDD 2024) on MovieLens"

# Said of every row with DisCo by `ours`: its gain is no evidence for the paper's two losses.
UNCONSTRAINED = "no working constraint (sufficiency off, disentanglement at zero): what it gains, the attention patterns give"
_EPOCHS = "3 of the paper's 50 epochs"

_STATISTICS = {"statistics": True}
# Counts and rates carry what ids would overfit, so these rows gain from more and smaller steps.
_LONGER = {"batch_size": 512, "lr": 5e-4, "max_epochs": 4, "average_epochs": 0.5}
_RUNS = {"run": 128}
_IN_RUNS = {"batch_size": 1024, "lr": 7e-4, "max_epochs": 4}
_AS_ML_1M = {"batch_size": 1024, "max_epochs": 2}  # where a fit by ours would go by the size of the log


def headline() -> list[Row]:
    """Each backbone plain and with DisCo, three seeds."""
    rows = []
    for backbone in ("din", "deepfm", "dcn"):
        rows.append(Row(f"{backbone}", "ml-1m", backbone, published=PLAIN[backbone]))
        rows.append(
            Row(
                f"{backbone}-disco",
                "ml-1m",
                backbone,
                "disco",
                against=backbone,
                published=DISCO[backbone],
                note=UNCONSTRAINED,
            )
        )
    return rows


def statistics() -> list[Row]:
    """Time-causal counts and rates as one more field: what engineers put beside ids."""
    rows = []
    for backbone, seeds in (("din", (1, 2, 3, 4, 5)), ("dcn", (1, 2, 3))):
        plain = Row(f"{backbone}-statistics", "ml-1m", backbone, model=_STATISTICS, training=_LONGER, seeds=seeds)
        rows += [
            plain,
            replace(plain, name=f"{backbone}-disco-statistics", enhance="disco", against=plain.name, note=UNCONSTRAINED),
        ]
    return rows


def runs() -> list[Row]:
    """Samples of a user in runs, time-causal rates, each alone and together; and trees on the rates alone."""
    rows = [Row("gbdt", "ml-1m", "gbdt", fixed=True, note="LightGBM on rates, without embeddings or history")]
    forms: dict[str, tuple[dict[str, Any], str]] = {
        "runs": ({"history": _RUNS}, "samples of a user in runs of 128"),
        "rates": ({"rates": True}, "time-causal rates"),
        "runs-rates": ({"history": _RUNS, "rates": True}, "both"),
        "runs-rates-statistics": ({"history": _RUNS, "rates": True, "statistics": True}, "both, beside counts and rates"),
        "runs-rates-100": ({"history": {**_RUNS, "length": 100}, "rates": True}, "both, history of 100"),
    }
    for name, (model, note) in forms.items():
        plain = Row(f"din-{name}", "ml-1m", "din", model=model, training=_IN_RUNS, against="gbdt", note=note)
        more = f"{note}; {UNCONSTRAINED}"
        rows += [plain, replace(plain, name=f"din-disco-{name}", enhance="disco", against=plain.name, note=more)]
    return rows


def cold() -> list[Row]:
    """Where items are cold: 10 % of ML-1M hidden from training, and latest-small's temporal split."""
    rows = []
    for data, training in (("ml-1m-cold", {}), ("ml-latest-small", _AS_ML_1M)):
        plain = Row(f"{data}-din", data, "din", training=training)
        rows += [plain, replace(plain, name=f"{data}-din-disco", enhance="disco", against=plain.name, note=UNCONSTRAINED)]
    return rows


def ablations() -> list[Row]:
    """DIN with parts of DisCo taken away or in other forms, one seed each."""
    base = Row("", "ml-1m", "din", "disco", against="din", seeds=(1,), ablation=True)

    def variant(name: str, note: str, **enhance: object) -> Row:
        return replace(base, name=f"din-disco-{name}", model={"enhance": enhance}, note=note)

    constrained = {"sufficiency_weight": 0.02, "club_normalise": True, "club_floor": False}
    table5 = "published: DCN, Table 5"
    return [
        *(
            Row(
                f"{backbone}-disco-constrained",
                data,
                backbone.removeprefix("ml-1m-cold-"),
                "disco",
                model={"enhance": constrained},
                against=backbone,
                note="alpha .02, beta .01, normalised inputs",
            )
            for backbone, data in (("din", "ml-1m"), ("deepfm", "ml-1m"), ("dcn", "ml-1m"), ("ml-1m-cold-din", "ml-1m-cold"))
        ),
        replace(variant("unconstrained", note=table5, disentangle_weight=0.0), published=ABLATIONS["unconstrained"]),
        replace(
            variant("no-disentangle", note=table5, sufficiency_weight=0.02, disentangle_weight=0.0),
            published=ABLATIONS["no-disentangle"],
        ),
        variant("both", note="alpha .02, stable beta .01", sufficiency_weight=0.02),
        variant("intra", note="two-tower; published: DCN, Table 4", inter=False),
        variant(
            "literal",
            note="alpha .02 and equation 27 as printed",
            sufficiency_weight=0.02,
            club_per_dimension=False,
            club_floor=False,
        ),
        replace(
            base,
            name="din-disco-100-statistics",
            training=_LONGER,
            model={"statistics": True, "history": {"length": 100}},
            against="din-statistics",
            note=f"history of 100; {UNCONSTRAINED}",
        ),
        replace(
            base,
            name="din-disco-semantic",
            model={"history": {"kind": "semantic_topk"}},
            note=f"history by similarity; {UNCONSTRAINED}",
        ),
        replace(base, name="din-all", data="ml-1m-all", enhance=None, against=None, note="vocabulary over the whole log"),
        replace(
            base,
            name="din-disco-all",
            data="ml-1m-all",
            against="din-all",
            note=f"vocabulary over the whole log; {UNCONSTRAINED}",
        ),
        *(
            replace(
                base,
                name=f"din-disco-{preset}",
                preset=preset,
                data="ml-1m-all",
                against="din-all",
                training={"max_epochs": 3},
                note=_EPOCHS,
            )
            for preset in ("paper", "authors")
        ),
    ]


def all_rows() -> list[Row]:
    return [*headline(), *statistics(), *runs(), *cold(), *ablations()]


_NOTES = (
    "published: Vicuna-13b text and a vocabulary over the whole log; here the vocabulary of the training part",
    "selection on validation; the released code selects on test",
    "by ours neither loss of the paper constrains: sufficiency is off, disentanglement ends at its floor (.0002 to .011)",
    "rows constrained have both losses, the row unconstrained neither",
)
_COPY = "the copy of MovieLens-1M measured has 17.7 % of its timestamps interpolated, all of them inside the training part"
_LEFT_OUT = (
    "ours leaves the sufficiency term out, since one-seed trials with it had a validation AUC lower by .002 (rows constrained "
    "have it, with another form of the other term)"
)
_LABELS = (
    "the statistics of an event count the earlier labels of all users, earlier events of the test part among them, which rows "
    "without statistics never see of others"
)


def _experiments() -> tuple[Experiment, ...]:
    pool = {"ml-1m": {row.name: row for row in all_rows()}}

    def experiment(name: str, title: str, rows: list[Row], *notes: str, **more: Any) -> Experiment:
        names, over = _with_references(rows), _plain(rows)
        return Experiment(f"disco/{name}", title, pool, names, reference=over, notes=(*_NOTES, _COPY, *notes), **more)

    return (
        experiment(
            "table2",
            "backbones plain and with DisCo",
            headline(),
            "AUC without learning, by braidrec evaluate: popularity .6118, item mean .7316, item mean + user residual .7831",
            shortfalls=(
                "the published .8035 is reached by no row here; rows of disco/statistics pass it, by time-causal rates",
                "DisCo's lift is near the published one for DIN, below it for DeepFM and DCN",
                _LEFT_OUT,
            ),
            headline=("MovieLens-1M: the paper's numbers are from Vicuna-13b text and a vocabulary over the whole log",),
        ),
        experiment("statistics", "with counts and rates as one more field", [*statistics(), *runs()], _LABELS),
        experiment(
            "cold",
            "cold items",
            cold(),
            "ml-1m-cold hides 10 % of the items from training; latest-small has 522 training users, and keeps the batches and "
            "epochs of ML-1M: --set training.batch_size=1024 --set training.max_epochs=2",
            slices=("cold_items", "warm_items"),
            shortfalls=("on MovieLens latest-small DisCo does not beat plain DIN, and is below it on cold rows",),
        ),
        experiment(
            "ablations",
            "DIN with parts of DisCo taken away or in other forms",
            ablations(),
            _LABELS,
            "rows paper and authors are stopped after 3 of 50 epochs, which take hours here",
            shortfalls=(
                "with equation 27 as printed (row literal) DIN falls below the plain one: the pattern norms grow to 661",
                "most rows have one seed",
            ),
        ),
    )


def _with_references(rows: list[Row]) -> list[str]:
    """Names of the rows, each after those that it is tested against."""
    return list(dict.fromkeys(name for row in rows for name in (*row.references, row.name)))


def _plain(rows: list[Row]) -> dict[str, str]:
    """Row -> the row that it is tested against."""
    return {row.name: row.references[0] for row in rows if row.references}


EXPERIMENTS = _experiments()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m braidrec.experiments.disco")
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--knowledge", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=360.0, help="start no cell after this time")
    parser.add_argument("--only", default="", help="rows whose name starts so")
    parser.add_argument("--seeds", type=int, nargs="*", default=[], help="only these seeds")
    given = parser.parse_args()
    names = sorted({row.data for row in all_rows()})
    shop = Workshop(
        {name: given.prepared / name for name in names},
        {name: given.knowledge / ("ml-latest-small" if "latest" in name else "ml-1m") for name in names},
        given.runs,
        given.results,
    )
    begun, rows = time.monotonic(), all_rows()
    cells = [(row, seed) for row in rows for seed in row.seeds]
    for row, seed in cells:
        wanted = row.name.startswith(given.only) and (not given.seeds or seed in given.seeds)
        if wanted and time.monotonic() - begun < given.minutes * 60 and make_cell(row, seed, shop):
            print(f"{row.name} s{seed} done, {(time.monotonic() - begun) / 60:.1f} min", file=sys.stderr, flush=True)
    file = given.results.with_suffix(".json")
    earlier = [read_json(file, RunError)] if file.exists() else []
    write_json(file, summary(rows, shop, earlier=earlier))


if __name__ == "__main__":
    main()
