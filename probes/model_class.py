"""Which class of transformers a checkpoint is loaded as: its language model where there is one, text only.

Most mixtures of experts are causal language models. Models for images, audio and text, encoder-decoders, classifiers
and bare backbones are loaded by their own classes; only text is fed to them here.
"""

from __future__ import annotations

from typing import Any

# In this order: the first that knows the configuration is taken.
AUTO_CLASSES = (
    "AutoModelForCausalLM",
    "AutoModelForImageTextToText",
    "AutoModelForMultimodalLM",
    "AutoModelForSeq2SeqLM",
    "AutoModelForTokenClassification",
    "AutoModel",
)
# model_type -> the part that reads text from left to right, where the whole does not: one that also speaks has no
# forward pass of its own, one that writes by diffusion refines a canvas that it reads beside the text.
TEXT_PARTS = {"qwen3_omni_moe": "thinker", "diffusion_gemma": "model.encoder.language_model"}


def model_class(config: Any, *, trust_remote_code: bool = False) -> Any:
    """The class, or an auto class of transformers, that loads a checkpoint of this configuration.

    A checkpoint that was written by a class without a language model's head (a classifier, a bare backbone) is loaded
    as that class: a head of another kind would be random.
    """
    import transformers

    autos = [cls for name in AUTO_CLASSES if (cls := getattr(transformers, name, None)) is not None]
    remote = getattr(config, "auto_map", None) or {}
    if remote and trust_remote_code:
        return next((cls for cls in autos if cls.__name__ in remote), autos[0])
    written = written_by(config)
    if written is not None and not written.can_generate():
        return written
    return next((cls for cls in autos if type(config) in cls._model_mapping), written or autos[0])


def class_name(kind: type) -> str:
    """The class, in words, that a checkpoint with a configuration of this type is loaded as."""
    import transformers

    part = TEXT_PARTS.get(kind.model_type)  # type: ignore[attr-defined]
    for name in AUTO_CLASSES:
        auto = getattr(transformers, name, None)
        if auto is not None and kind in auto._model_mapping:
            found = str(auto._model_mapping[kind].__name__)
            return found if part is None else f"{found}, its {part}"
    return "the class that wrote it"


def written_by(config: Any) -> Any:
    """The class that `architectures` names, if transformers has it for this configuration; None otherwise."""
    package = _modeling(config)
    for name in getattr(config, "architectures", None) or []:
        found = getattr(package, name, None)
        if isinstance(found, type) and getattr(found, "config_class", None) is type(config):
            return found
    return None


def from_config(config: Any, *, trust_remote_code: bool = False) -> Any:
    """The model with fresh weights, of the class that would load a checkpoint."""
    cls = model_class(config, trust_remote_code=trust_remote_code)
    if cls.__name__ in AUTO_CLASSES:
        return cls.from_config(config, trust_remote_code=trust_remote_code)
    return cls._from_config(config)


def text_part(model: Any) -> Any:
    """The model itself, or the part of it that reads text (see `TEXT_PARTS`)."""
    name = TEXT_PARTS.get(getattr(model.config, "model_type", ""))
    try:
        return model if name is None else model.get_submodule(name)
    except AttributeError:
        return model


def _modeling(config: Any) -> Any:
    """The module of transformers that holds the models of this configuration."""
    import importlib

    package = type(config).__module__.rpartition(".")[0]
    if not package.startswith("transformers.models."):
        return None
    try:
        return importlib.import_module(f"{package}.modeling_{package.rpartition('.')[2]}")
    except ImportError:
        return None
