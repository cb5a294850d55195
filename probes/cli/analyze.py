"""`probe analyze METRIC TRACE`: the options of each metric come from its declaration."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from probes.cli import options
from probes.cli.parser import Parser
from probes.errors import UsageError

SUMMARY = "compute a metric over a trace (table, JSON, CSV, Markdown or a plot)"
EXAMPLE = "probe analyze srp trace.duckdb --segment-length 16 --ci --json\n  probe analyze srp --help"
MOST = 1_000_000  # resamples and permutations: all are held at once
FORMATS = ("table", "json", "csv", "markdown")
TEST = "p and q of each difference: labels dealt out anew among the sequences, false discoveries controlled"
SAVE = "keep the result in the trace, for SQL (views results, result_columns, result_rows)"


def configure(parser: argparse.ArgumentParser) -> None:
    """Only the metric's name is read here; its own options are known once it is (see `probe analyze METRIC --help`)."""
    parser.add_argument("--list", action="store_true", help="list the metrics")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument(
        "metric",
        nargs="?",
        metavar="METRIC",
        help="what to compute; --list shows them all; overview: the facts to look at first",
    )
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="TRACE [options]", help="see METRIC --help")


def run(args: argparse.Namespace) -> int:
    """Lists the metrics, or computes one."""
    from probes.metrics import discover, get

    if args.list or "--list" in args.rest:
        print(_listing(list(discover().values()), args.json or "--json" in args.rest))
        return 0
    if args.metric is None:
        raise UsageError(
            "name a metric and a trace: probe analyze METRIC TRACE; 'probe analyze --list' shows the metrics"
        )
    if args.metric == "overview":
        words = _overview_parser().parse_args(args.rest)
        return _overview(words, args.json or words.json)
    metric = get(args.metric)
    words = _parser(metric).parse_args(args.rest)
    return _analyze(metric, words, args.json or words.json)


def _analyze(metric: Any, words: argparse.Namespace, as_json: bool) -> int:
    from probes.analysis import analyze
    from probes.metrics.plots import check_plot
    from probes.metrics.render import render

    if words.plot is not None:
        check_plot(words.plot)
    given = {o.name: getattr(words, o.name) for o in metric.options}
    for option in metric.options:
        if option.note and given[option.name] in option.choices:
            print(f"probe: {option.flag} {given[option.name]}: {option.note}", file=sys.stderr)
    common = {"run_id": words.run, "layers": words.layers, "by": words.by}
    if metric.paired or metric.across:
        common |= {"against": words.against, "against_trace": words.against_trace}
    if metric.compares is not None:
        common["test"] = words.test
    if words.ci:
        given.update(ci=True, resamples=words.resamples, seed=words.seed)
    frame = analyze(words.trace, metric.name, **common, **given)
    _saved(frame, words)
    if words.plot:
        from probes.metrics.plots import save_plot

        save_plot(frame, metric, words.plot)
    print(render(frame, "json" if as_json else words.format))
    return 0


def _saved(frame: Any, words: argparse.Namespace) -> None:
    if not words.save:
        return
    from probes.analysis import save

    number = save(words.trace, frame)
    where = f"views results, result_columns, result_rows: WHERE result_id = {number}"
    print(f"probe: saved into {words.trace} as result {number} ({where})", file=sys.stderr)


def _overview(words: argparse.Namespace, as_json: bool) -> int:
    from probes.findings import overview_table
    from probes.metrics.render import render

    params = {name: getattr(words, name) for name in ("resamples", "permutations", "seed")}
    frame = overview_table(words.trace, words.run, **params)
    _saved(frame, words)
    if as_json or words.format != "table":
        print(render(frame, "json" if as_json else words.format))
        return 0
    print("\n\n".join(f"{row.title}\n  {row.text}\n  more: {row.command}" for row in frame.itertuples()))
    return 0


