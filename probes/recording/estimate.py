"""What a recording would be: its routers and its size, without loading a weight."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from probes.errors import ProbeError
from probes.prompts import BadPrompt, key_notes, read_prompts
from probes.recording.encode import context_length, encode_prompts
from probes.recording.options import RecordOptions
from probes.recording.plan import plan_batches, take_shard

PER_TOKEN = 24  # ids, position, log-probability, prediction, in raw bytes
LOGIT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Estimate:
    """What was found, and what it comes to. Sizes are raw bytes; DuckDB packs them somewhat tighter or looser."""

    model: str
    model_type: str
    moe_layers: int
    num_experts: int
    top_k: int
    dtype: str
    sequences: int
    tokens: int
    batches: int
    bytes_per_token: int
    expected_bytes: int
    capture: tuple[str, ...]
    left_out: list[BadPrompt]
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def describe(self) -> str:
        """A few lines for people."""
        return "\n".join(
            [
                f"model      {self.model} ({self.model_type}, {self.dtype})",
                f"routers    {self.moe_layers} MoE layers, {self.num_experts} experts, {self.top_k} chosen per token",
                f"prompts    {self.sequences:,} sequences, {self.tokens:,} tokens at most, in {self.batches:,} batches",
                f"capture    {', '.join(self.capture)}",
                f"size       {self.bytes_per_token:,} bytes per token, about {self.expected_bytes / 1e6:,.1f} MB",
            ]
        )


def dry_run(model: str | Path, prompts: str | Path, options: RecordOptions) -> Estimate:
    """Look at the model's configuration and the prompts; nothing is recorded and no weight is read."""
    from probes.capture import discover
    from probes.model import load_skeleton

    skeleton, tokenizer = load_skeleton(model, revision=options.revision, trust_remote_code=options.trust_remote_code)
    routers = [found for found in discover(skeleton) if options.layers is None or found.layer in options.layers]
    if not routers:
        raise ProbeError(f"{model} has no mixture-of-experts layer among --layers")
    found = read_prompts(prompts, options.limit)
    encoded, too_long = encode_prompts(
        found.good,
        tokenizer,
        max_length=options.max_length,
        context=context_length(skeleton),
        new_tokens=options.max_new_tokens,
    )
    encoded = take_shard(encoded, options.shard)
    lengths = [len(item.ids) + options.max_new_tokens for item in encoded]
    dtype = _dtype(skeleton, options.dtype)
    per_token = PER_TOKEN + sum(bytes_per_row(r.num_experts, r.top_k, dtype, options) for r in routers)
    return Estimate(
        model=str(model),
        model_type=skeleton.config.model_type,
        moe_layers=len(routers),
        num_experts=max(router.num_experts for router in routers),
        top_k=max(router.top_k for router in routers),
        dtype=dtype,
        sequences=len(encoded),
        tokens=sum(lengths),
        batches=len(plan_batches(lengths, options.batch_size)),
        bytes_per_token=round(per_token),
        expected_bytes=round(per_token * sum(lengths)),
        capture=options.capture,
        left_out=[*found.bad, *too_long],
        notes=key_notes(found.good),
    )


def bytes_per_row(num_experts: int, top_k: int, dtype: str, options: RecordOptions) -> float:
    """Raw bytes of one (token, layer) at the chosen levels."""
    size = top_k * (1 if num_experts <= 256 else 2)
    if "weights" in options.capture:
        size += 4 * top_k
    if "norms" in options.capture:
        size += 8 * top_k + 4
    if "hidden" in options.capture:
        size += 12
    if "every_norm" in options.capture:
        size += 4 * num_experts
    if "shared" in options.capture:
        size += 8
    logits = LOGIT_BYTES.get(dtype, 4) * num_experts * options.logit_rate + 8  # entropy and margin are 4 bytes each
    return size + (logits if "logits" in options.capture else 0)


def _dtype(skeleton: Any, asked: str) -> str:
    if asked != "auto":
        return asked
    stored = getattr(skeleton.config, "dtype", None) or getattr(skeleton.config.get_text_config(), "dtype", None)
    return str(stored or "float32").removeprefix("torch.")
