"""Crashes, bad disks and damaged files. `make test` runs a sample of them, `make faults` all."""

import os
import sys
import types
from pathlib import Path

ALL = os.environ.get("BABYSIT_FAULTS") == "all"


def sample(items, count):
    """All of them, or as many as `count`, evenly spread, the last among them."""
    if ALL or len(items) <= count:
        return items
    return [items[len(items) - 1 - (i * len(items)) // count] for i in reversed(range(count))]


def without_tensorflow():
    """Lets a process import parts of the package without its own `__init__`, which imports TensorFlow."""
    package = types.ModuleType("babysit")
    package.__path__ = [str(Path(__file__).parents[2] / "babysit")]
    sys.modules["babysit"] = package
