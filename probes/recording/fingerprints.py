"""What tells one model from another: hashes of its weights, its tokenizer, its settings, and of its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from probes.capture.within import config_of, module_of

CHUNK = 1 << 16  # words of 8 bytes per partial sum
WHOLE = 1 << 30  # bytes of a checkpoint up to which all of it is read before a model is loaded
SAMPLES, SAMPLE_BYTES = 4, 4096  # of each tensor of a larger one
# splitmix64's constants, as signed numbers: torch has no unsigned multiplication.
FACTOR, OFFSET = 0x9E3779B97F4A7C15 - 2**64, 0xBF58476D1CE4E5B9 - 2**64
# Entries of a configuration that say how and where a model is run or was saved, and not what it computes.
NOT_THE_MODEL = ("transformers_version", "dtype", "torch_dtype", "architectures", "auto_map", "use_cache", "device_map")


def weights_fingerprint(model: Any) -> str | None:
    """A hash over every bit of every parameter and stored buffer; None where some cannot be read.

    Each tensor is summed up where it is, as 64-bit words multiplied by odd numbers that depend on the place: one
    changed bit changes the sum, and the same bits give the same sum on every device. 1.5 GB/s on one CPU core.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(_tensors(model), key=lambda item: item[0]):
        if tensor is None:
            return None
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        for sums in tensor_sums(tensor):
            digest.update(sums)
    return digest.hexdigest()[:32]


def tensor_sums(tensor: Any) -> Iterator[bytes]:
    """The sums of one tensor, or of each of those that it wraps."""
    yield from map(_sums, _plain_parts(tensor))


def _tensors(model: Any) -> Iterator[tuple[str, Any]]:
    """(name, tensor) of what a checkpoint of the model would hold; the real values of what is offloaded, else None."""
    from probes.families.parameters import materialised

    for prefix, module in module_of(model).named_modules():
        buffers = {n: b for n, b in module._buffers.items() if n not in module._non_persistent_buffers_set}
        for name, tensor in {**module._parameters, **buffers}.items():
            if tensor is not None:
                yield f"{prefix}.{name}", materialised(module, name) if tensor.device.type == "meta" else tensor


def _plain_parts(tensor: Any) -> Iterator[Any]:
    """The plain tensors behind one: quantisers wrap several (values, scales) in a class of their own."""
    tensor = tensor.detach()
    if hasattr(tensor, "__tensor_flatten__"):
        for name in tensor.__tensor_flatten__()[0]:
            yield from _plain_parts(getattr(tensor, name))
    else:
        yield tensor


def _sums(tensor: Any) -> bytes:
    """Partial sums of one tensor's words, and the bytes left over at its end."""
    import torch

    if tensor.device.type not in ("cpu", "cuda"):
        tensor = tensor.cpu()
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    whole = flat.numel() // 8 * 8
    words = flat[:whole]
    words = (words if words.storage_offset() % 8 == 0 else words.clone()).view(torch.int64)
    factors = (torch.arange(min(CHUNK, len(words)), device=flat.device) * FACTOR + OFFSET) | 1
    sums = [(piece * factors[: len(piece)]).sum() for piece in words.split(CHUNK)] if len(words) else []
    summed = torch.stack(sums).cpu().numpy().tobytes() if sums else b""
    return summed + flat[whole:].cpu().numpy().tobytes()


