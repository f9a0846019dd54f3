#!/usr/bin/env python3
"""Make a tiny, random, self-contained chat model for a real inference server.

A 2-layer Llama (hidden size 128) with random weights and a byte-level BPE
tokenizer that is trained here, on text generated here: nothing is downloaded.
The output is gibberish but the *server* in front of it is the real one, so
HTTP, SSE framing, usage, prefix cache, metrics and errors are real.

usage: make_tiny_model.py OUT_DIR [--lora DIR] [--vocab 2048] [--max-len 8192]
"""
import argparse
import json
import os
import random

ap = argparse.ArgumentParser()
ap.add_argument("out")
ap.add_argument("--lora", help="also write a random rank-8 LoRA adapter here")
ap.add_argument("--vocab", type=int, default=2048)
ap.add_argument("--hidden", type=int, default=128)
ap.add_argument("--layers", type=int, default=2)
ap.add_argument("--max-len", type=int, default=8192)
ap.add_argument("--seed", type=int, default=7)
args = ap.parse_args()

random.seed(args.seed)

# ---- tokenizer -------------------------------------------------------------
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

WORDS = (
    "the a router balances requests over model replicas with weights and "
    "hashing while tokens stream to the client from each upstream server in "
    "small chunks load prefix cache prompt answer question system user "
    "assistant hello world weather city function call json true false null "
    "name arguments temperature get set list please write short story about "
    "blue red green cat dog house river mountain number one two three four"
).split()
PUNCT = [".", ",", "?", "!", ":", ";", "\n", " -", "{", "}", "[", "]", '"']
EXTRA = ["你好", "世界", "负载均衡", "é", "ü", "ß", "naïve", "🙂", "🚀", "日本語"]


def corpus(n=4000):
    for _ in range(n):
        k = random.randint(4, 24)
        out = []
        for _ in range(k):
            r = random.random()
            out.append(
                random.choice(EXTRA) if r < 0.03 else random.choice(WORDS)
            )
            if r > 0.85:
                out[-1] += random.choice(PUNCT)
        yield " ".join(out)


SPECIAL = ["<|pad|>", "<|bos|>", "<|im_start|>", "<|im_end|>"]
tok = Tokenizer(models.BPE())
tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tok.decoder = decoders.ByteLevel()
tok.train_from_iterator(
    corpus(),
    trainers.BpeTrainer(
        vocab_size=args.vocab,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    ),
)
os.makedirs(args.out, exist_ok=True)

TEMPLATE = (
    "{%- if tools %}<|im_start|>system\nTools: {{ tools | tojson }}<|im_end|>\n{%- endif %}"
    "{%- for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{%- if m['content'] is string %}{{ m['content'] }}"
    "{%- elif m['content'] %}{%- for p in m['content'] %}{{ p.get('text', '') }}{%- endfor %}"
    "{%- endif %}"
    "{%- if m.get('tool_calls') %}{{ m['tool_calls'] | tojson }}{%- endif %}"
    "<|im_end|>\n{%- endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{%- endif %}"
)

from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

fast = PreTrainedTokenizerFast(
    tokenizer_object=tok,
    bos_token="<|bos|>",
    eos_token="<|im_end|>",
    pad_token="<|pad|>",
    additional_special_tokens=["<|im_start|>"],
    model_max_length=args.max_len,
)
fast.chat_template = TEMPLATE
fast.save_pretrained(args.out)

# ---- weights ---------------------------------------------------------------
import torch

torch.manual_seed(args.seed)
vocab = ((len(fast) + 63) // 64) * 64
cfg = LlamaConfig(
    vocab_size=vocab,
    hidden_size=args.hidden,
    intermediate_size=args.hidden * 2,
    num_hidden_layers=args.layers,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=args.hidden // 4 if args.hidden >= 128 else 32,
    max_position_embeddings=args.max_len,
    bos_token_id=fast.bos_token_id,
    eos_token_id=fast.eos_token_id,
    pad_token_id=fast.pad_token_id,
    tie_word_embeddings=False,
)
model = LlamaForCausalLM(cfg)
with torch.no_grad():
    # Sharper logits (std ~4) give varied text with a clear winner per step.
    # Rows of padding and special ids are zeroed, so they are rarely sampled.
    # The end-of-turn token stays as likely as any word.
    w = model.lm_head.weight
    w.mul_(20.0)
    for i in list(range(vocab)):
        if i >= len(fast) or (i in fast.all_special_ids and i != fast.eos_token_id):
            w[i].zero_()
model = model.to(torch.bfloat16)
model.generation_config.eos_token_id = fast.eos_token_id
model.save_pretrained(args.out, safe_serialization=True)

# ---- optional LoRA adapter ---------------------------------------------------
if args.lora:
    from safetensors.torch import save_file

    os.makedirs(args.lora, exist_ok=True)
    r, state = 8, {}
    hd = cfg.head_dim
    for i in range(args.layers):
        for proj, out in (
            ("q_proj", cfg.num_attention_heads * hd),
            ("v_proj", cfg.num_key_value_heads * hd),
        ):
            base = f"base_model.model.model.layers.{i}.self_attn.{proj}"
            state[f"{base}.lora_A.weight"] = torch.randn(r, args.hidden) * 0.1
            state[f"{base}.lora_B.weight"] = torch.randn(out, r) * 0.1
    save_file(state, os.path.join(args.lora, "adapter_model.safetensors"))
    with open(os.path.join(args.lora, "adapter_config.json"), "w") as f:
        json.dump(
            {
                "peft_type": "LORA",
                "task_type": "CAUSAL_LM",
                "base_model_name_or_path": args.out,
                "r": r,
                "lora_alpha": 16,
                "lora_dropout": 0.0,
                "bias": "none",
                "target_modules": ["q_proj", "v_proj"],
            },
            f,
        )

n = sum(p.numel() for p in model.parameters())
print(f"model {args.out}: {n/1e6:.2f}M parameters, {len(fast)} tokens")
