"""Hardware support of bfloat16."""

import torch


def fast_bfloat16(on_cpu: bool) -> bool:
    """Whether bfloat16 pays here.

    On a CPU it does with AVX512-BF16 or AMX only; without them it may be thousands of times slower than float32. GPUs
    without it (T4, V100) emulate it, slowly.
    """
    if on_cpu:
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.cuda.is_bf16_supported(including_emulation=False)
