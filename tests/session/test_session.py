"""One run, driven synchronously by a trainer of NumPy: whatever is done to it, every step can be returned to."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babysit.core.events import Branch, from_row, to_row
from babysit.core.runlog import RunLog, Steps
from babysit.session import commands
from babysit.session.loop import Recorded, train
from babysit.session.replay import compare_run
from babysit.session.rewind import rewind
from babysit.session.session import Session
from tests.session.numpy_trainer import Callbacks, MemoryStore, NumpyTrainer, Source, plan


def session(accumulate=1, seed=0, blocks=0, **how):
    one = Session(NumpyTrainer(3, accumulate, np.random.default_rng(blocks)), RunLog(), MemoryStore())
    one.fit(plan(**how))
    one.begin()
    return one


def run(one, steps):
    until = one.position.step + steps
    while one.position.step < until and not one.finished:
        one.advance(until)


def digest(one):
    return one.trainer.capture().digest()


def reloaded(one, cut=None, rng=None, blocks=9, **how):
    """The run as another process finds it: the rows up to a cut, and the checkpoints written by then."""
    rows = [*one.log.events, *one.log.blocks()]
    log, store = RunLog(), MemoryStore()
    for row in sorted(rows, key=lambda row: row.seq)[:cut]:
        log.append(row if isinstance(row, Steps) else from_row(to_row(row)))
    store.kept = [kept for kept in one.store.kept if kept.event <= log.seq and kept.step <= log.tip(kept.branch)]
    if rng is not None:
        store.forget(rng)
    again = Session(NumpyTrainer(3, one.trainer.accumulate, np.random.default_rng(blocks)), log, store)
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
            rewind(one, step=int(place * one.log.tip(branch)), branch=branch, hyperparameters=how, skip=skip)
        except ValueError as error:
            assert "edited" in str(error) or "`skip`" in str(error)
    elif name == "save":
        commands.save(one)
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
@settings(max_examples=800)
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
            rewind(one, step=step, branch=branch)
        except ValueError as error:
            assert "edited" in str(error)
            continue
        assert digest(one) == found
    again = reloaded(one, blocks=5)
    assert digest(again) == tip and not any(
        event.payload.differs for event in one.log.events if isinstance(event.payload, Branch)
    )
    replay = compare_run(one.log, one.store.candidates(), lambda: fresh(accumulate))
    assert replay.identical, str(replay)


def fresh(accumulate):
    trainer = NumpyTrainer(3, accumulate, np.random.default_rng(77))
    trainer.prepare(Source(), None, 4, None, None)
    return trainer


@given(st.lists(COMMANDS, min_size=1, max_size=8), st.floats(0, 1), st.sampled_from([1, 3]))
@settings(max_examples=400)
def test_killed_after_any_row_a_run_goes_on_as_if_nothing_had_been(commands, place, accumulate):
    one, rng = session(accumulate), np.random.default_rng(1)
    for command in [*commands, ("run", 5)]:
        one = obey(one, command, rng)
    rows = sorted([*one.log.events, *one.log.blocks()], key=lambda row: row.seq)
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
            for _ in train(trainer, Recorded(along), step):
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
    rewind(one, step=4)
    assert digest(one) == at_once
    run(one, 2)
    assert one.controls.at(one.position.step)["batch_size"] == 2


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


def test_what_a_callback_edits_is_kept_and_replayed():
    one = None

    def edit(*place):
        one.trainer.weights = one.trainer.weights * 0.5

    one = Session(NumpyTrainer(3), RunLog(), MemoryStore())
    one.fit(plan(callbacks=Callbacks(on_epoch_end=edit)))
    one.begin()
    run(one, 14)
    tip = digest(one)
    rewind(one, step=13)
    run(one, 1)
    assert digest(one) == tip
    assert compare_run(one.log, one.store.candidates(), lambda: fresh(1)).identical
