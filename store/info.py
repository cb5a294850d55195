"""What is in a trace: runs, layers, coverage, size, provenance."""

from __future__ import annotations

import json
from typing import Any

from store.interventions import in_words
from store.trace import Trace

COVERAGE = (
    "SELECT layer, CAST(sum(n_tokens) AS BIGINT) AS n_tokens, CAST(sum(n_missing) AS BIGINT) AS n_missing, "
    "CAST(sum(n_logits) AS BIGINT) AS n_logits, CAST(sum(n_entropy) AS BIGINT) AS n_entropy "
    "FROM layer_stats WHERE run_id = ? GROUP BY layer ORDER BY layer"
)
COVERED = {"routing": "n_tokens", "logits": "n_logits", "entropy": "n_entropy"}
LABELS = "SELECT label, count(*) AS n FROM sequences WHERE run_id = ? GROUP BY label ORDER BY label NULLS LAST"


def describe(trace: Trace) -> dict[str, Any]:
    """Everything `probe info` shows, as plain values (JSON can hold it)."""
    runs = [_run(trace, trace.run(int(run_id))) for run_id in trace.runs().run_id]
    return {"path": str(trace.path), "bytes": trace.nbytes, "schema": trace.schema_version, "runs": runs}


def _run(trace: Trace, run: dict[str, Any]) -> dict[str, Any]:
    run_id = run["run_id"]
    for name in ("provenance", "capture", "intervention"):
        run[name] = _parsed(run[name])
    for name in ("created_at", "heartbeat", "finished_at"):
        run[name] = None if run[name] is None else run[name].isoformat(sep=" ", timespec="seconds")
    coverage = {int(row.pop("layer")): row for row in _records(trace, COVERAGE, run_id)}
    run["layers"] = [{**layer, **coverage.get(layer["layer"], {})} for layer in _records_of(trace.layers(run_id))]
    run["labels"] = _records(trace, LABELS, run_id)
    return run


def _parsed(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _records(trace: Trace, sql: str, run_id: int) -> list[dict[str, Any]]:
    return _records_of(trace.sql(sql, [run_id]))


def _records_of(frame: Any) -> list[dict[str, Any]]:
    """Rows as dicts of plain values (a frame's own NaN for a missing text would not be JSON)."""
    return json.loads(frame.to_json(orient="records"))


def as_text(about: dict[str, Any]) -> str:
    """The description for people."""
    head = f"{about['path']}: {size(about['bytes'])}, schema {about['schema']}, {len(about['runs'])} run(s)"
    return "\n".join([head, *(line for run in about["runs"] for line in ("", *_run_lines(run)))]) + "\n"


def _run_lines(run: dict[str, Any]) -> list[str]:
    revision = f" @ {run['revision']}" if run["revision"] else ""
    facts = [
        ("name", run["name"]),
        ("model", f"{run['model']}{revision}"),
        ("status", _status(run)),
        ("recorded", f"{run['created_at']} to {run['finished_at'] or 'now'} UTC"),
        ("content", f"{run['n_sequences']:,} sequences, {run['n_tokens']:,} tokens"),
        ("layers", _layers(run)),
        ("coverage", _coverage(run["layers"])),
        ("labels", ", ".join(f"{e['label'] or '(none)'} {e['n']:,}" for e in run["labels"]) or "none"),
        ("intervention", in_words(run["intervention"]).removeprefix("under ") if run["intervention"] else None),
        ("baseline", f"run {run['baseline_run_id']}" if run["baseline_run_id"] else None),
        ("kept", _short(run["capture"])),
    ]
    provenance = dict(run["provenance"] or {})
    notes = provenance.pop("notes", None) or []
    facts += [(f"  {key}", _short(value)) for key, value in provenance.items()]
    facts += [("note", _printable(str(note))) for note in ([notes] if isinstance(notes, str) else notes)]
    return [f"run {run['run_id']}", *(f"  {key:<13} {value}" for key, value in facts if value not in (None, ""))]


def _status(run: dict[str, Any]) -> str:
    if run["status"] == "interrupted":
        return f"interrupted after {run['batches_done']:,} batches; can be resumed"
    return str(run["status"])


def _layers(run: dict[str, Any]) -> str:
    layers = run["layers"]
    shapes = sorted({(e["num_experts"], e["top_k"]) for e in layers})
    of = " and ".join(f"{e} experts, top-{k}" for e, k in shapes)
    numbers = [e["layer"] for e in layers]
    return f"{len(layers)} of {run['num_layers']} routed ({_ranges(numbers)}): {of}"


def _ranges(numbers: list[int]) -> str:
    """0-3, 5 from [0, 1, 2, 3, 5]."""
    parts: list[list[int]] = []
    for n in sorted(numbers):
        if parts and n == parts[-1][1] + 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def _coverage(layers: list[dict[str, Any]]) -> str:
    total = {name: sum(e.get(name) or 0 for e in layers) for name in ("n_tokens", "n_missing", "n_logits", "n_entropy")}
    rows = total["n_tokens"] + total["n_missing"]
    if not rows:
        return "nothing recorded yet"
    shares = {name: f"{total[name] / rows:.1%}" for name in total}
    known = ", ".join(f"{word} {shares[name]}" for word, name in COVERED.items())
    return f"{known} of {rows:,} token-layers"


def _short(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = _printable(text)
    return text if len(text) <= 160 else text[:159] + "…"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def size(n: int) -> str:
    """1.5 MB from 1500000."""
    value, unit = float(n), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
