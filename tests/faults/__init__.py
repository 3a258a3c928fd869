"""Crashes, bad disks and damaged files. `make test` runs a sample of them, `make faults` all."""

import os

ALL = os.environ.get("BABYSIT_FAULTS") == "all"


def sample(items, count):
    """All of them, or as many as `count`, evenly spread, the last among them."""
    if ALL or len(items) <= count:
        return items
    return [items[len(items) - 1 - (i * len(items)) // count] for i in reversed(range(count))]
