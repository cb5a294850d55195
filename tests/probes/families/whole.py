"""Whole models of the families that see, hear or speak as well: tiny, with their towers, as their checkpoints are."""

from __future__ import annotations

from typing import Any

from probes.families import families
from probes.families.tiny import BASE
from probes.model_class import from_config

VOCABULARY = 400
TOWER = {
    "depth": 1, "num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 4,
    "num_attention_heads": 4, "num_key_value_heads": 4, "out_hidden_size": 32, "head_dim": 8, "image_size": 28,
    "patch_size": 14, "deepstack_visual_indexes": [0], "num_position_embeddings": 64, "projection_dim": 32,
    "embed_dim": 32, "vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32,
    "text_hidden_size": 32, "projection_hidden_dim": 32,
}  # fmt: skip
SAM = {
    "hidden_size": 32, "output_channels": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 64,
    "patch_size": 16, "window_size": 2, "global_attn_indexes": [0], "mlp_dim": 32, "downsample_channels": [32, 32],
}  # fmt: skip
ENCODER = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 4, "vocab_size": 8, "image_size": 28, "patch_size": 14,
}  # fmt: skip
# family -> what its vision tower is, where the config leaves it open
TOWERS = {"aria": "idefics3_vision", "diffusion_gemma": "gemma4_vision", "mistral_large4": "pixtral"}
OCR = {"vision_config": {"sam_config": SAM, "encoder_config": ENCODER}}
AUDIO = {
    "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 4, "encoder_ffn_dim": 32, "num_mel_bins": 16,
    "downsample_hidden_size": 32, "output_dim": 32,
}  # fmt: skip
MORE: dict[str, dict[str, Any]] = {
    "deepseek_ocr2": OCR,
    "unlimited_ocr": OCR,
    "muse_spark": {
        "out_hidden_size": 32,
        "projector_hidden_size": 32,
        "audio_config": {
            "out_hidden_size": 32, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "num_hidden_layers": 4,
        },
    },
}  # fmt: skip
# What transformers could not load as a causal language model, and two that it could in part.
WHOLE = (
    "aria", "deepseek_ocr2", "diffusion_gemma", "ernie4_5_vl_moe", "glm4v_moe", "glm5_next", "mistral4",
    "mistral_large4", "muse_spark", "openai_privacy_filter", "qwen3_omni_moe", "qwen3_vl_moe", "step3p7",
    "unlimited_ocr", "gemma4", "llama4", "minimax_m3_vl", "qwen3_5_moe", "inkling2",
)  # fmt: skip


def whole_model(name: str) -> Any:
    """The family's whole model with random weights."""
    import torch
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = CONFIG_MAPPING[name]
    text = {**BASE, **families()[name].tiny, "vocab_size": VOCABULARY}
    torch.manual_seed(0)
    return from_config(config(**_settings(name, config, text))).eval()


def _settings(name: str, config: Any, text: dict[str, Any]) -> dict[str, Any]:
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "image_token_id": 390, "image_token_index": 390}
    ids |= {"video_token_id": 391, "audio_token_id": 392, "vision_start_token_id": 393, "vision_end_token_id": 394}
    parts = config.sub_configs or {}
    if "thinker_config" in parts:
        thinker = {"text_config": text, "vision_config": TOWER, "audio_config": AUDIO, **ids}
        return {"thinker_config": thinker, "enable_audio_output": False}
    if "text_config" not in parts:
        return text
    open_tower = {"model_type": TOWERS[name]} if name in TOWERS else {}
    return {"text_config": text, "vision_config": {**TOWER, **open_tower}, **ids, **MORE.get(name, {})}
