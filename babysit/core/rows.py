"""Rows of the run's log, as plain dicts: what several packages read out of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def decoded(block: Mapping[str, Any]) -> np.ndarray:
    """A block's measurements: array of shape (columns, steps), in the order of its `names`."""
    return np.frombuffer(block["columns"], dtype=block["dtype"]).reshape(-1, block["steps"])
