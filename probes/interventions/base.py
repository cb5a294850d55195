"""What an intervention is, declared once: a file per intervention holds `INTERVENTION = Intervention(...)`.

From that record come the specs people write (`boost:layer=3,expert=7,factor=8`), the hooks that carry them out, the
rows of docs/interventions.md and the dashboard's forms. The functions are pure, over torch tensors of one layer in one
pass: T tokens, E experts, k chosen per token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from probes.metrics.registry import Option
from probes.parsing import number

if TYPE_CHECKING:
    from probes.interventions.site import Site

Options = Mapping[str, Any]

# In the order in which a router works; interventions of one stage act in the order they are given.
STAGES = ("logits", "key", "k", "assign", "outputs")


@dataclass(frozen=True)
class Intervention:
    """One way to change what a router chose, or what an expert returned.

    logits    (site, options, z [T, E]) -> z: what the router's own code goes on with
    key       (site, options, key [T, E]) -> key: what the k largest are taken of; the weights stay those of the scores
    k         (site, options, k) -> k: how many are taken
    assign    (site, options, ids [T, k], weights [T, k]) -> (ids, weights), of any width: what the experts receive
    outputs   (site, options, outputs [n, H], experts [n]) -> outputs, before weighting
    width     (options, k, E) -> the most slots a token can get, where that is not k
    named     it acts on experts that the spec names: "experts" (at least one), "optional", or "" (on all of them)
    optional  stages that a layer may lack the place for, where the others suffice
    drops     slots it gives weight 0 are recorded as no expert (-1)
    needs     "logits": `assign` reads the router's logits; "scores": and what the family makes of them;
              "router": it asks the router's code for weights
    per_pass  acts on whole passes: a scope of tokens or positions is refused
    removes   the experts it names cannot be chosen any more
    keeps     only the experts it names can be chosen
    hides     options -> how many more experts of each token cannot be chosen
    naming    options that name experts (as "3.7", or as a table {layer: {expert: ...}})
    receives  option that names the expert who takes over from those named
    sized     where experts are named ("experts" is the scope) whose number is what it sets: a control has as many
    check     (options with the named experts as "named", their layer as "layer", top_k, num_experts): raises UsageError
              for what does not fit
    neutral   options with which it must change nothing, as the model's logits bit for bit
    shows     what a recording under it must show
    example   options to try it with on any model, where its defaults are not enough
    """

    name: str
    title: str
    does: str
    formula: str
    source: str
    shows: str
    options: tuple[Option, ...] = ()
    named: str = ""
    logits: Callable[[Site, Options, Any], Any] | None = None
    key: Callable[[Site, Options, Any], Any] | None = None
    k: Callable[[Site, Options, int], int] | None = None
    assign: Callable[[Site, Options, Any, Any], tuple[Any, Any]] | None = None
    outputs: Callable[[Site, Options, Any, Any], Any] | None = None
    width: Callable[[Options, int, int], int] = lambda options, top_k, num_experts: top_k
    optional: tuple[str, ...] = ()
    drops: bool = False
    needs: tuple[str, ...] = ()
    per_pass: bool = False
    removes: bool = False
    keeps: bool = False
    hides: Callable[[Options], int] = lambda options: 0
    naming: tuple[str, ...] = ()
    receives: str = ""
    sized: tuple[str, ...] = ()
    check: Callable[[Options, int, int], None] | None = None
    neutral: Options | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    example: Options = field(default_factory=dict)
    notes: str = ""

    @property
    def stages(self) -> tuple[str, ...]:
        """Where it acts, in the router's order."""
        return tuple(stage for stage in STAGES if getattr(self, stage) is not None)

    @property
    def before_selection(self) -> bool:
        """Does it need the router's own code to run on edited numbers?"""
        return any(stage in self.stages for stage in ("logits", "key", "k"))


def flag(value: Any) -> bool:
    """A yes or no as people write it; ValueError for anything else."""
    if isinstance(value, bool):
        return value
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    return known[str(value).lower()] if str(value).lower() in known else _not_a_flag(value)


def _not_a_flag(value: Any) -> bool:
    raise ValueError(f"{value!r} is neither true nor false")


def finite(value: Any) -> float:
    """A number that is one: NaN and infinity would silently spread through the model."""
    if not isinstance(value, (int, float)):
        value = float(value)
    return number(value, "a parameter")


RENORMALIZE = Option("renormalize", flag, False, "scale the weights so that their sum stays what it was")


def renormalized(weights: Any, before: Any) -> Any:
    """Weights [T, k] scaled to the sums of `before`; rows without any weight left stay 0."""
    total = weights.sum(-1, keepdim=True)
    return weights * (before.sum(-1, keepdim=True) / total.masked_fill(total == 0, 1))
