"""docs/findings.md and its pictures, from a trace of the sample model: `python docs/findings.py demo.duckdb`.

Record the trace first: `probe demo --no-serve --out demo.duckdb`. A second argument names another folder to write to.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from probes import metrics
from probes.analysis import analyze, noise_test
from probes.findings import overview
from probes.metrics.permutation import false_discovery, p_values
from probes.metrics.plots import save_plot
from probes.sources import TaggedSource, TraceSource
from store.trace import open_trace

HERE = Path(__file__).resolve().parent
COUNTS = HERE.parent / "sample_data" / "olmoe_counts.parquet"
SURE = 0.05
SMALL = 0.1
MARKERS = (" from", " text", " memory")
TOKENS_OF = """
SELECT t.token, count(*) AS n FROM assignments a JOIN tokens t USING (run_id, sequence_id, position)
JOIN sequences s USING (run_id, sequence_id)
WHERE run_id = ? AND a.layer = ? AND a.expert = ? AND s.label = ? GROUP BY t.token ORDER BY n DESC, t.token LIMIT 8
"""
LABEL_SHARES = """
SELECT s.label, count(*) AS n FROM assignments a JOIN sequences s USING (run_id, sequence_id)
WHERE run_id = ? AND a.layer = ? AND a.expert = ? GROUP BY s.label ORDER BY n DESC, s.label
"""
HEAD = """# What the metrics say about the sample model

Made by one command from a recording of the sample model over its labelled prompts; nothing here is written by hand:

```sh
probe demo --no-serve --out demo.duckdb
python docs/findings.py demo.duckdb
```

