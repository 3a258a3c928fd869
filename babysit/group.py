"""Several runs under one set of controls: what is sent goes to each of them.

To a screen they are one run with several logs; each trains at its own pace, in this process or in another, and keeps a
journal of its own.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from babysit.core.journal import Entry
from babysit.core.runlog import RunLog
from babysit.core.words import label, number
from babysit.panda import Panda
from babysit.session.run import Run, Shown

# What goes to those that train, and what goes to all.
_TO_THE_LIVING, _TO_ALL = ("pause", "resume", "run", "finish_epoch", "stop"), ("set", "save", "rewind", "more_epochs")


class Together(Shown):
    """Runs that train at the same time, under one set of sliders.

    ```python
    both = babysit.Together(with_norm, without)  # two pandas, each after its `fit`
    both                                         # last line of a cell: one set of sliders, all losses in one chart
    both.set(learning_rate=0.1)                  # what a slider does
    ```

    The sliders are those that all of the models have. Each run remains what it is: steered
    alone by its own `set` and dashboard, rewound, waited for.

    Args:
        *pandas: Two or more; runs of other processes, as `babysit.attach` gives them, too.
        names: Of each in the chart; those of the models if not given.

    Raises:
        TypeError: If one is no run.
        ValueError: If there are fewer than two, or one is there twice.
    """

    def __init__(self, *pandas: Run, names: Sequence[str] = ()) -> None:
        strange = [type(panda).__name__ for panda in pandas if not isinstance(panda, Run)]
        if strange:
            raise TypeError(f"`pandas` must each be a babysit.Panda or a run. Received: {', '.join(strange)}.")
        if len(set(pandas)) < max(2, len(pandas)):
            raise ValueError(f"`pandas` must be two or more different ones. Received: {pandas!r}.")
        self.pandas = pandas
        models = list(names) or [panda.status()["name"] for panda in pandas]
        alike = len(set(models)) < len(models)
        self.names = [f"{name} {i}" for i, name in enumerate(models, 1)] if alike else models
        self._numbers = itertools.count(1)

    def set(self, *, why: str = "", over: int = 1, **changes: float | str | bool) -> list[Entry]:
        """Changes hyperparameters of all, each from its own next step on; see `Panda.set`.

        Returns:
            An entry for each, of its own journal.

        Raises:
            TypeError: If a value is not a number.
            ValueError: If one of them does not take a value. Nothing was changed then, but where one of another
                process refuses what those before it took.
        """
        for panda in self.pandas:
            if isinstance(panda, Panda):
                panda._session.planned(changes, over)
        return [panda.set(why=why, over=over, **changes) for panda in self.pandas]

    def __repr__(self) -> str:
        return f"<Together {', '.join(map(repr, self.pandas))}>"

    # ------------------------------------------- the seam between run and screen

    def send(self, command: Mapping[str, Any]) -> str:
        """Hands a command over to each; returns an id at once, from any thread, that of their entries.

        A checkpoint to rewind to is the first panda's; all go back to its step.

        Args:
            command: As `Panda.send` takes it: `set`, `save`, `rewind`, `more_epochs`, `pause`,
                `resume`, `run`, `finish_epoch`, `stop`.

        Raises:
            ValueError: If it is none of these, there is no such checkpoint, or none of the runs takes commands.
                Nothing was sent then.
        """
        action, sent = command.get("action"), {"command": f"together {next(self._numbers)}", **command}
        if action not in _TO_ALL + _TO_THE_LIVING:
            raise ValueError(
                f"`action` must be one of {', '.join(_TO_ALL + _TO_THE_LIVING)}. Received: {action!r}. "
                "Send it to one of the pandas."
            )
        if (folder := sent.pop("folder", None)) is not None:
            steps = {row["folder"]: row["step"] for row in self.pandas[0].status()["checkpoints"]}
            if folder not in steps:
                raise ValueError(f"`folder` must be that of a checkpoint of {self.names[0]}. Received: {folder!r}.")
            sent["step"] = steps[folder]
        takers = [panda for panda in self.pandas if not panda.status().get("read_only")]
        if not takers:
            raise ValueError("These runs are only watched from here: none of them is trained by a process now.")
        for panda in takers:
            if action in _TO_ALL or panda.state in ("running", "paused"):
                panda.send(sent)
        return str(sent["command"])

    def status(self) -> dict[str, Any]:
        """How they stand, in plain data: as one run, and under `runs` each of them."""
        found = [panda.status() for panda in self.pandas]
        farthest = max(found, key=lambda one: (one["not_finite"], one["step"]))
        states = [one["state"] for one in found]
        said = [remark for one in found for remark in one["remarks"] if remark != one.get("whose")]
        common = _common([one["hyperparameters"] for one in found])
        return farthest | {
            "name": " and ".join(self.names),
            "state": next((state for state in ("running", "paused") if state in states), states[0]),
            "hyperparameters": common,
            "checkpoints": found[0]["checkpoints"],
            "error": next((one["error"] for one in found if one["error"]), None),
            "warning": next((one["warning"] for one in found if one["warning"]), None),
            "remarks": list(dict.fromkeys([*self._differences(common, found), *said])),
            "runs": [one | {"name": name} for one, name in zip(found, self.names, strict=True)],
            "foresight": None,
            "read_only": all(one.get("read_only") for one in found),
            "remote": any(one.get("remote") for one in found),
        }

    @property
    def logs(self) -> dict[str, RunLog]:
        """Name -> log of each run."""
        return {name: panda.log for name, panda in zip(self.names, self.pandas, strict=True)}

    def _differences(self, common: Mapping[str, Any], found: list[dict[str, Any]]) -> list[str]:
        """In which values they differ, in words: one has refused what another took, or was steered alone."""
        lines = []
        for name in common:
            values = [one["hyperparameters"][name]["value"] for one in found]
            if len(set(values)) > 1:
                each = [f"{number(value)} in {which}" for value, which in zip(values, self.names, strict=True)]
                lines.append(f"{label(name)}: {', '.join(each)}.")
        return lines


def _common(found: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The hyperparameters that all have, as the first has them, within bounds that all allow."""
    common = {}
    for name in [name for name in found[0] if all(name in one for one in found)]:
        each = [one[name] for one in found]
        low, high = max(one["low"] for one in each), min(one["high"] for one in each)
        if low < high:
            common[name] = each[0] | {"low": low, "high": high}
    return common
