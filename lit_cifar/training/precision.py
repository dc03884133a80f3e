"""Which precision the hardware is fast at."""

from typing import Any, Literal

import torch

Fast = Literal["bf16-mixed", "16-mixed", "32-true"]


def fast_precision(device: torch.device) -> Fast:
    """bf16 where the device multiplies it faster than float32, half on older CUDA devices, else float32.

    A CPU needs AMX or AVX-512-BF16: without, bf16 works but is slower than float32.
    """
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.get_device_capability(device) >= (8, 0) else "16-mixed"
    if device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return "bf16-mixed"
    return "32-true"


def chosen_device(accelerator: Any) -> torch.device:
    """The kind of device that Lightning will choose for `--trainer.accelerator`."""
    if accelerator in ("cuda", "gpu", "auto") and torch.cuda.is_available():
        return torch.device("cuda", 0)
    if accelerator in ("mps", "gpu", "auto") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
