"""The accelerators that training is planned for and measured against: what each can hold, compute and send at most.

Sources: the makers' data sheets (NVIDIA A100, H100, H200; Google Cloud's TPU pages). Peaks are of dense bfloat16
products, bytes per second are of one direction. Links between nodes are the usual ones of such machines: 200 Gb/s of
InfiniBand for each A100, 400 Gb/s for each H100 and H200; a TPU reaches all others of its slice as fast as neighbours.
"""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Hardware:
    """One kind of device."""

    kinds: tuple[str, ...]  # what its `device_kind` begins with
    platform: Literal["cuda", "tpu"]
    memory: int  # bytes, of which a program can have about 95%
    peak: float  # floating-point operations a second
    bandwidth: float  # bytes a second, of its memory
    links: float  # bytes a second to the devices of its node, or to its neighbours
    between: float  # bytes a second to devices of other nodes
    node: int  # devices of a node
    description: str = ""  # of a GPU, for XLA
    slices: tuple[tuple[int, str], ...] = ()  # of a TPU: number of devices and the name of the slice that has them


def _gpu(name: str, major: int, cores: int, per_core: int, clock: float, memory: int, bandwidth: int, l2: int) -> str:
    """XLA's description of a GPU (a `GpuTargetConfigProto` as text), from what the device itself reports."""
    shared = {8: (166912, 167936), 9: (232448, 233472)}[major]
    feature = {8: "NONE", 9: "ACCELERATED_FEATURES"}[major]
    return f"""gpu_device_info {{
  cuda_compute_capability {{ major: {major} minor: 0 feature_extension: {feature} }}
  core_count: {cores} fpus_per_core: {per_core} clock_rate_ghz: {clock}
  device_memory_size: {memory} memory_bandwidth: {bandwidth} l2_cache_size: {l2}
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: {shared[0]} shared_memory_per_core: {shared[1]}
  runtime_version: "12.8.0" driver_version: "12.8.0" compile_time_toolkit_version: "12.8.0" dnn_version: "9.10.0"
  name: "{name}" device_address_bits: 64
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{name}"
"""


_A100_80, _A100_40 = "NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-40GB"
_H100, _H200 = "NVIDIA H100 80GB HBM3", "NVIDIA H200"

HARDWARE: dict[str, Hardware] = {
    "a100-40gb": Hardware(
        (_A100_40,), "cuda", 42_331_013_120, 312e12, 1.555e12, 300e9, 25e9, 8,
        _gpu(_A100_40, 8, 108, 64, 1.41, 42_331_013_120, 1_555_200_000_000, 41_943_040),
    ),
    "a100-80gb": Hardware(
        (_A100_80, "NVIDIA A100 80GB PCIe"), "cuda", 85_100_068_864, 312e12, 2.039e12, 300e9, 25e9, 8,
        _gpu(_A100_80, 8, 108, 64, 1.41, 85_100_068_864, 2_039_040_000_000, 41_943_040),
    ),
    "h100-80gb": Hardware(
        (_H100,), "cuda", 84_942_979_072, 989e12, 3.352e12, 450e9, 50e9, 8,
        _gpu(_H100, 9, 132, 128, 1.98, 84_942_979_072, 3_352_320_000_000, 52_428_800),
    ),
    "h200": Hardware(
        (_H200,), "cuda", 151_397_597_184, 989e12, 4.8e12, 450e9, 50e9, 8,
        _gpu(_H200, 9, 132, 128, 1.98, 151_397_597_184, 4_800_000_000_000, 52_428_800),
    ),
    "tpu-v4": Hardware(
        ("TPU v4",), "tpu", 32 * 2**30, 275e12, 1.228e12, 150e9, 150e9, 4,
        slices=((8, "v4:2x2x2"), (64, "v4:4x4x4"), (256, "v4:4x8x8"), (512, "v4:8x8x8")),
    ),
    "tpu-v5e": Hardware(
        ("TPU v5 lite", "TPU v5e"), "tpu", 16 * 2**30, 197e12, 0.819e12, 100e9, 100e9, 4,
        slices=((4, "v5e:2x2"), (8, "v5e:2x4"), (64, "v5e:8x8"), (256, "v5e:16x16")),
    ),
    "tpu-v5p": Hardware(
        ("TPU v5p", "TPU v5"), "tpu", 95 * 2**30, 459e12, 2.765e12, 300e9, 300e9, 4,
        slices=((8, "v5p:2x2x2"), (64, "v5p:4x4x4"), (256, "v5p:4x8x8"), (512, "v5p:8x8x8")),
    ),
    "tpu-v6e": Hardware(
        ("TPU v6 lite", "TPU v6e"), "tpu", 32 * 2**30, 918e12, 1.64e12, 224e9, 224e9, 4,
        slices=((4, "v6e:2x2"), (8, "v6e:2x4"), (64, "v6e:8x8"), (256, "v6e:16x16")),
    ),
}  # fmt: skip


def by_kind(kind: str) -> Hardware | None:
    """The hardware whose devices call themselves so, None for one that is not in the table."""
    fits = [(len(name), hardware) for hardware in HARDWARE.values() for name in hardware.kinds if kind.startswith(name)]
    return max(fits, key=lambda fit: fit[0])[1] if fits else None
