"""Load a model and its tokenizer, or say in one line why that cannot be done."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from probes.errors import ProbeError, UsageError, did_you_mean, unknown
from probes.families.initialised import note_loading, restore_buffers
from probes.parsing import is_whole

LOADING = ("dtype", "device", "revision", "trust_remote_code")
DTYPES = ("auto", "float32", "bfloat16", "float16")


# Kinds of device torch knows; whether this machine has one is seen when it is used.
DEVICES = ("auto", "cpu", "cuda", "mps", "xpu", "npu", "hpu", "mlu", "musa", "xla", "meta")


def check_loading(dtype: str = "auto", device: str | None = None) -> None:
    """UsageError for a precision or a device that is none; nothing is imported to see it."""
    if dtype not in DTYPES:
        raise unknown("dtype", str(dtype), DTYPES)
    kind, colon, index = str(device).partition(":")
    if device is None:
        return
    if kind not in DEVICES:
        raise unknown("--device", str(device), DEVICES)
    if colon and not (is_whole(index) and index.isdigit()):
        raise UsageError(f"--device {device}: after the colon stands a number, as in cuda:1")


def check_load(settings: dict[str, Any]) -> None:
    """UsageError for what `load_model` does not take, and for what `check_loading` refuses."""
    for name in settings:
        if name not in LOADING:
            raise unknown("setting of load_model", str(name), LOADING)
    check_loading(settings.get("dtype", "auto"), settings.get("device"))


def load_model(
    model: str | Path,
    *,
    dtype: str = "auto",
    device: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """(model, tokenizer) of a folder or hub id, in evaluation mode.

    Safetensors only: pickled weights run code when they are read. Hub kernels stay off, because they replace the
    modules that hooks are put on. `device` "auto" spreads the model over what there is (needs accelerate). ProbeError
    for anything that is missing, truncated, unknown, unreachable, or no mixture of experts.
    """
    check_loading(dtype, device)
    name = _checked(model)
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    with _one_line(name):
        loaded, tokenizer = _load(name, dtype, device, options)
    _require_experts(name, loaded)
    return loaded.eval(), tokenizer


def load_skeleton(
    model: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> tuple[Any, Any]:
    """(model without weights, tokenizer): the modules and shapes of a model, in no memory. Raises ProbeError."""
    name = _checked(model)
    import torch
    from transformers import AutoConfig, AutoTokenizer

    from probes.model_class import from_config, text_part

    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    with _one_line(name):
        config = AutoConfig.from_pretrained(name, **options)
        with torch.device("meta"):
            skeleton = text_part(from_config(config, trust_remote_code=trust_remote_code))
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    _require_experts(name, skeleton)
    return skeleton.eval(), tokenizer


def load_config(model: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """(configuration, tokenizer) of a model: what its files say before any weight is read. Raises ProbeError."""
    from transformers import AutoConfig, AutoTokenizer

    name, options = _checked(model), {"revision": revision, "trust_remote_code": trust_remote_code}
    with _one_line(name):
        return AutoConfig.from_pretrained(name, **options), AutoTokenizer.from_pretrained(name, **options)


def check_folder(model: str | Path) -> Path | None:
    """The folder of a model, with everything in it that is needed; None for a hub name. Raises ProbeError."""
    folder = _folder(str(model))
    if folder is not None:
        _check_folder(folder)
    return folder


def _checked(model: str | Path) -> str:
    """The model's name, after a look at its folder if it is one."""
    folder = _folder(str(model))  # before anything is imported that takes seconds
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()  # loading bars belong on a terminal, not into a log
    if folder is not None:
        _check_folder(folder)
    return str(model)


def _load(model: str, dtype: str, device: str | None, options: dict[str, Any]) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoTokenizer

    from probes.model_class import model_class, text_part

    config = AutoConfig.from_pretrained(model, **options)
    loader = model_class(config, trust_remote_code=options["trust_remote_code"])
    # `from_pretrained(dtype=...)`, never `.to(dtype)`: some families keep router weights and biases in float32.
    # Other shapes are let pass there, to be refused by name here; what is missing is remembered, and told later.
    found: Any = loader.from_pretrained(
        model,
        dtype=dtype,
        use_safetensors=True,
        use_kernels=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **({"device_map": "auto"} if device == "auto" else {}),
        **options,
    )
    loaded = text_part(restore_buffers(_folder(model), note_loading(model, *found)))
    if device not in (None, "auto"):
        _move(loaded, str(device))
    return loaded, AutoTokenizer.from_pretrained(model, **options)


