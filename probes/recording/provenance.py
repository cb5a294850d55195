"""Exactly which model, text and software made a recording."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import sys
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "transformers", "tokenizers", "duckdb", "numpy")
SAMPLES_PER_TENSOR = 64


def describe_model(model: Any, source: str, revision: str | None) -> dict[str, Any]:
    """Name, revision, class, number of parameters, precision and place of a loaded model."""
    from probes.capture.within import config_of, device_of, dtype_of, language_model, module_of, wrappers

    config, whole = config_of(model), module_of(model)
    return {
        "model": source,
        "revision": revision or getattr(config, "_commit_hash", None),
        "model_type": getattr(config, "model_type", None),
        "model_class": type(language_model(model)).__name__,
        "wrapped_in": [type(wrapper).__name__ for wrapper in wrappers(model)],
        "parameters": sum(parameter.numel() for parameter in whole.parameters()),
        "dtype": str(dtype_of(model)).removeprefix("torch."),
        "device": str(device_of(model)),
        "experts_implementation": getattr(config, "_experts_implementation", None),
    }


def earlier_weights_fingerprint(model: Any) -> str | None:
    """What the first version called the weights' fingerprint, to compare with its runs; see `fingerprints` for ours.

    A hash over every parameter's name, shape and a sample of its values; None while weights are offloaded.
    """
    import torch

    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if parameter.is_meta:
            return None
        flat = parameter.detach().reshape(-1)
        step = max(1, flat.numel() // SAMPLES_PER_TENSOR)
        values = flat[::step][:SAMPLES_PER_TENSOR].to(device="cpu", dtype=torch.float32)
        digest.update(f"{name}{tuple(parameter.shape)}".encode() + values.numpy().tobytes())
    return digest.hexdigest()[:32]


def earlier_tokenizer_hash(tokenizer: Any) -> str | None:
    """What the first version called the tokenizer's hash, to compare with its runs."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    definition = backend.to_str() + str(getattr(tokenizer, "chat_template", ""))
    return hashlib.sha256(definition.encode()).hexdigest()[:32]


def software() -> dict[str, str]:
    """Versions of everything that can change a number."""
    from probes import __version__

    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"router-workbench": __version__, "python": platform.python_version(), **versions}


def command_line() -> list[str]:
    """The command as typed; however `probe` was started, it is called that."""
    name = Path(sys.argv[0]).name
    return ["probe" if name in ("probe", "main.py") else name, *sys.argv[1:]]
