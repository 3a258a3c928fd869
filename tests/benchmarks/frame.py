"""What a chart costs after ten thousand steps and after ten million: time, memory, and the bytes that are sent."""

import statistics
import time
import tracemalloc

import numpy as np

from babysit.core.events import ROOT
from babysit.core.runlog import RunLog, Steps
from babysit.ui.figure import ChartFigure, ChartRun, View
from babysit.ui.run_series import RunSeries
from tests.benchmarks.ways import print_row, ratio

SHAPE = 740, 460
FRAMES, WIDTHS = 10, [20, 20, 18]


def main():
    short, long = measured(10_000), measured(10_000_000)
    print_row("A frame of the chart, 740 × 460", ["10,000 steps", "10,000,000 steps", "long ÷ short"], WIDTHS)
    for name, of_short, of_long in zip(("ms of a core", "MB kept", "kB sent"), short, long, strict=True):
        times = ratio(of_long / of_short, 1.2, at_most=True)
        print_row(name, [f"{of_short:.2f}", f"{of_long:.2f}", times], WIDTHS)


def measured(steps):
    """The median frame, each after ten steps more, in ms; what the chart keeps, in MB; its picture, in kB."""
    frame_of(chart_of(fed(100)))  # fonts and the like are kept for good
    log = fed(steps)
    tracemalloc.start()
    chart = chart_of(log)
    frame_of(chart)
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()  # which slows everything down
    taken, sent = [], []
    for i in range(FRAMES):
        log.add_steps(ROOT, block(steps + 1 + 10 * i, np.full(10, 0.5)))
        began = time.thread_time()
        frame = frame_of(chart)
        taken.append(time.thread_time() - began)
        sent.append(sum(len(frame[part]) for part in ("png", "steps", "table")))
    return statistics.median(taken) * 1000, kept / 1e6, statistics.median(sent) / 1000


def frame_of(chart):
    chart.draw(View(), *SHAPE)
    return chart.frame()


def fed(steps):
    log, piece = RunLog(), steps // 100
    losses = np.random.default_rng(0).random(piece)
    for first in range(1, steps, piece):
        log.add_steps(ROOT, block(first, losses))
    return log


def chart_of(log):
    return ChartFigure([ChartRun(RunSeries(log))])


def block(first, losses):
    return Steps(0, ROOT, first, {"loss": losses.astype("float32")})
