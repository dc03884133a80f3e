"""The data-parallel demonstration of PyTorch's tutorial: which device computes which share of a batch.

https://docs.pytorch.org/tutorials/beginner/blitz/data_parallel_tutorial.html
"""

from collections.abc import Iterator
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lit_cifar.errors import UsageError


class RandomVectors(pl.LightningDataModule):
    """Batches of random vectors, whole on every device.

    Args:
        length: Number of vectors.
        size: Length of each.
        batch_size: Vectors in a batch, over all devices together.
    """

    def __init__(self, length: int = 100, size: int = 5, batch_size: int = 30) -> None:
        super().__init__()
        if batch_size < 1:
            raise UsageError("value-out-of-range", f"--data.batch_size {batch_size} must be at least 1")
        vectors = torch.randn(length, size, generator=torch.Generator().manual_seed(0))
        self.batches = vectors.split(batch_size)

    def train_dataloader(self) -> "RandomVectors":
        return self  # Lightning takes a plain list for several loaders

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Demonstration(pl.LightningModule):
    """Sends a share of each batch through the network and prints the sizes; learns nothing.

    Args:
        net: Turns vectors [N, 5] into [N, 2].
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        part = batch.tensor_split(self.trainer.world_size)[self.trainer.global_rank]
        output = self.net(part)
        sizes = torch.tensor([*part.shape, *output.shape], device=self.device)
        inside = cast(Tensor, self.all_gather(sizes)).view(-1, 4).tolist()
        if self.trainer.is_global_zero:
            for a, b, c, d in inside:
                print(f"\tIn Model: input size [{a}, {b}] output size [{c}, {d}]")
            total = sum(c for _, _, c, _ in inside)
            print(f"Outside: input size {list(batch.shape)} output size [{total}, {inside[0][3]}]")

    def configure_optimizers(self) -> None:
        """Returns nothing, because nothing is learned."""
