"""Weights that a checkpoint lacks: transformers fills them with random numbers, and a recording must say so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from probes.errors import ProbeError

# module -> attribute -> what it was filled with: whoever puts real weights there later has nothing to be told.
_RANDOM: WeakKeyDictionary[Any, dict[str, bytes]] = WeakKeyDictionary()


# model -> names of buffers that were put back after loading.
_RESTORED: WeakKeyDictionary[Any, list[str]] = WeakKeyDictionary()


def restore_buffers(folder: Path | None, model: Any) -> Any:
    """The model, its buffers as the checkpoint has them, where transformers wrote over them after reading it.

    transformers 5.23 does so with the last balancing bias of Zaya's routers, see
    findings/zaya_balancing_bias_lost_on_load.sh.
    Buffers that no checkpoint keeps (rotary frequencies), or of other names or shapes than in the files, stay.
    """
    import torch
    from safetensors import safe_open

    kept = model.state_dict().keys()
    there = ((name, b) for name, b in model.named_buffers() if name in kept and b.device.type != "meta")
    buffers = {name: b for name, b in there if b.is_floating_point()}
    found = []
    for file in sorted(folder.glob("*.safetensors")) if folder is not None and buffers else ():
        with safe_open(file, "pt") as stored:
            for name in sorted(buffers.keys() & set(stored.keys())):
                value = stored.get_tensor(name).to(buffers[name])
                if value.shape == buffers[name].shape and not torch.equal(value, buffers[name]):
                    buffers[name].copy_(value)
                    found.append(name)
    if found:
        _RESTORED[model] = found
    return model


def note_loading(source: str, model: Any, info: Mapping[str, Any]) -> Any:
    """The model, with what transformers' loading info says is missing kept in mind; ProbeError for other shapes."""
    _refuse_mismatched(source, info.get("mismatched_keys") or ())
    for name in info.get("missing_keys") or ():
        path, _, attribute = name.rpartition(".")
        module = _submodule(model, path)
        value = getattr(module, attribute, None)
        if value is not None:
            _RANDOM.setdefault(module, {})[attribute] = _content(value)
    return model


def _refuse_mismatched(source: str, mismatched: Any) -> None:
    found = sorted(mismatched, key=str)
    if found:
        name, stored, wanted = (*found[0], "?", "?")[:3] if isinstance(found[0], tuple) else (found[0], "?", "?")
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ProbeError(
            f"{source}: {name} has shape {_shape(stored)} in the weights and {_shape(wanted)} by config.json{more}; "
            "they do not belong together, or experts are missing"
        )


def _shape(value: Any) -> str:
    return str(list(value)) if not isinstance(value, str) else value


def _submodule(model: Any, path: str) -> Any:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _content(value: Any) -> bytes:
    from probes.recording.fingerprints import tensor_sums

    return b"" if value.device.type == "meta" else b"".join(tensor_sums(value))


def random_in(module: Any) -> Iterator[str]:
    """Names, within `module`, of the weights that no checkpoint filled and that are still as they were then."""
    if module is None:
        return
    for path, inner in module.named_modules():
        for attribute, content in _RANDOM.get(inner, {}).items():
            value = getattr(inner, attribute, None)
            if value is not None and _content(value) == content:
                yield f"{path}.{attribute}".removeprefix(".")


def words_of(router: Any, experts: Any, shared: Any) -> tuple[str, ...]:
    """What is to be said of one layer."""
    parts = {"router": router, "experts": experts, "shared expert": shared}
    found = {part: sorted(set(random_in(module))) for part, module in parts.items() if _RANDOM}
    return tuple(
        f"its {part}: {_listed(names)} not in the checkpoint, random numbers stand there"
        + ("; its routing means nothing" if part == "router" else "")
        for part, names in found.items()
        if names
    )


def note_of(model: Any) -> Iterator[str]:
    """What is to be said of the whole model."""
    restored = _RESTORED.get(model, [])
    if restored:
        yield f"transformers changed {len(restored)} buffers after reading them ({restored[0]}); they are put back"
    names = sorted(random_in(model)) if _RANDOM else []
    if names:
        yield f"of its weights, {_listed(names)} not in the checkpoint: random numbers stand there"


def _listed(names: list[str]) -> str:
    if len(names) == 1:
        return f"{names[0]} is"
    return f"{names[0]} and {len(names) - 1} more are"
