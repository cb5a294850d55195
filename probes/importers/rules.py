"""The rule behind imported logits, as far as the model's config tells it: how they become scores and a choice.

A config names the family, its groups and its scoring function. A correction bias is a weight of the model and is not
in a config, so logits alone do not lead to the choice of such a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from probes.errors import ProbeError
from probes.families import families
from probes.families.base import CORRECTION_BIAS, Family, Parameters
from probes.scores import SIGMOID, SOFTMAX, SQRTSOFTPLUS, UNKNOWN

SCORINGS = (SOFTMAX, SIGMOID, SQRTSOFTPLUS)
# What configs call the parameters of the rules; the first name that a config has is taken.
IN_CONFIG = {
    "groups": ("n_group", "num_expert_group", "num_group"),
    "topk_group": ("topk_group",),
    "method": ("topk_method",),
}
TOP_K_NAMES = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts")
GROUPED = ("softmax_groups", "sigmoid_bias")  # rules whose routers look at groups, where the config has them
SCORING_NAMES = ("scoring_func", "score_func", "score_function")
BIAS_SWITCHES = ("use_expert_bias", "use_routing_bias", "moe_router_enable_expert_bias")
AS_SOFTMAX = (
    "logits are taken as softmax router logits whose k largest are the choice, as the format says: "
    "there is no --model-config that tells the model's own rule"
)


@dataclass(frozen=True)
class ImportRule:
    """What is known of the layers' rule.

    scoring     softmax, sigmoid or sqrtsoftplus; "unknown" where entropy and margin have to stay empty
    gating      what is stored with every layer
    parameters  of the family's rule, as far as the config has them; of interest where groups limit the choice
    missing     why logits alone do not lead to the choice, in words; "" where they do
    notes       what deserves a word to the user
    """

    scoring: str = "softmax"
    gating: str = "softmax"
    parameters: Parameters = field(default_factory=dict)
    missing: str = ""
    notes: tuple[str, ...] = ()

    @property
    def limited(self) -> bool:
        """Whether groups keep some of the largest scores from being chosen."""
        groups, kept = self.parameters.get("groups"), self.parameters.get("topk_group")
        if not groups or not kept or groups <= kept or self.scoring == UNKNOWN:
            return False
        return self.parameters.get("method") != "greedy"

    def values(self, logits: np.ndarray) -> np.ndarray:
        """[n, E] -> [n, E] numbers whose k largest are the choice, but for a correction bias.

        The logits themselves, which order the experts as every scoring function does; with groups, the scores of the
        best groups and the family's filler elsewhere. NaN rows stay NaN.
        """
        if not self.limited:
            return logits
        import torch

        from probes.families.scoring import limit_to_groups, scores

        if logits.shape[1] % self.parameters["groups"]:
            raise ProbeError(f"{logits.shape[1]} experts do not make the config's {self.parameters['groups']} groups")
        known = ~np.isnan(logits).any(axis=1)
        out = np.full(logits.shape, np.nan, np.float32)
        parameters = {**self.parameters, "score": self.scoring}
        score = scores(torch.from_numpy(np.ascontiguousarray(logits[known])), parameters)
        out[known] = limit_to_groups(score, parameters).float().numpy()
        return out


def import_rule(config: Mapping[str, Any], stated: str | None, has_logits: bool) -> ImportRule:
    """The rule of a file. `config`: the model's, {} where none was given; `stated`: the scoring that the file names."""
    if not _tells(config):
        note = (AS_SOFTMAX,) if has_logits and stated is None else ()
        return ImportRule(stated or "softmax", stated or "softmax", notes=note)
    family = family_of_config(config)
    rule = _unknown_family(config) if family is None else _of_family(family, config)
    if stated is None or rule.scoring == stated:
        return rule
    if rule.scoring != UNKNOWN:
        raise ProbeError(
            f"the file says gating {stated!r}, but the model config is of a model with {rule.scoring} scores"
        )
    return ImportRule(stated, stated, rule.parameters, rule.missing)


