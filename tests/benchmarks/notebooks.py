"""How long each notebook takes from top to bottom, run as the tests run it."""

import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from tests.benchmarks.ways import print_row

TESTS = Path(__file__).parents[1] / "test_notebooks.py"
MARK_S, WIDTHS = 60, [18]


def main():
    print_row("A notebook, without a person", ["s"], WIDTHS)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", TESTS, "-k", "test_its_cells_run", f"--junitxml={report}"]
        subprocess.run(command, stdout=subprocess.DEVNULL)
        for case in ElementTree.parse(report).iter("testcase"):
            taken = float(case.get("time"))
            verdict = "failed" if len(case) else f"{taken:.1f} ({'≤' if taken <= MARK_S else 'above'} {MARK_S})"
            print_row(case.get("name"), [verdict], WIDTHS)
