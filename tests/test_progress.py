"""What a terminal shows while a script waits."""

import re

import pytest

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


def told(capsys):
    """The numbers of the epochs told since it was asked last."""
    return [int(re.match(r"Epoch (\d+)/", line)[1]) for line in capsys.readouterr().out.splitlines()]


def test_each_line_tells_of_its_own_epoch_where_not_all_are_validated(tmp_path, capsys):
    panda = panda_with(tmp_path, 2, epochs=4, validation_data=VALIDATION, validation_freq=2).wait()
    lines = capsys.readouterr().out.splitlines()
    losses = panda.history.history["val_loss"]
    assert ["val_loss" in line for line in lines] == [False, True, False, True]
    assert [f"val_loss: {loss:.4f}" in line for loss, line in zip(losses, lines[1::2], strict=True)] == [True, True]


def test_no_epoch_is_told_twice_but_where_it_was_trained_anew(tmp_path, capsys):
    panda = panda_with(tmp_path, 2).wait().wait()
    assert told(capsys) == [1, 2, 3]
    panda.fit(X, Y, epochs=2, verbose=2).wait()
    assert told(capsys) == [4, 5]
    panda.rewind(0)
    panda.run(10)
    panda.stop()
    panda.wait()
    assert told(capsys) == [1, 2]
    loaded = babysit.Panda.load(panda.directory)
    loaded.fit(X, Y, epochs=3, verbose=2).wait()
    assert told(capsys) == [3]


@pytest.mark.parametrize("verbose", [True, False, 0, 1, 2, "auto"])
def test_verbose_may_be_what_keras_takes(tmp_path, verbose):
    assert panda_with(tmp_path, verbose, epochs=1).wait().state == "finished"


@pytest.mark.parametrize("verbose", ["foo", 3, None])
def test_any_other_verbose_is_refused_at_once(tmp_path, verbose):
    panda = babysit.Panda(demos.dense_network(seed=3), tmp_path / "run")
    with pytest.raises(ValueError, match=f"`verbose` must be .*Received: verbose={verbose!r}"):
        panda.fit(X, Y, verbose=verbose)
    assert panda.state == "idle"
