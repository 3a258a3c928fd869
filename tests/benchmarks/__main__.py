"""What a panda costs, measured side by side with `Model.fit` in one run: `make bench`.

`python -m tests.benchmarks` measures everything; `speed`, `startup`, `past`, `fan`, `frame`, `memory`,
`flat`, `latency`, `notebooks` and `search` one part each; `flat --minutes 10` trains for so long; `soak`,
which takes some minutes and is not among them all, is an hour of hands at speed. Ratios hold on a machine that does
nothing else: the ways take turns, and of each two the median of the rounds' ratios counts.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "agg")

from tests.benchmarks import fan, frame, latency, memory, notebooks, past, search, soak, speed, startup

PARTS = ["speed", "startup", "past", "fan", "frame", "memory", "flat", "latency", "notebooks", "search"]


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("part", nargs="?", choices=[*PARTS, "soak", "memory-of"])
    parser.add_argument("way", nargs="?", help="of memory-of: nothing, fit or panda")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long flat trains")
    chosen = parser.parse_args()
    if chosen.part == "memory-of":
        memory.measure(chosen.way)
        return
    parts = {
        "speed": speed.main,
        "startup": startup.main,
        "past": past.main,
        "fan": fan.main,
        "frame": frame.main,
        "memory": memory.main,
        "flat": lambda: memory.flat(chosen.minutes),
        "latency": latency.main,
        "notebooks": notebooks.main,
        "search": search.main,
        "soak": soak.main,
    }
    for part in [chosen.part] if chosen.part else PARTS:
        parts[part]()
        print()


if __name__ == "__main__":
    main()
