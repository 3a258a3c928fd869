"""What leaves a run as schedules, logbook and tables, against the history it is made of."""

import ast
import csv
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import babysit
from babysit import demos

(X, Y), _ = demos.digits()
X, Y = X[:160], Y[:160]
WICKED = 'flat?"""\n\'\'\' \\ {0} | <b>%s</b> `x` # import os\r"); raise SystemExit(3)\u2028\x0c'


def resting(folder, optimizer=None, **how):
    model = demos.dense_network(optimizer, seed=3)
    return babysit.Panda(model, folder / "run", seed=7).fit(X, Y, **{"epochs": 4, "paused": True, **how})


@pytest.fixture
def steered(tmp_path):
    panda = resting(tmp_path)
    panda.run(3)
    panda.set(learning_rate=0.1, batch_size=20, why=WICKED)
    panda.run(4)
    panda.save("here")
    panda.set(learning_rate=0.001, over=5)
    panda.run(7)
    panda.rewind("here")
    panda.set(momentum=0.5)
    panda.run(6)
    return panda


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


def test_a_ramp_is_in_the_schedule(tmp_path):
    panda = resting(tmp_path)
    panda.run(2)
    panda.set(learning_rate=0.5, over=9)
    panda.run(12)
    assert len(set(panda.history["learning_rate"])) == 10
    assert_follows(panda.schedules()["learning_rate"], panda)


def test_other_hyperparameters_become_lists_of_where_they_change(steered):
    found = steered.schedules()
    assert found["batch_size"] == [(0, 32), (3, 20)]
    assert found["momentum"] == [(0, 0.9), (7, 0.5)]
    for name in ("batch_size", "momentum"):
        steps, values = zip(*found[name], strict=True)
        place = np.searchsorted(steps, np.arange(steered.step), side="right") - 1
        np.testing.assert_array_equal(np.array(values)[place], steered.history[name])


def test_a_schedule_that_was_followed_throughout_is_given_back(tmp_path):
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 7, 0.9)
    panda = resting(tmp_path, keras.optimizers.SGD(rate))
    panda.run(9)
    assert panda.schedules()["learning_rate"] is rate


def test_a_schedule_that_was_taken_over_is_told_step_by_step(tmp_path):
    panda = resting(tmp_path, keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 30)))
    panda.run(4)
    panda.set(learning_rate=0.03)
    panda.run(3)
    panda.set(learning_rate="schedule")
    panda.run(4)
    assert_follows(panda.schedules()["learning_rate"], panda)


def test_before_the_first_fit_there_is_nothing_to_export(tmp_path):
    panda = babysit.Panda(demos.dense_network(seed=3), tmp_path / "run")
    for ask in (panda.schedules, lambda: panda.export_script(tmp_path / "again.py")):
        with pytest.raises(ValueError, match="`fit`"):
            ask()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# --------------------------------------------------------------------------- the logbook


def test_the_logbook_tells_what_was_changed_and_why_with_the_loss_around_it(steered, tmp_path):
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


def test_a_reason_given_later_stands_with_the_change_as_does_the_loss_up_to_the_next_one(tmp_path):
    panda = resting(tmp_path)
    panda.run(4)
    panda.set(learning_rate=0.02, why="try")
    panda.send({"action": "note", "why": "it crawled", "on_last_change": True})
    panda.note("on the way at step 4: lunch")
    panda.run(3)
    panda.set(learning_rate=0.01)
    panda.run(5)
    panda.export_logbook(tmp_path / "logbook.md")
    rows = [line for line in (tmp_path / "logbook.md").read_text().splitlines() if line.startswith("| 4 |")]
    losses = panda.history["loss"]
    assert "| try; it crawled | script |" in rows[0]
    assert f"| {losses[:4].mean():.4g} (4 steps) | {losses[4:7].mean():.4g} (3 steps) |" in rows[0]
    assert "| on the way at step 4: lunch |" in rows[2]


class WarmUp(keras.callbacks.Callback):
    """Sets the learning rate before each step, each time by 0.001 higher."""

    def on_train_batch_begin(self, batch, logs=None):
        self.model.optimizer.learning_rate = round(float(self.model.optimizer.learning_rate) + 0.001, 3)


