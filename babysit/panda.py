"""`Panda`: the class that users call. It trains one model in the background and steers it.

It checks its arguments, passes them to the training thread as commands, and returns their results.
"""

import random
import sys
import warnings
import weakref
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from babysit import runs
from babysit.core.events import Fit
from babysit.core.history import History
from babysit.core.hyperparameter import Hyperparameter, any_whole, checked
from babysit.core.position import FitSpec
from babysit.core.runlog import RunLog
from babysit.engine import architecture
from babysit.engine.environment import describe
from babysit.engine.trainer import KerasTrainer
from babysit.progress import Progress
from babysit.recipes.examples import examples
from babysit.recipes.foresight import Foresight
from babysit.session import inbox
from babysit.session.fit import plan_of
from babysit.session.guard import keras_settings
from babysit.session.inbox import Inbox
from babysit.session.rewind import load
from babysit.session.run import Run, Watcher
from babysit.session.session import Session
from babysit.session.worker import Worker
from babysit.store.checkpoint_store import Checkpoint, CheckpointStore
from babysit.store.database import Database

if TYPE_CHECKING:
    from babysit.recipes.fan import Fan
    from babysit.recipes.lr_range_test import RangeTest
    from babysit.recipes.watch import Alert, Watch

CHECKPOINTS = "checkpoints"


