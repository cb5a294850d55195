"""Where training can be taken up again: weights and AdamW's moments in one safetensors file (nothing is unpickled)."""

import os

from sample_data.recipe import CACHE_DIR, MODEL_DIR

CHECKPOINT = CACHE_DIR / "checkpoint.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def save(model, optimizer, step: int) -> None:
    """Write beside, then rename: a run killed while writing leaves the checkpoint before."""
    from safetensors.torch import save_file

    CACHE_DIR.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[name] = parameter.detach()
        for moment in MOMENTS:
            tensors[f"{name}#{moment}"] = optimizer.state[parameter][moment]
    unfinished = CHECKPOINT.with_suffix(".part")
    save_file(tensors, unfinished, metadata={"step": str(step)})
    os.replace(unfinished, CHECKPOINT)


def restore(model, optimizer) -> int:
    """Load the checkpoint, if there is one, and return the number of steps done (0 without)."""
    from safetensors import safe_open

    if not CHECKPOINT.exists():
        return 0
    with safe_open(CHECKPOINT, framework="pt") as file:
        for name, parameter in model.named_parameters():
            parameter.data.copy_(file.get_tensor(name))
            optimizer.state[parameter] = {moment: file.get_tensor(f"{name}#{moment}") for moment in MOMENTS}
        return int(file.metadata()["step"])


def publish(model) -> None:
    """Write the weights in bf16 into the model's folder, with the tokenizer that is there already."""
    import torch

    half = model.to(torch.bfloat16)
    half.config.dtype = torch.bfloat16
    half.save_pretrained(MODEL_DIR)
    (MODEL_DIR / "model.safetensors").chmod(0o644)  # safetensors writes it for its owner alone
