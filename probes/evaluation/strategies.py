"""Writing and reading text by a decoding strategy, as `probes.generation` does without one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from probes.errors import UsageError
from probes.generation import Decoding, Generated, Ids, Watch, end_ids, generated, pad_id, padded

if TYPE_CHECKING:
    import torch

    from probes.interventions.decoding import Plan


def write(model: Any, tokenizer: Any, prompts: Sequence[Ids], decoding: Decoding, plan: Plan) -> list[Generated]:
    """Continuations of `prompts` by the strategy."""
    from probes.interventions.decoding import decode

    refused = [*decoding.options, *([f"top_p={decoding.top_p:g}"] if decoding.top_p < 1 else [])]
    if refused:
        raise UsageError(f"the decoding strategy {plan} cannot honour {refused[0]}")
    ids, mask = padded(model, tokenizer, prompts)
    done = decode(
        model,
        {"input_ids": ids, "attention_mask": mask},
        plan,
        decoding.max_new_tokens,
        sample=decoding.sample,
        temperature=decoding.temperature,
        seed=decoding.seed,
        watch=Watch(tokenizer, 0, decoding.stop, end_ids(model, tokenizer)),
        tokenizer=tokenizer,
    )
    rows = zip(done.ids.cpu().numpy(), done.lengths.tolist(), strict=True)
    return [generated(row[:length].astype(np.int32), model, tokenizer, decoding.stop) for row, length in rows]


def read(
    model: Any, tokenizer: Any, prompts: Sequence[Ids], continuations: Sequence[Ids], plan: Plan
) -> list[torch.Tensor]:
    """ln p [n, V] of the strategy before each of the n tokens of a continuation, as it would have written them."""
    import torch

    from probes.interventions.decoding import decode

    ids, mask = padded(model, tokenizer, prompts)
    lengths = [len(c) for c in continuations]
    given = torch.full((len(lengths), max(lengths)), pad_id(tokenizer), dtype=torch.long)
    for row, continuation in zip(given, continuations, strict=True):
        row[: len(continuation)] = torch.as_tensor(np.asarray(continuation))
    inputs = {"input_ids": ids, "attention_mask": mask}
    done = decode(model, inputs, plan, tokenizer=tokenizer, given=given, keep_scores=True)
    return [scores[:n].float().log_softmax(-1) for scores, n in zip(done.scores, lengths, strict=True)]
