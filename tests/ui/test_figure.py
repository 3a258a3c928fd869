import io
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from babysit.core.events import ROOT, Branch, EpochEnd, Fit, Note, Paused, Refused, Saved, Set
from babysit.core.runlog import RunLog, Steps
from babysit.ui import theme
from babysit.ui.figure import ChartFigure, ChartRun, View
from babysit.ui.run_series import RunSeries, words_of
from babysit.ui.series import LOW, MEAN, SMOOTHED, STEP, with_smoothed
from babysit.ui.summary import summary

START = {"learning_rate": 0.1, "batch_size": 32}


class Chart(ChartFigure):
    """A chart of one run, as it is in `view`, and what fills the log of that run."""

    def __init__(self, **hyperparameters):
        self.log, self.view = RunLog(), View(hyperparameter="learning_rate")
        self.log.add(ROOT, 0, Fit(hyperparameters or START))
        self.series = RunSeries(self.log)
        super().__init__([ChartRun(self.series)])

    @property
    def branch(self):
        return list(self.log.branches)[-1]

    def train(self, losses, **columns):
        columns = {name: np.asarray(values, "f4") for name, values in {"loss": losses, **columns}.items()}
        return self.log.add_steps(self.branch, Steps(0, self.branch, self.log.tip(self.branch) + 1, columns))

    def enter(self, payload, step=None, author="script", why=""):
        step = self.log.tip(self.branch) if step is None else step
        return self.log.add(self.branch, step, payload, author=author, why=why).seq

    def change(self, step=None, author="dashboard", why="", over=1, **changes):
        return self.enter(Set(changes, over), step, author, why)

    def epoch(self, number, step, **logs):
        self.log.add(self.branch, step, EpochEnd(number, logs))

    def leave(self, step, last=None, **restored):
        last = self.log.seq if last is None else last
        self.log.add(f"branch {len(self.log.branches) + 1}", step, Branch(self.branch, last, restored=restored))

    def entry(self, seq):
        self.series.read()
        return next(entry for entry in self.series.entries if entry.seq == seq)

    def losses(self, *seqs):
        return self.series.losses([self.entry(seq) for seq in seqs])

    def shown(self, width=740, height=460, ratio=1.6):
        """The frame, as the page gets it."""
        self.series.read()
        self.draw(self.view, width, height, ratio)
        return self.frame()


def entries(chart):
    chart.series.read()
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
    chart = Chart()
    assert share(picture(chart), theme.TRAIN) == 0
    chart.train(np.exp(-np.arange(200) / 80))
    for number in (1, 2, 3):
        chart.epoch(number, 20 * number, loss=1.0, val_loss=0.5)
    image = picture(chart)
    assert share(image, theme.TRAIN) > 0.0005 and share(image, theme.VALID) > 0.0003
    assert share(image, theme.USER) == 0
    assert np.asarray(Image.open(io.BytesIO(chart.frame()["png"])))[0, 0, 3] == 0  # the page is seen through the paper
    chart.change(100, learning_rate=(0.1, 0.02))
    assert share(picture(chart), theme.USER) > 0.0001


def test_what_a_callback_changes_at_each_step_has_one_annotation():
    chart = Chart()
    chart.train(np.ones(50))
    for step in range(10, 40):
        chart.change(step, "WarmUp", learning_rate=(step, step + 1))
        chart.series.read()
    chart.change(40, learning_rate=(40, 0.5))
    streak, by_user = entries(chart)
    assert (streak.step, words_of(streak)) == (10, "learning rate 10 → 40 in 30 steps")
    assert (by_user.step, words_of(by_user)) == (40, "learning rate 40 → 0.5")
    for step in (41, 42):
        chart.enter(Paused(), step, "WarmUp")  # a line of its own in the logbook
        chart.change(step, "WarmUp", learning_rate=(0.5, 1))
    assert len(entries(chart)) == 4


@pytest.mark.parametrize(("width", "height", "ratio"), [(320, 300, 3.0), (740, 460, 1.5)])
def test_a_picture_has_the_size_that_was_asked_for_and_its_edges_are_free(width, height, ratio):
    chart = Chart(learning_rate=1e-5)
    losses = np.exp(-np.arange(4321) / 400) / 1000
    chart.train(losses, accuracy=losses)
    chart.epoch(1, 4000, val_loss=0.00123, accuracy=0.5, val_accuracy=0.4)
    for step in (100, 150, 2000, 4321):
        chart.change(step, learning_rate=(1e-5, 2.34e-5), momentum=(0.9, 0.999))
    image = picture(chart, width, height, ratio)
    assert image.shape == (round(height * ratio), round(width * ratio), 3)
    paper = image[0, 0]
    for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
        np.testing.assert_array_equal(edge, np.broadcast_to(paper, edge.shape))


