"""docs/metrics.md from the metrics' own declarations: `python -m probes.metrics.document` writes it anew."""

from __future__ import annotations

import sys
from pathlib import Path

from probes.metrics.laws import ENDS, LAWS
from probes.metrics.registry import Metric, Option, discover

HEAD = """# Metrics

Generated from the declarations in `probes/metrics/` by `python -m probes.metrics.document`; a test keeps it current.

Each metric is one file, a Python function over arrays (`probes.metrics.NAME(experts=…, num_experts=…)`), a command
(`probe analyze NAME TRACE`) and an entry of the dashboard. T tokens, L MoE layers, E experts, k chosen per token.
Counts are pooled first and ratios taken last; windows and caches restart at each sequence; positions without routing
are left out and counted in `missing_share`; what is undefined is null, never 0. Every result says on how many tokens it
rests (`n_tokens`).

**Options of every metric**: `--run ID`, `--layers 0-7`, `--by label` where stated, `--format table|json|csv|markdown`,
`--json`, `--save` (keeps the table in the trace), `--plot FILE.svg|html|png`, and where stated `--ci`: a 95 % bootstrap
interval over sequences (`ci_low`, `ci_high`; 1,000 resamples, the basic interval 2θ − q, fixed seed), and `--test`: is
a difference between labels more than noise? (`p`: 1,000 permutations of the labels over the sequences; `q`:
Benjamini–Hochberg false-discovery rate over all experts). `probe analyze overview TRACE` says what one would look for
first, in words.

What a metric reads must have been recorded: `probe record --capture for=METRIC` keeps it, and an error names what is
missing.
"""


def document() -> str:
    """The whole page."""
    metrics = discover().values()
    index = ["| metric | question |", "|---|---|", *(f"| [`{m.name}`](#{m.name}) | {m.question} |" for m in metrics)]
    laws = ["## Laws", "", *(f"* `{name}`: {text}" for name, text in LAWS.items())]
    laws += [f"* `{name}` end: {text}." for name, text in ENDS.items()]
    return "\n".join([HEAD, *index, "", *(section(m) for m in metrics), *laws, ""])


def section(metric: Metric) -> str:
    """One metric."""
    needs = metric.needed(metric.checked({}))
    lines = [f"## {metric.name}", "", f"**{metric.title}.** {metric.question}", "", f"{metric.formula}.", ""]
    lines += [f"Source: {metric.source}.", ""]
    lines += ["Reads: `experts`" + "".join(f", `{n.rstrip('?')}`" + _optional(n) for n in needs) + "."]
    lines += [_groups(metric), ""]
    if metric.options:
        lines += ["| option | default | |", "|---|---|---|", *(_option(o) for o in metric.options), ""]
    lines += ["| column | unit | range | |", "|---|---|---|---|"]
    lines += [f"| `{c.name}` | {c.unit} | {_range(c.low, c.high)} | {c.description} |" for c in metric.columns]
    lines += ["", f"Laws: {', '.join(metric.laws)}{_ends(metric)}.", ""]
    return "\n".join(lines)


def _optional(name: str) -> str:
    return " (where there is any)" if name.endswith("?") else ""


def _groups(metric: Metric) -> str:
    by = f"`--by {'|'.join(metric.by)}`" if metric.by else "no `--by`"
    ci = f"`--ci` for `{metric.value}`" if metric.estimate or metric.token_intervals else "no `--ci`"
    noise = " Against noise: `--test`." if metric.compares is not None else ""
    return f"Groups: {by}. Intervals: {ci}.{noise}"


def _option(option: Option) -> str:
    choices = f" ({', '.join(map(str, option.choices))})" if option.choices else ""
    repeat = "; repeatable" if option.repeatable else ""
    bounds = f"; {option.range_text()}" if option.low is not None or option.high is not None else ""
    return f"| `{option.flag}` | {_default(option.default)} | {option.help}{choices}{repeat}{bounds} |"


def _default(value: object) -> str:
    if value in (None, (), "", False):
        return ""
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _range(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return ""
    return f"{'' if low is None else format(low, 'g')} … {'' if high is None else format(high, '.6g')}"


def _ends(metric: Metric) -> str:
    return "".join(f"; {end} routing fixes {', '.join(values)}" for end, values in metric.ends.items())


if __name__ == "__main__":
    Path(sys.argv[1] if len(sys.argv) > 1 else "docs/metrics.md").write_text(document(), encoding="utf-8")