[The model](../sample_data/model/README.md) was trained from scratch on generated text, so what is true of its data is
known, and the metrics can be held against it. Experts are written layer·expert. Numbers in brackets are 95 % intervals,
bootstrap over sequences (1,000 resamples); where the best of many experts is named, the interval does not count that it
was picked. "More than noise" means a Benjamini–Hochberg false-discovery rate of at most 5 %, from 1,000 permutations of
the labels over the sequences. What goes together need not cause: that takes changing the routing and measuring.
"""


def write(trace: Path, out: Path) -> None:
    """The page and its pictures into `out`."""
    (out / "img").mkdir(parents=True, exist_ok=True)
    opened = open_trace(trace)
    run = opened.run()
    lines = [HEAD, _recorded(run), *_overview(opened), *_pictures(opened, out), "## Held against what is known", ""]
    lines += [*_arithmetic(opened, run), *_think(opened), *_context(opened), *_published(out)]
    text = "\n".join(lines).rstrip("\n") + "\n"
    (out / "findings.md").write_text(text, encoding="utf-8")


def _recorded(run: dict[str, Any]) -> str:
    shape = f"{run['num_experts']} experts in each of {run['num_layers']} layers, {run['top_k']} chosen per token"
    return f"Recorded: {run['n_tokens']:,} tokens in {run['n_sequences']:,} sequences; {shape}.\n"


def _overview(trace: Any) -> Iterator[str]:
    yield "## The facts one would look for first\n"
    yield "`probe analyze overview demo.duckdb`\n"
    for found in overview(trace):
        words = found.command.split()
        command = " ".join(["probe analyze", words[2], "demo.duckdb", *_options(found.command, trace)])
        yield f"**{found.title}.** {found.text} `{command}`\n"


def _options(command: str, trace: Any) -> list[str]:
    return command.partition(Path(trace.path).name)[2].strip("' ").split()


def _pictures(trace: Any, out: Path) -> Iterator[str]:
    """(file, metric, options, what is seen)."""
    yield "## Pictures\n"
    drawn = (
        ("npmi", "npmi", {}, "nPMI of every expert and label: bright cells are experts a label has nearly to itself."),
        ("load", "load", {}, "Share of each layer's assignments; an even share would be 6.2 %."),
        (
            "entropy",
            "routing_entropy",
            {"by": "label"},
            "Mean entropy of the router's scores, nats, by layer and label.",
        ),
        (
            "cache",
            "cache_hit_rate",
            {"level": ("layer",), "policy": ("lru", "belady")},
            "Share of choices that a cache of C experts per layer would hit: what LRU does and what could be done.",
        ),
    )
    for name, metric, options, caption in drawn:
        frame = analyze(trace, metric, **options)
        n = f"n = {int(frame['n_tokens'].max()):,} tokens"
        yield _picture(frame, metric, out, name, f"{caption} {n}{' per panel at most' if 'by' in options else ''}.")


def _picture(frame: pd.DataFrame, metric: str, out: Path, name: str, caption: str) -> str:
    save_plot(frame, metrics.get(metric), out / "img" / f"findings-{name}.svg")
    return f"![{caption}](img/findings-{name}.svg)\n\n{caption}\n"


def _best(npmi: pd.DataFrame, target: str, most: int = 3) -> pd.DataFrame:
    rows = npmi[(npmi["target"] == target) & npmi["npmi"].notna()]
    return rows.sort_values(["npmi", "layer", "expert"], ascending=[False, True, True]).head(most)


def _named(row: Any) -> str:
    return f"{row['layer']}·{row['expert']}"


def _q(row: Any) -> str:
    """Below what 1,000 permutations resolve well, a bound."""
    return "q < 0.0001" if row["q"] < 1e-4 else f"q = {row['q']:.4f}"


def _with_interval(row: Any, column: str) -> str:
    return f"{row[column]:.2f} [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"


def _arithmetic(trace: Any, run: dict[str, Any]) -> Iterator[str]:
    yield "### Arithmetic\n"
    yield "Known: sums stand in documents of one label, and nothing else does; digits are in JSON, SQL and code too.\n"
    npmi = analyze(trace, "npmi", ci=True, test=True)
    best = _best(npmi, "arithmetic")
    said = ", ".join(f"{_named(r)} (nPMI {_with_interval(r, 'npmi')}, {_q(r)})" for _, r in best.iterrows())
    row = best.iloc[0]
    place = (int(run["run_id"]), int(row["layer"]), int(row["expert"]))
    tokens = trace.sql(TOKENS_OF, [*place, "arithmetic"])
    labels = trace.sql(LABEL_SHARES, list(place))
    share, all_of_label = row["n_xy"] / row["n_x"], row["n_xy"] / row["n_y"]
    others = npmi.groupby("target")["npmi"].max().sort_values(ascending=False)
    rank = list(others.index).index("arithmetic") + 1
    found = "yes" if row["q"] <= SURE and row["npmi"] >= 0.1 else "no"
    alone = "the expert is for sums alone" if all_of_label >= 0.9 else "no expert is for sums alone"
    yield (
        f"Found: {found}. {said}; n = {int(row['n_x']):,} tokens of the label among {int(row['n_tokens']):,}. "
        f"{_named(row)} takes {100 * share:.0f} % of them, which are {100 * all_of_label:.0f} % of what it takes; most "
        f"often in sums: {_tokens(tokens)}. Its other work: {_labels(labels, 'arithmetic')}. By its best nPMI the "
        f"label is {rank} of {len(others)}: {alone}.\n"
    )


def _tokens(rows: pd.DataFrame) -> str:
    return ", ".join(f"`{row.token!r}` {row.n:,}" for row in rows.itertuples())


def _labels(rows: pd.DataFrame, but: str) -> str:
    kept = rows[rows["label"] != but].head(3)
    return ", ".join(f"{row.label} {100 * row.n / rows['n'].sum():.0f} %" for row in kept.itertuples())


def _think(trace: Any) -> Iterator[str]:
    yield "### The tokens `<think>` and `</think>`\n"
    yield (
        "Known: `<think>` is one token, stands before the steps of every sum, and has no other use; so an expert that "
        "takes every one of them is an expert for a token, not for thinking, unless it also takes what follows.\n"
    )
    for marker in ("<think>", "</think>"):
        rows = analyze(trace, "npmi", target=f"marker:{marker}", ci=True).sort_values(
            ["npmi", "layer", "expert"], ascending=[False, True, True]
        )
        said = ", ".join(
            f"{_named(r)} ({int(r['n_xy'])} of {int(r['n_x'])}, nPMI {_with_interval(r, 'npmi')})"
            for _, r in rows.head(3).iterrows()
        )
        full = int((rows["n_xy"] == rows["n_x"]).sum())
        yield f"`{marker}`: {said}. Experts that take every one: {full}. n = {int(rows['n_tokens'].max()):,} tokens.\n"
    ranked = analyze(trace, "npmi", contrast="<think>", minus=("</think>",))
    top, arithmetic = ranked.iloc[0], _best(analyze(trace, "npmi"), "arithmetic").iloc[0]
    by_label = analyze(trace, "npmi").set_index(["layer", "expert", "target"])["npmi"]
    also = float(by_label[(top["layer"], top["expert"], "arithmetic")])
    meaning = "The expert of the token is an expert of the sums as well."
    if also < arithmetic["npmi"] / 2:
        meaning = (
            "So the contrast names an expert of the opening token, not of the sums: here it would mislead whoever "
            "takes it for the expert of reasoning."
        )
    yield (
        "Found: the token, yes. By RICE's contrast, npmi(`<think>`) − npmi(`</think>`), the first of all experts is "
        f"{_named(top)} (score {top['score']:.2f}, n = {int(top['n_x'])} tokens); with the label arithmetic its nPMI "
        f"is {also:.2f}, against {arithmetic['npmi']:.2f} of {_named(arithmetic)}. {meaning}\n"
    )


def _context(trace: Any) -> Iterator[str]:
    yield "### Answering from the text or from memory\n"
    yield (
        "Known: documents of the label context ask either `(from the text)` or `(from memory)`, and the answer follows "
        "the marker: the value that stands in the text, or the one that was learned. The kinds of facts and of "
        "questions are the same in both.\n"
    )
    best = _best(analyze(trace, "npmi", ci=True, test=True), "context")
    said = ", ".join(f"{_named(r)} (nPMI {_with_interval(r, 'npmi')}, {_q(r)})" for _, r in best.iterrows())
    yield f"Experts of the label: {said}; n = {int(best.iloc[0]['n_x']):,} tokens.\n"
    asked = {"label": "ask=text", "against": "ask=memory"}
    rd = analyze(trace, "risk_difference", ci=True, test=True, **asked)
    sure = rd[rd["q"] <= SURE]
    said = ", ".join(f"{_named(_whole(r))} ({_with_interval(r, 'rd')}, {_q(r)})" for _, r in sure.head(5).iterrows())
    size = "small " if rd["rd"].abs().max() < SMALL else ""
    found = f"{size}differences: {said}" if len(sure) else "all differences are within noise"
    yield (
        f"Text against memory, as the share of tokens in the one minus the share in the other: {found}. {len(sure)} of "
        f"{int(rd['q'].notna().sum())} differences are more than noise; n = {int(rd.iloc[0]['n_tokens']):,} tokens.\n"
    )
    yield f"The markers' own words differ, of course: {_markers(trace)}. {_without_markers(trace)}\n"
    yield "`probe analyze risk_difference demo.duckdb --label ask=text --against ask=memory --ci --test`\n"


def _whole(row: Any) -> dict[str, int]:
    return {"layer": int(row["layer"]), "expert": int(row["expert"])}


def _markers(trace: Any) -> str:
    """Which expert each marker's own word goes to."""
    parts = []
    for word in (" text", " memory"):
        rows = analyze(trace, "npmi", target=f"marker:{word}")
        row = rows.sort_values(["npmi", "layer", "expert"], ascending=[False, True, True]).iloc[0]
        parts.append(f"`{word!r}` goes to {_named(row)} in {int(row['n_xy'])} of {int(row['n_x'])} cases")
    return ", ".join(parts)


