import io
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from babysit.core.runlog import RunLog, Steps
from babysit.session.viewer import Viewer
from babysit.store.database import Database
from babysit.ui import theme
from babysit.ui.compared_run import ComparedRun
from babysit.ui.figure import ChartFigure, ChartRun, View
from babysit.ui.run_series import RunSeries
from babysit.ui.series import HIGH, LOW, MEAN, SMOOTHED, STEP, with_smoothed
from babysit.ui.summary import summary

START = {"learning_rate": 0.1, "batch_size": 32}


class Rows:
    """Rows of a log, as `since` gives them."""

    def __init__(self):
        self.seq = 0

    def row(self, **fields):
        self.seq += 1
        return {"seq": self.seq, **fields}

    def block(self, branch, first, losses, epoch=1, time=0.0, **columns):
        columns = {"loss": losses, **columns}
        table = np.stack([np.asarray(values, "float32") for values in columns.values()])
        packed = {"names": list(columns), "dtype": "float32", "columns": table.tobytes()}
        return self.row(branch=branch, epoch=epoch, first=first, steps=len(losses), time=time, **packed)

    def branch(self, name, parent, step, **hyperparameters):
        return self.row(name=name, parent=parent, step=step, last=self.seq, hyperparameters=hyperparameters)

    def entry(self, branch, step, action="set", author="script", why="", time=0.0, over=1, **changes):
        about = {"time": time, "author": author, "why": why, "over": over, "command": None}
        return self.row(branch=branch, step=step, action=action, changes=changes, **about)

    def epoch(self, branch, epoch, step, **logs):
        return self.row(branch=branch, epoch=epoch, step=step, logs=logs)


class Chart(ChartFigure):
    """A chart of one run, as it is in `view`."""

    def __init__(self):
        self.series, self.view = RunSeries(), View(hyperparameter="learning_rate")
        super().__init__([ChartRun(self.series)])

    def shown(self, width=740, height=460, ratio=1.6):
        """The frame, as the page gets it."""
        self.draw(self.view, width, height, ratio)
        return self.frame()


def begun(**hyperparameters):
    rows, chart = Rows(), Chart()
    chart.series.add({"branches": [rows.branch("branch 1", None, 0, **(hyperparameters or START))]})
    return rows, chart


def entries(chart):
    return chart.series.lineage_entries()


def picture(chart, *shape):
    image = Image.open(io.BytesIO(chart.shown(*shape)["png"]))
    return np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")).astype(int)


