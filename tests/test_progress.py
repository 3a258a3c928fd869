"""What a terminal shows while a script waits."""

import re

import pytest

from babysit.core.events import EpochEnd, Fit
from babysit.core.history import History
from babysit.core.position import FitSpec
from babysit.core.runlog import RunLog
from babysit.progress import Progress


class FakeRun:
    """A run of five steps an epoch; while somebody waits, an epoch passes."""

    def __init__(self, epochs=3):
        self.log, self.branch, self.epoch, self.epochs = RunLog(), "branch 1", 0, epochs
        self.history = History(self.log, lambda: self.branch)
        self.log.add(self.branch, 0, Fit({"batch_size": 32}, spec=FitSpec("", 160, 32)))

    def wait(self, timeout):
        if self.epoch < self.epochs:
            self.epoch += 1
            logs = {"loss": 1 / self.epoch} | ({"val_loss": 2 / self.epoch} if self.epoch % 2 == 0 else {})
            self.log.add(self.branch, 5 * self.epoch, EpochEnd(self.epoch, logs))
        return self.epoch == self.epochs

    def status(self):
        about = {"epoch": self.epoch, "epochs": self.epochs, "step": 5 * self.epoch, "loss": 1 / self.epoch}
        return {**about, "branch": self.branch, "examples_done": 0, "examples_an_epoch": 160}


def told(capsys):
    """The numbers of the epochs told since it was asked last."""
    return [int(re.match(r"Epoch (\d+)/", line)[1]) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("verbose", [1, True])
def test_a_bar_shows_epoch_step_and_loss_and_ends_full(capsys, verbose):
    run = FakeRun()
    assert Progress(run.history, verbose).wait(run, None)
    printed = capsys.readouterr()
    last = re.split(r"[\r\n]+", printed.err.strip())[-1]
    assert last.startswith("epoch 3/3 100%|")
    assert last.endswith("step 15, loss 0.3333")
    assert printed.out == ""


def test_a_bar_ends_where_the_time_does(capsys):
    run = FakeRun(epochs=10**6)
    assert not Progress(run.history, 1).wait(run, 0.01)
    assert "epoch 2/1000000   0%|" in capsys.readouterr().err


def test_two_means_a_line_an_epoch_with_what_was_measured_in_it(capsys):
    run = FakeRun()
    Progress(run.history, 2).wait(run, None)
    assert capsys.readouterr().out.splitlines() == [
        "Epoch 1/3 - loss: 1.0000",
        "Epoch 2/3 - loss: 0.5000 - val_loss: 1.0000",
        "Epoch 3/3 - loss: 0.3333",
    ]


def test_no_epoch_is_printed_twice_but_where_it_was_trained_anew(capsys):
    run = FakeRun()
    shown = Progress(run.history, 2)
    shown.wait(run, None)
    shown.wait(run, None)
    assert told(capsys) == [1, 2, 3]
    again = Progress(run.history, 2)  # of another fit
    run.epochs = 5
    again.wait(run, None)
    assert told(capsys) == [4, 5]
    run.epoch = 1  # rewound
    again.wait(run, None)
    assert told(capsys) == [2, 3, 4, 5]


@pytest.mark.parametrize("verbose", [False, 0, "auto"])
def test_nothing_is_shown_where_there_is_no_terminal_or_nobody_wants_it(capsys, verbose):
    run = FakeRun(epochs=1)
    assert Progress(run.history, verbose).wait(run, None)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("verbose", ["foo", 3, None])
def test_any_other_verbose_is_refused_at_once(verbose):
    with pytest.raises(ValueError, match=f"`verbose` must be .*Received: verbose={verbose!r}"):
        Progress(FakeRun().history, verbose)
