from babysit.store import retention
from babysit.store.retention import Retention, RetentionItem, to_delete
from tests.store.states import BRANCH


def items(numbers, for_ever=(), kept=()):
    """Items of one byte each, the newest for ever."""
    for_ever = {*for_ever, max(numbers)}
    return [
        RetentionItem(
            BRANCH,
            number,
            1,
            Retention.FOR_EVER if number in for_ever else Retention.WITH_ROOM if number in kept else Retention.BY_AGE,
        )
        for number in numbers
    ]


def left(all_, room_bytes=10**9):
    gone = to_delete(all_, room_bytes)
    return [item.number for item in all_ if item.number not in gone]


def test_recent_ones_stay_dense_and_old_ones_become_sparse_for_their_age():
    kept = []
    for now in range(1, 2001):
        kept = left(items([*kept, now], for_ever=[1]))
    assert kept[0] == 1
    assert kept[-6:] == list(range(1995, 2001))
    assert 30 < len(kept) < 100
    for before, after in zip(kept, kept[1:], strict=False):
        assert after - before <= max(1, 0.5 * (2000 - before))


def test_within_the_room_only_what_age_asks_for_goes():
    assert left(items(range(1, 8)), 7) == list(range(1, 8))
    assert len(left(items(range(1, 8)), 4)) == 4
    assert left(items(range(1, 30), for_ever=[1, 5, 6]), 0) == [1, 5, 6, 29]


def test_each_branch_is_thinned_by_its_own_gaps():
    # Many on one branch, and one alone on another as old as they: it is the last to go.
    crowd = [*items(range(50, 60)), RetentionItem("branch 2", 55, 1), RetentionItem("branch 3", 100, 1)]
    assert to_delete(crowd[:9] + crowd[10:], 3).isdisjoint({100})
    alone = RetentionItem("branch 2", 61, 1)
    assert 61 not in to_delete([*items(range(50, 61)), alone], 3)


def test_kept_ones_go_last_and_only_for_want_of_room_or_where_they_are_many(monkeypatch):
    kept = list(range(1, 30, 2))
    crowd = items(range(1, 31), kept=kept)
    assert set(kept) < set(left(crowd, 30))
    assert left(crowd, 16) == [*kept, 30]
    assert len(left(crowd, 8)) == 8
    monkeypatch.setattr(retention, "MOST_KEPT", 5)
    assert sum(number in kept for number in left(crowd, 30)) == 5
