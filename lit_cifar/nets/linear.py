"""The model of PyTorch's data-parallelism tutorial: one linear layer, 5 to 2."""

from torch import Tensor, nn


class Linear(nn.Module):
    """A fully connected layer.

    Args:
        input_size: Length of an input vector.
        output_size: Length of an output vector.
    """

    def __init__(self, input_size: int = 5, output_size: int = 2) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, output_size
        self.fc = nn.Linear(input_size, output_size)

    def forward(self, vectors: Tensor) -> Tensor:
        """Returns `[N, output_size]` for vectors `[N, input_size]`."""
        return self.fc(vectors)
