"""LLM2Vec (BehnamGhader et al., COLM 2024): a causal language model that reads in both directions, its LoRA folders merged.

    attention: every token sees every token; padding is hidden
    weights:   W + scale B A for each adapter in turn, scale = alpha / r  (alpha / sqrt(r) for rank-stabilised LoRA)
    pooling:   mean over the text's own tokens, special tokens left out
Departures: no instruction and no chat wrapping around the text.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from braidrec.errors import KnowledgeError
from braidrec.files import read_json
from braidrec.knowledge.encoders.causal import CausalLMEncoder, LanguageModelSettings
from braidrec.knowledge.encoders.weights import fingerprint, resolve
from braidrec.registry import Spec

if TYPE_CHECKING:
    from torch import Tensor, nn


class LLM2VecConfig(LanguageModelSettings):
    """``adapters``: LoRA folders or hub names (adapter_config.json + adapter_model.safetensors), merged in this order."""

    kind: Literal["llm2vec"] = "llm2vec"
    adapters: tuple[str, ...] = ()


class LLM2VecEncoder(CausalLMEncoder):
    """A TextEncoder.  Raises KnowledgeError for an adapter that does not fit and for a model that ignores the mask."""

    pooling = "mean-text"

    def __init__(self, config: LLM2VecConfig):
        import torch

        self._adapters = [resolve(adapter)[0] for adapter in config.adapters]
        super().__init__(config)
        self._special = torch.tensor(sorted(self.tokenizer.all_special_ids), device=self.device)
        for folder in self._adapters:
            merge_lora(self.model, folder)
        self._check_both_directions()

    def _attention(self, mask: Tensor) -> Tensor:
        """(n, L) -> (n, 1, L, L) bool, True where a token may look: at every token that is not padding."""
        length = mask.shape[1]
        return mask.bool()[:, None, None, :].expand(-1, 1, length, length)

    def _pooled(self, ids: Tensor, mask: Tensor) -> Tensor:
        import torch

        return mask * ~torch.isin(ids, self._special)

    def _fingerprint(self, folder: Path) -> str:
        return "-".join(fingerprint(each) for each in (folder, *self._adapters))

    def _check_both_directions(self) -> None:
        """The first token must notice a change of the last one; some architectures build their own causal mask."""
        import torch

        known = torch.arange(self.tokenizer.vocab_size)[
            ~torch.isin(torch.arange(self.tokenizer.vocab_size), self._special.cpu())
        ]
        ids = known[:4].repeat(2, 1).to(self.device)
        ids[1, 3] = known[4]
        with torch.inference_mode():
            mask = self._attention(torch.ones_like(ids))
            first = self.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[:, 0]
        if torch.equal(first[0], first[1]):
            raise KnowledgeError(
                f"model '{self.name}' ({type(self.model).__name__}) stays causal under a full attention mask; "
                "use kind = 'causal-lm', or a Llama, Mistral or Qwen model"
            )


def merge_lora(model: nn.Module, folder: Path) -> None:
    """Add a LoRA folder's scale * B @ A to the weights of ``model``, in place, computed in float32.

    Raises KnowledgeError for an adapter that is not plain LoRA or names a layer that ``model`` does not have.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config: dict[str, Any] = read_json(folder / "adapter_config.json", KnowledgeError)
    for key, accepted in (("peft_type", "LORA"), ("use_dora", False), ("bias", "none"), ("modules_to_save", None)):
        if config.get(key, accepted) not in (accepted, [] if accepted is None else accepted):
            raise KnowledgeError(
                f"{folder}/adapter_config.json: {key} = {config[key]!r} is not supported (accepted: {accepted!r})"
            )
    if config.get("rank_pattern") or config.get("alpha_pattern"):
        raise KnowledgeError(f"{folder}/adapter_config.json: rank_pattern and alpha_pattern are not supported; merge it first")
    path = folder / "adapter_model.safetensors"
    try:
        tensors = load_file(str(path))
    except (OSError, SafetensorError) as cause:
        raise KnowledgeError(f"{path}: cannot be read ({cause})") from None
    rank, alpha = int(config["r"]), float(config["lora_alpha"])
    scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    weights = dict(model.named_parameters())
    downs = {key.removesuffix(".lora_A.weight"): value for key, value in tensors.items() if key.endswith(".lora_A.weight")}
    strange = [key for key in tensors if not key.endswith((".lora_A.weight", ".lora_B.weight"))]
    if strange or not downs:
        raise KnowledgeError(f"{path}: {strange[0] if strange else 'no lora_A tensor'}; only plain LoRA layers are supported")
    with torch.no_grad():
        for layer, down in downs.items():
            plain = layer.removeprefix("base_model.model.")
            weight = next(
                (weights[f"{at}.weight"] for at in (plain, plain.removeprefix("model.")) if f"{at}.weight" in weights), None
            )
            up = tensors.get(f"{layer}.lora_B.weight")
            if weight is None or up is None:
                raise KnowledgeError(f"{path}: '{layer}' has no counterpart; the adapter was made for another model")
            change = scale * (up.float() @ down.float())
            change = change.T if config.get("fan_in_fan_out") else change
            if change.shape != weight.shape:
                raise KnowledgeError(
                    f"{path}: '{layer}' is {tuple(change.shape)}, the model's {tuple(weight.shape)}; wrong adapter"
                )
            weight.copy_((weight.float().cpu() + change).to(weight.dtype))


SPEC = Spec("llm2vec", "LLM2Vec", LLM2VecConfig, LLM2VecEncoder)
