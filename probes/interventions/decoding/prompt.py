"""What decoding is given: prompts of one batch, padded on the left, and what the model makes of such."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from probes.capture.stage import virtual_tokens
from probes.capture.within import chain, device_of, language_model
from probes.errors import ProbeError, UsageError


@dataclass(frozen=True)
class Prompt:
    """Ids [B, S] and mask [B, S] (1 is a token), padding on the left."""

    ids: torch.Tensor
    mask: torch.Tensor

    @property
    def batch(self) -> int:
        """B."""
        return len(self.ids)


def read_prompt(model: Any, inputs: Any) -> Prompt:
    """The prompts in `inputs` on the model's device. UsageError where they are empty or padded on the right."""
    model = decoder_of(model)
    given = inputs if isinstance(inputs, Mapping) or hasattr(inputs, "keys") else {"input_ids": inputs}
    if given.get("input_ids") is None:
        raise UsageError("decoding takes input_ids, as a tokenizer returns them")
    device = device_of(model)
    ids = torch.as_tensor(given["input_ids"]).to(device)
    ids = ids[None] if ids.ndim == 1 else ids
    mask = given.get("attention_mask")
    mask = torch.ones_like(ids) if mask is None else torch.as_tensor(mask).to(device).long().view(ids.shape)
    if not ids.numel() or not bool(mask[:, -1].all()):
        why = "is padded on the right; tokenize with padding_side='left'" if ids.numel() else "is empty"
        raise UsageError(f"a prompt {why}")
    return Prompt(ids, mask)


def decoder_of(model: Any) -> Any:
    """The model that writes text from left to right, inside of what is wrapped around it. ProbeError for any other.

    Passes are then made by us, so that what a wrapper does beside them (a value head, a merged output) does not matter.
    """
    virtual = max(virtual_tokens(module) for module in chain(model))
    if virtual:
        raise ProbeError(f"{virtual} virtual tokens stand before the text (prompt tuning); this needs the model alone")
    model = language_model(model)
    name = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise ProbeError(f"{name} has an encoder and a decoder; these decoding strategies are for decoders alone")
    if not getattr(model, "can_generate", lambda: False)():
        raise ProbeError(f"{name} does not generate text, so there is nothing to decode")
    return model


def end_ids(model: Any, stop: Iterable[int | Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """What ends a sequence: the model's own end tokens and `stop`, each as a sequence of ids."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    own = model.config.get_text_config().eos_token_id if own is None else own
    own = [] if own is None else own if isinstance(own, (list, tuple)) else [own]
    if isinstance(stop, str) or any(isinstance(end, str) for end in stop):
        raise UsageError("stop holds token ids or sequences of them; for a text, give tokenizer.encode(text)")
    ends = tuple(dict.fromkeys((end,) if isinstance(end, int) else tuple(map(int, end)) for end in (*own, *stop)))
    if any(not end for end in ends):
        raise UsageError("stop holds an empty sequence of ids")
    return ends


def padding_id(model: Any) -> int:
    """What stands after a sequence's end."""
    for config in (getattr(model, "generation_config", None), model.config.get_text_config()):
        found = getattr(config, "pad_token_id", None)
        if found is not None and found >= 0:
            return int(found)
    return 0
