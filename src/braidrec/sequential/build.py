"""From a config and a prepared data set to the stages of a sequence model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from braidrec.data.dataset import Dataset
from braidrec.data.popularity import frequency_buckets, train_counts
from braidrec.data.sequences import training_ends
from braidrec.errors import ConfigError
from braidrec.sequential.backbones.caser import Caser, CaserConfig
from braidrec.sequential.backbones.gru4rec import GRU4Rec, GRU4RecConfig
from braidrec.sequential.backbones.sasrec import SASRec
from braidrec.sequential.config import SequentialConfig
from braidrec.sequential.contracts import Stage
from braidrec.sequential.methods import ctrl, disco, hybrid, make, morec, pad
from braidrec.sequential.parts import Parts


def make_parts(config: SequentialConfig, dataset: Dataset, knowledge: Tensor | None, *, semantic_width: int = 0) -> Parts:
    """knowledge (I + 1, S) text vectors; None where the model reads no text, or when saved weights are loaded over it."""
    counts = train_counts(dataset.log, training_ends(dataset), dataset.num_items)
    bucket = torch.from_numpy(frequency_buckets(counts, config.buckets)).long()
    met = torch.from_numpy(counts > 0)
    untrained = ~met
    untrained[0] = False
    rare = ((bucket == int(bucket.max())) & met).nonzero().squeeze(1)
    if not len(rare):  # a log so small that the coldest bucket holds unmet items alone
        rare = met.nonzero().squeeze(1)
    if knowledge is not None and not bool(torch.isfinite(knowledge).all()):
        row = int((~torch.isfinite(knowledge)).any(dim=1).nonzero()[0])
        raise ConfigError(
            f"the text vector of item '{dataset.item_ids[row - 1]}' holds NaN or infinity; build the knowledge base again"
        )
    return Parts(
        dim=config.dim,
        num_items=dataset.num_items,
        bucket=bucket,
        num_buckets=config.buckets,
        untrained=untrained,
        rare=rare,
        make_encoder=lambda: make_encoder(config),
        loss=config.loss,
        trained_softmax=config.trained_softmax,
        initial_std=config.initial_std,
        knowledge=knowledge,
        semantic_width=semantic_width,
    )


def make_encoder(config: SequentialConfig) -> nn.Module:
    """A fresh encoder of the chosen backbone, drawn from the global torch generator."""
    backbone = config.backbone
    if isinstance(backbone, GRU4RecConfig):
        return GRU4Rec(backbone, dim=config.dim, length=config.length)
    if isinstance(backbone, CaserConfig):
        return Caser(backbone, dim=config.dim, length=config.length)
    return SASRec(backbone, dim=config.dim, length=config.length)


def build_stages(config: SequentialConfig, parts: Parts) -> list[Stage]:
    """The training stages in order; the last one's module is the model that is kept.

    Weights are drawn from the global torch generator: seed it first.  Stages named in ``start_from`` are left out: their
    weights come from another run.  Raises ConfigError for a text model without a knowledge base and for unknown stages.
    """
    method = config.enhance
    if method is None:
        found = [pad.pretrain_stage(parts)]
    elif isinstance(method, pad.PADConfig):
        found = pad.stages(method, parts)
    elif isinstance(method, hybrid.HybridConfig):
        found = hybrid.stages(method, parts)
    elif isinstance(method, morec.MoRecConfig):
        found = morec.stages(method, parts)
    elif isinstance(method, ctrl.CTRLConfig):
        found = ctrl.stages(method, parts)
    elif isinstance(method, make.MAKEConfig):
        found = make.stages(method, parts)
    else:
        found = disco.stages(method, parts)
    names = [stage.name for stage in found]
    for name in config.start_from:
        if name not in names[:-1]:
            raise ConfigError(
                f"model.start_from names the stage '{name}', which is none that another follows (this model has: "
                f"{', '.join(names[:-1]) or 'a single stage'})"
            )
    return [stage for stage in found if stage.name not in config.start_from]


def build_model(config: SequentialConfig, parts: Parts) -> nn.Module:
    """The module that a run keeps, untrained."""
    return build_stages(config.model_copy(update={"start_from": {}}), parts)[-1].module
