"""What is timed: models by name, on made-up text, and their steps without any loop around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from braidrec.config import RunConfig, RunRequest, resolve
from braidrec.data.batches import RankingBatch, RankingBatches
from braidrec.data.candidates import Candidates, UserSide
from braidrec.data.dataset import Dataset
from braidrec.data.history import RecentHistory
from braidrec.errors import ConfigError, suggest
from braidrec.layers.text import TextTable
from braidrec.ranking.build import build_ranker, material_of
from braidrec.ranking.ranker import Ranker
from braidrec.sequential.build import build_model, parts_of, settings_of
from braidrec.sequential.contracts import NextItemModel
from braidrec.sequential.scoring import score_histories
from braidrec.training.contracts import Phase
from braidrec.training.optimisers import build
from braidrec.training.stages import Stage, make_phase

BATCH = 2048
_SEMANTIC_WIDTH = 384

# model settings by the name a benchmark uses; the textbook forms stand beside other libraries' models
MODELS: Mapping[str, tuple[str, str | None, str, Mapping[str, Any]]] = {
    "deepfm": ("deepfm", None, "textbook", {}),
    "dcn": ("dcn", None, "textbook", {"backbone": {"variant": "v1"}}),
    "dcnv2": ("dcn", None, "textbook", {"backbone": {"variant": "v2"}}),
    "din": ("din", None, "textbook", {}),
    "dien": ("dien", None, "textbook", {"backbone": {"attention": "mlp", "auxiliary": "mlp", "auxiliary_weight": 1.0}}),
    "autoint": ("autoint", None, "textbook", {"backbone": {"linear": True}}),
    "xdeepfm": ("xdeepfm", None, "textbook", {"backbone": {"cin": (100, 100)}}),
    "pnn": ("pnn", None, "textbook", {}),
    "fm": ("fm", None, "textbook", {}),
    "widedeep": ("widedeep", None, "textbook", {}),
    "ffm": ("ffm", None, "textbook", {}),
    "fwfm": ("fwfm", None, "textbook", {"backbone": {"linear": "weights"}}),
    "sdim": ("sdim", None, "ours", {}),
    "din-bilinear": ("din", None, "ours", {}),
    "deepfm-mean": ("deepfm", None, "ours", {}),
    "dcn-mean": ("dcn", None, "ours", {}),
    "din-disco": ("din", "disco", "ours", {}),
    "din-disco-terms": ("din", "disco", "ours", {"enhance": {"disentangle_weight": 0.01}}),
    "deepfm-disco": ("deepfm", "disco", "ours", {}),
    "dcn-disco": ("dcn", "disco", "ours", {}),
    "deepfm-edk": ("deepfm", "edk", "ours", {"edk": {"compress": False}}),  # weights as drawn take as long
    "dcn-edk": ("dcn", "edk", "ours", {"edk": {"compress": False}}),
    "deepfm-edk-concat": ("deepfm", "edk", "ours", {"edk": {"compress": False, "inject": "concat"}}),
    "dcn-edk-concat": ("dcn", "edk", "ours", {"edk": {"compress": False, "inject": "concat"}}),
}


def ranker(name: str, dataset: Dataset) -> tuple[Ranker, Dataset]:
    if name not in MODELS:
        raise ConfigError(f"bench: unknown model '{name}'{suggest(name, MODELS)}")
    backbone, enhance, preset, changes = MODELS[name]
    request = RunRequest.model_validate(
        {"data": "-", "backbone": backbone, "enhance": enhance, "preset": preset, "model": dict(changes)}
    )
    config = resolve(request, "bench")
    torch.manual_seed(0)
    text = TextTable(torch.randn(dataset.num_items + 1, _SEMANTIC_WIDTH)) if config.reads_text else None
    return build_ranker(config, material_of(dataset, text)), dataset


def ranking_batches(dataset: Dataset, run: int = 1, length: int = 30) -> RankingBatches:
    return RankingBatches(dataset, dataset.split["train"], BATCH, RecentHistory(dataset.log, length, run), shuffle=True)


def bare_step(
    built: tuple[Ranker, Dataset], fixed: bool = False, run: int = 1, length: int = 30
) -> tuple[Callable[[], None], int]:
    """A training step without any loop around it; ``fixed`` takes the data path out by repeating one batch."""
    model, dataset = built
    batches = ranking_batches(dataset, run, length)
    stream = iter(batches)
    held = next(stream)
    group, *others = model.groups()
    main = torch.optim.Adam(group.parameters, lr=1e-3, weight_decay=1e-5, fused=True)
    estimators = {each.name: torch.optim.Adam(each.parameters, lr=1e-3, fused=True) for each in others}
    weights = model.weights

    rows = len(held)  # a whole batch; the last one of an epoch is passed over

    def step() -> None:
        nonlocal stream
        batch = held if fixed else next(stream, None)
        while batch is None or len(batch) < rows:
            stream = iter(batches) if batch is None else stream
            batch = next(stream, None)
        taken = model.step(batch)
        for name, optimiser in estimators.items():
            optimiser.zero_grad()
            taken.first[name]().backward()
            optimiser.step()
        main.zero_grad()
        torch.stack([weights[name] * loss for name, loss in taken.losses().items()]).sum().backward()
        main.step()

    return step, rows


def inference_step(model: Ranker, dataset: Dataset, run: int = 1) -> Callable[[], None]:
    batch = next(iter(ranking_batches(dataset, run)))
    model.export()
    return _calling(model.eval().answering(), batch)


def one_user_steps(model: Ranker, dataset: Dataset, count: int) -> list[Callable[[], None]]:
    """``count`` candidates of the user with most events: the forward pass with windows of their own, and answers with one."""
    candidates, user = Candidates.of_dataset(dataset), int(dataset.log.history_length.argmax())
    items = (torch.randperm(dataset.num_items, generator=torch.Generator().manual_seed(0))[:count] + 1).int()
    end = torch.tensor([int(dataset.log.history_length[user])])
    window = RecentHistory(dataset.log, 30).window(torch.tensor([user]), end)
    side = UserSide.of(dataset, user)
    model.export()
    model.eval()
    return [
        _calling(call, candidates.batch(side, items, each))
        for call, each in ((model, window), (model.answering(), window.shared(len(items))))
    ]


def _calling(model: Callable[[RankingBatch], object], batch: RankingBatch) -> Callable[[], None]:
    def step() -> None:
        with torch.inference_mode():
            model(batch)

    return step


def phase_step(phase: Phase) -> Callable[[], Any]:
    """A training step of a phase without any loop around it, on the next batch, which it returns.

    Main groups only: what steps on a loss of its own stands still.
    """
    model: Any = phase.module.train()
    optimisers = [each for group in phase.groups if group.is_main for each in build(group, [])]
    stream = iter(phase.batches)

    def step() -> Any:
        nonlocal stream
        batch = next(stream, None)
        if batch is None:
            stream = iter(phase.batches)
            batch = next(stream)
        losses = model.step(batch).losses()
        torch.stack([phase.weights[name] * loss for name, loss in losses.items()]).sum().backward()
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        return batch

    return step


def _sequence_model(enhance: str | None, **changes: Any) -> RunConfig:
    request = {"data": "-", "backbone": "sasrec", "enhance": enhance, "preset": "ours", "model": changes, "seed": 0}
    return resolve(RunRequest.model_validate(request), "bench")


def last_phase(dataset: Dataset, enhance: str | None, loss: str, width: int) -> Phase:
    """The phase whose model is kept, on freshly drawn weights and made-up text vectors."""
    return _last_phase(_sequence_model(enhance, dim=width, loss=loss), dataset)


def node_phase(dataset: Dataset, enhance: str | None, preset: str = "authors", **settings: Any) -> Phase:
    """LightGCN by its authors' preset, alone or with a method by ``preset``, and its own ``settings``."""
    values = resolve(_node_request(enhance, preset), "bench").model.of(enhance).model_dump() if enhance else {}
    request = _node_request(enhance, "authors").model_copy(update={"model": {"enhance": values | settings} if enhance else {}})
    return _last_phase(resolve(request, "bench"), dataset)


