"""Shared fixtures: small real models with a real tokenizer, built once per session."""

import os

import pytest
from hypothesis import HealthCheck, settings

# Before torch is imported anywhere: two workers with two threads each would fight over two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# How long an example takes says something about the machine, not about the code.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

TEXTS = [
    "the quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "SELECT name, price FROM items WHERE price > 10 ORDER BY price;",
    '{"name": "Ada", "born": 1815, "fields": ["mathematics", "computing"]}',
    "def add(a, b):\n    return a + b\n",
    "12+34=46 and 7*8=56, nothing else.",
    "der schnelle braune Fuchs springt über den faulen Hund.",
]


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE tokenizer trained on a few lines; every text can be encoded."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(TEXTS * 4, vocab_size=400, special_tokens=["<pad>", "<s>", "</s>"], show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture(scope="session")
def olmoe(tokenizer):
    """A random OLMoE: 3 layers, 8 experts, 2 chosen."""
    import torch
    from transformers import OlmoeConfig, OlmoeForCausalLM

    torch.manual_seed(0)
    config = OlmoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return OlmoeForCausalLM(config).eval()


@pytest.fixture(scope="session")
def olmoe_folder(olmoe, tokenizer, tmp_path_factory):
    """The same model as a folder, as `probe record` is given it."""
    folder = tmp_path_factory.mktemp("models") / "tiny-olmoe"
    olmoe.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def prompts_file(tmp_path_factory):
    """Forty labelled prompts of different lengths."""
    import json

    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    lines = [
        {"text": TEXTS[n % len(TEXTS)] * (1 + n % 3), "label": f"kind-{n % len(TEXTS)}", "id": f"p{n}"}
        for n in range(40)
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path
