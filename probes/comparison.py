"""Two runs side by side: what each layer and each expert carries, how sure the routers are, how far they agree.

compare("base.duckdb", "instruct.duckdb").layers
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from probes.analysis import analyze
from probes.errors import ProbeError, UsageError
from probes.metrics.load import coefficient_of_variation
from probes.metrics.registry import Column
from probes.metrics.tables import ratio
from probes.parsing import whole
from probes.sources import TraceSource, layers_of, opened, ranges

if TYPE_CHECKING:
    import pandas as pd

Sums = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
AGREEMENT = ("saturation", "change_rate", "slot_change", "n_paired")
LAYER_COLUMNS = (
    Column("layer", "index", "the model's own layer index", 0),
    Column("cv_a", "ratio", "coefficient of variation of the experts' counts in run a", 0),
    Column("cv_b", "ratio", "the same in run b", 0),
    Column("max_over_mean_a", "ratio", "busiest expert over the mean in run a, all its tokens as one batch", 1),
    Column("max_over_mean_b", "ratio", "the same in run b", 1),
    Column("dead_a", "experts", "experts never chosen in run a", 0),
    Column("dead_b", "experts", "the same in run b", 0),
    Column("l2", "distance", "Euclidean distance of the two loads, each of sum 1", 0, 2**0.5),
    Column("js_bits", "bits", "Jensen–Shannon divergence of the loads; 0 same, 1 nothing in common", 0, 1),
    Column("entropy_a", "ratio", "mean routing entropy over ln E in run a; null without logits", 0, 1),
    Column("entropy_b", "ratio", "the same in run b", 0, 1),
    Column("margin_a", "probability", "mean margin between chosen and unchosen in run a; null without logits", -1, 1),
    Column("margin_b", "probability", "the same in run b", -1, 1),
    Column("saturation", "share", "of the chosen experts that both runs choose; null where tokens differ", 0, 1),
    Column("change_rate", "share", "of the chosen experts that changed", 0, 1),
    Column("slot_change", "share", "of the ranks whose expert differs", 0, 1),
    Column("n_paired", "tokens", "tokens with routing in both runs, for the three before", 0),
    Column("n_tokens_a", "tokens", "tokens with routing in run a", 0),
    Column("n_tokens_b", "tokens", "the same in run b", 0),
)
EXPERT_COLUMNS = (
    Column("layer", "index", "the model's own layer index", 0),
    Column("expert", "index", "expert", 0),
    Column("count_a", "tokens", "tokens that chose it in run a", 0),
    Column("count_b", "tokens", "the same in run b", 0),
    Column("share_a", "share", "count over all assignments of the layer in run a", 0, 1),
    Column("share_b", "share", "the same in run b", 0, 1),
    Column("difference", "share", "share_b − share_a", -1, 1),
    Column("factor", "ratio", "share_b over share_a; null where a never chose it", 0),
)


@dataclass(frozen=True)
class Comparison:
    """Run a (before) and run b (after). `layers`, `experts`: tables with LAYER_COLUMNS and EXPERT_COLUMNS."""

    a: dict[str, Any]
    b: dict[str, Any]
    layers: pd.DataFrame
    experts: pd.DataFrame
    notes: tuple[str, ...]


def compare(
    trace_a: Any,
    trace_b: Any = None,
    run: int | None = None,
    against: int | None = None,
    layers: Any = None,
    agreement: bool = True,
) -> Comparison:
    """Compare `run` of one trace with the run `against` of another (or of the same trace, where none is given).

    Without numbers the newest complete runs are taken; within one trace the newest and its baseline (or the one before
    it). `agreement` reads the raw rows of both, token by token; all else comes from the sums stored with the traces.
    Raises ProbeError where the runs differ in shape, UsageError for a run compared with itself.
    """
    for name, value in (("--run", run), ("--against", against)):
        if value is not None:
            whole(value, name, 1)
    if layers is not None:
        layers_of(layers)
    a, b = sources(trace_a, trace_b, run, against, layers)
    sums = (_sums(a), _sums(b))
    experts = _expert_table(a, sums)
    table, notes = _layer_table(a, sums, experts), _unknown_entropy(a, b, sums)
    if agreement:
        found, why_not = agreement_table(a, b)
        table, notes = with_agreement(table, found), [*notes, *why_not]
    return Comparison(_about(a), _about(b), table, experts, tuple(notes))


def sources(
    trace_a: Any, trace_b: Any = None, run: int | None = None, against: int | None = None, layers: Any = None
) -> tuple[TraceSource, TraceSource]:
    """Both runs, checked to have the same layers, experts and k."""
    first = opened(trace_a)
    second = first if trace_b is None else opened(trace_b)
    if _same_file(first, second):
        run, against = _two_runs(first, run, against)
    a, b = TraceSource(first, run), TraceSource(second, against)
    shapes = [_shape(source) for source in (a, b)]
    if shapes[0] != shapes[1]:
        raise ProbeError(
            f"run {a.run_id} of {a.trace.path} has {shapes[0]}, run {b.run_id} of {b.trace.path} has {shapes[1]}: "
            "only runs of the same shape can be compared"
        )
    if layers is None:
        return a, b
    return TraceSource(first, a.run_id, layers), TraceSource(second, b.run_id, layers)


def _expert_table(a: TraceSource, sums: Sums) -> pd.DataFrame:
    """One row per (layer, expert), with EXPERT_COLUMNS; an expert a layer lacks has none."""
    import pandas as pd

    layers, experts = np.nonzero(np.arange(a.about.num_experts) < sums[0]["num_experts"][:, None])
    shares = [ratio(s["count"], s["count"].sum(axis=1, keepdims=True)) for s in sums]
    frame = pd.DataFrame({"layer": np.asarray(a.about.layers)[layers], "expert": experts})
    for name, stored, share in zip("ab", sums, shares, strict=True):
        frame[f"count_{name}"], frame[f"share_{name}"] = stored["count"][layers, experts], share[layers, experts]
    frame["difference"] = frame["share_b"] - frame["share_a"]
    frame["factor"] = ratio(frame["share_b"].to_numpy(), frame["share_a"].to_numpy())
    return frame[[column.name for column in EXPERT_COLUMNS]]


def _layer_table(a: TraceSource, sums: Sums, experts: pd.DataFrame) -> pd.DataFrame:
    """One row per layer, with LAYER_COLUMNS; what needs both runs' tokens is still unknown."""
    import pandas as pd

    frame = pd.DataFrame({"layer": np.asarray(a.about.layers)})
    by_layer = [rows for _, rows in experts.groupby("layer", sort=True)]
    for name, stored in zip("ab", sums, strict=True):
        counts = [rows[f"count_{name}"].to_numpy() for rows in by_layer]
        frame[f"cv_{name}"] = [float(coefficient_of_variation(n)) for n in counts]
        frame[f"max_over_mean_{name}"] = [float(ratio(n.max(), n.mean())) for n in counts]
        frame[f"dead_{name}"] = [int((n == 0).sum()) if n.any() else None for n in counts]
        frame[f"entropy_{name}"] = ratio(stored["sum_entropy"], stored["n_entropy"] * np.log(stored["num_experts"]))
        frame[f"margin_{name}"] = ratio(stored["sum_margin"], stored["n_margin"])
        frame[f"n_tokens_{name}"] = stored["tokens"]
    frame["l2"] = [float(np.sqrt((rows["difference"] ** 2).sum(skipna=False))) for rows in by_layer]
    frame["js_bits"] = [_divergence(rows) for rows in by_layer]
    return frame.reindex(columns=[column.name for column in LAYER_COLUMNS])