def test_what_a_callback_changes_at_each_step_is_a_line_until_a_reason_is_given_and_a_rewind_knows_each(tmp_path):
    panda = resting(tmp_path, keras.optimizers.SGD(0.001), batch_size=16, callbacks=[WarmUp()])
    panda.run(6)
    weights = panda.model.get_weights()
    panda.send({"action": "note", "why": "far enough", "on_last_change": True})
    panda.run(3)
    panda.export_logbook(tmp_path / "logbook.md")
    rows = [line for line in (tmp_path / "logbook.md").read_text().splitlines() if "| WarmUp |" in line]
    told = [[cell.strip() for cell in row.split("|")] for row in rows]
    assert [(cells[1], cells[3].partition(" (")[0], cells[4]) for cells in told] == [
        ("0", "learning rate 0.001 → 0.006 in 5 steps", ""),
        ("5", "learning rate 0.006 → 0.007", "far enough"),
        ("6", "learning rate 0.007 → 0.01 in 3 steps", ""),
    ]
    assert [entry.step for entry in panda.journal if entry.author == "WarmUp"] == list(range(9))
    panda.rewind(6)
    assert all(map(np.array_equal, panda.model.get_weights(), weights))
    assert panda.hyperparameters["learning_rate"].value == pytest.approx(0.008)  # as set before the seventh step


def test_it_compares_200_steps_before_and_after(tmp_path):
    panda = resting(tmp_path, epochs=60, batch_size=16)
    panda.run(250)
    panda.set(learning_rate=0.001)
    panda.run(250)
    panda.export_logbook(tmp_path / "logbook.md")
    losses = panda.history["loss"]
    assert f"| {losses[50:250].mean():.4g} | {losses[250:450].mean():.4g} |" in (tmp_path / "logbook.md").read_text()


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
    first = {"shuffle": True, "static": 32, "trainable": [True] * 7, "learning_rate": 0.01, "momentum": 0.9}
    assert start == (0, 0, 3, 32, first, "")
    assert changed == (0, 96, 4, 20, {"static": None, "learning_rate": 0.1}, WICKED)
    assert rewound[:5] == (1, 0, 6, 20, {"momentum": 0.5})
    assert "babysit" not in (tmp_path / "again.py").read_text()


def test_other_data_in_a_later_fit_cannot_be_exported(tmp_path):
    panda = resting(tmp_path, epochs=1)
    panda.resume()
    panda.wait().fit(X[:96], Y[:96]).wait()
    with pytest.raises(ValueError, match="after step 5 it went on with other data"):
        panda.export_script(tmp_path / "again.py")
    assert not (tmp_path / "again.py").exists()


def test_a_model_compiled_anew_cannot_be_exported(tmp_path):
    panda = resting(tmp_path)
    panda.run(3)
    panda.call(lambda model: model.compile("adam", "sparse_categorical_crossentropy"))
    panda.run(3)
    with pytest.raises(ValueError, match="after step 3 the model was compiled anew"):
        panda.export_script(tmp_path / "again.py")


def test_momentum_that_leaves_0_cannot_be_exported(tmp_path):
    panda = resting(tmp_path, keras.optimizers.SGD(0.05))
    panda.run(3)
    panda.export_script(tmp_path / "again.py")
    panda.set(momentum=0.9)
    with pytest.raises(ValueError, match="after step 3 `momentum` reached or left 0"):
        panda.export_script(tmp_path / "again.py")


def test_several_optimizers_cannot_be_exported(tmp_path):
    rest, special = keras.optimizers.SGD(0.1), {".*/kernel": keras.optimizers.Adam(0.01)}
    panda = resting(tmp_path, keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(rest, special)))
    panda.run(1)
    with pytest.raises(ValueError, match="other optimizers than `model.optimizer` alone"):
        panda.export_script(tmp_path / "again.py")


def test_a_run_on_sparse_data_cannot_be_exported(tmp_path):
    x, y = tf.sparse.from_dense(X[:32].reshape(32, 64)), Y[:32].astype("float32")
    model = keras.Sequential([keras.Input((64,), sparse=True), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    panda = babysit.Panda(model, tmp_path / "run").fit(x, y, batch_size=8, paused=True)
    with pytest.raises(ValueError, match="sparse or ragged"):
        panda.export_script(tmp_path / "again.py")
    assert not (tmp_path / "again.py").exists()


def test_a_program_has_the_name_of_one(steered, tmp_path):
    with pytest.raises(ValueError, match="`path`"):
        steered.export_script(tmp_path / "again")


def test_run_by_itself_it_says_whether_it_came_to_the_same_weights(steered, tmp_path):
    path = tmp_path / "again.py"
    steered.export_script(path)
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    load = '    arrays = np.load(Path(__file__).with_name("data.npz"))\n    return arrays["x"], arrays["y"]\n'
    source = path.read_text().replace('    raise NotImplementedError("Fill in `load_data`.")\n', load)
    path.write_text(source)
    other = tmp_path / "other.py"
    other.write_text(source.replace("'learning_rate': 0.1}", "'learning_rate': 0.11}"))
    done = [subprocess.Popen([sys.executable, str(one)], stdout=subprocess.PIPE, text=True) for one in (path, other)]
    told = [process.communicate()[0] for process in done]
    assert [process.returncode for process in done] == [0, 1]
    assert "the same, bit for bit" in told[0] and "differ" in told[1]
