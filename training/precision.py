"""What a machine computes in."""

import torch


def fast_bf16() -> bool:
    """Does this machine compute in bfloat16, or emulate it (some 30 times slower than float32)?"""
    if torch.cuda.is_available():
        return True
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "amx_tile", "bf16"))
