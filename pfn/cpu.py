"""Process settings that make long runs on a CPU faster, and what the CPU is good at. Nothing happens at import."""

from __future__ import annotations

import ctypes
import os
import sys

import torch


def prefers_bfloat16() -> bool:
    """Whether bfloat16 matrix products are faster than float32 here: CPUs with AVX512-BF16 or AMX instructions.

    On others they are emulated and slower. (AMD Zen 5, torch 2.13: 16,384 × 128 × 128 at 600 against 120 GFLOP/s.)
    """
    if not hasattr(torch.cpu, "get_capabilities"):                  # older torch cannot tell
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def tune_for_training() -> None:
    """Keep freed memory and compiled kernels. Call it before the first tensor operation of a process.

    glibc returns large blocks to the kernel when they are freed and pays for zeroed pages when they are needed again,
    at every step. oneDNN forgets compiled kernels beyond 1024, which 96 task shapes exceed.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "30000")
    if sys.platform == "linux":
        trim_threshold, mmap_max = -1, -4                           # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
        try:
            mallopt = ctypes.CDLL(None).mallopt
        except AttributeError:                                      # another C library, which has its own policy
            return
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
