"""Decoding strategies: several passes per token, or vectors learned on the way; one file per strategy.

    from probes.interventions.decoding import decode, strategies

    out = decode(model, tokenizer("12+70=", return_tensors="pt"), "ensemble:n=4,tau=0.5", max_new_tokens=40)
    strategies()["contrast"].formula

They work inside `probes.steer(...)`: every copy of a sequence is steered as the sequence itself.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

from probes.errors import unknown
from probes.interventions.decoding.base import Decoded, Plan, Strategy, parse_strategy

__all__ = ["Decoded", "Plan", "Strategy", "decode", "parse_strategy", "strategies", "strategy"]


@cache
def strategies() -> dict[str, Strategy]:
    """All decoding strategies by name: every file of the package `methods` that declares one."""
    package = importlib.import_module(f"{__name__}.methods")
    names = sorted(found.name for found in pkgutil.iter_modules(package.__path__))
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in names]
    declared = [module.STRATEGY for module in modules if hasattr(module, "STRATEGY")]
    return {one.name: one for one in sorted(declared, key=lambda one: one.name)}


def strategy(name: str) -> Strategy:
    """The strategy called `name`; a wrong name is a UsageError with the nearest right one."""
    if name not in strategies():
        raise unknown("decoding strategy", name, strategies())
    return strategies()[name]


def decode(model: Any, inputs: Any, strategy: Any = "plain", max_new_tokens: int = 64, **options: Any) -> Decoded:
    """Continue `inputs` by a strategy; see `probes.interventions.decoding.loop.decode` for what it takes."""
    from probes.interventions.decoding.loop import decode as run

    return run(model, inputs, strategy, max_new_tokens, **options)
