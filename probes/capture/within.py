"""What is inside the object that is given as a model: adapters, value heads and other wrappers around it.

A wrapper may be called in many ways (`wrapper(...)`, `wrapper.generate(...)`, or the model inside it directly), and
only some of them run its own `__call__`. So hooks that mark a pass go to the innermost module that takes tokens and
holds all routers: every one of these calls runs it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from probes.errors import ProbeError

if TYPE_CHECKING:
    from probes.capture.discovery import MoELayer

TOKENS = ("input_ids", "inputs_embeds", "decoder_input_ids", "decoder_inputs_embeds")
DEPTH = 4  # how deep a model may lie inside plain Python objects

_CORES: WeakKeyDictionary[Any, str] = WeakKeyDictionary()  # module -> dotted name of its core


def module_of(model: Any) -> Any:
    """The torch module that `model` is, or that a plain Python object holds. ProbeError where there is none, or two."""
    import torch

    if isinstance(model, torch.nn.Module):
        return model
    found = list({id(m): m for m in _held(model, DEPTH, set())}.values())
    if len(found) > 1:
        found = [m for m in found if _has_routers(m)] or found[:1]
    if len(found) > 1:
        names = " and ".join(type(m).__name__ for m in found[:2])
        raise ProbeError(f"{type(model).__name__} holds several models ({names}); give the one that is meant")
    if not found:
        raise ProbeError(f"{type(model).__name__} is not a model: it holds no torch module")
    return found[0]


def _held(thing: Any, depth: int, seen: set[int]) -> Iterator[Any]:
    import torch

    for value in _fields(thing):
        if isinstance(value, torch.nn.Module):
            yield value
        elif depth > 0 and id(value) not in seen:
            seen.add(id(value))
            yield from _held(value, depth - 1, seen)


def _fields(thing: Any) -> list[Any]:
    """What an object of somebody's own, a dict or a list holds; nothing of classes, functions and plain values."""
    if isinstance(thing, dict):
        return list(thing.values())
    if isinstance(thing, (list, tuple)):
        return list(thing)
    if isinstance(thing, type) or inspect.ismodule(thing) or inspect.isroutine(thing):
        return []
    slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ()) if isinstance(name, str)]
    return [*getattr(thing, "__dict__", {}).values(), *(getattr(thing, name, None) for name in slots)]


def _has_routers(module: Any) -> bool:
    from probes.capture.discovery import places

    return any(True for _ in places(module))


@cache
def _parameters(kind: Any) -> tuple[str, ...]:
    """Names of what the forward of a class of modules takes, in order."""
    try:
        found = inspect.signature(kind.forward).parameters.values()
    except (TypeError, ValueError, AttributeError):
        return ()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.KEYWORD_ONLY)
    return tuple(p.name for p in found if p.kind in kinds)[1:]


def _kind(module: Any) -> Any:
    return type(module)


