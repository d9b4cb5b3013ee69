"""What a machine computes in: no form, the plain ones follow it, too."""

from functools import cache

import torch


def fast_bf16() -> bool:
    """Does this machine compute in bfloat16, or emulate it (some 30 times slower than float32)?"""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "amx_tile", "bf16"))


def trains_in_bf16(precision: str, device: torch.device) -> bool:
    """`train.precision` on a device; `auto` is bfloat16 on a GPU that has it."""
    return precision == "bf16" or (precision == "auto" and device.type == "cuda" and fast_bf16())


@cache
def onednn_takes(dtype: torch.dtype) -> bool:
    """Has oneDNN convolutions of this type here?  A processor with AVX2 alone has none in bfloat16."""
    if not torch.backends.mkldnn.is_available() or dtype == torch.float64:
        return False
    return dtype != torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def keep_float32() -> None:
    """No TF32 in this process: cuDNN would round what a convolution reads to 10 bits where float32 was asked for."""
    torch.backends.cudnn.allow_tf32 = False
