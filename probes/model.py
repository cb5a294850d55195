"""Load a model and its tokenizer through transformers' Auto classes, with every failure said in one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from probes.errors import ProbeError, UsageError, did_you_mean, unknown

DTYPES = ("auto", "float32", "bfloat16", "float16")


def load_model(
    model: str | Path,
    *,
    dtype: str = "auto",
    device: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """(model, tokenizer) of a folder or a hub name, ready to be recorded.

    dtype   "auto" is the precision the checkpoint was saved in. Given at loading, not by casting afterwards, because
            some families keep their router's bias in float32
    device  "cpu", "cuda", ...; "auto" spreads a large model over what is there (needs accelerate)

    Only safetensors weights are read, hub kernels stay off (they replace the modules that are to be hooked), and the
    model's own Python code runs only with `trust_remote_code`. Raises ProbeError.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    config, tokenizer = _config_and_tokenizer(model, revision, trust_remote_code)
    placement = {"device_map": "auto"} if device == "auto" else {}
    with _Explained(model):
        loaded = AutoModelForCausalLM.from_pretrained(
            str(model),
            config=config,
            revision=revision,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            use_kernels=False,
            **placement,
        )
    if device not in (None, "auto"):
        loaded = _moved(loaded, str(device))
    return loaded.eval(), tokenizer


def load_skeleton(model: str | Path, revision: str | None = None, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """(model without weights, tokenizer): the modules and shapes of a model of any size, in no memory."""
    import torch
    from transformers import AutoModelForCausalLM

    config, tokenizer = _config_and_tokenizer(model, revision, trust_remote_code)
    with _Explained(model), torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    return skeleton.eval(), tokenizer


def _config_and_tokenizer(model: str | Path, revision: str | None, trust_remote_code: bool) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoTokenizer

    _quiet_unless_watched()
    _check_folder(str(model))
    with _Explained(model):
        config = AutoConfig.from_pretrained(str(model), revision=revision, trust_remote_code=trust_remote_code)
    with _Explained(model, "its tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(str(model), revision=revision, trust_remote_code=trust_remote_code)
    return config, tokenizer


def _quiet_unless_watched() -> None:
    """Loading bars belong on a terminal, not into a log."""
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()


def _check_folder(name: str) -> None:
    """What a look at the folder tells, said better than the loader would."""
    folder = Path(name)
    if not folder.is_dir():
        if folder.exists() or name.startswith(("/", ".", "~")):
            siblings = [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else []
            what = "is a file, not a model folder" if folder.exists() else "does not exist"
            raise ProbeError(f"model {folder} {what}{did_you_mean(folder.name, siblings)}")
        return
    config = folder / "config.json"
    if not config.is_file():
        raise ProbeError(f"model {folder} has no config.json; is it a transformers model folder?")
    try:
        described = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ProbeError(f"model {folder}: config.json cannot be read ({error})") from error
    _check_architecture(folder, described)


def _check_architecture(folder: Path, config: Any) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind is None:
        raise ProbeError(f"model {folder}: config.json names no model_type")
    if kind not in CONFIG_MAPPING_NAMES and "auto_map" not in config:
        raise ProbeError(
            f"model {folder}: this transformers does not know the architecture {kind!r}"
            f"{did_you_mean(kind, CONFIG_MAPPING_NAMES)}; upgrade transformers, or check config.json"
        )


def _moved(model: Any, device: str) -> Any:
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from error


class _Explained:
    """Loaders raise many things; whatever it is becomes one line that names the model and what to do."""

    def __init__(self, model: str | Path, part: str = "the model") -> None:
        self.model, self.part = model, part

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, ProbeError):
            return
        text = " ".join(str(error).split())
        raise ProbeError(f"model {self.model}: {self._advice(text, error)}") from error

    def _advice(self, text: str, error: Exception) -> str:
        low = text.lower()
        if "trust_remote_code" in low:
            return "it needs its own Python code; read that code, then pass --trust-remote-code"
        if "safetensor" in low and ("header" in low or "deserializ" in low or "incomplete" in low):
            return f"its weights are damaged or cut off ({text[:160]}); copy or download them again"
        if type(error).__name__ == "SafetensorError":
            return f"its weights are damaged or cut off ({text[:160]}); copy or download them again"
        if "no file named" in low or "model.safetensors" in low:
            return f"no safetensors weights found ({text[:160]}); pickled weights are not loaded"
        if any(word in low for word in ("offline", "couldn't connect", "connection", "resolve", "timed out")):
            return "it is no folder here, and the hub cannot be reached; give a folder, or check the network"
        if "is not a local folder" in low or "not a valid model identifier" in low:
            return "neither a folder here nor a model on the hub; check the name"
        if "unrecognized configuration class" in low or "unrecognized model" in low:
            return "it is not a causal language model that transformers can load"
        if isinstance(error, ImportError):
            return f"{self.part} needs another package: {text[:200]}"
        return f"{self.part} cannot be loaded ({type(error).__name__}: {text[:200]})"
