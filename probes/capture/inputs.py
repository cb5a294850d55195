"""What a pass was given: how many sequences and positions, which of them are padding, how much the cache held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from probes.capture.discovery import MoELayer
from probes.errors import ProbeError

TOKENS = ("input_ids", "inputs_embeds", "decoder_input_ids", "decoder_inputs_embeds")


@dataclass(frozen=True)
class Inputs:
    """B, S, and the tensors that say where the rows are. `past` is the number of positions in the cache."""

    batch: int
    length: int
    mask: Any = None
    position_ids: Any = None
    past: int = 0

    def tensors(self) -> list[Any]:
        """What has to go to the host with the pass."""
        return [t for t in (self.mask, self.position_ids) if t is not None]

    @property
    def count(self) -> int:
        return len(self.tensors())

    def arrays(self, host: list[Any]) -> tuple[Any, Any]:
        """(mask, position_ids) as NumPy arrays or None, from `tensors()` on the host."""
        values = [t.numpy() for t in host]
        mask = values.pop(0) if self.mask is not None else None
        return mask, values.pop(0) if self.position_ids is not None else None

    def real(self) -> Any:
        """bool [B*S] on the device: rows that are tokens; None when there is no padding mask."""
        return None if self.mask is None else self.mask[:, -self.length :].reshape(-1).bool()


def read_inputs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
    """Read the arguments of a model's forward."""
    tokens = next((kwargs[n] for n in TOKENS if kwargs.get(n) is not None), args[0] if args else None)
    if tokens is None:
        raise ProbeError("the model was called without input_ids or inputs_embeds; there is nothing to record")
    batch, length = tokens.shape[:2]
    mask, position_ids = kwargs.get("attention_mask"), kwargs.get("position_ids")
    return Inputs(
        int(batch),
        int(length),
        mask if _fits(mask, batch) else None,
        position_ids if _fits(position_ids, batch) else None,
        _cached(kwargs.get("past_key_values")),
    )


def _fits(value: Any, batch: int) -> bool:
    # 4-D masks are attention patterns, [3, B, S] position ids are image coordinates: neither says which token it is.
    return getattr(value, "ndim", 0) == 2 and value.shape[0] in (1, batch)


def _cached(cache: Any) -> int:
    try:
        return int(cache.get_seq_length())
    except (AttributeError, TypeError, ValueError, NotImplementedError, IndexError):
        return 0  # no cache, or one of a recurrent model that counts no positions


def roots(model: Any, layers: list[MoELayer]) -> list[tuple[Any, str, list[MoELayer]]]:
    """(module, stream, layers): the modules whose forward is one pass over B*S rows.

    Encoder and decoder of an encoder-decoder model see different sequences, and generation calls the encoder alone.
    """
    if not getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return [(model, "mlp", layers)]
    encoder, decoder = model.get_encoder(), model.get_decoder()
    inside = {id(m) for m in encoder.modules()}
    split = [[m for m in layers if (id(m.parts.router) in inside) is where] for where in (False, True)]
    return [(decoder, "mlp", split[0]), (encoder, "encoder", split[1])]
