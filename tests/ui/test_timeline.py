"""The list of branches and checkpoints, read from the series of a run."""

import numpy as np
import pytest

from babysit.core.events import Branch, EpochEnd
from babysit.core.runlog import RunLog, Steps
from babysit.ui.run_series import RunSeries
from babysit.ui.timeline import CHECKPOINTS, losses_at, places


class Run:
    """A log and its series."""

    def __init__(self):
        self.log, self.checkpoints = RunLog(), {}
        self.series = RunSeries(self.log)

    def branch(self, name, parent, step):
        self.log.add(name, step, Branch(parent, self.log.seq))
        self.series.read()

    def block(self, branch, first, losses):
        self.log.add_steps(branch, Steps(0, branch, first, {"loss": np.array(losses)}))

    def checkpoint(self, branch, step, folder, name=None, kept=""):
        about = {"branch": branch, "step": step, "folder": folder, "name": name}
        self.checkpoints[folder] = about | {"kept": "named" if name else kept}

    def lines(self):
        found = places(self.series, list(self.checkpoints.values()))
        return [(words.strip(), place.folder) for words, place in found]


@pytest.fixture
def run():
    return Run()


def test_a_branch_is_listed_below_the_one_it_left(run):
    run.checkpoint("branch 1", 0, "000001")
    run.branch("branch 2", "branch 1", 30)
    run.branch("branch 3", "branch 2", 40)
    run.branch("branch 4", "branch 1", 10)
    run.checkpoint("branch 2", 35, "000002", "good")
    run.checkpoint("branch 2", 40, "000003", kept="tip")
    assert run.lines() == [
        ("branch 1", None),
        ("• step 0 · automatic", "000001"),
        ("└ branch 2, left branch 1 at step 30", None),
        ("• step 35 · good", "000002"),
        ("• step 40 · end of the branch", "000003"),
        ("└ branch 3, left branch 2 at step 40", None),
        ("└ branch 4 (current), left branch 1 at step 10", None),
    ]


def test_losses_are_those_of_the_branch_up_to_the_step_and_before_its_fork_the_parents(run):
    for first, loss in ((1, 5.0), (201, 4.0), (401, 3.0)):
        run.block("branch 1", first, [loss] * 200)
    run.log.add("branch 1", 200, EpochEnd(1, {"val_loss": 7.0, "loss": 5.5}))
    run.log.add("branch 1", 600, EpochEnd(2, {"val_loss": 6.0, "loss": 3.5}))
    run.branch("branch 2", "branch 1", 400)
    run.block("branch 2", 401, [1.0] * 200)
    losses = lambda branch, step: losses_at(run.series, branch, step)  # noqa: E731
    assert losses("branch 1", None) == "loss 3 · after epoch 2: loss 3.5, val loss 6"
    assert losses("branch 1", 400) == "loss 4 · after epoch 1: loss 5.5, val loss 7"
    assert losses("branch 2", 400) == "loss 4 · after epoch 1: loss 5.5, val loss 7"
    assert losses("branch 2", None) == "loss 1 · after epoch 1: loss 5.5, val loss 7"
    assert losses("branch 1", 0) == "no loss yet"


def test_it_stays_small_however_long_the_run(run):
    for i in range(2, 500):
        run.branch(f"branch {i}", "branch 1", 0)
        run.checkpoint(f"branch {i}", 0, f"{i:06}")
    assert len(run.lines()) < 2 * CHECKPOINTS
    assert run.lines()[-2][0].startswith("└ branch 499 (current)")
