"""Makes Python switch threads more often while a run is alive, so that a slider acts while a cell computes."""

import sys
import threading


class _Switching:
    """Shortens the interpreter's switch interval while any run is alive, and restores it afterwards.

    A block of steps and a command from a slider need Python's lock dozens of times. While a cell computes,
    each of them waits for the interpreter's switch interval, which is 5 ms as a rule.
    """

    def __init__(self, interval_s: float = 0.0002) -> None:
        self._interval_s = interval_s
        self._lock, self._runs, self._usual_s = threading.Lock(), 0, 0.0

    def __enter__(self) -> None:
        with self._lock:
            if self._runs == 0:
                self._usual_s = sys.getswitchinterval()
                sys.setswitchinterval(min(self._interval_s, self._usual_s))
            self._runs += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._runs -= 1
            if self._runs == 0:
                sys.setswitchinterval(self._usual_s)


switching = _Switching()