def k_note(config: Mapping[str, Any], k: int) -> list[str]:
    """A word where the config has another number of experts per token than the file."""
    stated = next((config[name] for name in TOP_K_NAMES if config.get(name) is not None), k)
    if not isinstance(stated, int) or stated == k:
        return []
    return [f"the file has k = {k}, the model config {stated} experts per token"]


def _tells(config: Mapping[str, Any]) -> bool:
    names = ("model_type", *SCORING_NAMES, *BIAS_SWITCHES, *(n for each in IN_CONFIG.values() for n in each))
    return any(config.get(name) is not None for name in names)


def family_of_config(config: Mapping[str, Any]) -> Family | None:
    """The family whose `model_type` a config has, or None."""
    name = str(config.get("model_type", ""))
    return next((f for f in families().values() if name in (f.name, f"{f.name}_text", f.config) and name), None)


def _of_family(family: Family, config: Mapping[str, Any]) -> ImportRule:
    rule = family.rule
    grouped = rule.name in GROUPED and not family.unbiased
    parameters = {**rule.defaults, **family.gating, **(_parameters(config) if grouped else {})}
    scoring = parameters.get("score", "softmax")
    stated = _scoring(config)
    if rule.name == "sqrtsoftplus_bias" and stated:  # its routers take the function from the config
        scoring = stated
    notes: tuple[str, ...] = ()
    if stated and stated != scoring:
        notes = (
            f"the config says {stated} scores, {family.name} is known with {scoring}: "
            "scores are taken as unknown, entropy and margin stay empty",
        )
        scoring = UNKNOWN
    gating = UNKNOWN if scoring == UNKNOWN else f"{scoring}: {rule.name}"
    return ImportRule(scoring, gating, parameters, _missing(family, config, parameters), notes)


def _missing(family: Family, config: Mapping[str, Any], parameters: Parameters) -> str:
    """What else the choice of `family` depends on."""
    unbiased = family.unbiased or config.get("use_expert_bias") is False
    if family.rule.needs and not (unbiased and family.rule.needs == CORRECTION_BIAS):
        return family.rule.needs
    groups = parameters.get("groups")
    if family.rule.name != "softmax_groups" or not groups or groups <= 1:
        return ""
    if not parameters.get("topk_group"):
        return "how many groups are kept (topk_group), which the config does not say"
    if "method" not in parameters and parameters.get("group_score") == "max":
        return "whether groups limit the choice (topk_method), which the config does not say"
    return ""


def _unknown_family(config: Mapping[str, Any]) -> ImportRule:
    kind = config.get("model_type")
    name = f"model_type {kind!r}" if kind else "a config without model_type"
    scoring = _scoring(config) or UNKNOWN
    parameters = _parameters(config)
    missing = f"the rule of {name}, which is none of the known families (probe families lists them)"
    if parameters.get("method") == "noaux_tc" or any(config.get(switch) for switch in BIAS_SWITCHES):
        missing = CORRECTION_BIAS
    notes: tuple[str, ...] = ()
    if scoring == UNKNOWN:
        notes = (
            f"how {name} makes scores of logits is not known: entropy and margin stay empty. If they are softmax or "
            "sigmoid scores, say so in the file's 'gating'",
        )
    return ImportRule(scoring, scoring, parameters, missing, notes)


def _parameters(config: Mapping[str, Any]) -> Parameters:
    found = {
        key: next((config[name] for name in names if config.get(name) is not None), None)
        for key, names in IN_CONFIG.items()
    }
    for key in ("groups", "topk_group"):
        if found[key] is not None and (isinstance(found[key], bool) or not isinstance(found[key], int)):
            raise ProbeError(f"--model-config: {key} must be a whole number, got {found[key]!r}")
    return {key: value for key, value in found.items() if value is not None}


def _scoring(config: Mapping[str, Any]) -> str:
    """The scoring function that a config states, or ""."""
    stated = next((str(config[name]).lower() for name in SCORING_NAMES if config.get(name)), "")
    return stated if stated in SCORINGS else ""
