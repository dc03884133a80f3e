"""A process that imports what training needs, and holds the images as bytes: the least memory there is.

python tests/benchmarks/images_in_memory.py ROOT
"""

import sys
from pathlib import Path

import pytorch_lightning  # noqa: F401
import torch  # noqa: F401
import torchmetrics  # noqa: F401
import torchvision  # noqa: F401

from lit_cifar.data.sources import open_images

if __name__ == "__main__":
    images = open_images(Path(sys.argv[1]))