def _move(model: Any, device: str) -> None:
    try:
        model.to(device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from error


def _folder(model: str) -> Path | None:
    """The folder `model` names, None for a hub id; something that is neither is an error at once, not a download."""
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ProbeError(f"{model} is a file; give the folder that holds config.json and the weights")
    if model.startswith((".", "/", "~")) or model.count("/") > 1 or not model:
        raise ProbeError(f"there is no model folder {model!r}{_near(path)}")
    return None


def _near(path: Path) -> str:
    parent = path.parent
    return did_you_mean(path.name, [p.name for p in parent.iterdir() if p.is_dir()]) if parent.is_dir() else ""


def _check_folder(folder: Path) -> None:
    """Everything a local model needs is there, and no weight file is cut off."""
    config = _config(folder)
    _check_architecture(folder, config)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = [p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in folder.glob(pattern)]
        why = f"only pickled ones ({pickled[0]}), which run code when they are read" if pickled else "none at all"
        raise ProbeError(f"{folder} has no .safetensors weights, {why}")
    for file in files:
        _check_safetensors(file)
    index = folder / "model.safetensors.index.json"
    if index.exists():
        named = set(json.loads(index.read_text())["weight_map"].values())
        missing = sorted(named - {f.name for f in files})
        if missing:
            raise ProbeError(f"{folder} lacks {len(missing)} of {len(named)} weight files, the first is {missing[0]}")


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.exists():
        raise ProbeError(f"{folder} has no config.json; it is not a model folder")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ProbeError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ProbeError(f"{path} is not an object")
    return config


def _check_architecture(folder: Path, config: dict[str, Any]) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kind = config.get("model_type")
    if kind in CONFIG_MAPPING_NAMES or "auto_map" in config:
        return
    if not isinstance(kind, str):
        raise ProbeError(f"{folder / 'config.json'} names no model_type")
    raise ProbeError(f"unknown architecture {kind!r}{did_you_mean(kind, CONFIG_MAPPING_NAMES)} in {folder}")


def _check_safetensors(file: Path) -> None:
    """Header and length agree: a download that was cut off is found before gigabytes are read."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            header = json.loads(stream.read(length)) if 8 + length <= size else None
        except ValueError:
            header = None
    if not isinstance(header, dict):
        raise ProbeError(f"{file} is damaged: its header cannot be read; get it again")
    end = max((t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"), default=0)
    if 8 + length + end != size:
        raise ProbeError(f"{file} is truncated: {size:,} bytes of {8 + length + end:,}; get it again")


@contextmanager
def _one_line(model: str) -> Iterator[None]:
    """What transformers and the hub raise, as one line that says what to do."""
    try:
        yield
    except ProbeError:
        raise
    except (OSError, ValueError, ImportError, RuntimeError, KeyError) as error:
        raise ProbeError(_explain(model, error)) from error


def _explain(model: str, error: Exception) -> str:
    text = str(error)
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    if "trust_remote_code" in text:
        return f"{model} brings code of its own; read it, then allow it with --trust-remote-code"
    if any(words in text for words in ("couldn't connect", "offline", "Connection", "resolve host", "MaxRetry")):
        where = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else "the hub cannot be reached"
        return f"{model} is not on this machine and {where}; give a folder, or get it where there is a connection"
    if "not a local folder and is not a valid model identifier" in text or "404" in text:
        return f"there is no model {model!r}, neither as a folder nor on the hub"
    if "Unrecognized configuration class" in text:
        return f"{model} is of a kind that transformers loads neither as a language model nor by its own name: {first}"
    return f"{model} cannot be loaded: {first}"


def _require_experts(model: str, loaded: Any) -> None:
    from probes.capture import discover

    if not discover(loaded):
        raise ProbeError(f"{model} has no mixture-of-experts layers")
