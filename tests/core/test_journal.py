"""The journal: events as a person reads them."""

import threading
import time
from collections.abc import Sequence

import pytest

from babysit.core import events
from babysit.core.events import ROOT, Branch, EpochEnd, Note, NotFinite, Saved, Set, from_row, to_row
from babysit.core.journal import Entry, Journal, entry_of
from babysit.core.runlog import RunLog
from babysit.core.words import describe, together

MOMENTUM = Set({"momentum": (0.9, 0.95)})


@pytest.fixture
def log():
    return RunLog()


def entry(action="set", changes=None, why="", step=10):
    return Entry(step=step, time=0.0, author="script", action=action, changes=changes or {}, why=why)


def test_what_is_done_is_an_entry(log):
    before = time.time()
    done = entry_of(log.add(ROOT, 3, MOMENTUM, why="flat", command="c1"))
    assert before <= done.time <= time.time()
    assert done.changes == {"momentum": (0.9, 0.95)}
    assert (done.step, done.author, done.action, done.why, done.command) == (3, "script", "set", "flat", "c1")
    assert Journal(log)[0] == Journal(log)[-1] == done


def test_it_is_a_sequence_oldest_first(log):
    for step in (5, 2, 7):
        log.add(ROOT, step, Note())
        log.add(ROOT, step, EpochEnd())  # which is none
    assert isinstance(Journal(log), Sequence)
    assert len(Journal(log)) == 3
    assert [e.step for e in Journal(log)] == [5, 2, 7]
    assert [e.step for e in Journal(log)[1:]] == [2, 7]
    assert [e.step for e in reversed(Journal(log))] == [7, 2, 5]
    with pytest.raises(IndexError):
        Journal(log)[3]


def test_it_cannot_be_written_to_by_its_readers(log):
    log.add(ROOT, 1, Note())
    with pytest.raises(TypeError):
        Journal(log)[0] = None
    with pytest.raises(AttributeError):
        Journal(log)[0].why = "otherwise"


def test_all_branches_are_in_it(log):
    log.add(ROOT, 1, Note())
    log.add("branch 2", 1, Branch(ROOT, 1, 4))
    assert [e.branch for e in Journal(log)] == [ROOT, "branch 2"]


def test_words_of_any_language_come_back(log):
    why = "“plat” — β₁ trop grand, 学習率, \n second line, \x00"
    again = from_row(to_row(log.add(ROOT, 1, MOMENTUM, why=why)))
    assert entry_of(again).why == why
    assert entry_of(again).changes == {"momentum": (0.9, 0.95)}


def test_it_is_read_while_another_thread_writes(log):
    thread = threading.Thread(target=lambda: [log.add(ROOT, step, Note()) for step in range(2000)])
    thread.start()
    while thread.is_alive():
        steps = [e.step for e in Journal(log)]
        assert steps == list(range(len(steps)))
    assert len(Journal(log)) == 2000


# ------------------------------------------------------------------------- what entries say


@pytest.mark.parametrize(
    "payload, action, why",
    [
        (Saved("000001", "good"), "save", "good"),
        (Saved("000001", "good", renamed=5), "note", "the checkpoint of step 5 is named “good”"),
        (NotFinite("nan"), "nan", "the loss of step 7 is nan"),
        (events.Refused("it cannot be"), "refuse", "it cannot be"),
        (events.Failed("OSError: full"), "fail", "OSError: full"),
        (events.Finished(3, 9), "finish", "in epoch 3 of 9"),
        (events.Finished(9, 9), "finish", ""),
        (events.Edit(what="weights changed"), "edit", "weights changed"),
        (events.Fit(remarks=("One.", "Two.")), "fit", "One. Two."),
        (Set({"batch_size": (64, 32)}, refusal="too large"), "refuse", "too large"),
    ],
)
def test_each_kind_of_event_gives_its_reason(log, payload, action, why):
    found = entry_of(log.add(ROOT, 7, payload))
    assert (found.action, found.why, found.step) == (action, why, 7)


def test_a_change_that_acts_later_is_of_that_step(log):
    assert entry_of(log.add(ROOT, 5, Set({"batch_size": (16, 32)}, acts_at=8))).step == 8


