#!/usr/bin/env bash
# Plans Llama 3 8B on H100s like torchtitan's published runs: FSDP (ZeRO 3), bf16, two sequences of 8,192 tokens per
# GPU. Needs no weights and no data. Further arguments go to `trainer plan`, such as --efficiency or --plot.
set -euo pipefail
# shellcheck source=SCRIPTDIR/../../launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../launch/common.sh"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/llama-3-8b"
cat > "$work/llama-3-8b/config.json" <<'JSON'
{
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096,
  "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
  "max_position_embeddings": 8192, "rope_theta": 500000.0, "rms_norm_eps": 1e-5, "hidden_act": "silu",
  "attention_bias": false, "attention_dropout": 0.0, "tie_word_embeddings": false, "initializer_range": 0.02,
  "bos_token_id": 128000, "eos_token_id": 128001
}
JSON
target/release/trainer plan "output_dir=$work/run" "model.path=$work/llama-3-8b" model.init=random \
    task.kind=causal-lm "data.train=$work/none.jsonl" data.max_length=8192 max_steps=1000 global_batch_size=16 \
    micro_batch_tokens=16384 parallel.zero_stage=3 parallel.precision=bf16 parallel.recompute=2 \
    --assume-length 8192 --assume-examples 2048 --batch-per-rank 2 --ranks 8 --device h100-sxm --all "$@"