class Panda(Run):
    """Trains one model in the background; steers, records and rewinds the training.

    ```python
    panda = Panda(model)                       # a compiled keras.Model
    panda.fit(x, y, epochs=20)                 # returns at once
    panda.set(learning_rate=3e-3, why="flat")  # acts on the very next step
    panda.wait()                               # until it is finished
    ```

    Args:
        model: A compiled `keras.Model`, trained in place.
        directory: Where the run is kept; `runs/<model name>-<date>-<n>` by default.
        seed: Whole number from 0 on, of the order of examples; if not given, it follows from how Python's
            `random` was seeded, and so from `keras.utils.set_random_seed`.
        remote: Whether other processes that may write to the run's folder can steer it: see `babysit.attach`.

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If it is not compiled, is being trained by another panda, or `directory`
            holds a run already.
        OSError: If the directory cannot be written.
    """

    def __init__(
        self, model: keras.Model, directory: str | Path | None = None, seed: int | None = None, *, remote: bool = True
    ) -> None:
        runs.check_model(model)
        seed = _drawn_seed() if seed is None else int(checked("seed", seed, any_whole(0)))
        path = runs.new_directory(model.name, directory)
        with runs.opened(path) as (opened, database):
            self._start(model, path, opened, database, seed, remote)
            database.set_meta({"model": model.name, "seed": seed, "architecture": architecture.describe(model)})

    @classmethod
    def load(cls, directory: str | Path, model: keras.Model | None = None, *, remote: bool = True) -> "Panda":
        """A run from disk, as it was at its newest checkpoint; idle until `fit`.

        `fit` then goes on with it: `epochs` counts from the run's very beginning, and the
        hyperparameters are the recorded ones, whatever was set on the model meanwhile. Where no
        checkpoint is left it begins anew, on a new branch.

        Args:
            directory: The run's folder.
            model: The model that was trained, compiled; needed if it has parts of your own.
            remote: Whether other processes can steer it, as for a new panda.

        Raises:
            ValueError: If there is no run, if it is alive in this kernel or another process, or
                if `model` is needed or another one.
        """
        directory = runs.checked_run(directory)
        with runs.opened(directory) as (opened, database):
            if (seed := database.meta("seed")) is None:
                raise ValueError(f"The run at {directory} ended before it began. Begin a new one in another folder.")
            model = architecture.build(database.meta("architecture")) if model is None else model
            runs.check_model(model)
            self = cls.__new__(cls)
            self._start(model, directory, opened, database, seed, remote)
            fits = [event.payload for event in self._log.events if isinstance(event.payload, Fit)]
            if fits:
                self._trainer.build(fits[-1].facts["spec"])
                load(self._session)
                self._loaded = self._session.controls.fit  # none where the run begins anew
        return self

    def _start(
        self, model: keras.Model, directory: Path, opened: ExitStack, database: Database, seed: int, remote: bool
    ) -> None:
        self.directory = directory.absolute()  # a later change of folder does not move the run
        self._database, self._log = database, RunLog()
        log = self._log
        database.fill(log)
        log.on_append = database.append
        self._store = CheckpointStore(self.directory / CHECKPOINTS, log, database.flush, describe())
        opened.callback(self._store.close)
        self._trainer = KerasTrainer(model, seed)
        self._session = Session(self._trainer, log, self._store)
        # Its thread holds our method: a run goes on, and can be attached to, when its panda has no name any more.
        self._worker = Worker(self._session, model, database, self._export)
        self._session.on_compiled = lambda: database.set_meta({"architecture": architecture.describe(model)})
        self._loaded: FitSpec | None = None
        self._progress = Progress(self.history)
        self._picture: Any = None
        self._foresight = Foresight(self, self._worker.send)
        database.status_provider = weakref.WeakMethod(self.status)
        if remote:
            opened.callback(Inbox(self.directory, weakref.WeakMethod(self._submit), database.flush).close)
        else:
            inbox.shut(self.directory)
        runs.pandas.add(self)
        self._close = weakref.finalize(self, opened.pop_all().close)
        self._close.atexit = False  # at exit `runs` closes it, last

    # ----------------------------------------------------------------- training

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool | str = True,
        class_weight: Any = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | Collection[int] = 1,
        *,
        paused: bool = False,
        ranges: Mapping[str, tuple[float, float]] | None = None,
    ) -> "Panda":
        """Begins to train in the background, as `Model.fit` would; returns the panda at once.

        The arguments are those of `keras.Model.fit`, with its meanings and defaults. Called again
        when the run is finished or stopped, it goes on in the same run, `epochs` more.

        Args:
            x: Examples: an array of shape (n, …), or a list or dict of them; a `tf.data.Dataset`,
                a `keras.utils.PyDataset` or a generator of batches.
            y: Targets likewise; none where `x` brings its own.
            batch_size: Examples a step, from 1 to n; 32 by default. None where `x` brings batches.
            epochs: How many times to go through the data, from 1 on; with `initial_epoch`, the epoch to end at.
            verbose: What `wait` shows: 0 or False nothing, 1 or True a progress bar, 2 a line an epoch;
                `"auto"` is a bar in a terminal, and nothing in a notebook, where the dashboard is that.
            callbacks: Keras callbacks, called as in `Model.fit`, on the training thread. An `EarlyStopping` that
                restores the best weights begins its patience anew after a rewind or a load.
            validation_split: The share of the data, its last part, to validate on.
            validation_data: (x, y) or (x, y, sample_weight), or batches, to validate on.
            shuffle: Whether to shuffle the examples anew each epoch; `"batch"` shuffles whole batches.
            class_weight: Class -> weight of its examples in the loss.
            sample_weight: Weights of shape (n,).
            initial_epoch: The number of the first epoch.
            steps_per_epoch: Steps an epoch; by default an epoch is the data once.
            validation_steps: Steps of a validation; by default the validation data once.
            validation_batch_size: Examples a validation step; by default `batch_size`, or else what makes
                `validation_steps` steps of the data.
            validation_freq: Validate every so many epochs, or after the epochs listed.
            paused: Whether to rest before the first step.
            ranges: Hyperparameter -> (low, high): bounds other than the default ones.

        Raises:
            TypeError: If something is of the wrong kind.
            ValueError: If the run is training already, or an argument does not fit.
        """
        given = {name: value for name, value in locals().items() if name not in ("self", "paused", "ranges")}
        runs.refuse_second(self.model, but=self)
        shown = Progress(self.history, verbose)
        present = self._session.controls.values.get("batch_size")
        plan = plan_of(self._trainer, given, self._trainer.seed, self._loaded, ranges, present)
        self._worker.ask("fit", plan=plan, paused=paused, settings=keras_settings())
        self._progress, self._loaded = shown, None
        for sentence in plan.remarks:
            warnings.warn(sentence, stacklevel=2)
        return self

    def wait(self, timeout: float | None = None) -> "Panda":
        """Waits until the run is finished, stopped or failed; returns the panda.

        Args:
            timeout: Seconds to wait at most, or None.

        Raises:
            TimeoutError: If it took longer than `timeout`.
            FloatingPointError: If it rests because the loss is no longer finite.
            Exception: Whatever the training raised.
        """
        if self.state == "idle" and not self._worker.within:
            raise ValueError("There is nothing to wait for: call `fit(...)` first.")
        over = self._progress.wait(self._worker, timeout)
        if self._worker.error is not None:
            raise self._worker.error
        self._check_finite()
        if not over:
            raise TimeoutError(f"After {timeout} s the run is still {self.state}, at step {self.step:,}.")
        return self

    def _ask(self, action: str, **about: Any) -> Any:
        if action in ("set", "run", "resume", "rewind"):
            runs.refuse_second(self.model, but=self)
        worker = self._worker
        if action == "run":
            return worker.run(**about)
        if action == "stop" or (action == "resume" and worker.state == "running"):  # neither waits
            if worker.alive or worker.within:
                worker.not_finite = False  # the user knows: `wait` need not raise it
                worker.send({"action": action, "author": "script"})
            return None
        return worker.ask(action, **about)

    def _flush(self) -> None:
        self._database.flush()

    def call(self, function: Callable[[keras.Model], Any]) -> Any:
        """Has `function(model)` called on the training thread at the next boundary; returns its result.

        To predict, evaluate or draw while the model trains: metrics and seeds are put back as
        they were. Weights that it changes stay changed, as an `edit` in the journal.

        Raises:
            Exception: What `function` raised; the training goes on.
        """
        return self._worker.ask("call", function=function)

    def diagnostics(self, on: bool = True) -> None:
        """Begins to measure diagnostics every few seconds, or ends it; the training's bits stay the same.

        Gradient norm, update ÷ weight of each layer, memory and processors:
        `status()["diagnostics"]["latest"]` and the dashboard show them.

        Raises:
            TypeError: If `on` is neither True nor False.
        """
        self._worker.ask("diagnostics", on=on)

    # ----------------------------------------------------------------- foresight

    def fan(self, steps: int = 200, by: str | None = None, **values: Sequence[Any]) -> "Fan":
        """Tries values of one hyperparameter from the present state, on the same examples: `fan(learning_rate=[…])`.

        Each is a branch of its own, one after the other, which the chart shows. One ends early where it is hopeless:
        where its loss is not finite, or four times the best one at that place. The run rests then, in the very
        state it was in; `keep` of the fan goes on from the end of a trial, `none` as if nothing had been tried. What
        was saved of trials that are not kept is deleted then; their steps stay in the log, and can be rewound to.
        Validation and callbacks are part of the trials.

        Args:
            steps: How long each is tried, from 1 on; less where the fit is over.
            by: The column of the history that is compared; the loss if not given, or what is measured first.
            **values: One hyperparameter -> 2 to 8 values.

        Raises:
            TypeError: If it is not one hyperparameter.
            ValueError: If no fit is going on, or a value is out of bounds. The run is in the state it was in.
        """
        return self._foresight.attempt("fan", steps, by, values)  # type: ignore[no-any-return]

    def lr_range_test(
        self,
        low: float | None = None,
        high: float | None = None,
        steps: int = 100,
        name: str = "learning_rate",
        by: str | None = None,
    ) -> "RangeTest":
        """Lets the learning rate grow from `low` to `high` and returns to the very state: which rates are useful?

        From Smith 2017 (Cyclical Learning Rates, section 3.3). It ends at four times the lowest loss. The loss at each
        rate and four suggestions come back, or none where the loss falls by less than twice what it scatters;
        `plot(axes)` draws them. A run that was running goes on.

        Args:
            low: The first rate; the lower bound, or 1e-7, if not given.
            high: The last one; the upper bound, or 10, if not given.
            steps: In which to get there, from 20 on.
            name: The hyperparameter, where a model has several learning rates.
            by: The column of the history that shows them, likewise.

        Raises:
            ValueError: If no fit is going on, or a rate is out of bounds. The run is in the state it was in.
        """
        return self._foresight.attempt("range test", low, high, steps, name, by)  # type: ignore[no-any-return]

    def cause(self, step: int, steps: int = 20) -> "Fan":
        """Takes the steps of a loss spike again in three ways, and returns to the very state: what caused it?

        As they were; without the batches of the step and of the one before it, whose update may have thrown the
        weights away; and at half the learning rate. `verdict` of what comes back says in which of them there is no
        spike: the highest loss is less than half as far above the median before it (after Chowdhery et al. 2022,
        section 5.1, who found that it takes a batch and a state together). The last batch of an epoch cannot be left
        out: its step is taken in the other two ways. `keep` and `none` are those of a fan.

        Args:
            step: The step of the spike, on the present branch, from 2 on.
            steps: How many are taken each time, from 2 on; fewer where the fit is over.

        Raises:
            ValueError: If no fit is going on, or there is no such step. The run is in the state it was in.
        """
        return self._foresight.attempt("cause", step, steps)  # type: ignore[no-any-return]

    def examples(self, step: int) -> np.ndarray:
        """The rows of the data that a step of the present branch saw, in their order: int32 or int64, shape (batch,).

        `x[panda.examples(step)]` is its batch.

        Raises:
            ValueError: If it was not taken, or the data are no arrays, or others than those of that step.
        """
        return examples(self._log, self.history.branch, step, self._trainer)

    def watch(
        self,
        rule: str | Callable[[History], Any],
        then: str = "tell",
        *,
        most: int = 3,
        notify: "Callable[[Alert], Any] | None" = None,
    ) -> "Watch":
        """Watches the training by a rule, from now on, after each block of steps; what is found is in the journal.

        | rule | what is found |
        |---|---|
        | `"spike"` | a loss more than 6 standard deviations above the mean of the last 128 steps (as OLMo-core does) |
        | `"plateau"` | 10 epochs without a lower `val_loss` (or `loss`), by 1e-4, as in Keras's `ReduceLROnPlateau` |
        | `"overfitting"` | `val_loss` 5 % above its lowest, `loss` below what it was then (Prechelt 1998, section 2) |
        | `"not finite"` | a loss that is NaN or infinite |
        | `"stalled"` | 2,000 steps through whose losses no falling line goes, with probability 0.51 (King 2018, dlib) |
        | a function | `function(panda.history)` has become true; a text that it returns is the reason |

        What is done is an entry by the rule's name. As a callback, a rule is not kept on disk.

        Args:
            rule: One of these. A function takes 5 % of the time at most; what it raises ends it, not the training.
            then: `"tell"`: a note, and a question on the dashboard; `"pause"`; `"halve the learning rate"`, every one
                that there is; or `"rewind and skip"`: back 100 steps, with 200 batches left out, or as many as the
                epoch has (Chowdhery et al. 2022, section 5.1).
            most: How often it may halve or rewind, from 0 on; after that it pauses.
            notify: Called with each alert (`rule`, `step`, `words`, `then`), on a thread of its own.

        Returns:
            The watch: its `alerts`, and `end()`. One of the same name ends the one before.

        Raises:
            TypeError: If `notify` is no function.
            ValueError: If `rule` or `then` is none of these.
        """
        return self._foresight.watch(rule, then, most, notify)

    # ------------------------------------------------------------------ reading

    @property
    def model(self) -> keras.Model:
        """The user's own model object."""
        model: keras.Model = self._trainer.model
        return model

    @property
    def state(self) -> str:
        """`idle`, `running`, `paused`, `finished`, `stopped` or `failed`."""
        return self._worker.state

    @property
    def step(self) -> int:
        """Steps done on the present branch."""
        return self._session.position.step

    @property
    def epoch(self) -> int:
        """Epochs done on the present branch."""
        return self._session.position.epoch

    @property
    def hyperparameters(self) -> dict[str, Hyperparameter]:
        """Name -> value and bounds, in a stable order."""
        session = self._session
        return session.controls.hyperparameters(session.position.step, self._trainer.followed)

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """The complete checkpoints, oldest first."""
        return self._store.all

    @property
    def watchers(self) -> list[Watcher]:
        """Called after each block of steps, on the training thread; each gives commands, which are obeyed at once."""
        return self._worker.watchers

    def digest(self) -> str:
        """sha256 of the training state, hexadecimal, taken at the next boundary."""
        return str(self._worker.ask("digest"))

    # ------------------------------------------------------------------ what leaves it

    def schedules(self) -> dict[str, Any]:
        """The hyperparameters along the present branch, for another program to follow.

        Returns:
            Name -> for a learning rate a Keras `LearningRateSchedule` of the steps done; otherwise a
            list of (step, value): from that many steps done on the value acts. Nothing before the first `fit`.
        """
        from babysit.export import schedules

        return dict(self.call(lambda model: schedules.schedules(self._session, self._trainer)))

    def export_script(self, path: str | Path) -> None:
        """Writes a plain Keras program that trains the present branch again, to the same weights.

        It builds a Sequential or functional model itself, and leaves a place, `load_data`, for the
        examples. The weights to begin with are in a file next to it.

        Args:
            path: The file, such as `….py`; `….npz` is written next to it. Both are overwritten.

        Raises:
            ValueError: Before the first `fit`, or for what a program cannot express; the message says what.
            OSError: If it cannot be written.
        """
        from babysit.export import script

        described = self._database.meta("architecture")
        self.call(lambda model: script.write(self._session, self._trainer, described, Path(path)))

    def export_logbook(self, path: str | Path) -> None:
        """Writes the journal in Markdown: what was changed and why, with the loss before and after."""
        from babysit.export.logbook import logbook

        Path(path).write_text(logbook(self.model.name, self._log, self._session.branch), encoding="utf-8")

    def _export(self, kind: str, content: bytes = b"") -> Path:
        """Writes the logbook, history, script, model, or a picture of the chart into the run's folder."""
        writers: dict[str, tuple[str, Callable[[Path], Any]]] = {
            "logbook": ("logbook.md", self.export_logbook),
            "history": ("history.csv", self.history.to_csv),
            "script": ("train.py", self.export_script),
            "model": ("model.keras", lambda path: self.call(lambda model: model.save(path))),
            **{name: (name, lambda path: path.write_bytes(content)) for name in ("chart.png", "chart.svg")},
        }
        if kind not in writers:
            raise ValueError(f"`kind` must be one of {', '.join(writers)}. Received: kind={kind!r}.")
        name, write = writers[kind]
        write(self.directory / name)
        return self.directory / name

    def picture(
        self,
        sample: Callable[[keras.Model], Any],
        draw: Callable[[Any, Any], Any],
        size: tuple[float, float] = (9, 3.4),
    ) -> Any:
        """A picture of your own, an ipywidgets widget that is drawn anew as the run moves.

        ```python
        panda.picture(lambda model: model.get_weights()[0], lambda figure, w: figure.add_subplot().hist(w.ravel()))
        ```

        Called again, the picture before is no longer redrawn. What `sample` or `draw` raises is shown below
        the picture, and the training goes on.

        Args:
            sample: `sample(model)`, called as by `call`: returns what is to be drawn, copied into NumPy.
            draw: `draw(figure, data)`: draws that on an empty `matplotlib.figure.Figure`, on a thread
                of its own, which pyplot does not allow. Both together take 5 % of a core at most.
            size: Width and height in inches, as in matplotlib.
        """
        from babysit.ui.picture import Picture

        if self._picture is not None:
            self._picture.close()
        self._picture = Picture(self, sample, draw, size)
        return self._picture.widget

    def __repr__(self) -> str:
        return f"<Panda {self.model.name}: {self.state}, step {self.step:,}, epoch {self.epoch}, {self.directory}>"

    # ------------------------------------------- the seam between run and screen

    def send(self, command: Mapping[str, Any]) -> str:
        """Hands over a command, in plain data, and returns its id at once, from any thread.

        What came of it is an entry of the journal with that id: the deed, or a refusal.

        ```python
        panda.send({"action": "set", "changes": {"momentum": 0.95}, "why": "", "author": "dashboard"})
        ```

        Args:
            command: `action` and what it needs: `set` (`changes`, `over`), `note` (`why`, and
                `on_last_change`, if it is the reason of that), `run` (`steps`), `finish_epoch`,
                `more_epochs` (`epochs`), `save` (`name` or None), `rename` (`folder`, `name`),
                `delete` (`folder`), `rewind` (`folder`, or `step` and `branch`; `hyperparameters`,
                `skip`), `export` (`kind`: `logbook`, `history`, `script`, `model`, or `chart.png`
                or `chart.svg` with its `content`), `diagnostics` (`on`), `pause`, `resume`, `stop`;
                `fan` (`name`, `values`, `steps`), `lr_range_test` (`name`), `cause` (`step`), `keep` (`branch` of a
                trial, or None), `cancel`, `watch` (`rule`, `then`, or None), `answer` (`number`, `then`); for each
                also `author`, `command` (an id of your own) and, but for those that say it themselves, `why`.
        """
        return self._foresight.send(command) or self._worker.send(command)

    def _submit(self, command: dict[str, Any]) -> "Future[Any]":
        """Hands over a command of another process; its future result."""
        if (number := self._foresight.send(command)) is None:
            return self._worker.submit(command)
        done: Future[Any] = Future()
        done.set_result(number)
        return done

    def status(self) -> dict[str, Any]:
        """The present state of the run, in plain data, from any thread, at no cost to the training."""
        return self._worker.status() | {"foresight": self._foresight.status()}

    def _leave(self) -> None:
        """Rests and saves because the interpreter exits, and says how to go on."""
        try:
            self.pause()
            self._worker.ask("keep_last")
            said = f"is saved. To go on: babysit.Panda.load({str(self.directory)!r}).fit(...)"
        except Exception as error:
            said = f"could not be saved: {error}"
        print(f"babysit: {self.model.name} rests at step {self.step:,} and {said}", file=sys.stderr)


def _drawn_seed() -> int:
    """A seed made from the state of Python's `random`, which stays as it is: seeded, it gives the same seed again."""
    return zlib.crc32(repr(random.getstate()).encode()) >> 1