def _parser(metric: Any) -> argparse.ArgumentParser:
    parser = Parser(
        prog=f"probe analyze {metric.name}",
        description=f"{metric.question}\n{metric.formula}\nSource: {metric.source}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("trace", metavar="TRACE", help="a .duckdb trace or a directory of Parquet shards")
    own = parser.add_argument_group("options of this metric")
    for option in metric.options:
        _add(own, option)
    if metric.paired or metric.across:
        options.run(own, "--against", "the run to compare with", metavar="RUN")
        own.add_argument("--against-trace", metavar="TRACE", help="the trace it is in (default: the same)")
    common = parser.add_argument_group("options of every metric")
    options.run(common, "--run", "which run of the trace (default: the newest complete one)")
    options.layers(common, "only these layers, by the model's own index")
    common.add_argument("--by", metavar="|".join(metric.by) or "label", help="group by this")
    common.add_argument("--ci", action="store_true", help="95 %% bootstrap intervals over sequences")
    if metric.compares is not None:
        common.add_argument("--test", action="store_true", help=TEST)
    options.whole(common, "--resamples", low=1, high=MOST, default=1000, metavar="N", help="resamples for --ci (1000)")
    options.seed(common, "seed of the resamples (0)")
    common.add_argument("--format", choices=FORMATS, default="table", help="how to print (table)")
    common.add_argument("--save", action="store_true", help=SAVE)
    common.add_argument("--plot", metavar="FILE", help="also draw the table into FILE.svg, FILE.html or FILE.png")
    common.add_argument("--json", action="store_true", help="the same as --format json")
    return parser


def _overview_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="probe analyze overview",
        description="The facts one would look for first, each with its number, its 95 %% interval and the command that "
        "shows more.\nDifferences between labels are tested against labels dealt out anew among the sequences; those "
        "with a\nBenjamini–Hochberg false-discovery rate above 5 %% over all experts are called within noise.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("trace", metavar="TRACE", help="a .duckdb trace or a directory of Parquet shards")
    options.run(parser, "--run", "which run (default: the newest complete one)")
    for name in ("resamples", "permutations"):
        options.whole(parser, f"--{name}", low=1, high=MOST, default=1000, metavar="N", help="(default 1000)")
    options.seed(parser, "(default 0)")
    parser.add_argument("--format", choices=FORMATS, default="table", help="how to print (table: sentences)")
    parser.add_argument("--save", action="store_true", help=SAVE)
    parser.add_argument("--json", action="store_true", help="the same as --format json")
    return parser


def _add(group: Any, option: Any) -> None:
    default = "" if option.default in (None, (), False) else f" (default {_shown(option.default)})"
    text = (option.help + default).replace("%", "%%")
    if option.type is bool:
        group.add_argument(option.flag, action="store_true", dest=option.name, help=text)
        return
    action = "append" if option.repeatable else "store"
    metavar = option.metavar or ("|".join(map(str, option.choices)) if option.choices else option.kind.upper())
    group.add_argument(option.flag, action=action, dest=option.name, metavar=metavar, help=text)


def _shown(default: Any) -> str:
    return ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _listing(metrics: list[Any], as_json: bool) -> str:
    if not as_json:
        width = max(len(m.name) for m in metrics)
        return "\n".join(f"{m.name:<{width}}  {m.question}" for m in metrics)
    return json.dumps([_entry(m) for m in metrics], ensure_ascii=False)


def _entry(metric: Any) -> dict[str, Any]:
    options = [
        {"name": o.name, "flag": o.flag, "type": o.kind, "default": o.default, "help": o.help}
        | {"choices": list(o.choices), "repeatable": o.repeatable}
        for o in metric.options
    ]
    columns = [{"name": c.name, "unit": c.unit, "description": c.description} for c in metric.columns]
    text = {n: getattr(metric, n) for n in ("name", "title", "question", "formula", "source")}
    ci = metric.estimate is not None or metric.token_intervals is not None
    return {**text, "options": options, "columns": columns, "by": list(metric.by), "ci": ci}
