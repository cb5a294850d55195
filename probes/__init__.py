"""Record, analyse and change the routing of mixture-of-experts language models.

import probes

model, tokenizer = probes.load_model("sample_data/model")
probes.record(model, "sample_data/prompts.jsonl", "demo.duckdb", tokenizer=tokenizer)
probes.analyze("demo.duckdb", "load")
with probes.steer(model, ["ban:layer=3,expert=7"]):
    model.generate(**inputs)
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "load_model": "probes.model",
    "record": "probes.recording.record",
    "analyze": "probes.analysis",
    "steer": "probes.steering",
    "evaluate": "probes.evaluation",
    "import_npz": "probes.ingest",
    "open_trace": "store.trace",
}
__all__ = [
    "__version__",
    "analyze",
    "evaluate",
    "families",
    "import_npz",
    "interventions",
    "load_model",
    "metrics",
    "open_trace",
    "record",
    "steer",
]


def __getattr__(name: str) -> Any:
    """Functions are looked up when they are first used, so that `import probes` costs nothing."""
    import importlib

    if name in ("families", "interventions", "metrics"):
        return importlib.import_module(f"probes.{name}")
    if name not in _WHERE:
        raise AttributeError(f"module 'probes' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    """The public names too, before they are first used."""
    return sorted({*globals(), *__all__})