def test_a_frame_is_the_same_whether_drawn_on_the_last_figure_or_on_a_new_one():
    upon = Chart()
    for i in range(4):
        upon.train(np.exp(-np.arange(20 * i, 20 * i + 20) / 80))
        upon.epoch(i + 1, 20 * i + 20, val_loss=1 / (i + 1))
        upon.shown()
    afresh = Chart()
    afresh.runs = [ChartRun(RunSeries(upon.log))]
    afresh.series = afresh._series = afresh.runs[0].series
    np.testing.assert_array_equal(picture(upon), picture(afresh))


@pytest.mark.parametrize("losses", [[np.nan, np.nan], [0.0, 0.0], [-3.0, 2.0], [1e-30, 1e30], [np.inf, 1.0], [5.0]])
def test_it_draws_whatever_the_losses_are(losses):
    chart = Chart()
    chart.train(losses)
    chart.epoch(1, 1, loss=losses[0], val_loss=losses[-1], accuracy=losses[0], confusion=[[1]])
    chart.enter(Note("", None), 1, why="it cost $5_^ to $6")
    for log in (True, False):
        chart.view = View(log=log, metric="accuracy")
        assert chart.shown()["png"]
    assert summary(chart.series)


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_a_chart_is_exported_with_its_curves(kind):
    chart = Chart()
    chart.draw(chart.view, 900, 540)
    empty = len(chart.file(kind))
    chart.train(np.random.default_rng(0).random(500))
    chart.draw(chart.view, 900, 540)
    found = chart.file(kind)
    assert found.startswith({"svg": b"<?xml", "png": b"\x89PNG"}[kind])
    assert len(found) > empty + 2000


def test_the_page_reads_steps_values_and_changes_off_a_frame():
    chart, seq = steered()
    chart.epoch(1, 350, val_loss=0.25)
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
    about = "by dashboard · loss 2 → 0.75"
    assert mark == {"seq": seq, "step": 300, "words": "learning rate 0.1 → 0.02 — flat", "about": about}
    left, _, width, _ = frame["box"]
    assert (left + width < 740, frame["limits"]) == (True, (290, 710))


def test_several_runs_have_a_colour_each_and_no_band():
    one, other = Chart(), Chart()
    one.train(np.full(50, 1.0))
    other.train(np.full(80, 2.0))
    pairs = zip((one.series, other.series), theme.RUNS, "ab", strict=False)
    chart = ChartFigure([ChartRun(series, colour, name) for series, colour, name in pairs])
    chart.draw(View(), 740, 460)
    assert [(curve.name, curve.style["color"]) for curve in chart.curves] == [
        ("a train", theme.RUNS[0]),
        ("b train", theme.RUNS[1]),
    ]
    assert chart.limits == (0, 80)


# ------------------------------------------------------------------------- what is chosen


def limits(chart):
    chart.draw(chart.view, 740, 460)
    axes = chart.figure.axes[0]
    return axes.get_xlim(), axes.get_ylim()


def test_the_axis_shows_all_steps_the_last_ones_or_a_chosen_range():
    chart = Chart()
    chart.train(np.concatenate([np.linspace(2 - i / 10, 1.9 - i / 10, 100) for i in range(10)]))
    assert limits(chart)[0] == (0, 1000)
    chart.view = View(last=200)
    assert limits(chart)[0] == (800, 1000)
    chart.view = View(zoom=(250, 260))
    (left, right), (low, high) = limits(chart)
    assert (left, right) == (250, 260)
    assert 1.5 < low < high < 2.1
    chart.view = View()
    chart.train(np.ones(500))
    assert limits(chart)[0] == (0, 1500)


