"""The rows of `llama_like`: Llama, Qwen2, Gemma, Emu3, and Chameleon as Hugging Face stores it.

Sources: the configuration and modelling files of `transformers` (llama, qwen2, gemma, emu3, chameleon), and for Emu3
also BAAI's own `configuration_emu3.py`, whose files have the same names of weights.
"""

from jam_jax.convert.families.llama_like import Family

BIASES = ("attention_bias", "mlp_bias")
UNTIED = {"tie_word_embeddings": False}

LLAMA = Family(
    name="Llama",
    model_types=("llama",),
    architecture="LlamaForCausalLM",
    switches=BIASES,
    head_size="divides",
    defaults=UNTIED,
)

QWEN2 = Family(
    name="Qwen2",
    model_types=("qwen2",),
    architecture="Qwen2ForCausalLM",
    bias="qkv",
    defaults=UNTIED,
    # Without use_sliding_window the size of the window means nothing, nor, without skipping, the range of the skips.
    only={"use_sliding_window": (False,), "use_mrope": (False,), "use_pos_skipping": (False,)},
    harmless=(
        *("sliding_window", "max_window_layers"),
        # SimpleAR's (arXiv 2504.11455), whose training wrote settings of its other models beside the decoder's.
        *("pos_skipping_range", "mm_spatial_pool_mode", "vq_model_ckpt"),
    ),
    written={"use_sliding_window": False},
    ids=(151643, 151643, 151643),
)

GEMMA = Family(
    name="Gemma",
    model_types=("gemma",),
    architecture="GemmaForCausalLM",
    # The first files say gelu and mean its tanh form; `hidden_activation` came to say so.
    activations=("gelu_pytorch_tanh", "gelu"),
    ffn="gelu_gated",
    norm="rmsnorm_plus_one",
    scaled=True,
    defaults={"tie_word_embeddings": True, "head_dim": 256},
    switches=("attention_bias",),
    only={
        "hidden_activation": ("gelu_pytorch_tanh",),
        "use_bidirectional_attention": (False,),
    },
    unlike={
        "gemma2": "attn_logit_softcapping, final_logit_softcapping, query_pre_attn_scalar, sliding_window and the "
        "second norm of every block (post_feedforward_layernorm) make Gemma 2 another computation; Gemma 1 can be",
    },
    ids=(2, 1, 0),
)

EMU3 = Family(
    name="Emu3",
    model_types=("emu3_text_model", "emu3", "Emu3"),
    architecture="Emu3ForCausalLM",
    rope_theta=1e6,
    # A file of the larger model may hold only what differs from these.
    defaults={
        "vocab_size": 184622,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 9216,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
    switches=BIASES,
    harmless=("vq_config", "vocabulary_map", "image_area"),
    inside="text_config",
    layouts=(("model.", ""), ("text_model.model.", "text_model."), ("model.text_model.", "")),
    apart=("vqmodel.", "model.vqmodel."),
    ids=(151849, 151850, 151643),
    no_id=0,  # transformers wants a number
)

CHAMELEON = Family(
    name="Chameleon",
    model_types=("chameleon",),
    architecture="ChameleonForConditionalGeneration",
    qk_norm="layernorm",
    switches=BIASES,
    head_size="quotient",
    norm_eps=(1e-5,),  # that of the head norms, which is fixed, and ours is one for all
    defaults=UNTIED,
    only={"swin_norm": (False,), "qk_layernorm": (True,)},
    harmless=(
        *("vq_config", "vocabulary_map", "model_parallel_size"),
        *("z_loss_weight", "dropout", "mask_image_logits"),  # Lumina-mGPT's: of training, and of what may be sampled
    ),
    apart=("model.vqmodel.",),
    # transformers forbids whatever the map names IMGIMG…: without names a fusion that draws can draw there too.
    written={"swin_norm": False, "vocabulary_map": {}},
    ids=(0, 2, 1),
)
