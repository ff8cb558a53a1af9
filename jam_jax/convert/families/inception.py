"""The Inception V3 of FID: pytorch-fid's `pt_inception-2015-12-05-*.pth`, a state dict of torchvision's names → ours.

Ours are the same names. Its classifier comes after the features and stays behind.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jam_jax import checkpoint
from jam_jax.convert import pickles
from jam_jax.convert.readers import Safetensors, Tensors, Weights
from jam_jax.convert.rules import Parent, Rule, Table
from jam_jax.model_config import InceptionConfig
from jam_jax.trees import paths

# Our leaf → theirs, and the axes: output and input channels, height and width of the kernel.
LEAVES = {
    "kernel": ("conv.weight", "OIYX -> YXIO"),
    "scale": ("bn.weight", "O -> O"),
    "bias": ("bn.bias", "O -> O"),
    "mean": ("bn.running_mean", "O -> O"),
    "variance": ("bn.running_var", "O -> O"),
}
FIRST, LAST = "Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch_pool.conv.weight"
ENDINGS = (".pth", ".pt", ".safetensors")


def recognises(source: Path) -> bool:
    """Whether `source` is a file with these names; ValueError if it is damaged."""
    return source.is_file() and source.suffix in ENDINGS and {FIRST, LAST} <= _names(source)


def read(source: Path) -> Parent:
    """The network in a file. ValueError if there is none."""
    if not recognises(source):
        raise ValueError(
            f"{source} is no Inception network of FID: expected the file pt_inception-2015-12-05-6726825d.pth of "
            f"pytorch-fid, or one with its names ({FIRST}, …)"
        )
    safe = source.suffix == ".safetensors"
    weights: Weights = Safetensors(source) if safe else Tensors(lambda: pickles.load(source), source)
    shape = weights.shape(FIRST)
    if len(shape) != 4 or shape[0] % 2:
        raise ValueError(f"{source} is no Inception network: {FIRST} is {list(shape)}, not [32, 3, 3, 3]")
    config = InceptionConfig(channels=shape[0])
    beside = "the classifier (fc) is left behind: FID has no use for it"
    return Parent(config, table(config), weights, beside if "fc.weight" in weights.names() else "")


def table(config: InceptionConfig) -> Table:
    """Every weight that the features need."""
    rules, inert = [], ["fc.weight", "fc.bias"]
    for path, leaf in paths(checkpoint.shapes(config)).items():
        module, _, name = path.rpartition("/")
        theirs, layout = LEAVES[name]
        sizes = dict(zip(layout.split(" -> ")[1], leaf.shape, strict=True))
        rules.append(Rule(f"{module.replace('/', '.')}.{theirs}", layout, path, sizes))
        if name == "scale":
            inert.append(f"{module.replace('/', '.')}.bn.num_batches_tracked")
    return Table(tuple(rules), {}, inert=tuple(inert))


def _names(path: Path) -> set[str]:
    held: Any = Safetensors(path).names() if path.suffix == ".safetensors" else pickles.load(path)
    return {name for name in held if isinstance(name, str)} if isinstance(held, Mapping | list) else set()
