"""A plugin of coverage: installed packages are imported untraced.

Coverage reports on this repository alone, but Python calls its tracer for every line that runs anywhere, and
importing torch, transformers and WhisperX under it takes half as long again, in each of some hundred processes.
"""

import sys
from importlib.machinery import SourceFileLoader
from types import ModuleType

from coverage.plugin_support import Plugins
from coverage.tracer import CTracer

_exec_module = SourceFileLoader.exec_module


def coverage_init(registry: Plugins, options: dict[str, str]) -> None:
    """Called by coverage in each process that it measures."""
    SourceFileLoader.exec_module = _exec_untraced


def _exec_untraced(loader: SourceFileLoader, module: ModuleType) -> None:
    tracer = sys.gettrace()
    if not isinstance(tracer, CTracer) or "site-packages" not in loader.path:
        return _exec_module(loader, module)
    sys.settrace(None)
    try:
        return _exec_module(loader, module)
    finally:
        tracer.start()  # sys.settrace(tracer) would miss this frame's end, and its stack of frames would slip
