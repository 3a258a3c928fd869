"""How long from a key pressed on a slider, in the real browser, until the change is in effect."""

import statistics

from tests.benchmarks.browser import user_changes, watched
from tests.benchmarks.ways import print_row
from tests.browser.lab import KERNEL
from tests.patience import until

PRESSES, MARK_MS = 60, 100
WIDTHS = [10, 10, 18, 10]
NOTE_KEYS = """
window.keys = [];
document.addEventListener('keydown', () => keys.push(performance.timeOrigin + performance.now()), true);
"""
BUSY = "from pathlib import Path\nwhile not Path('enough').exists():\n    sum(range(10_000))"


def main():
    print_row("From a key to the change in effect, ms", ["presses", "p50", "p95", "most"], WIDTHS)
    with watched() as (lab, run):
        lab.page.evaluate(NOTE_KEYS)
        lab.slider("learning rate").press("ArrowRight")  # the first of all finds its thread
        until(lambda: user_changes(run))
        report("while it trains", lab, run)
        lab.page.evaluate(f"(code) => {{ {KERNEL}.requestExecute({{ code }}); }}", BUSY)
        lab.page.wait_for_function(f"() => {KERNEL}.status === 'busy'")
        report("while it trains and another cell computes", lab, run)
        (lab.root / "enough").touch()


def report(name, lab, run):
    took = sorted(latency_ms(lab, run, "ArrowLeft" if i % 2 else "ArrowRight") for i in range(PRESSES))
    p95 = statistics.quantiles(took, n=20)[-1]
    verdict = f"{p95:.1f} ({'≤' if p95 <= MARK_MS else 'above'} {MARK_MS})"
    print_row(name, [f"{PRESSES}", f"{statistics.median(took):.1f}", verdict, f"{took[-1]:.1f}"], WIDTHS)


def latency_ms(lab, run, key):
    """From the page's own event to the boundary at which the step after it has the new value."""
    before = len(user_changes(run))
    lab.slider("learning rate").press(key)
    until(lambda: len(user_changes(run)) > before)
    return user_changes(run)[-1].time * 1000 - lab.page.evaluate("keys.at(-1)")
