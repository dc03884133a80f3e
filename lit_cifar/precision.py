"""Which precision the hardware is fast at."""

from typing import Literal

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
