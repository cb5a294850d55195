"""How much is measured: the stated shapes, or a quick look, or the few milliseconds that the test suite can afford."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.models import FAMILIES, STATED, TINY, Shape


@dataclass(frozen=True)
class Scale:
    """Rounds and sizes of every benchmark; see each file for what it does with them."""

    name: str
    shape: Shape
    rounds: int
    prefill: tuple[int, int]
    prompt: int
    new_tokens: int
    record_rounds: int
    record_tokens: int
    parts_rounds: int
    parts_tokens: int
    store_rounds: int
    store_tokens: int
    startup_rounds: int
    metric_rounds: int
    metric_tokens: int
    cache_tokens: int
    page_tokens: int
    page_layers: int
    page_rounds: int
    segment_lengths: tuple[int, ...] = (4, 16, 64, 256)
    families: tuple[str, ...] = FAMILIES


FULL = Scale(
    name="full",
    shape=STATED,
    rounds=30,
    prefill=(1, 512),
    prompt=32,
    new_tokens=32,
    record_rounds=5,
    record_tokens=32_768,
    parts_rounds=4,
    parts_tokens=12_288,
    store_rounds=5,
    store_tokens=65_536,
    startup_rounds=20,
    metric_rounds=5,
    metric_tokens=32_768,
    cache_tokens=1_024,
    page_tokens=1_048_576,
    page_layers=16,
    page_rounds=3,
)
QUICK = Scale(
    name="quick",
    shape=STATED,
    rounds=8,
    prefill=(1, 512),
    prompt=32,
    new_tokens=16,
    record_rounds=2,
    record_tokens=16_384,
    parts_rounds=2,
    parts_tokens=8_192,
    store_rounds=2,
    store_tokens=16_384,
    startup_rounds=5,
    metric_rounds=2,
    metric_tokens=8_192,
    cache_tokens=512,
    page_tokens=65_536,
    page_layers=16,
    page_rounds=2,
)
SMOKE = Scale(
    name="smoke",
    shape=TINY,
    rounds=1,
    prefill=(1, 8),
    prompt=4,
    new_tokens=2,
    record_rounds=1,
    record_tokens=64,
    parts_rounds=1,
    parts_tokens=64,
    store_rounds=1,
    store_tokens=64,
    startup_rounds=1,
    metric_rounds=1,
    metric_tokens=128,
    cache_tokens=32,
    page_tokens=512,
    page_layers=2,
    page_rounds=1,
    segment_lengths=(4,),
    families=("OLMoE",),
)
SCALES = {scale.name: scale for scale in (FULL, QUICK, SMOKE)}
