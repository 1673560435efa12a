"""Classes of libraries whose objects stand in checkpoints, made under the libraries' own names.

They are gone when the test undoes them, as they are where such a file is read.
"""

import sys
import types

import numpy as np


def _made(monkeypatch, module, kind):
    for end in range(1, module.count(".") + 2):
        name = ".".join(module.split(".")[:end])
        monkeypatch.setitem(sys.modules, name, sys.modules.get(name) or types.ModuleType(name))
    kind.__module__, kind.__qualname__ = module, kind.__name__
    setattr(sys.modules[module], kind.__name__, kind)
    return kind


def attribute_dict(monkeypatch):
    """Lightning's dict of hyper-parameters."""

    class AttributeDict(dict):
        def __getattr__(self, name):
            return self[name]

    return _made(monkeypatch, "lightning_fabric.utilities.data", AttributeDict)


def history_buffer(monkeypatch):
    """mmengine's history of a value."""

    class HistoryBuffer:
        def __init__(self, values):
            self._log_history = np.array(values)
            self._count_history = np.ones(len(values))
            self._statistics_methods = {"mean": np.mean}

    return _made(monkeypatch, "mmengine.logging.history_buffer", HistoryBuffer)
