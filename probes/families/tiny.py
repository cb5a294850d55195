"""The smallest model of each family that is worth testing: random weights, from a config of a few lines."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from probes.errors import ProbeError
from probes.families.base import Family

VOCABULARY = 128

# Names differ between families; a config takes those it knows and keeps the others without harm.
BASE: Mapping[str, Any] = {
    "vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 64,
    "hidden_size": 32, "intermediate_size": 32, "moe_intermediate_size": 16, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8, "initializer_range": 0.1,
    "q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "num_experts": 8, "num_local_experts": 8, "n_routed_experts": 8, "moe_num_experts": 8,
    "num_experts_per_tok": 2, "num_experts_per_token": 2, "moe_topk": 2, "moe_k": 2, "top_k_experts": 2,
    "n_group": 4, "topk_group": 2, "first_k_dense_replace": 1,
}  # fmt: skip


def tiny_config(family: Family) -> Any:
    """The family's config with `BASE` and its own settings."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    names = (family.config, f"{family.name}_text", family.name)
    name = next((n for n in names if n in CONFIG_MAPPING), None)
    if name is None:
        raise ProbeError(f"transformers {transformers.__version__} has no {family.name}")
    return CONFIG_MAPPING[name](**{**BASE, **family.tiny})


def tiny_model(family: Family, dtype: str = "float32", seed: int = 0) -> Any:
    """A random model of the family, in evaluation mode, with routers that have something to say.

    Fresh correction biases are zero and fresh routers nearly indifferent; a check on those would pass for rules that
    forget them.
    """
    import torch

    config = tiny_config(family)
    torch.manual_seed(seed)
    model = _model_class(family, config)._from_config(config, dtype=getattr(torch, dtype)).eval()
    with torch.no_grad():
        _keep_in_float32(model)
        _liven(model)
    return model


def _keep_in_float32(model: Any) -> None:
    """Weights and biases that `from_pretrained` leaves in float32 whatever the dtype; `_from_config` does not."""
    names = getattr(model, "_keep_in_fp32_modules_strict", None) or ()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if any(f".{kept}." in f".{name}." for kept in names) and tensor.is_floating_point():
            tensor.data = tensor.data.float()


def _model_class(family: Family, config: Any) -> Any:
    if family.model:
        package = type(config).__module__.rsplit(".", 1)[0]
        return getattr(importlib.import_module(f"{package}.modeling_{package.rsplit('.', 1)[1]}"), family.model)
    from transformers.models.auto import modeling_auto as auto

    mappings = (auto.MODEL_FOR_CAUSAL_LM_MAPPING, auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING, auto.MODEL_MAPPING)
    return next(m[type(config)] for m in mappings if type(config) in m)


def _liven(model: Any) -> None:
    from probes.capture.discovery import discover

    for found in discover(model):
        for module in (found.parts.router, found.parts.block):
            for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                if "bias" in name or "scale" in name:
                    tensor.normal_(0.0, 0.1).add_(float("scale" in name))
                elif name == "tid2eid":
                    tensor.copy_(_table(len(tensor), tensor.shape[1], found.num_experts))
                elif module is found.parts.router and tensor.ndim == 2:
                    tensor.normal_(0.0, 0.5)


def _table(tokens: int, top_k: int, num_experts: int) -> Any:
    import torch

    return torch.rand(tokens, num_experts).topk(top_k, dim=-1).indices
