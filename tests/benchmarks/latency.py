"""How long until a change is in effect: from a key pressed in the real browser, and from another process."""

import statistics
import time

from tests.benchmarks.browser import user_changes, watched
from tests.benchmarks.ways import print_row
from tests.browser.lab import KERNEL
from tests.patience import until

TIMES, KEY_MARK_MS, COMMAND_MARK_MS = 60, 100, 1000
WIDTHS = [10, 10, 18, 10]
NOTE_KEYS = """
window.keys = [];
document.addEventListener('keydown', () => keys.push(performance.timeOrigin + performance.now()), true);
"""
BUSY = "from pathlib import Path\nwhile not Path('enough').exists():\n    sum(range(10_000))"


def main():
    print_row("Until a change is in effect, ms", ["times", "p50", "p95", "most"], WIDTHS)
    with watched() as (lab, run):
        lab.page.evaluate(NOTE_KEYS)
        lab.slider("learning rate").press("ArrowRight")  # the first of all finds its thread
        until(lambda: user_changes(run))
        measure(lab, run)
        lab.page.evaluate(f"(code) => {{ {KERNEL}.requestExecute({{ code }}); }}", BUSY)
        lab.page.wait_for_function(f"() => {KERNEL}.status === 'busy'")
        print("while another cell computes")
        measure(lab, run)
        (lab.root / "enough").touch()


def measure(lab, run):
    report("a key", [key_ms(lab, run, "ArrowLeft" if i % 2 else "ArrowRight") for i in range(TIMES)], KEY_MARK_MS)
    acts, is_back = zip(*(command_ms(run, 0.01 + i / 1000) for i in range(TIMES)), strict=True)
    report("a command of another process", acts, COMMAND_MARK_MS)
    report("the same, until its entry is back", is_back, COMMAND_MARK_MS)


def report(name, took, mark_ms):
    p95 = statistics.quantiles(took, n=20)[-1]
    verdict = f"{p95:.1f} ({'≤' if p95 <= mark_ms else 'above'} {mark_ms})"
    print_row(name, [f"{len(took)}", f"{statistics.median(took):.1f}", verdict, f"{max(took):.1f}"], WIDTHS)


def key_ms(lab, run, key):
    """From the page's own event to the boundary at which the step after it has the new value."""
    before = len(user_changes(run))
    lab.slider("learning rate").press(key)
    until(lambda: len(user_changes(run)) > before)
    return user_changes(run)[-1].time * 1000 - lab.page.evaluate("keys.at(-1)")


def command_ms(run, rate):
    """From `set` in this process, which does not train, to that boundary, and until `set` returns."""
    began = time.time()
    entry = run.set(learning_rate=rate)
    return (entry.time - began) * 1000, (time.time() - began) * 1000