def named(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call of `module` by name, however they were given."""
    if not args:
        return kwargs
    return {**dict(zip(_parameters(_kind(module)), args, strict=False)), **kwargs}


def takes_tokens(module: Any) -> bool:
    """Is a call of `module` a pass over tokens? Decoder layers may take token ids too, beside their hidden states."""
    names = _parameters(_kind(module))
    return any(name in names for name in TOKENS) and "hidden_states" not in names


def core_of(model: Any) -> Any:
    """The innermost module that takes tokens and holds all routers; `model` itself where there are none.

    Whatever is kept per model (its lock, what it is steered by) is kept by this module, so that it is the same for
    a model and for every wrapper around it.
    """
    module = module_of(model)
    name = _CORES.get(module)
    if name is None or _submodule(module, name) is None:
        name = _CORES[module] = _core_name(module)
    return _submodule(module, name)


def _submodule(module: Any, name: str) -> Any:
    try:
        return module.get_submodule(name)
    except AttributeError:
        return None


def _core_name(module: Any) -> str:
    from probes.capture.discovery import places

    names = [name for name, _, _ in places(module)]
    if not names:
        return ""
    return _above(module, _common(names), takes_tokens)


def _common(names: list[str]) -> str:
    """The dotted name of the innermost module around all of them."""
    split = [name.split(".") for name in names]
    shared = []
    for words in zip(*split, strict=False):
        if len(set(words)) > 1:
            break
        shared.append(words[0])
    return ".".join(shared)


def _above(module: Any, name: str, wanted: Any) -> str:
    """The nearest name at or above `name` of a module that is `wanted`; "" (the outermost) where there is none."""
    while name and not wanted(module.get_submodule(name)):
        name = name.rpartition(".")[0]
    return name


def chain(model: Any) -> list[Any]:
    """From the outermost module to the core."""
    module = module_of(model)
    core_of(module)
    words = _CORES[module].split(".") if _CORES[module] else []
    return [module.get_submodule(".".join(words[:n])) for n in range(len(words) + 1)]


def language_model(model: Any) -> Any:
    """The model as its library made it, without what is wrapped around it: what has the config and reads plain tokens.

    The outermost of transformers' own models among the wrappers, else the outermost module with token embeddings.
    """
    around = chain(model)
    tests = (_of_transformers, lambda m: takes_tokens(m) and hasattr(m, "get_input_embeddings"), takes_tokens)
    for test in tests:
        found = next((m for m in around if test(m)), None)
        if found is not None:
            return found
    return around[0]


def _of_transformers(module: Any) -> bool:
    return takes_tokens(module) and any(kind.__name__ == "PreTrainedModel" for kind in type(module).__mro__)


def wrappers(model: Any) -> list[Any]:
    """What is around the model itself, from the outside, a plain Python object included."""
    inner, around = language_model(model), chain(model)
    outer = [] if module_of(model) is model else [model]
    return outer + around[: next(i for i, m in enumerate(around) if m is inner)]


def dtype_of(model: Any) -> Any:
    """The precision of the model inside."""
    inner = language_model(model)
    first = next((p.dtype for p in inner.parameters() if p.is_floating_point()), None)
    return getattr(inner, "dtype", None) or first


def config_of(model: Any) -> Any:
    """The configuration of the model inside; None for one that has none."""
    return next((m.config for m in [language_model(model), *chain(model)] if hasattr(m, "config")), None)


def text_config(model: Any) -> Any:
    """The configuration of its text part; None for a model without one."""
    config = config_of(model)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def device_of(model: Any) -> Any:
    """Where the model's inputs have to be; weights that accelerate keeps elsewhere say where they will run."""
    import torch

    language = language_model(model)
    embeddings = language.get_input_embeddings() if hasattr(language, "get_input_embeddings") else None
    for module in (embeddings, language, *language.modules()):
        device = None if module is None else _device(module)
        if device is not None and device.type != "meta":
            return device
    return torch.device("cpu")


def _device(module: Any) -> Any:
    import torch

    own = next(module.parameters(recurse=False), None)
    if own is not None and own.device.type != "meta":
        return own.device
    hook = getattr(module, "_hf_hook", None)
    for one in (hook, *getattr(hook, "hooks", ())):
        device = getattr(one, "execution_device", None)
        if device is not None:
            return torch.device(device)
    return None


def reader(model: Any) -> Any:
    """What to call with `input_ids`, `attention_mask` and `use_cache`: the outermost module, where it takes them.

    A classifier's head reads one position per text and asks for a padding token; its routing is that of the model
    without the head.
    """
    inner = language_model(model)
    if not writes(model) and _headed(inner) and not any(hasattr(m, "peft_config") for m in chain(model)):
        core = core_of(model)
        return core if takes_tokens(core) else inner
    outer = module_of(model)
    return outer if _takes(type(outer).forward, outer, "input_ids", "attention_mask", "use_cache") else inner


def _headed(model: Any) -> bool:
    """Is there a head on it, that is not one of words?"""
    words = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return words is None and core_of(model) is not model


def _takes(function: Any, *given: Any) -> bool:
    """Can it be called with these, the names by name?"""
    names = [one for one in given if isinstance(one, str)]
    try:
        inspect.signature(function).bind(*given[: len(given) - len(names)], **dict.fromkeys(names))
    except (TypeError, ValueError):
        return False
    return True


def accepts(module: Any, *names: str) -> bool:
    """Can `module` be called with arguments of these names?"""
    return _takes(type(module).forward, module, *names)


def writes(model: Any) -> bool:
    """Does it write text?"""
    return bool(getattr(language_model(model), "can_generate", lambda: False)())


def writer(model: Any) -> Any:
    """What to call `generate` of: the outermost module, where it has one. ProbeError where the model writes no text."""
    inner, outer = language_model(model), module_of(model)
    if not writes(model):
        raise ProbeError(f"{type(inner).__name__} does not generate text; leave --max-new-tokens out")
    own = getattr(outer, "generate", None)
    return outer if callable(own) and _takes(own, "input_ids", "attention_mask", "generation_config") else inner


def generation_config(model: Any) -> Any:
    """Its settings for writing; None where it has none."""
    found = (getattr(m, "generation_config", None) for m in [language_model(model), *chain(model)])
    return next((config for config in found if config is not None), None)


def roots(model: Any, layers: list[MoELayer]) -> list[tuple[Any, str, list[MoELayer]]]:
    """(module, stream, layers): the modules whose forward is one pass over B*S rows, each with all layers inside.

    One for most models. Encoder and decoder of an encoder-decoder model see different sequences, and generation calls
    the encoder alone.
    """
    language = language_model(model)
    names = [_above(language, layer.module, takes_tokens) for layer in layers]
    tops = [name for name in dict.fromkeys(names) if not any(_inside(name, other) for other in names)]
    groups = {
        top: [la for la, name in zip(layers, names, strict=True) if name == top or _inside(name, top)] for top in tops
    }
    return [
        (language.get_submodule(top), "encoder" if {m.stream for m in found} == {"encoder"} else "mlp", found)
        for top, found in groups.items()
    ]


def _inside(name: str, other: str) -> bool:
    return name != other and (not other or name.startswith(f"{other}."))
