"""How a model writes: one GenerationConfig for everything here that generates, and a record of what was in it.

    config = generation_config(model, max_new_tokens=8, pad_token_id=0)         # greedy, whatever the checkpoint says
    config = generation_config(model, max_new_tokens=8, options=["repetition_penalty=1.2"])

transformers fills every field that a GenerationConfig leaves open from the model's own `generation_config.json`
(transformers 5.23, `GenerationMixin._prepare_generation_config`). Many fields are neutral only when they are open, so
no config can state that, say, no word is banned. The config made here refuses to be filled instead. From the checkpoint
come the special tokens alone: they are part of the model and not a way to decode.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from probes.capture import within
from probes.capture.within import config_of, text_config, writer
from probes.errors import ProbeError, UsageError, unknown

# What transformers' own defaults are for a field that is open; those of sampling stand for "no cut".
NEUTRAL: Mapping[str, Any] = {
    "do_sample": False, "num_beams": 1, "num_return_sequences": 1, "use_cache": True, "early_stopping": False,
    "min_length": 0, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "typical_p": 1.0, "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0, "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "length_penalty": 1.0,
    "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "renormalize_logits": False,
    "remove_invalid_values": False, "token_healing": False, "output_attentions": False, "output_hidden_states": False,
    "output_scores": False, "output_logits": False, "return_dict_in_generate": False, "num_assistant_tokens": 20,
    "num_assistant_tokens_schedule": "constant", "assistant_confidence_threshold": 0.4, "assistant_lookbehind": 10,
    "target_lookbehind": 10, "num_beam_groups": 1, "diversity_penalty": 0.0, "guidance_scale": 1.0, "use_mtp": False,
    "low_memory": False, "is_assistant": False, "disable_compile": True, "max_length": 20,
}  # fmt: skip
# Said outright, since transformers computes with them; the others stay open.
STATED = (
    "do_sample", "num_beams", "num_return_sequences", "use_cache", "early_stopping", "min_length", "temperature",
    "top_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "repetition_penalty", "encoder_repetition_penalty",
    "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "disable_compile",
)  # fmt: skip
# Part of the model: kept as the checkpoint has them.
SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
# Not about decoding.
BOOKKEEPING = ("transformers_version", "max_new_tokens", "compile_config", "cache_config", "max_cache_len")

# Can be asked for by name. They change which token is chosen and leave one pass per token.
OPTIONS = (
    "repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens",
    "sequence_bias", "forced_eos_token_id", "exponential_decay_length_penalty", "min_new_tokens", "watermarking_config",
    "renormalize_logits", "remove_invalid_values",
)  # fmt: skip
SAMPLING_OPTIONS = ("top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")

_PASSES = "passes would no longer be one per token of one sequence"
_OWN = "there is an option of its own for it"
_GREEDY = "it acts on sampled tokens only, and these are the most likely ones"
REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("num_beams", "num_beam_groups", "num_return_sequences", "guidance_scale"), _PASSES),
    **dict.fromkeys(("penalty_alpha", "dola_layers", "prompt_lookup_num_tokens", "assistant_early_exit"), _PASSES),
    "prefill_chunk_size": _PASSES,
    **dict.fromkeys(("constraints", "force_words_ids", "use_mtp", "speculation_type", "is_assistant"), _PASSES),
    **dict.fromkeys(("max_new_tokens", "do_sample", "temperature", "top_p", "stop_strings"), _OWN),
    **dict.fromkeys(SAMPLING_OPTIONS, _GREEDY),
    **dict.fromkeys(("max_length", "min_length"), "it counts the prompt too; use max_new_tokens and min_new_tokens"),
    **dict.fromkeys(("eos_token_id", "pad_token_id", "bos_token_id"), "it belongs to the checkpoint"),
    "cache_implementation": "hooks are not called in compiled passes; the cache is always the dynamic one",
    "max_time": "the text would depend on the machine's speed",
}  # fmt: skip


def generation_config(
    model: Any,
    *,
    max_new_tokens: int,
    pad_token_id: int | None = None,
    eos_token_id: Any = None,
    sample: Mapping[str, Any] | None = None,
    options: Sequence[str] = (),
) -> Any:
    """A GenerationConfig that is greedy and neutral but for what is given here.

    eos_token_id  ends a text; None for the checkpoint's own
    sample        temperature, top_p: draw tokens that way; None takes the most likely
    options       NAME=VALUE, see `OPTIONS`; UsageError by name for one that cannot be honoured
    """
    own = _own(model)
    asked = parse_options(options, sampled=sample is not None)
    drawn = {} if sample is None else {"do_sample": True, "top_k": NEUTRAL["top_k"], **sample}
    special = {name: getattr(own, name, None) for name in SPECIAL}
    special["eos_token_id"] = end_token_ids(model) or None if eos_token_id is None else eos_token_id
    if pad_token_id is not None:
        special["pad_token_id"] = pad_token_id
    stated = {name: NEUTRAL[name] for name in STATED}
    try:
        config = _stated_class()(**{**stated, **special, **drawn, **asked, "max_new_tokens": max_new_tokens})
    except (TypeError, ValueError) as error:
        raise UsageError(f"--generation {' '.join(options)}: {str(error).splitlines()[0]}") from error
    for name, value in _unknown_to_transformers(own).items():
        setattr(config, name, value)  # code of the model's own reads it
    return config


def write(model: Any, ids: Any, mask: Any, config: Any, **more: Any) -> Any:
    """Ids [B, S + N] from `model.generate`. UsageError where an option that was asked for does not fit this model."""
    generate = writer(model).generate
    try:
        return generate(input_ids=ids, attention_mask=mask, generation_config=config, **more)
    except (TypeError, ValueError) as error:
        asked = set(non_neutral(config)) & set(OPTIONS + SAMPLING_OPTIONS)
        if not asked:
            raise
        raise UsageError(f"--generation {', '.join(sorted(asked))}: {str(error).splitlines()[0]}") from error


def parse_options(options: Sequence[str] | Mapping[str, Any], *, sampled: bool = False) -> dict[str, Any]:
    """`["repetition_penalty=1.2"]` -> {"repetition_penalty": 1.2}; UsageError by name for what cannot be honoured."""
    found: dict[str, Any] = {}
    for text in option_texts(options):
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals:
            raise UsageError(f"--generation {text!r} must look like repetition_penalty=1.2")
        _check_name(name, sampled)
        found[name] = _value(name, value)
    return found


def option_texts(options: Sequence[str] | Mapping[str, Any] | None) -> tuple[str, ...]:
    """Options as they are typed, whether they came as texts or as a mapping.

    >>> option_texts({"repetition_penalty": 1.2})
    ('repetition_penalty=1.2',)
    """
    if isinstance(options, Mapping):
        return tuple(f"{name}={json.dumps(value)}" for name, value in options.items())
    return (options,) if isinstance(options, str) else tuple(options or ())


def used(config: Any) -> dict[str, Any]:
    """What a config makes `generate` do, JSON-able: stored with a run."""
    return {
        "mode": "sampled" if config.do_sample else "greedy",
        "max_new_tokens": config.max_new_tokens,
        "eos_token_ids": _ids(config.eos_token_id),
        "pad_token_id": config.pad_token_id,
        "options": {name: value for name, value in non_neutral(config).items() if name != "do_sample"},
    }


def left_aside(model: Any) -> dict[str, Any]:
    """The options of the checkpoint's own generation_config that would change a text; none of them is used here."""
    return {name: value for name, value in non_neutral(_own(model)).items() if name in _bare()}