def test_a_rewind_says_where_it_went_and_what_came_of_it(log):
    pair = {"momentum": (0.9, 0.5)}
    place = entry_of(log.add("branch 2", 1200, Branch(ROOT, 1, 4000, restored=pair)))
    assert (place.changes, place.why) == (pair, "to step 1,200, from step 4,000")
    how = Branch(ROOT, 1, 9, name="good", keep=pair, skip=64, differs=3, reason="it was lost")
    assert entry_of(log.add("branch 3", 5, how)).why == (
        "to “good”, from step 9, hyperparameters kept, 64 examples skipped, "
        "the steps taken again differ from step 3 on: it was lost"
    )


def test_a_note_about_a_change_is_read_with_it(log):
    change = log.add(ROOT, 7, MOMENTUM)
    log.add(ROOT, 9, Note(about=change.seq), why="too slow")
    assert Journal(log)[-1].why == "on momentum 0.9 → 0.95 at step 7: too slow"


@pytest.mark.parametrize(
    "told, words",
    [
        (
            entry(changes={"learning_rate": (0.02, 0.004)}, why="let it settle"),
            "learning rate 0.02 → 0.004 — let it settle",
        ),
        (entry(changes={"beta_2": (0.999, 0.9995)}), "beta 2 0.999 → 0.9995"),
        (
            entry(changes={"learning_rate": (3e-5, 1e-3), "batch_size": (32, 128)}),
            "learning rate 3e-05 → 0.001, batch size 32 → 128",
        ),
        (entry("note", why="coffee"), "note — coffee"),
        (entry("pause"), "paused"),
    ],
)
def test_an_entry_is_a_line_of_words(told, words):
    assert describe(told) == words


def test_what_was_set_to_the_value_it_had_is_described_only_where_nothing_else_was():
    same = {"batch_size": (32, 32)}
    assert describe(entry(changes={"momentum": (0.9, 0.5), **same})) == "momentum 0.9 → 0.5"
    assert describe(entry(changes=same)) == "batch size 32 → 32"


def test_the_beginning_of_a_training_is_described_without_old_values():
    words = describe(entry("fit", {"learning_rate": (None, 0.01), "batch_size": (None, 32)}))
    assert words == "training begins: learning rate 0.01, batch size 32"
    assert describe(entry("fit")) == "training begins"


@pytest.mark.parametrize("value", [128, 1797, 12345, 65536, 1_000_000])
def test_a_whole_number_is_written_exactly(value):
    assert describe(entry(changes={"batch_size": (32, value)})) == f"batch size 32 → {value:,}"


@pytest.mark.parametrize("action", sorted(events.KINDS.keys() - {"set", "epoch end"}))
def test_every_action_has_words_and_its_reason(action):
    words = describe(entry(action, why="because"))
    assert words.endswith(" — because")
    assert len(words) > len(" — because")


def test_the_journal_shows_itself_with_steps_and_words(log):
    assert repr(Journal(log)) == "nothing yet"
    log.add(ROOT, 1234, MOMENTUM, why="flat")
    assert "1,234" in repr(Journal(log))
    assert "momentum 0.9 → 0.95 — flat" in repr(Journal(log))


def test_what_a_callback_changes_at_each_step_is_read_as_one(log):
    def change(step, old, new, author="WarmUp", branch=ROOT, name="learning_rate", **about):
        return log.add(branch, step, Set({name: (old, new)}), author=author, **about)

    for step in range(4):
        change(step, step / 10, (step + 1) / 10)
    change(4, 0.4, 0.5, why="a reason")
    change(6, 0.5, 0.6)  # a step was left out
    change(7, 0.6, 0.7, author="Other")
    change(8, 0.7, 0.8, branch="branch 2", author="Other")
    change(9, 0.8, 0.9, branch="branch 2", author="Other", name="momentum")
    change(10, 0.8, 0.9, author="script")
    change(11, 0.9, 1.0, author="script")  # a user means each of them
    told = [(one.step, one.over, *one.changes.values(), one.author) for one in together(Journal(log))]
    assert told == [
        (0, 4, (0.0, 0.4), "WarmUp"),
        (4, 1, (0.4, 0.5), "WarmUp"),
        (6, 1, (0.5, 0.6), "WarmUp"),
        (7, 1, (0.6, 0.7), "Other"),
        (8, 1, (0.7, 0.8), "Other"),
        (9, 1, (0.8, 0.9), "Other"),
        (10, 1, (0.8, 0.9), "script"),
        (11, 1, (0.9, 1.0), "script"),
    ]
    assert "learning rate 0 → 0.4 in 4 steps (by WarmUp)" in repr(Journal(log)).splitlines()[0]
    assert len(Journal(log)) == 11
    assert list(together([])) == []
