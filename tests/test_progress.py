"""What a terminal shows while a script waits."""

import re

import babysit
from babysit import demos

(X, Y), VALIDATION = demos.digits()
X, Y = X[:160], Y[:160]


def panda_with(tmp_path, verbose, **how):
    how = {"epochs": 3, "verbose": verbose, **how}
    return babysit.Panda(demos.dense_network(seed=3), tmp_path / "run").fit(X, Y, **how)


def test_a_bar_shows_epoch_step_and_loss_and_ends_full(tmp_path, capsys):
    panda = panda_with(tmp_path, 1).wait()
    printed = capsys.readouterr()
    last = re.split(r"[\r\n]+", printed.err.strip())[-1]
    assert last.startswith("epoch 3/3 100%|")
    assert last.endswith(f"step 15, loss {panda.history['loss'][-1]:.4g}")
    assert printed.out == ""


def test_two_means_a_line_an_epoch_with_everything_measured(tmp_path, capsys):
    panda = panda_with(tmp_path, 2, validation_data=VALIDATION).wait()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("Epoch 2/3 - ")
    for name, values in panda.history.epochs.items():
        assert f"{name}: {values[1]:.4f}" in lines[1]


def test_nothing_is_shown_where_there_is_no_terminal_or_nobody_wants_it(tmp_path, capsys):
    panda_with(tmp_path / "quiet", 0).wait()
    panda_with(tmp_path / "auto", "auto").wait()
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""


def test_a_bar_ends_where_the_time_does(tmp_path, capsys):
    panda = panda_with(tmp_path, 1, epochs=10**6)
    try:
        panda.wait(timeout=0.3)
    except TimeoutError as error:
        assert "still running" in str(error)
    else:
        raise AssertionError("it cannot have finished")
    panda.stop()
    panda.wait(60)