def words_of(left: Mapping[str, Any]) -> str:
    """One sentence for people, empty where there is nothing to say."""
    if not left:
        return ""
    named = ", ".join(f"{name}={json.dumps(value)}" for name, value in left.items())
    return f"the checkpoint's own generation_config is not used ({named})"


def non_neutral(config: Any) -> dict[str, Any]:
    """name -> value of every option of a GenerationConfig that is neither open nor neutral, JSON-able."""
    skip = {*SPECIAL, *BOOKKEEPING}
    values = {} if config is None else config.to_dict()
    return {
        name: _plain(value)
        for name, value in values.items()
        if not name.startswith("_") and name not in skip and value is not None and not is_neutral(name, value)
    }


def end_token_ids(model: Any) -> list[int]:
    """The ids that end a text by the checkpoint's own account, in its order."""
    own = _ids(getattr(_own(model), "eos_token_id", None))
    return own or _ids(getattr(text_config(model), "eos_token_id", None))


def decoder_start_id(model: Any) -> int:
    """What the decoder of an encoder-decoder model reads first; ProbeError where the checkpoint does not say."""
    for name in ("decoder_start_token_id", "bos_token_id"):
        for config in (_own(model), config_of(model)):
            if isinstance(found := getattr(config, name, None), int):
                return found
    raise ProbeError(f"{type(model).__name__}: the checkpoint names no decoder_start_token_id to begin with")


