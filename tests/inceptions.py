"""FID's Inception network in PyTorch, of any width and with random weights, that the tests compare ours with."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

torch.set_num_threads(1)  # its threads and those of jax would wait for one another

Kernel = int | tuple[int, int]


class Inception:
    """Makes its weights when it first runs, under torchvision's names; widths are `channels` 32nds of the real ones."""

    def __init__(self, channels: int) -> None:
        self.channels, self.rng = channels, np.random.default_rng(3)
        self.state: dict[str, torch.Tensor] = {}

    def conv(self, name: str, x: Any, out: int, kernel: Kernel = 1, stride: int = 1, padding: Kernel = 0) -> Any:
        """Convolution, norm of running statistics, ReLU."""
        out = out * self.channels // 32
        high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
        if f"{name}.conv.weight" not in self.state:
            fan_in = x.shape[1] * high * wide
            made = {
                "conv.weight": self.rng.normal(0, (2 / fan_in) ** 0.5, (out, x.shape[1], high, wide)),
                "bn.weight": self.rng.uniform(0.5, 1.5, out),
                "bn.bias": self.rng.normal(0, 0.3, out),
                "bn.running_mean": self.rng.normal(0, 0.3, out),
                "bn.running_var": self.rng.uniform(0.3, 1.5, out),
            }
            self.state |= {f"{name}.{k}": torch.tensor(v, dtype=torch.float32) for k, v in made.items()}
        held = [self.state[f"{name}.bn.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
        x = F.conv2d(x, self.state[f"{name}.conv.weight"], None, stride, padding)
        return F.relu(F.batch_norm(x, *held, eps=1e-3))

    def pool(self, name: str, x: Any, out: int, maximum: bool = False) -> Any:
        """The branch of a block that pools."""
        x = F.max_pool2d(x, 3, 1, 1) if maximum else F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return self.conv(f"{name}.branch_pool", x, out)

    def block_a(self, name: str, x: Any, pooled: int) -> Any:
        y = self.conv(f"{name}.branch5x5_2", self.conv(f"{name}.branch5x5_1", x, 48), 64, 5, 1, 2)
        z = self.conv(f"{name}.branch3x3dbl_2", self.conv(f"{name}.branch3x3dbl_1", x, 64), 96, 3, 1, 1)
        z = self.conv(f"{name}.branch3x3dbl_3", z, 96, 3, 1, 1)
        return torch.cat([self.conv(f"{name}.branch1x1", x, 64), y, z, self.pool(name, x, pooled)], 1)

    def block_b(self, name: str, x: Any) -> Any:
        z = self.conv(f"{name}.branch3x3dbl_2", self.conv(f"{name}.branch3x3dbl_1", x, 64), 96, 3, 1, 1)
        z = self.conv(f"{name}.branch3x3dbl_3", z, 96, 3, 2)
        return torch.cat([self.conv(f"{name}.branch3x3", x, 384, 3, 2), z, F.max_pool2d(x, 3, 2)], 1)

    def block_c(self, name: str, x: Any, inner: int) -> Any:
        row, column = ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))
        y = self.conv(f"{name}.branch7x7_2", self.conv(f"{name}.branch7x7_1", x, inner), inner, *row)
        y = self.conv(f"{name}.branch7x7_3", y, 192, *column)
        z = self.conv(f"{name}.branch7x7dbl_1", x, inner)
        for i, (out, of) in enumerate([(inner, column), (inner, row), (inner, column), (192, row)], 2):
            z = self.conv(f"{name}.branch7x7dbl_{i}", z, out, *of)
        return torch.cat([self.conv(f"{name}.branch1x1", x, 192), y, z, self.pool(name, x, 192)], 1)

    def block_d(self, name: str, x: Any) -> Any:
        y = self.conv(f"{name}.branch3x3_2", self.conv(f"{name}.branch3x3_1", x, 192), 320, 3, 2)
        z = self.conv(f"{name}.branch7x7x3_2", self.conv(f"{name}.branch7x7x3_1", x, 192), 192, (1, 7), 1, (0, 3))
        z = self.conv(f"{name}.branch7x7x3_3", z, 192, (7, 1), 1, (3, 0))
        return torch.cat([y, self.conv(f"{name}.branch7x7x3_4", z, 192, 3, 2), F.max_pool2d(x, 3, 2)], 1)

    def block_e(self, name: str, x: Any, maximum: bool) -> Any:
        def fork(branch: str, x: Any) -> list[Any]:
            a = self.conv(f"{name}.{branch}a", x, 384, (1, 3), 1, (0, 1))
            return [a, self.conv(f"{name}.{branch}b", x, 384, (3, 1), 1, (1, 0))]

        y = fork("branch3x3_2", self.conv(f"{name}.branch3x3_1", x, 384))
        z = self.conv(f"{name}.branch3x3dbl_2", self.conv(f"{name}.branch3x3dbl_1", x, 448), 384, 3, 1, 1)
        z = fork("branch3x3dbl_3", z)
        return torch.cat([self.conv(f"{name}.branch1x1", x, 320), *y, *z, self.pool(name, x, 192, maximum)], 1)

    @torch.no_grad()
    def features(self, pictures: list[np.ndarray]) -> np.ndarray:
        """uint8 [H, W, 3] each → float32 [n, 64 channels], with pytorch-fid's resizing and scale."""
        x = torch.cat(
            [
                F.interpolate(
                    torch.tensor(p).permute(2, 0, 1)[None] / 255, (299, 299), mode="bilinear", align_corners=False
                )
                for p in pictures
            ]
        )
        x = self.conv("Conv2d_1a_3x3", 2 * x - 1, 32, 3, 2)
        x = self.conv("Conv2d_2b_3x3", self.conv("Conv2d_2a_3x3", x, 32, 3), 64, 3, 1, 1)
        x = self.conv("Conv2d_3b_1x1", F.max_pool2d(x, 3, 2), 80)
        x = F.max_pool2d(self.conv("Conv2d_4a_3x3", x, 192, 3), 3, 2)
        for name, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = self.block_a(name, x, pooled)
        x = self.block_b("Mixed_6a", x)
        for name, inner in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
            x = self.block_c(name, x, inner)
        x = self.block_d("Mixed_7a", x)
        x = self.block_e("Mixed_7c", self.block_e("Mixed_7b", x, False), True)
        found: np.ndarray = F.adaptive_avg_pool2d(x, (1, 1))[:, :, 0, 0].numpy()
        return found
