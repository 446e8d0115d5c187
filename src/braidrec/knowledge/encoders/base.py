"""What the knowledge base asks of a text encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from braidrec.strict import Strict

if TYPE_CHECKING:
    from torch import Tensor


class EncoderConfig(Strict):
    """Settings of a text encoder.  Its own config has ``kind: Literal["name"] = "name"``, the name that it is registered by."""

    if TYPE_CHECKING:
        kind: str

    @property
    def address(self) -> str | None:
        """Where it sends texts to; None for one that runs here."""
        return None

    def shared(self) -> Self:
        """These settings as a knowledge base keeps them, whose folder others may read."""
        return self

    def own(self) -> None:
        """Note that this user gave these settings, so that knowledge bases may ask for what they name."""

    def confirmed(self, where: str) -> Self:
        """Settings that a knowledge base at ``where`` holds, whoever made it, as this user allows them.

        Raises KnowledgeError where this user must say something first.
        """
        return self


class TextEncoder(Protocol):
    """Texts to vectors.  Equal (name, revision, pooling) promises the same vector for the same text, up to rounding."""

    @property
    def name(self) -> str: ...
    @property
    def revision(self) -> str: ...
    @property
    def pooling(self) -> str: ...
    @property
    def width(self) -> int: ...

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """float32 [len(texts), width].  Raises KnowledgeError."""
        ...


@runtime_checkable
class FittedEncoder(Protocol):
    """An encoder that learns from a corpus before it can encode; the knowledge base keeps what it learnt beside the vectors."""

    @property
    def state(self) -> Mapping[str, Tensor] | None:
        """What was learnt, None before ``fit``."""
        ...

    def fit(self, texts: Sequence[str]) -> Self: ...

    def with_state(self, state: Mapping[str, Tensor]) -> Self: ...


@runtime_checkable
class LimitedEncoder(Protocol):
    """An encoder that reads the beginning of a long text alone."""

    @property
    def limit(self) -> int:
        """How many tokens of a text are read."""
        ...

    def longer(self, texts: Sequence[str]) -> int:
        """How many texts have more tokens than are read."""
        ...


@dataclass(frozen=True)
class Cost:
    """What encoding some texts at an endpoint will take; tokens are estimated as characters / 4."""

    texts: int
    tokens: int
    requests: int
    price: float  # in the currency of the price per million tokens
    seconds: float  # at least, under the request rate limit

    def __str__(self) -> str:
        return (
            f"{self.texts:,} texts, about {self.tokens:,} tokens in {self.requests:,} requests, "
            f"about {self.price:.4f} in price, at least {self.seconds:.0f} s"
        )


@runtime_checkable
class PricedEncoder(Protocol):
    """An encoder that costs money."""

    def estimate(self, texts: Sequence[str]) -> Cost:
        """The expected cost.  Raises KnowledgeError when it is over the encoder's limit."""
        ...
