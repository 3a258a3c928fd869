"""An hour's worth of hands at speed, in the real browser: what the kernel and the page keep of it.

A thousand slider moves, a hundred rewinds and ten reloads of the page. Memory is read after each
tenth of them, and judged at the end: the last against the third, by when everything is warm.
"""

import time

from tests.benchmarks.browser import user_changes, watched
from tests.benchmarks.memory import of_status
from tests.benchmarks.ways import print_row, ratio
from tests.patience import until

ROUNDS, MOVES, REWINDS = 10, 100, 10
COLUMNS = ["s", "steps", "branches", "changes", "kernel MB", "page MB", "nodes", "widgets"]
WIDTHS = [8, 12, 10, 8, 18, 18, 10, 10]


def main():
    print_row("An hour of hands at speed", COLUMNS, WIDTHS)
    began, sizes = time.monotonic(), []
    with watched() as (lab, run):
        kernel = int(lab.evaluate("import os; os.getpid()"))
        page = lab.page.context.new_cdp_session(lab.page)
        page.send("Performance.enable")
        for _ in range(ROUNDS):
            play(lab, run)
            counts = [f"{time.monotonic() - began:.0f}", f"{run.step:,}", len(run.branches), len(user_changes(run))]
            widgets = lab.evaluate("import ipywidgets; len(ipywidgets.widgets.widget._instances)")
            nodes, heap = page_nodes_and_mb(page)
            sizes.append((of_status("VmRSS", kernel), heap))
            print_row("", [*counts, *(f"{size:.1f}" for size in sizes[-1]), nodes, widgets], WIDTHS)
            lab.save()
            lab.reload()
            lab.page.locator(".babysit").first.wait_for()
    last, third = sizes[-1], sizes[2]
    verdicts = [ratio(end / warm, 1.1, at_most=True) for end, warm in zip(last, third, strict=True)]
    print_row("last ÷ third", ["", "", "", "", *verdicts, "", ""], WIDTHS)


def play(lab, run):
    moved, branches = len(user_changes(run)), len(run.branches)
    # At this speed the page sends the last of several moves; a change takes half a second to reach the record.
    for i in range(MOVES // 10):
        slider = lab.slider("learning rate" if i % 4 > 1 else "momentum")
        for _ in range(10):
            slider.press("ArrowLeft" if i % 2 else "ArrowRight")
        until(lambda moved=moved: len(user_changes(run)) > moved)
        moved = len(user_changes(run))
    lab.button("Save checkpoint").click()
    for i in range(REWINDS):
        lab.button("Rewind").click()
        until(lambda i=i: len(run.branches) > branches + i)


def page_nodes_and_mb(page):
    """What the page keeps, its rubbish collected."""
    page.send("HeapProfiler.collectGarbage")
    metrics = {metric["name"]: metric["value"] for metric in page.send("Performance.getMetrics")["metrics"]}
    return int(metrics["Nodes"]), metrics["JSHeapUsedSize"] / 1e6
