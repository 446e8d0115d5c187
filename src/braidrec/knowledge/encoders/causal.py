"""Any Hugging Face causal language model, mean of the last hidden states (DisCo's knowledge base, spec default).

Plain text, no chat template, nothing generated: final-norm hidden states, averaged over the tokens that are not padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from braidrec.knowledge.encoders.base import EncoderConfig
from braidrec.knowledge.encoders.weights import (
    Precision,
    choose_device,
    choose_precision,
    count_longer,
    fingerprint,
    loading,
    resolve,
    token_ids,
)
from braidrec.registry import Spec
from braidrec.strict import MOST

if TYPE_CHECKING:
    from torch import Tensor


class LanguageModelSettings(EncoderConfig):
    """``model``: a folder or a hub name, such as "lmsys/vicuna-7b-v1.3"."""

    model: str
    revision: str | None = None
    precision: Precision = "auto"
    device: str = "auto"
    max_tokens: int = Field(default=512, ge=1, le=MOST)
    batch_tokens: int = Field(default=1024, ge=1, le=MOST)


class CausalLMConfig(LanguageModelSettings):
    kind: Literal["causal-lm"] = "causal-lm"


class CausalLMEncoder:
    """A TextEncoder.  Raises KnowledgeError when the model cannot be found or loaded."""

    pooling = "mean"

    def __init__(self, config: LanguageModelSettings):
        from transformers import AutoModel, AutoTokenizer

        self.config = config
        self.device = choose_device(config.device)
        self.precision = choose_precision(config.precision, self.device)
        folder, self.name = resolve(config.model, config.revision)
        with loading(config.model, folder):
            self.tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            self.model = AutoModel.from_pretrained(
                str(folder), dtype=self.precision, use_safetensors=True, local_files_only=True
            ).to(self.device)
        self.model.eval()
        self.revision = f"{self._fingerprint(folder)}-{str(self.precision).removeprefix('torch.')}-{config.max_tokens}"
        self.width = int(self.model.config.get_text_config().hidden_size)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, {self.revision}, {self.pooling}, width {self.width})"

    @property
    def limit(self) -> int:
        return self.config.max_tokens

    def longer(self, texts: Sequence[str]) -> int:
        return count_longer(self.tokenizer, texts, self.limit)

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """float32 [len(texts), width]; the bytes of a vector do not depend on the other texts."""
        from braidrec.knowledge.encoders.buckets import encode_in_buckets

        return encode_in_buckets(
            token_ids(self.tokenizer, texts, self.config.max_tokens, self.name),
            self._forward,
            width=self.width,
            padding_id=self.tokenizer.pad_token_id or 0,
            batch_tokens=self.config.batch_tokens,
        )

    def _forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        ids, mask = ids.to(self.device), mask.to(self.device)
        states = self.model(input_ids=ids, attention_mask=self._attention(mask), use_cache=False).last_hidden_state.float()
        weights = self._pooled(ids, mask).unsqueeze(-1).float()
        return (states * weights).sum(1) / weights.sum(1).clamp(min=1)

    def _attention(self, mask: Tensor) -> Tensor:
        return mask

    def _pooled(self, ids: Tensor, mask: Tensor) -> Tensor:
        return mask

    def _fingerprint(self, folder: Path) -> str:
        return fingerprint(folder)


SPEC = Spec("causal-lm", "Causal language model", CausalLMConfig, CausalLMEncoder)
