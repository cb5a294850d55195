#!/usr/bin/env bash
# LoRA with target_modules="all-linear" on a transformers-5 MoE model adapts the router, and rebuilds the update of
# every expert in every forward pass: one decoded token costs about as much as a pass through all experts' weights.
#
# Versions: torch 2.13.0, transformers 5.23.0, peft 0.21.2 (CPU).
#
# transformers 5 keeps the experts as 3-D parameters and the router as a bare parameter. "all-linear" finds them all
# the same: the router (`mlp.gate`) and both expert tensors get a `ParamWrapper`. Two consequences that the name does
# not suggest:
#   1. The routing itself is trained, so an adapted model may choose other experts than its base.
#   2. The wrapper forms B·A for all E experts before the k chosen ones run. Measured by torch's own FLOP counter for
#      one token (hidden 256, 2 layers, k = 2, r = 8); "q_proj, v_proj" is LoRA on attention only:
#        E =  16: plain 1.2 MFLOP, q_proj, v_proj  1.2 MFLOP, all-linear   169 MFLOP
#        E =  64: plain 1.2 MFLOP, q_proj, v_proj  1.3 MFLOP, all-linear   673 MFLOP
#        E = 128: plain 1.3 MFLOP, q_proj, v_proj  1.3 MFLOP, all-linear 1,345 MFLOP
#      (The counter does not see the grouped product of the chosen experts, 0.8 MFLOP in each case.)
#      The cost grows with E at constant k. The trainable share at E = 128 is 10 % of all parameters, at r = 8.
#
# Exits 0 while this is so, 1 when it changes.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 peft==0.21.2 2>/dev/null
cd "$work"
cat > show.py <<'PY'
import sys
import warnings

warnings.filterwarnings("ignore")
import torch
import transformers as tf
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode


def model(experts):
    torch.manual_seed(0)
    config = tf.Qwen3MoeConfig(
        vocab_size=256, hidden_size=256, moe_intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, head_dim=64, num_experts=experts, num_experts_per_tok=2,
    )
    return tf.Qwen3MoeForCausalLM(config).eval()


def flops(made):
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        made(input_ids=torch.tensor([[7]]))
    return counter.get_total_flops()


all_linear = {}
for experts in (16, 64, 128):
    plain = flops(model(experts))
    attention = flops(get_peft_model(model(experts), LoraConfig(r=8, target_modules=["q_proj", "v_proj"])).eval())
    adapted = get_peft_model(model(experts), LoraConfig(r=8, target_modules="all-linear")).eval()
    all_linear[experts] = flops(adapted)
    print(f"E = {experts}: plain {plain / 1e6:.1f} MFLOP, q_proj, v_proj {attention / 1e6:.1f} MFLOP, "
          f"all-linear {all_linear[experts] / 1e6:.0f} MFLOP")
    last = plain, attention
names = [n for n, _ in adapted.named_parameters() if "lora_A" in n]
router = [n for n in names if ".mlp.gate." in n]
trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
share = trained / sum(p.numel() for p in adapted.parameters())
print(f"adapters on routers: {len(router)}, on expert tensors: {sum('.experts.' in n for n in names)}; trainable {share:.0%}")
same = len(router) == 2 and all_linear[128] > 1.8 * all_linear[64] and all_linear[128] > 50 * last[0]
sys.exit(not (same and last[1] < 2 * last[0]))
PY
HF_HUB_OFFLINE=1 "$work/venv/bin/python" show.py 2>/dev/null