def _without_markers(trace: Any) -> str:
    """The same comparison over all other tokens."""
    names = ("ask=text", "ask=memory")
    source = TaggedSource(TraceSource(trace), list(names), list(names))
    test = noise_test(source, names)
    for arrays in source.chunks(("token",)):
        experts = arrays.experts.copy()
        experts[np.isin(np.asarray(arrays.token).astype(str), MARKERS)] = -1
        test.feed(replace(arrays, experts=experts))
    differences = test.differences()[:, 0]
    q = false_discovery(p_values(differences))
    layer, expert = np.unravel_index(np.nanargmax(np.abs(differences[0])), q.shape)
    n = int(test.tokens[0, :, 0].sum())
    largest = f"the largest is {differences[0, layer, expert]:.2f} at {source.about.layers[layer]}·{expert}"
    count = int((q <= SURE).sum())
    rest = (
        "so more than the markers is routed otherwise; the answers differ too, so this does not prove a switch."
        if count
        else "so nothing but the markers is routed otherwise."
    )
    return (
        f"Without {_words()}, {count} of {q.size} differences are more than noise ({largest}; n = {n:,} tokens), {rest}"
    )


def _words() -> str:
    return ", ".join(f"`{word!r}`" for word in MARKERS)


def _published(out: Path) -> Iterator[str]:
    yield "## A large model's published counts\n"
    counts = pd.read_parquet(COUNTS)
    npmi = metrics.from_counts("npmi", counts, top_k=8)
    shares = metrics.from_counts("domain_specialization", counts, top_k=8)
    tokens = int(shares["n_tokens"].max())
    yield (
        f"OLMoE-1B-7B-0924, 64 experts, 8 per token: its authors published how many of {tokens:,} tokens of each of "
        "five domains chose each expert of layers 0, 7 and 15 "
        "([source](../sample_data/README.md#olmoes-published-counts)). Their figures follow from the counts (a test "
        "holds them), and so does nPMI. Counts have no sequences, so there are no intervals and no tests here.\n"
    )
    yield "| domain | expert by nPMI | nPMI | share of the domain's tokens | of all domains' |\n|---|---|---|---|---|"
    for target in sorted(npmi["target"].unique()):
        row = _best(npmi, target, 1).iloc[0]
        share, overall = row["n_xy"] / row["n_x"], row["n_y"] / row["n_tokens"]
        yield f"| {target} | {_named(row)} | {row['npmi']:.2f} | {100 * share:.1f} % | {100 * overall:.1f} % |"
    yield ""
    best = npmi.groupby("layer")["npmi"].max()
    layers = ", ".join(f"{value:.2f} in layer {layer}" for layer, value in best.items())
    yield f"An even share would be 12.5 %. The highest nPMI is {layers}.\n"
    yield _picture(npmi, "npmi", out, "olmoe", f"nPMI of OLMoE's experts and domains. n = {5 * tokens:,} tokens.")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python docs/findings.py TRACE [FOLDER]")
    write(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else HERE)