def agreement_table(a: TraceSource, b: TraceSource) -> tuple[pd.DataFrame | None, list[str]]:
    """layer and AGREEMENT over the tokens of both runs; None, and why, where they are not of the same tokens."""
    layers = [int(layer) for layer in a.about.layers]
    pair = {"against": b.run_id, "against_trace": b.trace}
    try:
        frame = analyze(a.trace, "router_saturation", run_id=a.run_id, layers=layers, **pair)
    except UsageError:
        raise
    except ProbeError as error:
        return None, [f"no agreement token by token: {error}"]
    return frame.rename(columns={"n_tokens": "n_paired"})[["layer", *AGREEMENT]], []


def with_agreement(table: pd.DataFrame, found: pd.DataFrame | None) -> pd.DataFrame:
    """The table of the layers with what `agreement_table` found."""
    if found is None:
        return table
    joined = table.drop(columns=list(AGREEMENT)).merge(found[["layer", *AGREEMENT]], on="layer", how="left")
    return joined[list(table.columns)]


def as_object(found: Comparison, top: int | None = None) -> dict[str, Any]:
    """{"a", "b", "layers", "experts", "notes"} as JSON can hold it; of the experts the `top` most changed."""
    from probes.metrics.render import rows

    def part(columns: tuple[Column, ...], frame: pd.DataFrame) -> dict[str, Any]:
        told = [{"name": c.name, "unit": c.unit, "description": c.description} for c in columns]
        return {"columns": told, "rows": rows(frame)}

    experts = found.experts if top is None else most_changed(found.experts, top)
    parts = {"layers": part(LAYER_COLUMNS, found.layers), "experts": part(EXPERT_COLUMNS, experts)}
    return {"a": found.a, "b": found.b, **parts, "notes": list(found.notes)}


