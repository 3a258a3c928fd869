"""One run, driven synchronously by a trainer of NumPy: whatever is done to it, every step can be returned to."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babysit.core.events import Branch, from_row, to_row
from babysit.core.runlog import RunLog, Steps
from babysit.session import commands
from babysit.session.loop import train
from babysit.session.replay import compare_run
from babysit.session.rewind import load, rewind
from babysit.session.session import Session
from tests.session.numpy_trainer import Callbacks, MemoryStore, NumpyTrainer, Source, plan


def session(accumulate=1, blocks=0, **how):
    one = recorded(NumpyTrainer(3, accumulate, np.random.default_rng(blocks)))
    one.fit(plan(**how))
    one.begin()
    return one


def recorded(trainer, log=None, store=None, rows=()):
    """A session with the rows of its log, as they come to be on disk."""
    one = Session(trainer, log or RunLog(), store or MemoryStore())
    one.rows = list(rows)
    one.log.on_append = one.rows.append
    return one


def run(one, steps):
    until = one.position.step + steps
    while one.position.step < until and not one.finished:
        one.advance(until)


def digest(one):
    return one.trainer.capture().digest()


def reloaded(one, cut=None, rng=None, blocks=9, **how):
    """The run as another process finds it: the rows up to a cut, and the checkpoints written by then."""
    log, store, rows = RunLog(), MemoryStore(), one.rows[:cut]
    for row in rows:
        log.append(row if isinstance(row, Steps) else from_row(to_row(row)))
    store.kept = [kept for kept in one.store.kept if kept.event <= log.seq and kept.step <= log.tip(kept.branch)]
    if rng is not None:
        store.forget(rng)
    again = recorded(NumpyTrainer(3, one.trainer.accumulate, np.random.default_rng(blocks)), log, store, rows)
    newest = [one for one in store.candidates() if one.branch == again.branch] or store.candidates()
    again.trainer.restore(newest[-1].load())
    again.fit(plan(completes=True, **how))
    again.begin()
    return again


VALUES = {
    "learning_rate": st.sampled_from([0.001, 0.01, 0.05]),
    "momentum": st.sampled_from([0.0, 0.5, 0.9]),
    "batch_size": st.integers(1, 23),
}
COMMANDS = st.one_of(
    st.tuples(st.just("run"), st.integers(1, 12)),
    st.tuples(st.just("set"), st.fixed_dictionaries({}, optional=VALUES).filter(bool), st.sampled_from([1, 1, 4])),
    st.tuples(st.just("scaling"), st.sampled_from(["off", "linear"])),
    st.tuples(st.just("rewind"), st.floats(0, 1), st.sampled_from(["checkpoint", "keep"]), st.integers(0, 2)),
    st.tuples(st.just("save")),
    st.tuples(st.just("fail"), st.integers(1, 5)),
    st.tuples(st.just("edit")),
    st.tuples(st.just("forget")),
    st.tuples(st.just("kill"), st.floats(0, 1)),
    st.tuples(st.just("fit"), st.sampled_from([4, 7])),
)


def obey(one, command, rng):
    """Obeys a command; returns the session that goes on."""
    name, *about = command
    if name == "run":
        run(one, about[0])
    elif name in ("set", "scaling"):
        changes, over = ({"scaling": about[0]}, 1) if name == "scaling" else about
        try:
            one.set(changes, over)
        except ValueError:  # out of bounds by a coupling, or a ramp where gradients are accumulated
            assert "scaling" in one.controls.scaling or one.controls.scaling != "off" or one.trainer.accumulates
    elif name == "rewind":
        place, how, skip = about
        names = list(one.log.branches)
        branch = names[int(place * (len(names) - 1))]
        try:
            rewind(one, {}, step=int(place * one.log.tip(branch)), branch=branch, hyperparameters=how, skip=skip)
        except ValueError as error:
            assert "edited" in str(error) or "`skip`" in str(error)
    elif name == "save":
        commands.save(one, {})
    elif name == "fail":
        one.trainer.fail_at = one.position.step + about[0]
        before = one.position.step
        try:
            run(one, about[0])
        except RuntimeError:
            assert before <= one.position.step < before + about[0]
        one.trainer.fail_at = None
    elif name == "edit":
        one.watch()
        one.trainer.weights = one.trainer.weights + 0.125
        one.find_external_changes("script")
    elif name == "forget":
        one.store.forget(rng)
    elif name == "kill":
        return reloaded(one, rng=rng if about[0] < 0.5 else None)
    else:
        one.finish(stopped=True)
        one.fit(plan(source=Source(batch_size=about[0])))
        one.begin()
    return one


@given(st.lists(COMMANDS, min_size=1, max_size=14), st.sampled_from([1, 3]))
@settings(max_examples=200)
def test_every_state_can_be_reached_again_loaded_and_replayed(commands, accumulate):
    one, rng, seen = session(accumulate), np.random.default_rng(1), {}
    for command in [*commands, ("run", 3)]:
        before = digest(one) if command[0] == "kill" else None
        one = obey(one, command, rng)
        assert before in (None, digest(one))
        seen[one.branch, one.position.step] = digest(one)
    tip = digest(one)
    for (branch, step), found in seen.items():
        try:
            rewind(one, {}, step=step, branch=branch)
        except ValueError as error:
            assert "edited" in str(error)
            continue
        assert digest(one) == found
    again = reloaded(one, blocks=5)
    assert digest(again) == tip and not any(
        event.payload.differs for event in one.log.events if isinstance(event.payload, Branch)
    )
    replay = compare_run(one.log, one.store.candidates(), fresh(accumulate))
    assert replay.identical, str(replay)


def fresh(accumulate):
    trainer = NumpyTrainer(3, accumulate, np.random.default_rng(77))
    trainer.prepare(Source(), None, 4, None, None)
    return trainer


@given(st.lists(COMMANDS, min_size=1, max_size=8), st.floats(0, 1), st.sampled_from([1, 3]))
@settings(max_examples=100)
def test_killed_after_any_row_a_run_goes_on_as_if_nothing_had_been(commands, place, accumulate):
    one, rng = session(accumulate), np.random.default_rng(1)
    for command in [*commands, ("run", 5)]:
        one = obey(one, command, rng)
    rows = one.rows
    cut = max(1, int(place * len(rows)))
    again = reloaded(one, cut)
    branch, step = again.branch, again.position.step
    if branch in one.log.branches and len(again.log.branches) <= len(one.log.branches):
        state = digest(again)
        events = [event.seq for event in again.log.events if event.seq <= rows[cut - 1].seq]
        lineage = one.log.lineage(branch, step)
        trainer = fresh(accumulate)
        start = one.store.candidates()[0].load()
        trainer.restore(start)
        along = [event for event in one.log.along(lineage, start.event) if event.seq <= events[-1]]
        if not any(event.payload.opaque for event in along):
            for _ in train(trainer, step, along):
                pass
            assert trainer.capture().digest() == state


def test_untouched_and_steered_runs_do_not_depend_on_the_size_of_blocks():
    digests = set()
    for blocks in range(5):
        one = session(blocks=blocks)
        run(one, 7)
        one.set({"learning_rate": 0.001, "batch_size": 7}, 5)
        run(one, 30)
        digests.add(digest(one))
    assert len(digests) == 1


def test_every_example_once_an_epoch():
    one = session()
    for size in (3, 8, 1, 5, 23):
        one.set({"batch_size": size})
        run(one, 1)
    run(one, 1)
    assert one.position.example <= 23
    ends = one.log.epoch_ends(one.log.lineage(one.branch))
    assert ends[0].step == 5  # 3 + 8 + 1 + 5 + 6 examples


def test_a_batch_size_waits_until_gradients_have_been_applied_and_is_restored_with_a_rewind():
    one = session(accumulate=3)
    run(one, 4)
    event = one.set({"batch_size": 2})
    assert event.payload.acts_at == 6
    at_once = digest(one)
    run(one, 6)
    assert one.log.hyperparameter("batch_size", one.log.lineage(one.branch)).tolist()[:8] == [4, 4, 4, 4, 4, 4, 2, 2]
    rewind(one, {}, step=4)
    assert digest(one) == at_once
    run(one, 2)
    assert one.controls.at(one.position.step)["batch_size"] == 2


def test_what_a_coupling_asks_for_is_refused_at_once_though_the_batch_size_waits_and_nothing_is_half_applied():
    one = session(accumulate=3)
    one.set({"scaling": "linear", "learning_rate": 0.5})
    run(one, 1)
    before = len(one.log.events)
    with pytest.raises(ValueError, match="`learning_rate`"):
        one.set({"scaling": "linear", "batch_size": 20, "momentum": 0.5})
    assert len(one.log.events) == before
    run(one, 5)
    assert one.values == {"learning_rate": 0.5, "batch_size": 4, "momentum": 0.9, "scaling": "linear"}
    one.set({"batch_size": 2})
    one.finish(stopped=True)
    one.fit(plan())  # which has a batch size of its own
    one.begin()
    run(one, 4)
    assert (
        one.values["batch_size"] == 4 and len(one.log.hyperparameter("batch_size", one.log.lineage(one.branch))) == 10
    )


def test_a_failed_step_leaves_the_last_boundary():
    one = session()
    run(one, 9)
    one.set({"momentum": 0.5})
    before = digest(one)
    one.trainer.fail_at = 10
    with pytest.raises(RuntimeError, match="failed"):
        run(one, 5)
    assert (one.position.step, digest(one)) == (9, before)
    run(one, 5)
    twin = session(blocks=4)
    run(twin, 9)
    twin.set({"momentum": 0.5})
    run(twin, 5)
    assert digest(twin) == digest(one)


def test_a_batch_too_large_for_the_memory_is_taken_back():
    one = session()
    run(one, 3)
    one.set({"batch_size": 16}, why="bold")

    def short(trainer):
        raise MemoryError("no room")

    real, one.trainer._one = one.trainer._one, lambda values: short(one) if values["batch_size"] > 8 else real(values)
    run(one, 5)
    assert one.controls.at(8)["batch_size"] == 4
    assert [event.author for event in one.log.events][-1] == "babysit"
    one.set({"batch_size": 16}, over=6)
    with pytest.raises(MemoryError, match="no room"):  # one that grows over several steps is not
        run(one, 9)
    assert (one.position.step, one.controls.at(one.position.step - 1)["batch_size"]) == (11, 8)


def test_what_a_callback_edits_is_kept_and_replayed():
    one = None

    def edit(*place):
        one.trainer.weights = one.trainer.weights * 0.5

    one = Session(NumpyTrainer(3), RunLog(), MemoryStore())
    one.fit(plan(callbacks=Callbacks(on_epoch_end=edit)))
    one.begin()
    run(one, 14)
    tip = digest(one)
    rewind(one, {}, step=13)
    run(one, 1)
    assert digest(one) == tip
    assert compare_run(one.log, one.store.candidates(), fresh(1)).identical


# ------------------------------------------------------------------------------------ rewinds


def reached_again(one, script, steps):
    """Takes steps under a script; the digest at each of them, which a rewind must give again in any order."""
    found = []
    for step in range(steps):
        for act in script.get(step, ()):
            act(one)
        found.append(digest(one))
        run(one, 1)
    for step in np.random.default_rng(0).permutation(steps):
        rewind(one, {}, branch="branch 1")
        rewind(one, {}, step=int(step))
        assert (one.position.step, digest(one)) == (step, found[step])


@pytest.mark.parametrize("how", [{"steps_per_epoch": 4}, {"source": Source(shuffle=False)}, {"initial_epoch": 2}])
@pytest.mark.filterwarnings("ignore:The data ran out")
def test_whatever_an_epoch_is_every_step_can_be_returned_to(how):
    script = {3: [lambda one: one.set({"batch_size": 10})], 7: [lambda one: one.set({"learning_rate": 0.001}, 5)]}
    reached_again(session(**how), script, 15)


def test_an_epoch_that_a_callback_cut_short_is_cut_short_again():
    heard = Callbacks(on_train_batch_end=lambda batch: setattr(heard, "stop_requested", batch == 2))
    heard.every_step, heard.stride = True, 1
    one = session(callbacks=heard)
    run(one, 9)
    assert one.finished and (one.position.step, one.position.epoch) == (3, 1)
    one.finish(stopped=False)
    one.fit(plan())
    one.begin()
    run(one, 3)
    six = digest(one)
    run(one, 3)
    rewind(one, {}, step=6)
    assert (one.position.epoch, digest(one)) == (1, six)


def test_kept_values_are_those_of_the_user_and_come_again():
    one, values = session(), {"learning_rate": 0.2, "batch_size": 20, "momentum": 0.1}
    run(one, 3)
    one.set(values)
    one.set({"scaling": "linear"})
    run(one, 3)
    event = rewind(one, {}, step=2, hyperparameters="keep")
    assert {name: new for name, (_, new) in event.payload.keep.items()} == values | {"scaling": "linear"}
    assert one.values == values | {"scaling": "linear"}
    run(one, 2)
    four = digest(one)
    run(one, 3)
    rewind(one, {}, step=4)
    assert digest(one) == four
    assert rewind(one, {}, step=1).payload.restored["scaling"] == ("linear", "off")


def test_kept_values_wait_together_where_gradients_accumulate():
    one = session(accumulate=4)
    run(one, 2)
    one.set({"learning_rate": 0.2, "batch_size": 2})
    run(one, 2)
    rewind(one, {}, step=2, hyperparameters="keep")
    run(one, 3)
    lineage = one.log.lineage(one.branch)
    assert one.log.hyperparameter("batch_size", lineage).tolist() == [4, 4, 4, 4, 2]
    assert one.log.hyperparameter("learning_rate", lineage).tolist() == [0.05, 0.05, 0.05, 0.05, 0.2]


def test_skipped_batches_are_of_the_size_that_is_kept_and_leave_one_of_the_epoch():
    one = session()
    run(one, 2)
    one.set({"batch_size": 5})
    assert rewind(one, {}, step=1, hyperparameters="keep", skip=2).payload.skip == 10
    run(one, 1)
    assert rewind(one, {}, step=0, skip=2).payload.skip == 8
    for how in ({"step": 0, "skip": 6}, {"step": 0, "skip": -1}, {"step": 0, "hyperparameters": "mine"}, {"step": 1}):
        before = digest(one), one.branch, len(one.log.events)
        with pytest.raises(ValueError):
            rewind(one, {}, **how)
        assert (digest(one), one.branch, len(one.log.events)) == before


def test_through_a_fit_on_other_data_no_way_leads_and_nothing_has_changed():
    one = session()
    for source in (Source(seed=1, fingerprint="others"), None):
        run(one, 2)
        one.finish(stopped=True)
        one.fit(plan(source=source))
        one.begin()
    run(one, 2)
    one.store.kept = [kept for kept in one.store.kept if kept.step == 0]
    before = digest(one), one.branch
    with pytest.raises(ValueError, match="other data"):
        rewind(one, {}, step=5)
    assert (digest(one), one.branch) == before


def test_a_damaged_checkpoint_is_gone_around():
    one = session()
    run(one, 6)
    six = digest(one)

    def damaged():
        raise ValueError("damaged")

    one.store.kept[-1].load = damaged
    rewind(one, {}, step=6)
    assert digest(one) == six


def test_a_run_of_which_no_checkpoint_is_left_begins_anew_on_a_branch_of_its_own():
    old, fresh_one = session(), session(source=Source(batch_size=7))
    run(old, 5)
    one = Session(NumpyTrainer(3), old.log, MemoryStore())
    load(one)
    assert one.log.branches["branch 2"] == ("branch 1", 0, 0) and "no checkpoint" in one.log.events[-1].payload.reason
    one.fit(plan(source=Source(batch_size=7)))
    one.begin()
    for each in (one, fresh_one):
        run(each, 6)
    assert digest(one) == digest(fresh_one)
    with pytest.raises(ValueError, match="no checkpoint"):
        rewind(one, {}, branch="branch 1")
    replay = compare_run(one.log, one.store.candidates(), fresh(1))
    assert replay.identical and replay.steps == 6
    assert replay.remarks == ["Steps 1 to 5 of branch 1 were not taken again: no state before them is kept."]


def test_a_long_run_of_edits_says_what_is_gone_and_which_steps_are_nearest():
    def halve(epoch):
        one.trainer.weights = one.trainer.weights * 0.5

    one = Session(NumpyTrainer(3), RunLog(), MemoryStore())
    one.fit(plan(callbacks=Callbacks(on_epoch_end=halve), source=Source(batch_size=12)))
    one.begin()
    found = [digest(one)]
    for _ in range(30):
        run(one, 1)
        found.append(digest(one))
    one.store.kept = [kept for kept in one.store.kept if kept.step % 8 == 0 and (kept.step == 0 or kept.kept == "edit")]
    for step, expected in {3: [0, 8], 10: [8, 16], 29: [24, 30]}.items():  # the tip is kept when it is left
        with pytest.raises(ValueError, match=f"Step {step} comes after an edit by Callback at step") as refused:
            rewind(one, {}, step=step, branch="branch 1")
        nearest = [int(place) for place in re.findall(r"step (\d+)", str(refused.value).split("can be reached:")[1])]
        assert nearest == expected
        for place in nearest:
            rewind(one, {}, step=place, branch="branch 1")
            assert digest(one) == found[place]
    replay = compare_run(one.log, one.store.candidates(), fresh(1))
    assert replay.identical and replay.steps < 30
    assert "Steps 3 to 8 of branch 1 were not taken again: they come after what was edited by" in replay.remarks[0]
