"""What a panda costs, measured side by side with `Model.fit` in one run: `make bench`.

`python -m tests.benchmarks` measures everything; `speed`, `startup`, `memory` and `flat`
one part each; `flat --minutes 10` trains for so long. Ratios hold on a machine that does
nothing else: of each way the least time of several rounds counts.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "agg")

from tests.benchmarks import memory, speed, startup


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("part", nargs="?", choices=["speed", "startup", "memory", "flat", "memory-of"])
    parser.add_argument("way", nargs="?", help="of memory-of: nothing, fit or panda")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long flat trains")
    chosen = parser.parse_args()
    if chosen.part == "memory-of":
        memory.measure(chosen.way)
        return
    parts = {
        "speed": speed.main,
        "startup": startup.main,
        "memory": memory.main,
        "flat": lambda: memory.flat(chosen.minutes),
    }
    for part in [chosen.part] if chosen.part else parts:
        parts[part]()
        print()


if __name__ == "__main__":
    main()
