"""What leaves a run as schedules, logbook and tables, against the history it is made of."""

import ast
import csv
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

import babysit
from babysit import demos
from babysit.core.events import Edit, EpochEnd, Fit, Note, Set
from babysit.core.position import FitSpec
from babysit.core.runlog import RunLog, Steps
from babysit.export import script
from babysit.export.logbook import logbook
from babysit.export.segments import Fold
from babysit.session.session import Session
from tests.session.numpy_trainer import MemoryStore, NumpyTrainer, Source, plan

(X, Y), _ = demos.digits()
X, Y = X[:160], Y[:160]
WICKED = 'flat?"""\n\'\'\' \\ {0} | <b>%s</b> `x` # import os\r"); raise SystemExit(3)\u2028\x0c'


def resting(folder, optimizer=None, **how):
    model = demos.dense_network(optimizer, seed=3)
    return babysit.Panda(model, folder / "run", seed=7).fit(X, Y, **{"epochs": 4, "paused": True, **how})


@pytest.fixture(scope="module")
def steered(tmp_path_factory):
    """A run that has stopped; the tests only read it."""
    panda = resting(tmp_path_factory.mktemp("steered"))
    panda.run(3)
    panda.set(learning_rate=0.1, batch_size=20, why=WICKED)
    panda.run(4)
    panda.save("here")
    panda.set(learning_rate=0.001, over=5)
    panda.run(7)
    panda.rewind("here")
    panda.set(momentum=0.5)
    panda.run(6)
    panda.stop()
    return panda.wait()


# ----------------------------------------------------------------------------- schedules


def assert_follows(schedule, panda):
    """The schedule, built anew from its configuration, gives the value of every step."""
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    given = [again(tf.constant(step, tf.int64)).numpy() for step in range(panda.step)]
    np.testing.assert_array_equal(given, panda.history["learning_rate"].astype("float32"))


def test_the_learning_rate_becomes_a_schedule_with_the_value_of_every_step(steered):
    found = steered.schedules()
    assert_follows(found["learning_rate"], steered)
    assert list(found) == ["learning_rate", "batch_size", "momentum"]


def test_other_hyperparameters_become_lists_of_where_they_change(steered):
    found = steered.schedules()
    assert found["batch_size"] == [(0, 32), (3, 20)]
    assert found["momentum"] == [(0, 0.9), (7, 0.5)]
    for name in ("batch_size", "momentum"):
        steps, values = zip(*found[name], strict=True)
        place = np.searchsorted(steps, np.arange(steered.step), side="right") - 1
        np.testing.assert_array_equal(np.array(values)[place], steered.history[name])


def test_a_schedule_is_given_back_while_it_was_followed_and_step_by_step_once_it_was_taken_over(tmp_path):
    rate = keras.optimizers.schedules.CosineDecay(0.1, 30)
    panda = resting(tmp_path, keras.optimizers.SGD(rate))
    panda.run(4)
    assert panda.schedules()["learning_rate"] is rate
    panda.set(learning_rate=0.03)
    panda.run(3)
    panda.set(learning_rate=0.01, over=4)
    panda.run(5)
    panda.set(learning_rate="schedule")
    panda.run(4)
    assert_follows(panda.schedules()["learning_rate"], panda)


def test_before_the_first_fit_there_is_nothing_to_export(tmp_path):
    panda = babysit.Panda(demos.dense_network(seed=3), tmp_path / "run")
    assert panda.schedules() == {}
    with pytest.raises(ValueError, match="`fit`"):
        panda.export_script(tmp_path / "again.py")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# --------------------------------------------------------------------------- the logbook


def test_the_logbook_says_what_was_changed_and_why_with_the_loss_around_it(steered, tmp_path):
    steered.export_logbook(tmp_path / "logbook.md")
    lines = (tmp_path / "logbook.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ")][2:]
    assert len(rows) == len(steered.journal)
    row = next(row for row in rows if "momentum 0.9 → 0.5" in row)
    losses = steered.history["loss"]
    assert f"| {losses[3:7].mean():.4g} (4 steps) | {losses[7:].mean():.4g} (6 steps) |" in row
    assert row.startswith("| 7 | branch 2 | ")


