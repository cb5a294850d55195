#!/usr/bin/env bash
# Quantizers leave the experts of transformers-5 MoE models in full precision, without a message.
#
# Versions: torch 2.13.0, transformers 5.23.0, torchao 0.18.0, bitsandbytes 0.50.2, optimum-quanto 0.2.7 (CPU).
#
# transformers 5 keeps the experts of a layer as two 3-D parameters (`mlp.experts.gate_up_proj` [E, 2I, H] and
# `mlp.experts.down_proj` [E, H, I]) of a module that is not an `nn.Linear`. Quantizers that look for `nn.Linear`
# do not find them. A "4-bit" Qwen3-MoE therefore has 4-bit attention and bfloat16 experts, which hold most of the
# weights; none of the calls below warns.
#
# Seen (share of all parameters that stay unquantized because they belong to experts: 80 % in this small model):
#   torchao quantize_(Int8WeightOnlyConfig)       attention Int8Tensor            experts float32, plain
#   from_pretrained(TorchAoConfig(int8))          attention Int8Tensor            experts bfloat16, plain
#   from_pretrained(BitsAndBytesConfig(8 bit))    attention Int8Params            experts bfloat16, plain
#   from_pretrained(BitsAndBytesConfig(4 bit))    attention Params4bit            experts bfloat16, plain
#   from_pretrained(QuantoConfig(int8))           attention WeightQBytesTensor    experts bfloat16, plain
#
# Exits 0 while this is so, 1 when it changes.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 \
  torchao==0.18.0 bitsandbytes==0.50.2 optimum-quanto==0.2.7 accelerate==1.15.0 2>/dev/null
cd "$work"
cat > show.py <<'PY'
import sys
import warnings

warnings.filterwarnings("ignore")
import torch
import transformers as tf
from torchao.quantization import Int8WeightOnlyConfig, quantize_

tf.logging.set_verbosity_error()


def model():
    torch.manual_seed(0)
    config = tf.Qwen3MoeConfig(
        vocab_size=256, hidden_size=128, moe_intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, head_dim=32, num_experts=16, num_experts_per_tok=2,
    )
    return tf.Qwen3MoeForCausalLM(config).eval()


def by_torchao():
    made = model()
    quantize_(made, Int8WeightOnlyConfig())
    return made


def loaded(config):
    return lambda: tf.AutoModelForCausalLM.from_pretrained("m", quantization_config=config, dtype=torch.bfloat16, device_map="cpu")


model().save_pretrained("m")
ways = {
    "torchao quantize_": by_torchao,
    "from_pretrained torchao int8": loaded(tf.TorchAoConfig(Int8WeightOnlyConfig())),
    "from_pretrained bitsandbytes 8 bit": loaded(tf.BitsAndBytesConfig(load_in_8bit=True)),
    "from_pretrained bitsandbytes 4 bit": loaded(tf.BitsAndBytesConfig(load_in_4bit=True)),
    "from_pretrained quanto int8": loaded(tf.QuantoConfig(weights="int8")),
}
changed = False
whole = model()
inside = sum(p.numel() for n, p in whole.named_parameters() if ".experts." in n)
print(f"{inside / sum(p.numel() for p in whole.parameters()):.0%} of the parameters are in experts")
for name, make in ways.items():
    made = make()
    layer = made.model.layers[0]
    attention = type(layer.self_attn.q_proj.weight.data).__name__, type(layer.self_attn.q_proj.weight).__name__
    experts = {(type(p.data), p.dtype) for n, p in made.named_parameters() if ".experts." in n}
    plain = all(kind is torch.Tensor and dtype.is_floating_point for kind, dtype in experts)
    quantized = attention != ("Tensor", "Parameter")
    print(f"{name}: attention {attention[1] if attention[0] == 'Tensor' else attention[0]}, "
          f"experts {sorted(str(d) for _, d in experts)}, plain tensors: {plain}")
    changed |= not (plain and quantized)
sys.exit(changed)
PY
HF_HUB_OFFLINE=1 "$work/venv/bin/python" show.py 2>/dev/null