def share(image, colour):
    """Which part of a picture is of about this colour."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return (np.abs(image - wanted).sum(axis=2) < 40).mean()


# ------------------------------------------------------------------------- what is drawn


def test_what_was_measured_and_done_is_to_be_seen():
    rows, chart = begun()
    assert share(picture(chart), theme.TRAIN) == 0
    chart.series.add({"blocks": [rows.block("branch 1", 1, np.exp(-np.arange(200) / 80))]})
    assert share(picture(chart), theme.TRAIN) > 0.0005
    chart.series.add({"epochs": [rows.epoch("branch 1", i, 20 * i, loss=1.0, val_loss=0.5) for i in (1, 2, 3)]})
    image = picture(chart)
    assert share(image, theme.VALID) > 0.0003
    assert share(image, theme.USER) == 0
    chart.series.add({"entries": [rows.entry("branch 1", 100, learning_rate=[0.1, 0.02])]})
    assert share(picture(chart), theme.USER) > 0.0001


def test_what_a_callback_changes_at_each_step_has_one_annotation():
    rows, chart = begun()
    chart.series.add({"blocks": [rows.block("branch 1", 1, np.ones(50))]})
    each = [rows.entry("branch 1", step, author="WarmUp", learning_rate=(step, step + 1)) for step in range(10, 40)]
    chart.series.add({"entries": each[:20]})
    chart.series.add({"entries": each[20:]})
    chart.series.add({"entries": [rows.entry("branch 1", 40, learning_rate=(40, 0.5))]})
    streak, by_user = entries(chart)
    assert (streak.step, streak.words) == (10, "learning rate 10 → 40 in 30 steps")
    assert (by_user.step, by_user.words) == (40, "learning rate 40 → 0.5")
    chart.series.add({"entries": [rows.entry("branch 1", 41, "pause", author="WarmUp")]})
    chart.series.add({"entries": [rows.entry("branch 1", 41, author="WarmUp", learning_rate=(0.5, 1))]})
    chart.series.add(
        {"entries": [rows.entry("branch 1", 42, "pause", author="WarmUp")]}
    )  # a line of its own in the logbook
    chart.series.add({"entries": [rows.entry("branch 1", 42, author="WarmUp", learning_rate=(1, 2))]})
    assert len(entries(chart)) == 4


@pytest.mark.parametrize(
    ("width", "height", "ratio"), [(320, 300, 3.0), (740, 460, 1.0), (740, 460, 1.5), (2000, 900, 1)]
)
def test_a_picture_has_the_size_that_was_asked_for_and_its_edges_are_free(width, height, ratio):
    rows, chart = begun(learning_rate=1e-5)
    losses = np.exp(-np.arange(4321) / 400) / 1000
    chart.series.add({"blocks": [rows.block("branch 1", 1, losses, accuracy=losses)]})
    chart.series.add({"epochs": [rows.epoch("branch 1", 1, 4000, val_loss=0.00123, accuracy=0.5, val_accuracy=0.4)]})
    changes = {"learning_rate": [1e-5, 2.34e-5], "momentum": [0.9, 0.999]}
    chart.series.add({"entries": [rows.entry("branch 1", step, **changes) for step in (100, 150, 2000, 4321)]})
    image = picture(chart, width, height, ratio)
    assert image.shape == (round(height * ratio), round(width * ratio), 3)
    paper = image[0, 0]
    for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
        np.testing.assert_array_equal(edge, np.broadcast_to(paper, edge.shape))


def test_the_page_is_seen_through_the_paper():
    _, chart = begun()
    assert np.asarray(Image.open(io.BytesIO(chart.shown()["png"])))[0, 0, 3] == 0


def test_a_frame_is_the_same_whether_drawn_on_the_last_figure_or_on_a_new_one():
    rows, upon, afresh = Rows(), Chart(), Chart()
    everything = [{"branches": [rows.branch("branch 1", None, 0, **START)]}]
    for i in range(9):
        losses = np.exp(-np.arange(20 * i, 20 * i + 20) / 80)
        everything.append({"blocks": [rows.block("branch 1", 20 * i + 1, losses)]})
        everything[-1]["epochs"] = [rows.epoch("branch 1", i + 1, 20 * i + 20, val_loss=1 / (i + 1))]
        upon.series.add(everything[-2])
        picture(upon)
    upon.series.add(everything[-1])
    for new in everything:
        afresh.series.add(new)
    np.testing.assert_array_equal(picture(upon), picture(afresh))


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize(
    "losses",
    [[np.nan, np.nan], [0.0, 0.0], [-3.0, 2.0], [1e-30, 1e30], [np.inf, 1.0], [5.0], [7.0, 7.0], [0.0, 1.0]],
    ids=str,
)
def test_it_draws_whatever_the_losses_are(losses, log):
    rows, chart = begun()
    chart.view = View(log=log, metric="accuracy")
    chart.series.add({"blocks": [rows.block("branch 1", 1, losses)]})
    logs = {"loss": losses[0], "val_loss": losses[-1], "accuracy": losses[0]}
    chart.series.add({"epochs": [rows.epoch("branch 1", 1, 1, **logs)]})
    chart.series.add({"entries": [rows.entry("branch 1", 1, "note", why="it cost $5_^ to $6")]})
    assert picture(chart).shape[2] == 3
    assert summary(chart.series)


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_a_chart_is_exported_with_its_curves(kind):
    rows, chart = begun()
    chart.draw(chart.view, 900, 540)
    empty = len(chart.file(kind))
    chart.series.add({"blocks": [rows.block("branch 1", 1, np.random.default_rng(0).random(500))]})
    chart.draw(chart.view, 900, 540)
    found = chart.file(kind)
    assert found.startswith({"svg": b"<?xml", "png": b"\x89PNG"}[kind])
    assert len(found) > empty + 2000


def test_the_page_reads_steps_values_and_changes_off_a_frame():
    rows, chart, seq = steered()
    chart.series.add({"epochs": [rows.epoch("branch 1", 1, 350, val_loss=0.25)]})
    chart.view = replace(chart.view, smoothing=0, zoom=(290, 710))
    frame = chart.shown()
    steps = np.frombuffer(frame["steps"], "<f8")
    assert (steps[0], steps[-1]) == (290, 700)
    curves = [name for name, _ in frame["curves"]]
    table = dict(zip(curves, np.frombuffer(frame["table"], "<f4").reshape(len(curves), -1), strict=True))
    assert curves == ["train", "valid", "learning rate"]
    at = list(steps).index
    assert [table["train"][at(step)] for step in (299, 301, 500)] == [2.0, 1.0, 0.5]
    np.testing.assert_array_equal([table["valid"][at(step)] for step in (349, 350, 700)], [np.nan, 0.25, 0.25])
    np.testing.assert_allclose([table["learning rate"][at(step)] for step in (299, 300)], [0.1, 0.02])
    [mark] = frame["marks"]
    about = "by dashboard · loss 2 → 0.75, means of 200 steps before and 200 after"
    assert mark == {"seq": seq, "step": 300, "words": "learning rate 0.1 → 0.02 — flat", "about": about}
    left, _, width, _ = frame["box"]
    assert (left + width < 740, frame["limits"]) == (True, (290, 710))


def test_several_runs_have_a_colour_each_and_no_band():
    rows, one, other = Rows(), RunSeries(), RunSeries()
    one.add({"blocks": [rows.block("branch 1", 1, np.full(50, 1.0))]})
    other.add({"blocks": [rows.block("branch 1", 1, np.full(80, 2.0))]})
    chart = ChartFigure([ChartRun(s, c, c, n) for s, c, n in zip((one, other), theme.RUNS, "ab", strict=False)])
    chart.draw(View(), 740, 460)
    assert [(curve.name, curve.style["color"]) for curve in chart.curves] == [
        ("a train", theme.RUNS[0]),
        ("b train", theme.RUNS[1]),
    ]
    assert chart.limits == (0, 80)


# ------------------------------------------------------------------------- what is chosen


def chart_of_a_thousand():
    rows, chart = begun()
    for i in range(10):
        losses = np.linspace(2 - i / 10, 1.9 - i / 10, 100)
        chart.series.add({"blocks": [rows.block("branch 1", 100 * i + 1, losses, epoch=i + 1)]})
        chart.series.add({"epochs": [rows.epoch("branch 1", i + 1, 100 * i + 100, val_loss=2.0)]})
    return rows, chart


def limits(chart):
    chart.draw(chart.view, 740, 460)
    axes = chart.figure.axes[0]
    return axes.get_xlim(), axes.get_ylim()


def test_the_axis_shows_all_steps_the_last_ones_or_a_chosen_range():
    rows, chart = chart_of_a_thousand()
    assert limits(chart)[0] == (0, 1000)
    chart.view = View(last=200)
    assert limits(chart)[0] == (800, 1000)
    chart.view = View(zoom=(250, 260))
    (left, right), (low, high) = limits(chart)
    assert (left, right) == (250, 260)
    assert 1.5 < low < high < 2.1
    chart.view = View()
    chart.series.add({"blocks": [rows.block("branch 1", 1001, np.ones(500))]})
    assert limits(chart)[0] == (0, 1500)


def test_what_can_be_shown_is_named_and_shown():
    rows, chart = begun(learning_rate=0.1, momentum=0.9)
    chart.series.add({"blocks": [rows.block("branch 1", 1, [1.0, 1.0], accuracy=[0.5, 0.6], gradient_norm=[3.0, 4.0])]})
    chart.series.add(
        {"epochs": [rows.epoch("branch 1", 1, 2, loss=1.0, accuracy=0.6, val_accuracy=0.5, learning_rate=0.1)]}
    )
    names = {"metrics": ["accuracy", "gradient_norm"], "hyperparameters": ["learning_rate", "momentum"]}
    assert {"metrics": chart.series.metrics, "hyperparameters": chart.series.hyperparameters} == names
    chart.draw(View(metric="gradient_norm", hyperparameter="momentum"), 740, 460)
    assert [axes.get_title(loc="left") for axes in chart.figure.axes] == ["loss", "gradient norm", "momentum"]
    assert [curve.name for curve in chart.curves] == ["train", "gradient norm", "momentum"]
    chart.draw(View(metric="accuracy"), 740, 460)
    assert [curve.name for curve in chart.curves] == ["train", "", "accuracy", "valid accuracy"]


def test_no_more_points_than_pixels():
    rows, chart = begun()
    chart.series.add({"blocks": [rows.block("branch 1", 1, np.random.default_rng(0).random(50_000))]})
    frame = chart.shown()
    assert 300 < chart.curves[0].columns.shape[1] <= frame["box"][2] + 2
    assert len(frame["steps"]) <= 8 * frame["box"][2]


# ------------------------------------------------------------------------- entries


def steered():
    rows, chart = begun()
    chart.series.add({"blocks": [rows.block("branch 1", 1, np.full(300, 2.0))]})
    change = rows.entry("branch 1", 300, author="dashboard", why="flat", learning_rate=[0.1, 0.02])
    chart.series.add({"entries": [change]})
    chart.series.add({"blocks": [rows.block("branch 1", 301, np.r_[np.full(100, 1.0), np.full(300, 0.5)])]})
    return rows, chart, change["seq"]


def test_an_entry_has_the_mean_losses_around_it():
    _, chart, seq = steered()
    entry = chart.series.entry(seq)
    assert (entry.words, entry.author) == ("learning rate 0.1 → 0.02 — flat", "dashboard")
    assert (entry.before, entry.after, entry.steps_after) == (2.0, 0.75, 200)
    assert chart.series.entry(10**6) is None


def test_an_entry_keeps_the_losses_around_it_when_the_run_is_long():
    rows, chart, seq = steered()
    for first in range(701, 200_001, 20_000):
        chart.series.add({"blocks": [rows.block("branch 1", first, np.full(20_000, 9.0))]})
    assert (chart.series.entry(seq).before, chart.series.entry(seq).after) == (2.0, 0.75)


def test_the_losses_around_an_entry_reach_up_to_other_changes_by_the_user():
    rows, chart = begun()
    losses = np.r_[np.full(100, 1.0), np.full(44, 2.0), np.full(60, 3.0)]
    chart.series.add({"blocks": [rows.block("branch 1", 1, losses[:100])]})
    raised = rows.entry("branch 1", 100, author="dashboard", learning_rate=[0.1, 0.2])
    chart.series.add({"entries": [raised, also := rows.entry("branch 1", 100, momentum=[0.9, 0.8])]})
    chart.series.add({"blocks": [rows.block("branch 1", 101, losses[100:120])]})
    chart.series.add({"entries": [rows.entry("branch 1", 120, author="schedule", learning_rate=[0.2, 0.19])]})
    chart.series.add({"blocks": [rows.block("branch 1", 121, losses[120:144])]})
    chart.series.add({"entries": [back := rows.entry("branch 1", 144, learning_rate=[0.19, 0.1])]})
    chart.series.add({"blocks": [rows.block("branch 1", 145, losses[144:])]})
    chart.series.add({"branches": [rows.branch("branch 2", "branch 1", 154)]})
    chart.series.add({"entries": [rewound := rows.entry("branch 2", 154, "rewind")]})
    chart.series.add({"blocks": [rows.block("branch 2", 155, np.full(9, 4.0))]})
    found = [chart.series.entry(row["seq"]) for row in (raised, also, back, rewound)]
    found = [(one.before, one.steps_before, one.after, one.steps_after) for one in found]
    assert found == [(1, 100, 2, 44), (1, 100, 2, 44), (2, 44, 3, 60), (3, 10, 4, 9)]


def test_an_entry_without_steps_has_no_losses():
    rows, chart = begun()
    chart.series.add({"entries": [note := rows.entry("branch 1", 0, "note", why="let us see")]})
    entry = chart.series.entry(note["seq"])
    assert (entry.losses, entry.steps_before, entry.steps_after) == ("", 0, 0)


def test_what_a_schedule_does_is_annotated_but_does_not_fill_the_chart():
    rows, chart = begun()
    chart.series.add({"blocks": [rows.block("branch 1", 1, np.ones(800))]})
    plain = share(picture(chart), theme.USER)
    found = [rows.entry("branch 1", i, author="schedule", learning_rate=[0.1, 0.2]) for i in range(1, 799, 2)]
    chart.series.add({"entries": found})
    assert share(picture(chart), theme.USER) == plain
    assert len(entries(chart)) == 399
    assert entries(chart)[0].author == "schedule"


@pytest.mark.parametrize("action", ["pause", "resume", "fit", "finish", "stop", "refuse"])
def test_what_changes_nothing_has_no_annotation(action):
    rows, chart = begun()
    chart.series.add({"entries": [rows.entry("branch 1", 0, action, learning_rate=[0.1, 0.2])]})
    assert entries(chart) == []


# ------------------------------------------------------------------------- branches


def rewound():
    rows, chart = begun(learning_rate=0.1)
    chart.series.add({"blocks": [rows.block("branch 1", 1, np.full(50, 2.0))]})
    chart.series.add({"entries": [rows.entry("branch 1", 50, learning_rate=[0.1, 0.7])]})
    before = rows.seq - 1  # the checkpoint was saved before the change
    chart.series.add({"blocks": [rows.block("branch 1", 51, np.full(50, 3.0))]})
    branch = rows.branch("branch 2", "branch 1", 50, learning_rate=0.1) | {"last": before}
    entry = rows.entry("branch 2", 50, "rewind", learning_rate=[0.7, 0.1]) | {"seq": branch["seq"]}  # one event
    chart.series.add({"entries": [entry], "branches": [branch]})
    chart.series.add({"blocks": [rows.block("branch 2", 51, np.full(50, 1.0))]})
    return rows, chart


def test_the_line_goes_over_branches_and_what_was_abandoned_stays_as_a_ghost():
    _, chart = rewound()
    columns = chart.series.along("measured", "loss")
    assert columns[STEP].tolist() == list(range(1, 101))
    assert columns[LOW].tolist() == [2.0] * 50 + [1.0] * 50
    assert share(picture(chart), theme.GHOST) > 0.0001


def test_what_was_done_on_an_abandoned_branch_has_no_annotation():
    _, chart = rewound()
    assert [entry.action for entry in entries(chart)] == ["rewind"]
    assert entries(chart)[0].losses == "loss 2 → 1"
    assert chart.series.along("hyperparameters", "learning_rate")[MEAN, -1] == 0.1


def test_the_smoothed_loss_of_a_branch_goes_on_from_where_it_left():
    _, chart = rewound()
    losses = np.r_[np.full(50, 2.0), np.full(50, 1.0)]
    alone = RunSeries()
    alone.add({"blocks": [Rows().block("branch 1", 1, losses)]})
    ours, theirs = (with_smoothed(series.along("measured", "loss"), 0.97) for series in (chart.series, alone))
    np.testing.assert_array_equal(ours[SMOOTHED], theirs[SMOOTHED])


def test_steps_that_are_logged_twice_count_once():
    rows, series = Rows(), RunSeries()
    for first in (1, 11, 1, 11, 21):
        series.add({"blocks": [rows.block("branch 1", first, np.arange(first, first + 10))]})
    assert series.along("measured", "loss")[LOW].tolist() == list(range(1, 31))


def test_a_value_that_follows_a_schedule_is_drawn_step_by_step():
    rows, series = Rows(), RunSeries()
    series.add({"branches": [rows.branch("branch 1", None, 0, learning_rate=0.4)]})
    series.add({"blocks": [rows.block("branch 1", 1, [1, 1, 1], learning_rate=[0.4, 0.3, 0.2])]})
    series.add({"entries": [rows.entry("branch 1", 3, learning_rate=["schedule", 0.05])]})
    columns = series.along("hyperparameters", "learning_rate")
    np.testing.assert_allclose(columns[HIGH], [0.4, 0.4, 0.3, 0.2, 0.05], rtol=1e-6)
    assert columns[STEP].tolist() == [0, 0, 1, 2, 3]


# ------------------------------------------------------------------------- another run


def test_another_run_is_read_from_its_directory_and_laid_over(tmp_path):
    database, log = Database(tmp_path / "run.sqlite"), RunLog()
    log.on_append = database.append
    for first, loss in ((1, 2.0), (51, 0.5)):
        log.add_steps("branch 1", Steps(0, "branch 1", first, {"loss": np.full(50, loss, "float32")}))
    database.close()
    written = (tmp_path / "run.sqlite").read_bytes()
    other = ComparedRun(Viewer)
    other.show(str(tmp_path))
    assert other.series.along("measured", "loss")[LOW].tolist() == [2.0] * 50 + [0.5] * 50
    assert (tmp_path / "run.sqlite").read_bytes() == written
    assert [path.name for path in tmp_path.iterdir()] == ["run.sqlite"]
    rows, chart = begun()
    chart.series.add({"blocks": [rows.block("branch 1", 1, np.full(100, 1.0))]})
    assert share(picture(chart), theme.OTHER) == 0
    chart.runs.append(ChartRun(other.series, theme.OTHER, theme.OTHER, "other"))
    assert share(picture(chart), theme.OTHER) > 0.0003


def test_another_run_is_opened_once_and_read_on(monkeypatch):
    monkeypatch.setattr("babysit.ui.compared_run._PAUSE_S", 0.0)
    rows, opened = Rows(), []
    blocks = [rows.block("branch 1", 1, np.ones(5)), rows.block("branch 1", 6, np.ones(5))]

    class Other:
        def __init__(self, directory):
            opened.append(directory)

        def since(self, cursor):
            return {"blocks": blocks[cursor : cursor + 1]}, min(cursor + 1, len(blocks))

    compared = ComparedRun(Other)
    compared.show("there")
    blocks.append(rows.block("branch 1", 11, np.ones(5)))
    compared.show("there")
    assert (compared.series.steps(), compared.name, opened) == (15, "there", ["there"])
    compared.show("elsewhere")
    assert opened == ["there", "elsewhere"]


def test_a_run_that_is_not_there_is_reported(tmp_path):
    other = ComparedRun(Viewer)
    other.show(str(tmp_path / "none"))
    assert "none` holds no run" in other.problem and other.name == ""


# ------------------------------------------------------------------------- words


def test_a_summary_says_what_there_is_to_see():
    rows, chart, _ = steered()
    chart.series.add({"epochs": [rows.epoch("branch 1", i, 300 * i, val_loss=i / 10, accuracy=0.9) for i in (1, 2)]})
    said = summary(chart.series)
    assert "At step 700 the smoothed training loss is 0.5. At step 630 it was 0.5" in said
    assert "The validation loss is 0.2 at step 600; its lowest was 0.1 at step 300." in said
    assert "Accuracy is 0.9." in said
    assert "the last at step 300 by dashboard: learning rate 0.1 → 0.02 — flat." in said
    assert summary(begun()[1].series) == "Nothing is measured yet."


# ------------------------------------------------------------------------- a long run


def fed(steps, piece):
    rows, chart = begun()
    losses = np.random.default_rng(0).random(piece)
    for first in range(1, steps, piece):
        chart.series.add({"blocks": [rows.block("branch 1", first, losses)]})
    return rows, chart


def test_a_million_steps_take_no_more_room_than_ten_thousand():
    short, long = fed(10_000, 1_000), fed(1_000_000, 10_000)
    sizes = [len(chart.shown()["png"]) for _, chart in (short, long)]
    assert sizes[1] < 1.2 * sizes[0]
    assert long[1].series.along("measured", "loss").shape[1] < 15_000
    tracemalloc.start()
    rows, chart = long
    losses = np.random.default_rng(1).random(300_000)
    chart.series.add({"blocks": [rows.block("branch 1", 1_000_001, losses)]})
    del losses
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 1e6


def test_each_of_a_few_thousand_steps_is_kept_however_often_a_run_is_rewound():
    rows, series = Rows(), RunSeries()
    losses = np.random.default_rng(0).random(3000)
    series.add({"branches": [rows.branch("branch 1", None, 0)], "blocks": [rows.block("branch 1", 1, losses[:2000])]})
    for i in range(2, 32):
        series.add({"branches": [rows.branch(f"branch {i}", "branch 1", 1990)]})
        series.add({"blocks": [rows.block(f"branch {i}", 1991, losses[1990:])]})
    line = series.along("measured", "loss")
    np.testing.assert_array_equal(line[STEP], np.arange(1, 3001))
    np.testing.assert_array_equal(line[MEAN], losses.astype("float32"))
    assert sum(branch.measured["loss"].columns().shape[1] for branch in series.branches.values()) < 12_000  # of 32,000


def test_hundreds_of_rewinds_take_no_more_room_than_a_few():
    rows, series = Rows(), RunSeries()
    series.add({"branches": [rows.branch("branch 1", None, 0)]})
    for i in range(300):
        step, name = 100 * (i + 1), f"branch {i + 2}"
        losses = np.random.default_rng(i).random(300)
        series.add({"blocks": [rows.block(f"branch {i + 1}", step - 99, losses)]})
        series.add({"branches": [rows.branch(name, f"branch {i + 1}", step)]})
    kept = sum(branch.measured["loss"].columns().shape[1] for branch in series.branches.values() if branch.measured)
    assert kept < 20_000
    assert series.along("measured", "loss")[STEP, -1] > 29_000
