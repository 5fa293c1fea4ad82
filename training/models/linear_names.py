"""Tables of common model types, for use without transformers; tests compare them with transformers."""

_SEPARATE = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "embed_tokens", "lm_head")

# Names of the modules that LoRA can adapt, by model type.
LINEAR_NAMES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "smollm3", "olmo2"), _SEPARATE),
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj", "embed_tokens", "lm_head"),
    "gpt2": ("c_attn", "c_proj", "c_fc", "wte", "wpe", "lm_head"),
    "gpt_neox": ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h", "embed_in", "lm_head"),
}

# Types whose lm_head shares its weight with the embedding unless config.json states tie_word_embeddings.
TIED = frozenset({"gpt2", "gemma", "gemma2", "smollm3"})

# Types that transformers loads as causal language models although their attention includes later tokens, unless
# config.json has is_decoder (XLM: causal).
ENCODERS = frozenset({
    "bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert",
    "reformer", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm", "xlm-roberta",
    "xlm-roberta-xl", "xlnet", "xmod",
})  # fmt: skip