def as_text(found: Comparison, top: int = 10) -> str:
    """The comparison for people: both runs, the layers, the experts that changed most."""
    shown = {"index": False, "na_rep": "-", "float_format": "{:.4g}".format}
    known = found.layers.dropna(axis="columns", how="all")
    experts = most_changed(found.experts, top)
    parts = [f"{name}  {_line(run)}" for name, run in (("a", found.a), ("b", found.b))]
    parts += ["", known.to_string(**shown), "", f"the {len(experts)} experts whose share of the load changed most"]
    return "\n".join([*parts, experts.to_string(**shown) if len(experts) else "(none changed)"])


def most_changed(experts: pd.DataFrame, top: int) -> pd.DataFrame:
    """The `top` rows with the largest difference either way; experts that did not change are left out."""
    size = experts["difference"].abs()
    order = size[size > 0].sort_values(ascending=False, kind="stable").index
    return experts.loc[order].head(top)


def _line(run: dict[str, Any]) -> str:
    changed = f", with {run['intervention']}" if run["intervention"] else ""
    size = f"{run['n_sequences']:,} sequences, {run['n_tokens']:,} tokens"
    return f"run {run['run_id']} of {run['trace']}: {run['model']} ({run['name']}), {size}{changed}"


def _about(source: TraceSource) -> dict[str, Any]:
    names = ("run_id", "name", "model", "revision", "n_sequences", "n_tokens", "intervention")
    return {"trace": str(source.trace.path), **{name: source.run.get(name) for name in names}}


def _same_file(first: Any, second: Any) -> bool:
    return first is second or first.path.resolve() == second.path.resolve()


def _two_runs(trace: Any, run: int | None, against: int | None) -> tuple[int, int]:
    """Before and after within one trace: the newest complete run, and its baseline or the one before it."""
    frame = trace.runs()
    if len(frame) < 2:
        raise ProbeError(f"{trace.path} holds one run: name a second trace to compare it with")
    if against is None:
        rest = frame[frame["run_id"] != run]
        complete = rest[rest["status"] == "complete"]
        against = int((complete if len(complete) else rest)["run_id"].iloc[-1])
    if run is None:
        run = _before(trace, frame, against)
    if run == against:
        raise UsageError(f"run {run} would be compared with itself: give --run and --against two different runs")
    return run, against


def _before(trace: Any, frame: Any, against: int) -> int:
    baseline = trace.run(against)["baseline_run_id"]
    others = [int(number) for number in frame["run_id"] if number != against]
    if baseline in others:
        return int(baseline)
    return max([number for number in others if number < against] or others)


def _shape(source: TraceSource) -> str:
    numbers = [int(layer) for layer in source.about.layers]
    return f"layers {ranges(numbers)} with {source.about.top_k} of {source.about.num_experts} experts"


def _sums(source: TraceSource) -> dict[str, np.ndarray]:
    """The stored sums over all labels: count [L, E]; tokens, sum_entropy … and num_experts [L]."""
    stored = source.aggregates()
    if stored is None:
        raise ProbeError(f"{source.trace.path} holds no sums of run {source.run_id}: nothing has been recorded yet")
    names = ("tokens", "sum_entropy", "n_entropy", "sum_margin", "n_margin", "count")
    found = {name: np.asarray(stored[name]).sum(axis=-1) for name in names}
    return found | {"num_experts": np.asarray(stored["num_experts"])[source.position]}


def _divergence(rows: pd.DataFrame) -> float:
    from probes.metrics.dataset_distance import js_bits

    return float(js_bits(rows["share_a"].to_numpy(), rows["share_b"].to_numpy()))


def _unknown_entropy(a: TraceSource, b: TraceSource, sums: Sums) -> list[str]:
    without = [s for s, stored in zip((a, b), sums, strict=True) if not stored["n_entropy"].any()]
    return [f"no entropy and margin for run {s.run_id} of {s.trace.path}: recorded without logits" for s in without]