def test_an_entry_of_another_branch_has_the_loss_of_that_branch(steered, tmp_path):
    steered.export_logbook(tmp_path / "logbook.md")
    row = next(line for line in (tmp_path / "logbook.md").read_text().splitlines() if "in 5 steps" in line)
    abandoned = steered.history.along("branch 1")["loss"]
    assert len(abandoned) == 14
    assert f"{abandoned[3:7].mean():.4g} (4 steps) | {abandoned[7:].mean():.4g} (7 steps) |" in row


def log_of(*rows):
    """A log with these rows: steps by their losses, events by what they are; learning rates are set where they say."""
    log = RunLog()
    log.add("branch 1", 0, Fit({"learning_rate": 0.1}, spec=FitSpec("", 9, 1)))
    for row in rows:
        if isinstance(row, np.ndarray):
            log.add_steps("branch 1", Steps(0, "", log.tip("branch 1") + 1, {"loss": row}))
        else:
            payload, about = row
            log.add("branch 1", log.tip("branch 1"), payload, **about)
    return log


def rate(old, new):
    return Set({"learning_rate": (old, new)})


def rows_of(log, start):
    return [line for line in logbook("a run", log, "branch 1").splitlines() if line.startswith(start)]


def test_a_reason_given_later_is_written_with_the_change_as_does_the_loss_up_to_the_next_one():
    losses = np.arange(1.0, 13.0)
    later = (Note(about=3), {"why": "it crawled"}), (Note(), {"why": "on the way at step 4: lunch"})
    first, second = (rate(0.1, 0.02), {"why": "try"}), (rate(0.02, 0.01), {})
    rows = rows_of(log_of(losses[:4], first, *later, losses[4:7], second, losses[7:]), "| 4 |")
    assert "| try; it crawled | script |" in rows[0]
    assert f"| {losses[:4].mean():.4g} (4 steps) | {losses[4:7].mean():.4g} (3 steps) |" in rows[0]
    assert "| on the way at step 4: lunch |" in rows[2]


def test_what_a_callback_changes_at_each_step_is_a_line_until_a_reason_is_given():
    rows = []
    for step in range(9):
        rows += [(rate(step / 1000, (step + 1) / 1000), {"author": "WarmUp"}), np.ones(1)]
        rows += [(Note(about=2 + 2 * step), {"why": "far enough"})] if step == 5 else []
    told = [[cell.strip() for cell in row.split("|")] for row in rows_of(log_of(*rows), "|") if "| WarmUp |" in row]
    assert [(cells[1], cells[3].partition(" (")[0], cells[4]) for cells in told] == [
        ("0", "learning rate 0 → 0.005 in 5 steps", ""),
        ("5", "learning rate 0.005 → 0.006", "far enough"),
        ("6", "learning rate 0.006 → 0.009 in 3 steps", ""),
    ]


def test_it_compares_200_steps_before_and_after():
    losses = np.random.default_rng(0).normal(size=500)
    (row,) = rows_of(log_of(losses[:250], (rate(0.1, 0.01), {}), losses[250:]), "| 250 |")
    assert f"| {losses[50:250].mean():.4g} | {losses[250:450].mean():.4g} |" in row


def test_whatever_a_reason_holds_it_stays_in_its_cell(steered, tmp_path):
    steered.export_logbook(tmp_path / "logbook.md")
    (row,) = [line for line in (tmp_path / "logbook.md").read_text().split("\n") if "SystemExit" in line]
    assert row.count(" | ") == 6
    assert "\\<b\\>%s\\</b\\> \\`x\\` \\# import os" in row


def test_an_unknown_branch_has_no_history(steered):
    with pytest.raises(KeyError, match="branch 1, branch 2"):
        steered.history.along("branch 9")


