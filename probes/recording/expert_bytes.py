"""How many bytes each expert takes: in the checkpoint, and as loaded. What cannot be told is left out, not guessed."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

LAYER = re.compile(r"^(?P<stack>.*?)\b(?:layers?|h|blocks?)\.(?P<index>\d+)\.(?P<rest>.+)$")
ONE = re.compile(r"\bexperts\.(?:expert_)?(\d+)\.")
PACKED = re.compile(r"\bexperts\b|\b(?:input|output)_linear\b")  # the linear ones: Granite's, [E, out, in]
SHARED = re.compile(r"shared|\brouter\b|post_expert_norm")
Sizes = int | list[int]


def expert_bytes(found: Iterable[Any], folder: Path | None) -> dict[str, dict[str, Sizes]]:
    """{"loaded": {layer: bytes}, "stored": {layer: bytes}}; a list by expert where they differ.

    found: routed layers, as `discover` gives them; folder: of the checkpoint, None where there is none. JSON-able.
    """
    layers = list(found)
    loaded = {layer.layer: loaded_bytes(layer) for layer in layers}
    stored = _stored(layers, loaded, folder) if folder is not None else {}
    return {name: _spelled(sizes) for name, sizes in (("loaded", loaded), ("stored", stored)) if _spelled(sizes)}


def _spelled(sizes: Mapping[int, list[int] | None]) -> dict[str, Sizes]:
    return {str(layer): each[0] if len(set(each)) == 1 else each for layer, each in sizes.items() if each}


def loaded_bytes(layer: Any) -> list[int] | None:
    """[E] bytes of each expert's parameters and buffers in memory; None where the layout does not tell them apart."""
    experts, count = layer.parts.experts, layer.num_experts
    if experts is None:
        return None
    numbered = {match[1]: child for name, child in experts.named_children() if (match := re.search(r"(\d+)$", name))}
    if numbered:
        sizes = [_module_bytes(numbered[key]) for key in sorted(numbered, key=int)]
        return sizes + [0] * (count - len(sizes)) if len(sizes) <= count else None  # the rest are identities
    tensors = {name: (tuple(tensor.shape), _bytes(tensor)) for name, tensor in _tensors(experts)}
    # A single matrix is half of an expert whose other half is in another module (Doge, JetMoE).
    return None if set(tensors) <= {"weight"} else _by_expert(tensors, count)


def _by_expert(tensors: Mapping[str, tuple[tuple[int, ...], int]], count: int) -> list[int] | None:
    """[E] from tensors that hold all experts: along their first axis, or one after the other in its rows (DBRX)."""
    sizes = [0] * count
    for shape, size in tensors.values():
        if len(shape) >= 2 and shape[0] <= count:  # fewer where the last experts are identities (LongCat)
            for expert in range(shape[0]):
                sizes[expert] += size // shape[0]
        elif len(shape) == 2 and shape[0] % count == 0:
            sizes = [one + size // count for one in sizes]
        elif len(shape) >= 2:
            return None
    return sizes if any(sizes) else None


def _tensors(module: Any) -> Iterable[tuple[str, Any]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _module_bytes(module: Any) -> int:
    return sum(_bytes(tensor) for _, tensor in _tensors(module))


def _bytes(tensor: Any) -> int:
    """Also of what is offloaded, and of a quantiser's tensors, which hold others."""
    if hasattr(tensor, "__tensor_flatten__"):
        return sum(_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return int(tensor.numel() * tensor.element_size())


def _stored(layers: list[Any], loaded: Mapping[int, Any], folder: Path) -> dict[int, list[int] | None]:
    tensors = _of_layers(folder)
    return {layer.layer: _stored_layer(layer, loaded[layer.layer], tensors) for layer in layers}


def _of_layers(folder: Path) -> dict[int, dict[str, dict[str, tuple[tuple[int, ...], int]]]]:
    """layer -> stack -> name within the layer -> (shape, bytes), from the headers of the safetensors files."""
    found: Any = defaultdict(lambda: defaultdict(dict))
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        for name, about in header.items():
            if (match := LAYER.match(name)) and not SHARED.search(match["rest"]):
                begin, end = about["data_offsets"]
                found[int(match["index"])][match["stack"]][match["rest"]] = (tuple(about["shape"]), end - begin)
    return found


def _stored_layer(layer: Any, loaded: list[int] | None, tensors: Mapping[int, Any]) -> list[int] | None:
    """[E] bytes in the checkpoint; None unless it has as many experts as the loaded layer."""
    stacks = tensors.get(layer.index, {})
    own = LAYER.match(layer.module)
    stack = own["stack"] if own and own["stack"] in stacks else next(iter(stacks), None) if len(stacks) == 1 else None
    if stack is None or loaded is None or layer.stream not in ("mlp", "encoder"):
        return None
    groups: Any = defaultdict(dict)  # a layer may hold the experts of two routers (Ernie's for text and for images)
    for name, about in stacks[stack].items():
        if match := PACKED.search(name):
            groups[name[: match.start()]][name[match.start() :]] = about
    own_path = layer.module.rpartition(".")[0]
    mine = [group for path, group in groups.items() if len(groups) == 1 or own_path.endswith(path.rstrip("."))]
    sizes = _sizes_in(mine[0], layer.num_experts) if len(mine) == 1 else None
    same = sizes is not None and [bool(size) for size in sizes] == [bool(size) for size in loaded]
    return sizes if same else None


def _sizes_in(group: Mapping[str, tuple[tuple[int, ...], int]], count: int) -> list[int] | None:
    """[E] from the tensors of one set of experts: a file's worth for each, or packed ones."""
    sizes, packed = [0] * count, {}
    for name, (shape, size) in group.items():
        one = ONE.search(name)
        if one is None:
            packed[name] = (shape, size)
        elif int(one[1]) >= count:
            return None
        else:
            sizes[int(one[1])] += size
    return sizes if any(sizes) else _by_expert(packed, count)


def sizes_of(provenance: Any, where: str, layers: Iterable[int]) -> list[float | None]:
    """Bytes of an expert in each layer, the mean where they differ, from a run's provenance; None: not known."""
    told = (provenance.get("expert_bytes") or {}).get(where) or {} if isinstance(provenance, Mapping) else {}
    return [_mean(told.get(str(layer))) for layer in layers]


def _mean(sizes: Sizes | None) -> float | None:
    return None if not sizes else float(sizes) if isinstance(sizes, int) else sum(sizes) / len(sizes)