def require_decoder(model: Any) -> None:
    """ProbeError for a model that does not go on with the text it reads."""
    if getattr(config_of(model), "is_encoder_decoder", False):
        raise ProbeError(
            f"{type(model).__name__} has an encoder and a decoder; this needs a model that goes on with its prompt. "
            "probe record records both"
        )
    require_generation(model)


def require_generation(model: Any) -> None:
    """ProbeError for a model that writes no text."""
    writer(model)


def _own(model: Any) -> Any:
    return within.generation_config(model)


def _ids(given: Any) -> list[int]:
    return [] if given is None else [int(given)] if isinstance(given, int) else [int(one) for one in given]


def is_neutral(name: str, value: Any) -> bool:
    """Does an option with this value leave the most likely token alone?"""
    if name == "top_k":  # 50 where it is open, which a greedy choice never sees
        return value in (0, 50)
    return name in NEUTRAL and value == NEUTRAL[name]


def _plain(value: Any) -> Any:
    """JSON-able: sequence_bias has tuples for keys."""
    if isinstance(value, Mapping):
        named = all(isinstance(key, str) for key in value)
        pairs = [(key, _plain(one)) for key, one in value.items()]
        return dict(pairs) if named else [[list(key) if isinstance(key, tuple) else key, one] for key, one in pairs]
    if isinstance(value, list | tuple | set):
        return [_plain(one) for one in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _check_name(name: str, sampled: bool) -> None:
    if name in OPTIONS or (sampled and name in SAMPLING_OPTIONS):
        return
    if name in REFUSED:
        raise UsageError(f"--generation {name} cannot be honoured: {REFUSED[name]}")
    if name in _bare():
        raise UsageError(f"--generation {name} cannot be honoured here; known: {', '.join(OPTIONS)}")
    raise unknown("generation option", name, OPTIONS + SAMPLING_OPTIONS)


def _value(name: str, text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        raise UsageError(
            f"--generation {name}: {text!r} is not JSON; write numbers and lists, as in 1.2 or [[5]]"
        ) from None
    if value is None:
        raise UsageError(f"--generation {name}: null is no value; leave the option out")
    return value


@cache
def _bare() -> frozenset[str]:
    """Every option that transformers knows."""
    from transformers import GenerationConfig

    return frozenset(name for name in vars(GenerationConfig()) if not name.startswith("_"))


def _unknown_to_transformers(own: Any) -> dict[str, Any]:
    """Entries of the checkpoint's that only code of its own can read."""
    known = vars(own) if own is not None else {}
    return {name: value for name, value in known.items() if not name.startswith("_") and name not in _bare()}


@cache
def _stated_class() -> type:
    """A GenerationConfig that nothing is filled into: `generate` would do so from the model's own.

    A class and not a swap of `model.generation_config`, which another thread, or a wrapper's `generate`, would see.
    """
    from transformers import GenerationConfig

    class Stated(GenerationConfig):
        def update(self, defaults_only: bool = False, allow_custom_entries: bool = False, **kwargs: Any) -> Any:
            if defaults_only:
                return kwargs
            return super().update(allow_custom_entries=allow_custom_entries, **kwargs)

    return Stated
