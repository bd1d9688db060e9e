"""How this process uses the machine: decided before torch loads, so every `__main__` calls it first."""

from __future__ import annotations

import ctypes
import logging
import os
import warnings

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h


def tune_process(*, keep_freed_memory: bool) -> None:
    """Settings that spare the machine needless work.

    OpenMP threads that wait sleep instead of spinning, which would take the cores from whoever has work;
    torch starts no pool of compile workers; blocks of GPU memory grow, so that little of it lies idle between
    tensors. With `keep_freed_memory`, glibc keeps large freed blocks for the next step instead of giving them back
    to the kernel and faulting them in again, page by page. Values already in the environment stay.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    # It warns at every start that a kernel from the hub is missing, which nobody here asked for
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    # PEFT asks transformers by the old name wherever adapters are attached
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    if keep_freed_memory:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc only
        if mallopt is not None:
            mallopt(_M_MMAP_MAX, 0)
            mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
            mallopt(_M_TOP_PAD, 64 * 2**20)