# ----------------------------------------------------------------------------- the tables


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_number_of_the_history_comes_back_from_csv(steered, tmp_path):
    steered.history.to_csv(tmp_path / "history.csv")
    rows = read(tmp_path / "history.csv")
    assert list(rows[0]) == steered.history.columns
    for name in steered.history.columns:
        np.testing.assert_array_equal([float(row[name]) for row in rows], steered.history[name])


def test_the_journal_in_csv_has_a_row_for_each_hyperparameter_changed(steered, tmp_path):
    steered.journal.to_csv(tmp_path / "journal.csv")
    rows = read(tmp_path / "journal.csv")
    assert len(rows) == sum(max(1, len(entry.changes)) for entry in steered.journal)
    changed = [row for row in rows if row["why"] == WICKED]
    assert [(row["step"], row["hyperparameter"], float(row["old"]), float(row["new"])) for row in changed] == [
        ("3", "learning_rate", 0.01, 0.1),
        ("3", "batch_size", 32, 20),
    ]
    assert {row["branch"] for row in rows} == {"branch 1", "branch 2"}


# --------------------------------------------------------------------- the program's text


def constants(path):
    tree = ast.parse(path.read_text())
    simple = [node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)]
    return {node.targets[0].id: ast.literal_eval(node.value) for node in simple if node.targets[0].id != "MODEL"}


def test_the_program_is_a_table_of_segments_with_the_reasons_as_data(steered, tmp_path):
    steered.export_script(tmp_path / "again.py")
    start, changed, rewound = constants(tmp_path / "again.py")["SEGMENTS"]
    first = {"shuffle": True, "static": 32, "learning_rate": 0.01, "momentum": 0.9}
    assert start == (0, 0, 3, 32, first, "")
    assert changed == (0, 96, 4, 20, {"static": None, "learning_rate": 0.1}, WICKED)
    assert rewound[:5] == (1, 0, 6, 20, {"momentum": 0.5})
    assert "babysit" not in (tmp_path / "again.py").read_text()


FACTS = {"is_stream": False, "is_dense": True, "static_size": 4}


def begun(**how):
    """A run of the NumPy trainer, of which six steps are done."""
    one = Session(NumpyTrainer(), RunLog(), MemoryStore())
    one.fit(plan(**{"facts": FACTS, **how}))
    one.begin()
    while one.position.step < 6:
        one.advance(6)
    return one


def other_data(one):
    one.finish(stopped=True)
    one.fit(plan(source=Source(fingerprint="others"), facts=FACTS))


REFUSED = [
    ({}, other_data, "after step 6 it went on with other data"),
    ({}, lambda one: one.emit(Edit(one.values)), "after step 6 the model was compiled anew"),
    ({}, lambda one: one.set({"momentum": 0.0}), "`momentum` reached or left 0"),
    ({}, lambda one: one.emit(EpochEnd(1, seeds=[[3]])), "drew random numbers"),
    ({"facts": FACTS | {"is_dense": False}}, None, "sparse or ragged"),
    ({"source": Source(shuffle="batch")}, None, 'shuffle="batch"'),
]


@pytest.mark.parametrize("how, act, words", REFUSED, ids=[words for _, _, words in REFUSED])
def test_what_a_plain_program_cannot_do_is_refused_with_the_reason(how, act, words):
    one = begun(**how)
    if act is not None:
        assert Fold(one, True).segments[-1].steps == 6
        act(one)
    with pytest.raises(ValueError, match=words):
        Fold(one, True)


def test_several_optimizers_cannot_be_exported(tmp_path):
    model = SimpleNamespace(optimizer="one")
    trained = SimpleNamespace(model=model, optimizers={"": "one", "discriminator": "another"})
    with pytest.raises(ValueError, match="other optimizers than `model.optimizer` alone"):
        script.write(None, trained, None, tmp_path / "again.py")
    assert list(tmp_path.iterdir()) == []