def _node_request(enhance: str | None, preset: str) -> RunRequest:
    request = {"data": "-", "task": "collaborative", "backbone": "lightgcn", "enhance": enhance, "preset": preset, "seed": 0}
    return RunRequest.model_validate(request)


def _last_phase(config: RunConfig, dataset: Dataset) -> Phase:
    rng = np.random.default_rng(0)
    text = rng.standard_normal((dataset.num_items + 1, _SEMANTIC_WIDTH), np.float32) if config.reads_text else None
    plan = config.chosen.task.room().plan(config, dataset, text, show_progress=False)
    stage: Stage = plan.stages[-1]
    training = config.training.of_phase(stage.name)
    return make_phase(stage, training, plan.batches(stage), plan.validate(stage), monitor=plan.monitor)


def exported(enhance: str | None, items: int, **changes: Any) -> NextItemModel:
    """A model of a made-up catalogue, as a run keeps it."""
    config = _sequence_model(enhance, **changes)
    buckets = settings_of(config).buckets
    bucket = torch.arange(items + 1) % buckets + 1
    bucket[0] = 0
    counts = torch.ones(items + 1, dtype=torch.int64)
    counts[0] = 0
    torch.manual_seed(0)
    text = TextTable(torch.randn(items + 1, _SEMANTIC_WIDTH)) if enhance else None
    module: Any = build_model(config, parts_of(config, counts, bucket, text=text)).eval()
    module.export()
    model: NextItemModel = module
    return model


def scoring(model: NextItemModel, items: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """Scoring the catalogue of ``items`` for one user with 20 items, and the encoder's part of it."""
    with torch.no_grad():
        catalogue = model.catalogue()
    past = torch.randint(1, items + 1, (1, 20))

    def whole() -> None:
        with torch.no_grad():
            score_histories(model, catalogue, past)

    def encoder() -> None:
        with torch.no_grad():
            model.states(past, past > 0)

    return whole, encoder
