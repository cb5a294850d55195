"""What a recording keeps and how it runs, checked before anything heavy is loaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from probes import parsing
from probes.errors import UsageError, unknown
from probes.generation_config import parse_options
from probes.model import DTYPES, check_loading

LEVELS = {
    "ids": "the chosen experts (always kept)",
    "weights": "the weights they were given",
    "logits": "every expert's router logit",
    "norms": "L2 norm and largest component of every chosen expert's output, largest component of its input",
    "predictions": "log-probability of every token and the most likely next one",
    "outputs": "the output vectors of the chosen experts, for a sample of the tokens (--output-rate)",
    "moments": "running mean and variance of every expert's output vectors",
    "hidden": "how far the experts turn the residual stream, and its largest and median component, per token",
    "every_norm": "L2 norm of every expert's output, not only the chosen ones' (runs all experts: E/k times the work)",
    "shared": "largest component of what each layer's shared expert received and returned, per token",
    "router_inputs": "scatter of what the routers received, within and between experts (4·H² bytes per layer)",
}
DEFAULT_CAPTURE = ("ids", "weights", "logits", "norms", "predictions")


__all__ = ["DEFAULT_CAPTURE", "DTYPES", "LEVELS", "RecordOptions", "check_options", "parse_capture", "parse_layers"]


@dataclass(frozen=True)
class RecordOptions:
    """Options of `probe record`, with their defaults; `validated` refuses what makes no sense."""

    capture: tuple[str, ...] = DEFAULT_CAPTURE
    layers: tuple[int, ...] | None = None
    max_new_tokens: int = 0
    batch_size: int | None = None
    max_length: int | None = None
    limit: int | None = None
    logit_rate: float = 1.0
    output_rate: float = 0.01
    dtype: str = "auto"
    device: str | None = None
    revision: str | None = None
    seed: int = 0
    shard: str | None = None
    trust_remote_code: bool = False
    generation: tuple[str, ...] = ()  # "repetition_penalty=1.2": see probes.generation_config

    def settings(self) -> dict[str, Any]:
        """The options that decide the rows, for the fingerprint of a run."""
        settings = asdict(self)
        if not self.generation:  # as runs were fingerprinted before there was this option
            del settings["generation"]
        return settings


def parse_capture(text: str | None) -> tuple[str, ...]:
    """`"logits,norms"` -> the levels to keep; chosen ids always belong to it.

    `"for=METRIC,METRIC"` stands for what these metrics read; level names may stand beside it.
    """
    if text is None:
        return DEFAULT_CAPTURE
    levels, metrics = ["ids"], False
    for word in filter(None, map(str.strip, text.split(","))):
        metrics = metrics or word.startswith("for=")
        name = word.removeprefix("for=").strip()
        if name in LEVELS and not word.startswith("for="):
            levels.append(name)
        elif metrics:
            levels += _levels_for(name)
        else:
            raise unknown("capture level", name, [*LEVELS, "for=METRIC"])
    return tuple(level for level in LEVELS if level in levels)


def _levels_for(metric: str) -> tuple[str, ...]:
    from probes.metrics import get  # imports every metric: only for those who name one

    return get(metric).levels()


def parse_layers(text: str | None) -> tuple[int, ...] | None:
    """`"0-3,7"` -> (0, 1, 2, 3, 7); None for all."""
    return parsing.layers(text)


def check_options(options: RecordOptions) -> RecordOptions:
    """Raise UsageError for what is out of range or no such thing; nothing heavy is needed to see it."""
    for name, low in (("batch_size", 1), ("max_length", 1), ("limit", 1), ("max_new_tokens", 0), ("seed", 0)):
        value = getattr(options, name)
        if value is not None or name in ("max_new_tokens", "seed"):
            parsing.whole(value, f"--{name.replace('_', '-')}", low)
    for name in ("logit_rate", "output_rate"):
        parsing.number(getattr(options, name), f"--{name.replace('_', '-')}", above=0, high=1)
    if options.shard is not None:
        parsing.share_of_work(options.shard, "--shard")
    if options.layers is not None:
        parsing.layers(options.layers, "--layers")
    if parse_options(options.generation) and not options.max_new_tokens:
        raise UsageError("--generation says how new tokens are written: give --max-new-tokens as well")
    check_loading(options.dtype, options.device)
    return options
