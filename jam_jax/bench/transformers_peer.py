"""The peer of decoding: `transformers` generating with an OPT of the same shape, in each of the ways that it knows."""

import os
from typing import Any

import torch
import transformers

from jam_jax.bench import decode
from jam_jax.config import CrossConfig, DecoderConfig
from jam_jax.convert import families, rules
from jam_jax.tokens import TEXT, TokenSpace


class Peer:
    """`OPTForCausalLM` of a decoder's shape, on the accelerator if torch has one."""

    def __init__(
        self, shape: DecoderConfig | CrossConfig, space: TokenSpace, leaves: dict | None, precision: str
    ) -> None:
        """With our weights, or random ones where `leaves` is None; for JAM-Cross, which has no like, one tower."""
        transformers.logging.set_verbosity_error()
        torch.set_num_threads(os.cpu_count() or 1)
        decoder = shape.img if isinstance(shape, CrossConfig) else shape
        layout = families.writer("opt")
        settings = layout.write_config(decoder, space)
        settings = {k: v for k, v in settings.items() if k not in ("architectures", "model_type", "dtype")}
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        with torch.device(self.device):
            model: Any = transformers.OPTForCausalLM(transformers.OPTConfig(**settings))
        if leaves is not None:
            held = rules.Exported(layout.table(decoder), leaves)
            state = {name: torch.from_numpy(held.read(name).copy()) for name in held.names()}
            found = model.load_state_dict(state, strict=False)
            assert not found.unexpected_keys and set(found.missing_keys) <= {"lm_head.weight"}, found
        self.model: Any = model.to(torch.float32 if precision == "float32" else torch.bfloat16).eval()

    def greedy(self, space: TokenSpace, options: decode.Options) -> list[int]:
        """The first tokens of text, the likeliest ones; as ours it is kept from everything else."""
        asked, count = decode.prompts(space, options.prompt, 1), min(decode.COMPARED, options.tokens)
        other = [[i] for i in range(space.vocab_size) if space.modality[i] != TEXT]
        found = self._generate(asked, count, {"do_sample": False, "bad_words_ids": other})
        return found[0, len(asked[0]) :].tolist()

    def ways(self, *, compiled: bool) -> dict[str, dict[str, Any]]:
        """How it can write, by name; the compiled way takes a minute before its first token."""
        static: dict[str, Any] = {"cache_implementation": "static", "disable_compile": True}
        ways: dict[str, dict[str, Any]] = {"growing cache": {}, "static cache": static}
        if compiled:
            compile_config: Any = transformers.CompileConfig()
            compile_config._compile_all_devices = True  # without it only accelerators' programs are compiled
            ways["static cache, compiled"] = {"cache_implementation": "static", "compile_config": compile_config}
        return ways

    def write(self, asked: list[list[int]], count: int, way: dict[str, Any]) -> None:
        """So many tokens behind every prompt, sampled as ours are."""
        sampling = decode.SAMPLING
        how: dict[str, Any] = {"do_sample": True, "top_k": 0, "top_p": sampling.top_p}
        self._generate(asked, count, how | {"temperature": sampling.temperature} | way)

    def _generate(self, asked: list[list[int]], count: int, how: dict[str, Any]) -> torch.Tensor:
        ids = torch.tensor(asked, device=self.device)
        with torch.no_grad():
            found = self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=count,
                min_new_tokens=count,
                pad_token_id=1,
                **how,
            )
        assert found.shape == (len(asked), len(asked[0]) + count)
        if self.device == "cuda":
            torch.cuda.synchronize()
        return found
