import threading
import time
from collections.abc import Sequence

import pytest
from babysit.session.journal import Journal, entry_from_row, together
from babysit.store.record import Record

from babysit import Entry
from babysit.core.words import describe

ABOUT = {"author": "script", "branch": "branch 1"}


@pytest.fixture
def journal(record):
    return Journal(record)


def entry(action="set", changes=None, why="", step=10):
    return Entry(step=step, time=0.0, author="script", action=action, changes=changes or {}, why=why)


def test_what_is_appended_is_returned_and_read_back(journal):
    before = time.time()
    appended = journal.append(
        step=3, action="set", changes={"momentum": (0.9, 0.95)}, why="flat", command="c1", **ABOUT
    )
    assert before <= appended.time <= time.time()
    assert appended.changes == {"momentum": (0.9, 0.95)}
    assert (appended.step, appended.author, appended.why) == (3, "script", "flat")
    assert journal[0] == journal[-1] == appended


def test_it_is_a_sequence_oldest_first(journal):
    for step in (5, 2, 7):
        journal.append(step=step, action="note", **ABOUT)
    assert isinstance(journal, Sequence)
    assert len(journal) == 3
    assert [e.step for e in journal] == [5, 2, 7]
    assert [e.step for e in journal[1:]] == [2, 7]
    assert [e.step for e in reversed(journal)] == [7, 2, 5]
    with pytest.raises(IndexError):
        journal[3]


def test_to_go_through_it_reads_it_once(journal, record, monkeypatch):
    for step in range(5):
        journal.append(step=step, action="note", **ABOUT)
    asked = []
    monkeypatch.setattr(record, "rows", lambda *about, rows=record.rows: asked.append(about) or rows(*about))
    assert [e.step for e in journal] == list(range(5))
    assert [e.step for e in reversed(journal)] == list(range(5))[::-1]
    assert len(asked) == 2


def test_it_cannot_be_written_to_by_its_readers(journal):
    journal.append(step=1, action="note", **ABOUT)
    with pytest.raises(TypeError):
        journal[0] = None
    with pytest.raises(AttributeError):
        journal[0].why = "otherwise"


def test_a_change_comes_back_as_a_pair_with_none_for_what_was_not(journal):
    journal.append(step=0, action="fit", changes={"batch_size": (None, 32)}, **ABOUT)
    assert journal[0].changes == {"batch_size": (None, 32)}


def test_all_branches_are_told(journal):
    for branch in ("branch 1", "branch 2"):
        journal.append(step=1, action="note", author="script", branch=branch)
    assert [e.branch for e in journal] == ["branch 1", "branch 2"]


def test_words_of_any_language_come_back(journal):
    why = "“plat” — β₁ trop grand, 学習率, \n second line, \x00"
    journal.append(step=1, action="note", why=why, **ABOUT)
    assert journal[0].why == why


def test_it_survives_reopening(tmp_path):
    record = Record(tmp_path / "run.sqlite")
    kept = Journal(record).append(step=1, action="set", changes={"momentum": (0.9, 0.5)}, **ABOUT)
    record.close()
    record = Record(tmp_path / "run.sqlite")
    assert list(Journal(record)) == [kept]
    record.close()


def test_entries_of_many_threads_are_all_kept(journal):
    def append_many():
        for step in range(50):
            journal.append(step=step, action="note", **ABOUT)

    threads = [threading.Thread(target=append_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(journal) == 200


def test_a_row_of_the_record_is_an_entry(journal, record):
    appended = journal.append(step=1, action="set", changes={"momentum": (0.9, 0.5)}, **ABOUT)
    assert entry_from_row(record.rows("entries")[0]) == appended


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
def test_an_entry_is_told_in_a_line_of_words(told, words):
    assert describe(told) == words


def test_the_beginning_of_a_training_is_told_without_old_values():
    words = describe(entry("fit", {"learning_rate": (None, 0.01), "batch_size": (None, 32)}))
    assert words.endswith("learning rate 0.01, batch size 32")
    assert "None" not in words
    assert "→" not in words
    assert describe(entry("fit")) == "training begins"


@pytest.mark.parametrize("value", [128, 1797, 12345, 65536, 1_000_000])
def test_a_whole_number_is_told_exactly(value):
    assert describe(entry(changes={"batch_size": (32, value)})) == f"batch size 32 → {value:,}"


@pytest.mark.parametrize(
    "action",
    ["fit", "pause", "resume", "save", "rewind", "edit", "note", "refuse", "nan", "finish", "stop", "fail"],
)
def test_every_action_has_words_and_its_reason(action):
    words = describe(entry(action, why="because"))
    assert words.endswith(" — because")
    assert len(words) > len(" — because")


def test_the_journal_shows_itself_with_steps_and_words(journal):
    assert repr(journal) == "nothing yet"
    journal.append(step=1234, action="set", changes={"momentum": (0.9, 0.95)}, why="flat", **ABOUT)
    assert "1,234" in repr(journal)
    assert "momentum 0.9 → 0.95 — flat" in repr(journal)


def test_what_a_callback_changes_at_each_step_is_told_as_one(journal):
    def change(step, old, new, author="WarmUp", **fields):
        about = {"author": author, "branch": "branch 1", "action": "set", **fields}
        return journal.append(step=step, changes={"learning_rate": (old, new)}, **about)

    for step in range(4):
        change(step, step / 10, (step + 1) / 10)
    change(4, 0.4, 0.5, why="a reason")
    change(6, 0.5, 0.6)  # a step was left out
    change(7, 0.6, 0.7, author="Other")
    change(8, 0.7, 0.8, branch="branch 2", author="Other")
    journal.append(step=9, author="Other", branch="branch 2", action="set", changes={"momentum": (0.8, 0.9)})
    change(10, 0.8, 0.9, author="script")
    change(11, 0.9, 1.0, author="script")  # whoever does it by hand means each
    told = [(one.step, one.over, *one.changes.values(), one.author) for one in together(journal)]
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
    assert "learning rate 0 → 0.4 in 4 steps (by WarmUp)" in repr(journal).splitlines()[0]
    assert len(journal) == 11
    assert list(together([])) == []


def test_whatever_a_command_brings_the_journal_can_be_read(journal):
    journal.append(step=1, action="note", why=5, author=7, changes=3, over="often", branch="branch 1")
    journal.append(step=2, action="note", changes={"momentum": 0.5, "epsilon": (None, None)}, **ABOUT)
    assert [(e.why, e.author, e.over) for e in journal] == [("5", "7", 1), ("", "script", 1)]
    assert [e.changes for e in journal] == [{}, {"epsilon": (None, None)}]
    assert repr(journal).splitlines() == ["       1  note — 5 (by 7)", "       2  note epsilon None"]


def test_a_row_of_an_older_record_is_an_entry_whatever_it_holds(journal, record):
    journal.append(step=1, action="note", **ABOUT)
    row = record.rows("entries")[0] | {"why": 5, "changes": 3}
    assert (entry_from_row(row).why, entry_from_row(row).changes) == ("5", {})


def test_what_an_older_record_holds_can_be_described():
    assert describe(entry("note", why=5)) == "note — 5"
    assert describe(entry(changes={"momentum": (0.9, [1])})) == "momentum 0.9 → [1]"
