"""The peer of `bench train`: the same decoder as transformers' OPT, trained by PyTorch."""

import os
import time
from typing import Any

import numpy as np

from jam_jax.config import DecoderConfig


class Theirs:
    """PyTorch's training step on given tokens, from given weights."""

    def __init__(self, config: DecoderConfig, params: dict, tokens: np.ndarray) -> None:
        import torch
        from transformers import OPTConfig, OPTForCausalLM

        torch.set_num_threads(os.cpu_count() or 1)
        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._dtype = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
        settings: Any = OPTConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            ffn_dim=config.ffn_width,
            num_attention_heads=config.heads,
            max_position_embeddings=config.max_positions,
            word_embed_proj_dim=config.width,
            dropout=0.0,
            attention_dropout=0.0,
            layerdrop=0.0,
            enable_bias=False,
            layer_norm_elementwise_affine=False,
            use_cache=False,
        )
        settings._attn_implementation = "sdpa"
        model: Any = OPTForCausalLM(settings)
        self._fill(model, params)
        model.to(self._device).train()
        self._step_model = torch.compile(model) if self._device == "cuda" else model
        # The settings of our optimizer; decay is on all parameters, of which this model has matrices alone.
        self._optimizer = torch.optim.AdamW(
            model.parameters(), lr=1e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=True
        )
        self._model = model
        self._tokens = torch.from_numpy(tokens.astype(np.int64)).to(self._device)

    def _fill(self, model: Any, params: dict) -> None:
        """Our weights under OPT's names, transposed as torch keeps them."""
        layers, width = params["layers"], params["embed"]["tokens"].shape[1]
        state = model.state_dict()
        state["model.decoder.embed_tokens.weight"] = params["embed"]["tokens"]
        state["model.decoder.embed_positions.weight"] = params["embed"]["positions"]
        state["lm_head.weight"] = params["embed"]["tokens"]
        for i in range(layers["attn"]["q"].shape[0]):
            at = f"model.decoder.layers.{i}."
            for ours, name in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj")):
                state[f"{at}self_attn.{name}.weight"] = np.asarray(layers["attn"][ours][i]).reshape(width, -1).T
            state[at + "self_attn.out_proj.weight"] = np.asarray(layers["attn"]["o"][i]).reshape(-1, width).T
            state[at + "fc1.weight"] = np.asarray(layers["ffn"]["up"][i]).T
            state[at + "fc2.weight"] = np.asarray(layers["ffn"]["down"][i]).T
        torch = self._torch
        model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()})

    def steps(self, count: int) -> float:
        """Run some steps; the last one's loss, before its update."""
        torch = self._torch
        for _ in range(count):
            with torch.autocast(self._device, torch.bfloat16, enabled=self._dtype == torch.bfloat16):
                logits = self._step_model(self._tokens[:, :-1]).logits
            loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), self._tokens[:, 1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def product(self, sizes: tuple[int, int, int]) -> float:
        """TFLOP/s of a product of matrices [rows, inner] x [inner, columns] in the compute dtype."""
        torch = self._torch
        rows, inner, columns = sizes
        a = torch.ones((rows, inner), dtype=self._dtype, device=self._device)
        b = torch.ones((inner, columns), dtype=self._dtype, device=self._device)
        wait = torch.cuda.synchronize if self._device == "cuda" else lambda: None
        a @ b
        wait()
        start, times = time.monotonic(), 0
        while time.monotonic() - start < 1:
            for _ in range(10):
                a @ b
            wait()
            times += 10
        return 2 * rows * inner * columns * times / (time.monotonic() - start) / 1e12
