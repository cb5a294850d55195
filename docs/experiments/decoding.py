"""Do decoding strategies and adaptation at test time help, on the whole model and on a damaged one?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import probes
from experiments.lab import Lab
from experiments.words import number, percent, points, said, sure
from probes.evaluation import Evaluation
from probes.evaluation.plots import Series
from probes.recipes import specs_of

STRATEGIES = ("ensemble:n=4,tau=0.3", "contrast", "rewire")


def decoding(lab: Lab) -> Iterator[str]:
    yield "### Decoding strategies and adaptation at test time\n"
    references = lab.task("references", lab.lines("tasks/sums")[: lab.sizes.references])
    arms = [*STRATEGIES, f"c3po:references={references}"]
    damage = specs_of("npmi:label=arithmetic,top=2,action=ban", lab.trace)
    series = []
    for state, specs in (("intact", ()), ("damaged", damage)):
        with probes.steer(lab.model, specs) if specs else nullcontext():
            found = lab.evaluate([lab.sums], arms, control_seeds=0)
        yield from _decoded(found, state, [name for name in found.arms if name != "baseline"])
        rows = [found.row("sums", name, "exact_match") for name in found.arms]
        series.append(Series(state, points(rows, [_short(name) for name in found.arms])))
    caption = f"Right answers on held-out sums (n = {rows[0].n}), of the model as it is and with two experts banned."
    yield lab.picture("decoding", caption, "Decoding strategies", "strategy", "right answers", series)


def _short(name: str) -> str:
    return "plain" if name == "baseline" else name.partition(":")[0]


def _decoded(found: Evaluation, state: str, names: Sequence[str]) -> Iterator[str]:
    base = found.row("sums", "baseline", "exact_match")
    what = "as it is" if state == "intact" else "with the two top experts of arithmetic banned"
    loss = found.row("sums", "baseline", "perplexity")
    yield f"The model {what}: {percent(base)} of {base.n} sums right, perplexity of the targets {loss.value:.4f}.\n"
    yield "| strategy | right | change, p | perplexity of the targets | change, p | helps |\n|---|---|---|---|---|---|"
    for name in names:
        right = found.row("sums", name, "exact_match")
        helps = "yes" if sure(right, 1) else "no, it harms" if sure(right, -1) else "no"
        change = f"{100 * (right.difference or 0):+.0f} points, {said(right.p_holm)}"
        label = name.replace(name[name.find("references=") :], "references=…") if "references=" in name else name
        yield f"| `{label}` | {percent(right)} | {change} | {_perplexity(found, name)} | {helps} |"
    yield ""


def _perplexity(found: Evaluation, name: str) -> str:
    """Two cells of the table; a strategy may rule a target's token out."""
    try:
        row = found.row("sums", name, "perplexity")
    except KeyError:
        return "infinite (tokens ruled out) |"
    return f"{number(row.value, row.low, row.high, 4)} | {row.difference:+.4f}, {said(row.p_holm)}"
