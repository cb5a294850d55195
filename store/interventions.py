"""What a run was recorded under, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOST = 60  # characters of one parameter; tables of means are longer than anybody reads


def in_words(specs: Any) -> str:
    """ "under ban layers=3 experts=7, then boost ...", or "without interventions".

    specs: the list of dicts that `runs.intervention` holds, or None.

    >>> in_words([{"name": "ban", "layers": [3], "experts": [7, 9]}])
    'under ban layers=3 experts=7+9'
    """
    if not specs:
        return "without interventions"
    given = specs if isinstance(specs, list) else [specs]
    return "under " + ", then ".join(_spec(spec) for spec in given)


def _spec(spec: Any) -> str:
    if not isinstance(spec, Mapping):
        return str(spec)
    words = [f"{name}={_value(value)}" for name, value in spec.items() if name != "name"]
    return " ".join([str(spec.get("name", "?")), *words])


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(map(str, value)) + "}"
    text = "+".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= MOST else text[: MOST - 1] + "…"