def tokenizer_fingerprint(tokenizer: Any) -> str | None:
    """A hash of the tokenizer's vocabulary, merges, special tokens and chat template; None for one that tells nothing.

    How it pads and cuts is left out: that changes with every call, and the ids of a recording are compared themselves.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        text = backend.to_str()
        definition = text[max(0, text.find('"added_tokens"')) :]
    elif hasattr(tokenizer, "get_vocab"):
        special = str(getattr(tokenizer, "special_tokens_map", ""))
        definition = type(tokenizer).__name__ + special + json.dumps(tokenizer.get_vocab(), sort_keys=True)
    else:
        return None
    return _short(definition + str(getattr(tokenizer, "chat_template", "")))


def settings_fingerprint(model: Any) -> str:
    """A hash of what a model computes besides its weights: configuration, what its routers go by, adapters in use."""
    from probes.capture.discovery import discover

    layers = [(found.module, found.num_experts, found.top_k, found.parameters) for found in discover(model)]
    wrapped = [(name, m) for name, m in module_of(model).named_modules() if hasattr(m, "base_layer")]
    adapters = [(name, *_adapter(module)) for name, module in wrapped]
    return _short(json.dumps([_config(model), layers, adapters], sort_keys=True, default=_kind))


def _adapter(module: Any) -> tuple[Any, ...]:
    """PEFT: which adapters act in this layer, and how strongly."""
    names = ("disable_adapters", "active_adapters", "merged_adapters", "scaling")
    return tuple(getattr(module, name, None) for name in names)


def _config(model: Any) -> Any:
    config = config_of(model)
    if not hasattr(config, "to_json_string"):
        return None
    return _of_the_model(json.loads(config.to_json_string(use_diff=True)))


def _of_the_model(config: Any) -> Any:
    if not isinstance(config, Mapping):
        return config
    kept = {name: value for name, value in config.items() if not name.startswith("_") and name not in NOT_THE_MODEL}
    return {name: _of_the_model(value) for name, value in kept.items() if "implementation" not in name}


def _kind(value: Any) -> str:
    """For what JSON cannot hold: an object's address would be another one next time."""
    return type(value).__name__ if "object at 0x" in repr(value) else repr(value)


def stored_checkpoint(model: Any) -> tuple[str, bool] | None:
    """`checkpoint_fingerprint` of a model's folder; None for a loaded model or a hub name. ProbeError for no model."""
    if not isinstance(model, str | Path):
        return None
    from probes.model import check_folder

    folder = check_folder(model)
    return None if folder is None else checkpoint_fingerprint(folder)


def checkpoint_fingerprint(folder: Path) -> tuple[str, bool]:
    """(a hash of a model folder's configuration and weights, whether every byte of them was read).

    By tensor and not by file, so that the same weights cut into other files are the same. Of more than 1 GiB some
    pieces of each tensor are read: enough to tell most other models before one is loaded, not to be sure of the same.
    """
    files = sorted(folder.glob("*.safetensors"))
    whole = sum(file.stat().st_size for file in files) <= WHOLE
    entries = sorted(entry for file in files for entry in _stored(file, whole))
    config = _of_the_model(json.loads((folder / "config.json").read_text("utf-8")))
    return _short(json.dumps([config, entries], sort_keys=True)), whole


def _stored(file: Path, whole: bool) -> Iterator[tuple[str, str, list[int], str]]:
    """(name, dtype, shape, hash of the bytes) of each tensor in a safetensors file."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        for name, about in header.items():
            if name != "__metadata__":
                begin, end = about["data_offsets"]
                yield name, about["dtype"], about["shape"], _bytes_hash(stream, 8 + length + begin, end - begin, whole)


def _bytes_hash(stream: Any, start: int, size: int, whole: bool) -> str:
    digest = hashlib.sha256()
    for offset, count in _pieces(size, whole):
        stream.seek(start + offset)
        digest.update(stream.read(count))
    return digest.hexdigest()[:32]


def _pieces(size: int, whole: bool) -> Iterator[tuple[int, int]]:
    """(offset, bytes) to read: everything, or a few pieces spread evenly."""
    if whole or size <= SAMPLES * SAMPLE_BYTES:
        step = 16 << 20
        yield from ((offset, min(step, size - offset)) for offset in range(0, size, step))
    else:
        yield from ((i * (size - SAMPLE_BYTES) // (SAMPLES - 1), SAMPLE_BYTES) for i in range(SAMPLES))


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
