"""Frequency pruning: experts that a sequence hardly uses are left out while it is read."""

from __future__ import annotations

from typing import Any

from probes.interventions.base import RENORMALIZE, Intervention, Option, Options, finite, renormalized
from probes.interventions.site import Site


def assign(site: Site, options: Options, ids: Any, weights: Any) -> tuple[Any, Any]:
    assert site.forward is not None
    if site.forward.phase == "decode":
        return ids, weights
    read = site.real(ids) & ~site.forward.decoded.to(ids.device)
    rare = _rare(site, options["alpha"], ids, read, weights != 0)
    left = weights.masked_fill(rare, 0.0)
    return ids, renormalized(left, weights) if options["renormalize"] else left


def _rare(site: Site, alpha: float, ids: Any, read: Any, used: Any) -> Any:
    """bool [T, k]: slots of experts that the token's sequence chose fewer than α·T·k/E times, of its tokens `read`."""
    live = read[:, None] & used
    sequence = site.sequence(ids)
    cell = sequence[:, None] * site.num_experts + ids.long()
    cells = (int(sequence.max()) + 1) * site.num_experts
    count = cell.new_zeros(cells).scatter_add_(0, cell.reshape(-1), live.long().reshape(-1))
    tokens = cell.new_zeros(cells // site.num_experts).scatter_add_(0, sequence, read.long())
    fair = tokens.double() * ids.shape[1] / site.num_experts
    return live & (count[cell] < alpha * fair[sequence][:, None])


INTERVENTION = Intervention(
    name="frequency_prune",
    title="Prune by frequency",
    does="while a sequence is read, drops the slots of experts that it chose less than α times as often as an even "
    "spread would; decoding stays as it is",
    formula="w ← 0 for experts with count < α·T·k/E over the sequence's T tokens",
    source="PESF, arXiv 2508.01625 (α 0.3 and 0.7)",
    shows="in prefill, every expert of a sequence at least α·T·k/E times or not at all",
    options=(Option("alpha", finite, 0.3, "α, the share of an even count that is needed", low=0.0), RENORMALIZE),
    assign=assign,
    drops=True,
    per_pass=True,
    neutral={"alpha": 0.0},
    example={"alpha": 2.0},
    notes="Not causal: whether a token loses an expert depends on the whole prompt. A token may lose all its experts.",
)