def test_what_can_be_shown_is_named_and_shown():
    chart = Chart(learning_rate=0.1, momentum=0.9)
    chart.train([1.0, 1.0], accuracy=[0.5, 0.6], gradient_norm=[3.0, 4.0])
    chart.epoch(1, 2, loss=1.0, accuracy=0.6, val_accuracy=0.5, learning_rate=0.1)
    assert chart.series.along().metrics == ["accuracy", "gradient_norm"]
    assert chart.series.along().hyperparameters == ["learning_rate", "momentum"]
    chart.draw(View(metric="gradient_norm", hyperparameter="momentum"), 740, 460)
    assert [axes.get_title(loc="left") for axes in chart.figure.axes] == ["loss", "gradient norm", "momentum"]
    assert [curve.name for curve in chart.curves] == ["train", "gradient norm", "momentum"]
    chart.draw(View(metric="accuracy"), 740, 460)
    assert [curve.name for curve in chart.curves] == ["train", "", "accuracy", "valid accuracy"]


# ------------------------------------------------------------------------- entries


def steered():
    chart = Chart()
    chart.train(np.full(300, 2.0))
    seq = chart.change(why="flat", learning_rate=(0.1, 0.02))
    chart.train(np.r_[np.full(100, 1.0), np.full(300, 0.5)])
    return chart, seq


def test_the_losses_around_an_entry_are_means_of_200_steps_or_up_to_other_changes_by_the_user():
    chart, seq = steered()
    assert chart.losses(seq) == ["loss 2 → 0.75"]
    chart = Chart()
    losses = np.r_[np.full(100, 1.0), np.full(44, 2.0), np.full(60, 3.0)]
    chart.train(losses[:100])
    raised, also = chart.change(learning_rate=(0.1, 0.2)), chart.change(momentum=(0.9, 0.8))
    chart.train(losses[100:120])
    chart.change(author="schedule", learning_rate=(0.2, 0.19))
    chart.train(losses[120:144])
    back = chart.change(author="script", learning_rate=(0.19, 0.1))
    chart.train(losses[144:])
    chart.leave(154)
    rewound, note = chart.log.seq, chart.enter(Note("let us see"))
    chart.train(np.full(9, 4.0))
    found = chart.losses(raised, also, back, rewound, note)
    assert found == ["loss 1 → 2", "loss 1 → 2", "loss 2 → 3", "loss 3 → 4", ""]


def test_what_a_schedule_does_is_annotated_but_does_not_fill_the_chart():
    chart = Chart()
    chart.train(np.ones(800))
    plain = share(picture(chart), theme.USER)
    for step in range(1, 799, 2):
        chart.change(step, "schedule", learning_rate=(0.1, 0.2))
    assert share(picture(chart), theme.USER) == plain
    assert [entry.author for entry in entries(chart)] == ["schedule"] * 399


def test_what_changes_nothing_has_no_annotation():
    chart = Chart()
    for payload in (Paused(), Refused("no"), Note("a file", file="chart.png")):
        chart.enter(payload)
    assert entries(chart) == []
    chart.enter(Saved("000001", "good"))
    assert [entry.action for entry in entries(chart)] == ["save"]


# ------------------------------------------------------------------------- branches


def rewound():
    chart = Chart(learning_rate=0.1)
    chart.train(np.full(50, 2.0))
    before = chart.log.seq  # the checkpoint was saved before the change
    chart.change(learning_rate=(0.1, 0.7))
    chart.train(np.full(50, 3.0))
    chart.series.along().measured("loss")
    chart.leave(50, before, learning_rate=(0.7, 0.1))
    chart.train(np.full(50, 1.0))
    return chart


def test_the_line_goes_over_branches_and_what_was_abandoned_stays_as_a_ghost():
    chart = rewound()
    assert [entry.action for entry in entries(chart)] == ["rewind"]  # but what was done there has no annotation
    assert chart.series.losses(entries(chart)) == ["loss 2 → 1"]
    columns = chart.series.along().measured("loss")
    assert columns[STEP].tolist() == list(range(1, 101))
    assert columns[LOW].tolist() == [2.0] * 50 + [1.0] * 50
    assert chart.series.along().hyperparameter("learning_rate")[MEAN].tolist() == [0.1]
    assert share(picture(chart), theme.GHOST) > 0.0001
    alone = Chart()
    alone.train(np.r_[np.full(50, 2.0), np.full(50, 1.0)])
    ours, theirs = (with_smoothed(one.series.along().measured("loss"), 0.97) for one in (chart, alone))
    np.testing.assert_array_equal(ours[SMOOTHED], theirs[SMOOTHED])


