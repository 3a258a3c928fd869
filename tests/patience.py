"""A wait that ends: for a condition, and not for ever."""

import time


def until(condition, timeout_s=60, every_s=0.01):
    """What the condition comes to, once that is true; an assertion that fails if it does not come to that."""
    end = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(every_s)
    return found
