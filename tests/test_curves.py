import io

import numpy as np
import pytest
from PIL import Image

from babysit.ui.curves import Curves, _clusters
from babysit.ui.trace import COLUMNS, Trace


def smoothed(losses, weight=0.97):
    """Kingma & Ba 2015, section 3, word for word."""
    average, result = 0.0, []
    for t, loss in enumerate(losses, start=1):
        average = weight * average + (1 - weight) * loss
        result.append(average / (1 - weight**t))
    return np.array(result)


@pytest.mark.parametrize("pieces", [[100], [1] * 100, [7, 43, 50]])
def test_a_short_trace_holds_every_step_and_its_corrected_average(pieces):
    losses = np.random.default_rng(0).exponential(size=100)
    trace = Trace(0)
    for piece in np.split(losses, np.cumsum(pieces)[:-1]):
        trace.append(piece)
    steps, low, high, average = trace.points()
    assert steps.tolist() == list(range(1, 101))
    np.testing.assert_array_equal(low, losses)
    np.testing.assert_array_equal(high, losses)
    np.testing.assert_allclose(average, smoothed(losses), rtol=1e-9)


def test_a_long_trace_stays_bounded_and_hides_no_spike():
    rng = np.random.default_rng(1)
    losses = rng.exponential(size=30_011)
    losses[20_000] = 99.0
    losses[10_001] = -5.0
    trace = Trace(0)
    for piece in np.array_split(losses, 613):
        trace.append(piece)
        assert trace.points().shape[1] <= COLUMNS + 1
    steps, low, high, average = trace.points()
    assert (trace.end, steps[-1]) == (30_011, 30_011)
    assert (low.min(), high.max()) == (-5.0, 99.0)
    assert abs(steps[high.argmax()] - 20_000) <= trace.width
    np.testing.assert_allclose(average, smoothed(losses)[steps.astype(int) - 1], rtol=1e-9)


def test_a_trace_can_be_cut_at_a_step_and_goes_on_from_its_average():
    losses = np.linspace(3, 1, 40)
    parent = Trace(0)
    parent.append(losses)
    child = Trace(20, average=parent.average_at(20))
    child.append(losses[20:])
    assert parent.points(20)[0][-1] == 20
    np.testing.assert_allclose(child.points()[3], parent.points()[3][20:], rtol=1e-9)


def test_a_loss_that_is_not_finite_leaves_the_average_alone():
    trace = Trace(0)
    trace.append(np.array([1.0, np.nan, np.inf, 1.0]))
    np.testing.assert_allclose(trace.points()[3], 1.0)


class Rows:
    """Rows of a record, as `since` gives them."""

    def __init__(self):
        self.seq = 0

    def row(self, **fields):
        self.seq += 1
        return {"seq": self.seq, **fields}

    def block(self, branch, first, losses):
        table = np.stack([losses, losses]).astype("float32")
        columns = {"names": ["loss", "accuracy"], "dtype": "float32", "columns": table.tobytes()}
        return self.row(branch=branch, epoch=1, first=first, steps=len(losses), time=0, **columns)

    def branch(self, name, parent, step):
        return self.row(name=name, parent=parent, step=step, hyperparameters={})

    def entry(self, branch, step, action="set", **changes):
        return self.row(branch=branch, step=step, action=action, changes=changes)

    def epoch(self, branch, epoch, step, **logs):
        return self.row(branch=branch, epoch=epoch, step=step, logs=logs)


def picture(curves):
    return np.asarray(Image.open(io.BytesIO(curves.png())).convert("RGB")).astype(int)


def share(image, colour):
    """Which part of a picture is of about this colour."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return (np.abs(image - wanted).sum(axis=2) < 40).mean()


def test_what_was_measured_and_done_is_to_be_seen():
    rows, curves = Rows(), Curves()
    assert share(picture(curves), "#1976d2") == 0
    losses = np.exp(-np.arange(200) / 80)
    curves.add({"branches": [rows.branch("branch 1", None, 0)], "blocks": [rows.block("branch 1", 1, losses)]})
    assert share(picture(curves), "#1976d2") > 0.0005
    assert share(picture(curves), "#e65100") == share(picture(curves), "#7b1fa2") == 0
    curves.add({"epochs": [rows.epoch("branch 1", i, 20 * i, loss=1.0, val_loss=0.5, accuracy=0.5) for i in (1, 2, 3)]})
    assert share(picture(curves), "#e65100") > 0.0003
    curves.add({"entries": [rows.entry("branch 1", 100, learning_rate=[0.1, 0.02])]})
    assert share(picture(curves), "#7b1fa2") > 0.0001


def test_a_frame_is_the_same_whether_drawn_upon_the_last_or_afresh():
    rows, upon, afresh = Rows(), Curves(), Curves()
    everything = [{"branches": [rows.branch("branch 1", None, 0)]}]
    for i in range(9):
        losses = np.exp(-np.arange(20 * i, 20 * i + 20) / 80)
        everything.append({"blocks": [rows.block("branch 1", 20 * i + 1, losses)]})
        upon.add(everything[-2])
        upon.png()
    upon.add(everything[-1])
    for new in everything:
        afresh.add(new)
    np.testing.assert_array_equal(picture(upon), picture(afresh))


def test_what_was_abandoned_stays_as_a_ghost():
    rows, curves = Rows(), Curves()
    curves.add({"branches": [rows.branch("branch 1", None, 0)]})
    curves.add({"blocks": [rows.block("branch 1", 1, np.full(100, 2.0))]})
    curves.add({"branches": [rows.branch("branch 2", "branch 1", 50)]})
    curves.add({"blocks": [rows.block("branch 2", 51, np.full(50, 1.0))]})
    steps, low, _, _ = curves._points()
    assert steps.tolist() == list(range(1, 101))
    assert low.tolist() == [2.0] * 50 + [1.0] * 50
    assert share(picture(curves), "#9e9e9e") > 0.0001


@pytest.mark.parametrize(
    "losses",
    [[np.nan, np.nan], [0.0, 0.0], [-3.0, 2.0], [1e-30, 1e30], [np.inf, 1.0], [5.0], [7.0, 7.0]],
    ids=str,
)
def test_it_draws_whatever_the_losses_are(losses):
    rows, curves = Rows(), Curves()
    curves.add(
        {"branches": [rows.branch("branch 1", None, 0)], "blocks": [rows.block("branch 1", 1, np.array(losses))]}
    )
    curves.add({"epochs": [rows.epoch("branch 1", 1, 1, loss=losses[0], val_loss=losses[-1], accuracy=losses[0])]})
    assert picture(curves).shape[2] == 3


def test_changes_close_to_one_another_share_a_label():
    marks = [(10, {"lr": (1, 2)}), (11, {"lr": (2, 3)}), (13, {"momentum": (0.0, 0.9)}), (90, {"lr": (3, 4)})]
    assert _clusters(marks, within=5) == [(10, {"lr": (1, 3), "momentum": (0.0, 0.9)}), (90, {"lr": (3, 4)})]
    assert marks[0] == (10, {"lr": (1, 2)})
    undone = [(50, {"lr": (0.01, 0.2)}), (50, {"lr": (0.2, 0.01)})]  # a leap, and the rewind to before it
    assert _clusters(undone, within=5) == [(50, {})]
