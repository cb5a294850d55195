"""How many experts does it take, and how firmly must they be chosen?"""

from __future__ import annotations

from collections.abc import Iterator

from experiments.lab import Lab
from experiments.words import number, percent, points, sure
from probes.evaluation.plots import Series

CURVES = (
    ("top_k", "k", (1, 2, 3, 4, 6, 8), "experts per token", "", False),
    ("top_p", "p", (0.2, 0.4, 0.6, 0.8), "cumulative probability", "", False),
    ("noise", "tau", (0.3, 1.0, 3.0, 10.0), "strength of the noise in the choice, τ", ",spare_ends=false", True),
)


def curves(lab: Lab) -> Iterator[str]:
    yield "### How many experts, and how firmly chosen\n"
    arms = {(name, v): f"{name}:{option}={v}{more}" for name, option, values, _, more, _ in CURVES for v in values}
    found = lab.evaluate([lab.sums, lab.mixed], [*arms.values(), "random"], control_seeds=0)
    names = dict(zip(arms, [name for name in found.arms if name not in ("baseline", "random")], strict=True))
    floor = {task: found.row(task, "random", m) for task, m in (("sums", "exact_match"), ("texts", "perplexity"))}
    for name, _, values, title, _, log in CURVES:
        right = [found.row("sums", names[name, v], "exact_match") for v in values]
        perplexity = [found.row("texts", names[name, v], "perplexity") for v in values]
        caption = f"`{name}`: right sums, n = {right[0].n}. Random choice: {percent(floor['sums'])}."
        chart = (f"Right sums by {name}", title, "right answers", [Series("sums", points(right, values), True)])
        yield lab.picture(name, caption, *chart, log=log)
        table = ", ".join(f"{v}: {number(r.value, r.low, r.high)}" for v, r in zip(values, perplexity, strict=True))
        better = [v for v, r in zip(values, perplexity, strict=True) if sure(r, -1)]
        worse = [v for v, r in zip(values, perplexity, strict=True) if sure(r, 1)]
        yield (
            f"Perplexity of texts of all labels (n = {perplexity[0].n}) by `{name}`: {table}; baseline "
            f"{perplexity[0].baseline:.2f}, random choice {floor['texts'].value:.1f}. Better than the baseline at: "
            f"{', '.join(map(str, better)) or 'none'}; worse at: {', '.join(map(str, worse)) or 'none'}.\n"
        )