@pytest.mark.parametrize(("width", "ratio", "least"), [(420, 2.0, 2), (740, 1.6, 4), (1240, 1.0, 4)])  # as pages have
def test_names_of_branches_lie_on_no_curve_no_words_and_not_on_each_other(width, ratio, least):
    chart, losses = Chart(), np.exp(-np.arange(400) / 150)
    chart.train(losses[:250])
    for step, end in [(100, 150), (110, 200), (120, 250), (200, 300), (205, 240)]:
        chart.leave(step)
        chart.change(learning_rate=(0.1, 0.05))
        chart.train(losses[step:end] * np.linspace(1, 1.1, end - step))
    chart.leave(230)
    chart.shown(width, ratio=ratio)  # a change at the right edge
    chart.train(losses[230:])
    chart.epoch(1, 100, val_loss=0.6)
    chart.epoch(2, 300, val_loss=0.3)
    chart.shown(width, ratio=ratio)
    axes, names = chart.figure.axes[0], [f"branch {number}" for number in range(1, 7)]
    boxes = {text: text.get_window_extent() for text in axes.texts}
    named = [text for text in boxes if text.get_text() in names]
    assert len(named) >= least
    for text in named:
        for other, box in boxes.items():
            assert other is text or not boxes[text].overlaps(box), (text, other)
        for line in axes.lines:
            if line.get_linestyle() != "None":
                shown = line.get_path().transformed(line.get_transform())
                assert not shown.intersects_bbox(boxes[text], filled=False), text


@pytest.mark.parametrize("loss", [1.6712, 1671.2, 1.6712e9, 1.6712e-9])
def test_the_last_value_at_the_right_edge_is_not_cut_off(loss):
    chart = Chart()
    chart.train(np.full(50, loss))
    chart.shown(740)
    (words,) = [text for text in chart.figure.axes[0].texts if text.get_text().startswith("train")]
    assert float(words.get_text().split()[1]) == pytest.approx(loss, rel=0.01)
    assert words.get_window_extent().x1 <= chart.figure.bbox.x1


def test_a_value_that_follows_a_schedule_is_drawn_step_by_step():
    chart = Chart(learning_rate="schedule")
    chart.train([1, 1, 1], learning_rate=[0.4, 0.3, 0.2])
    chart.change(3, learning_rate=("schedule", 0.05))
    columns = chart.series.along().hyperparameter("learning_rate")
    np.testing.assert_allclose(columns[MEAN], [0.4, 0.3, 0.2, 0.05], rtol=1e-6)
    assert columns[STEP].tolist() == [0, 1, 2, 3]


# ------------------------------------------------------------------------- words


def test_a_summary_says_what_there_is_to_see():
    chart, _ = steered()
    for number in (1, 2):
        chart.epoch(number, 300 * number, val_loss=number / 10)
    chart.series.read()
    said = summary(chart.series)
    assert "At step 700 the smoothed training loss is 0.5." in said
    assert "The validation loss is 0.2; its lowest was 0.1 at step 300." in said
    assert "The last change was at step 300 by dashboard: learning rate 0.1 → 0.02 — flat." in said
    assert summary(Chart().series) == "Nothing has been measured yet."


# ------------------------------------------------------------------------- a long run


def test_a_million_steps_take_no_more_room_than_ten_thousand():
    losses = np.random.default_rng(0).random(1_000_000)
    short, long = Chart(), Chart()
    short.train(losses[:10_000])
    long.train(losses)
    sizes = [len(chart.shown()["png"]) for chart in (short, long)]
    assert sizes[1] < 1.2 * sizes[0]
    assert long.series.along().measured("loss").shape[1] < 15_000
    assert 300 < long.curves[0].columns.shape[1] <= long.frame()["box"][2] + 2  # no more points than pixels
    long.train(losses[:300_000])
    tracemalloc.start()
    long.series.along().measured("loss")
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 1e6


def test_each_of_a_few_thousand_steps_is_kept_however_often_a_run_is_rewound():
    chart, losses = Chart(), np.random.default_rng(0).random(2500)
    chart.train(losses[:1000])
    for i in range(30):
        step = 1000 + 50 * i
        chart.leave(step)
        chart.train(losses[step : step + 300])
    line = chart.series.along().measured("loss")
    np.testing.assert_array_equal(line[STEP], np.arange(1, len(line[STEP]) + 1))
    np.testing.assert_array_equal(line[MEAN], losses[: len(line[STEP])].astype("float32"))
    chart.shown()
    chart.leave(10)
    chart.series.read()
    assert not chart.series._lineages  # nothing is kept of curves that will not grow any more
