"""Which checkpoints to delete: recent ones stay dense, old ones become sparse. Pure functions."""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

SPACING = 0.25  # an automatic checkpoint is kept while the gap without it would be this part of its age
MOST_KEPT = 200  # of those kept for a reason: a callback may edit weights every epoch, and listing them takes time


class Retention(IntEnum):
    """When a checkpoint may be deleted: never, for want of room, or for its age too."""

    FOR_EVER = 0
    WITH_ROOM = 1
    BY_AGE = 2


class RetentionItem(NamedTuple):
    """What decides whether a checkpoint is deleted: its branch, its number in the order of all, its size."""

    branch: str
    number: int
    size_bytes: int
    retention: Retention = Retention.BY_AGE


def to_delete(items: Sequence[RetentionItem], room_bytes: int) -> set[int]:
    """The numbers of the checkpoints to delete.

    Args:
        items: All there are, the newest among them.
        room_bytes: What they may take together, as far as those that may be deleted allow.
    """
    kept = list(items)
    while (item := _next(kept, room_bytes)) is not None:
        kept.remove(item)
    return {item.number for item in items} - {item.number for item in kept}


def _next(items: Sequence[RetentionItem], room_bytes: int) -> RetentionItem | None:
    gaps, full = _gaps(items), sum(item.size_bytes for item in items) > room_bytes
    for kind in (Retention.BY_AGE, Retention.WITH_ROOM):
        kept = [item for item in items if item.retention == kind]
        least = min(kept, key=lambda item: (gaps[item.number], item), default=None)
        too_many = len(kept) > MOST_KEPT if kind == Retention.WITH_ROOM else least and gaps[least.number] < SPACING
        if least is not None and (full or too_many):
            return least
    return None


def _gaps(items: Sequence[RetentionItem]) -> dict[int, float]:
    """Number -> the gap that its loss would leave on its branch, as a part of its age."""
    now = max((item.number for item in items), default=0)
    gaps: dict[int, float] = {}
    for branch in {item.branch for item in items}:
        numbers = [0, *sorted(item.number for item in items if item.branch == branch), now + 1]
        for before, number, after in zip(numbers, numbers[1:], numbers[2:], strict=False):
            gaps[number] = (after - before) / max(now - number, 1)
    return gaps
