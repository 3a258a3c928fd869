"""The one model that is trained, and all that is made of it so that it can be steered.

Its optimizers, hyperparameters, tensors and compiled blocks belong together: a model that is
compiled anew, or of which other layers are trainable, has others.
"""

import contextlib
import itertools
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from babysit.engine.bindings import HyperparameterBindings, Value
from babysit.engine.block import Block, captured_resources, trace_step, training_block
from babysit.engine.data.window import symbolic
from babysit.engine.optimizers import applied_in, attribute_optimizers
from babysit.engine.stepwise import Stepwise
from babysit.engine.tensors import TrainingTensors

# What `Model.fit` and its kin leave on a model.
_FLAGS = ("stop_training", "stop_evaluating", "history")


class TrainableModel:
    """A compiled Keras model, with the optimizers that its step applies.

    Args:
        model: Trained in place.

    Attributes:
        model: The same.
        optimizers: Prefix of the names of hyperparameters -> optimizer.
        bindings: The hyperparameters.
        tensors: What a training changes.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._data: tuple[Any, Any, int | None] | None = None
        self._needs_first_step = False
        self._blocks: dict[Any, Block | Stepwise] = {}
        self._traced_with: list[Any] = []  # the optimizers' variables that the blocks were made for
        self._captures_noted: dict[Any, int] = {}
        self._read_compilation()

    # ------------------------------------------------------------------------- made ready

    def prepare(self, spec: Any, signature: Any = None, static_size: int | None = None) -> None:
        """Builds the model, makes its hyperparameters live, and traces its first block.

        After it, the groups of tensors are complete: what the traced step captures is known.

        Args:
            spec: Of a batch, in plain data.
            signature: TensorFlow's specs of the data and their order; None if there are no data yet.
            static_size: The one size that every batch has, or None.
        """
        self.build(spec, signature, static_size)
        self.bindings.bind()
        self.update_trainable()
        if signature is not None:
            self.trace(signature, static_size)

    def build(self, spec: Any, signature: Any = None, static_size: int | None = None) -> None:
        """Builds the model, and finds its hyperparameters and the optimizers that its step applies; see `prepare`."""
        self._data = spec, signature, static_size
        if spec is None:
            return self.bindings.read()
        batch = signature[0] if signature else keras.tree.map_structure(_tensor_spec, symbolic(spec))
        batch = batch if static_size is None else _sized(batch, static_size)
        with self.model.distribute_strategy.scope():
            self._build(spec, batch, static_size)
            self.bindings.read()
            self._find_applied_optimizers(batch)
            if signature is None:
                self._find_captures(batch)

    def trace(self, signature: Any, static_size: int | None = None) -> None:
        """Traces the first block, and finds what its step captures."""
        block = self.block(static_size, signature)
        if not block.captures and isinstance(block, Block):  # which is traced later
            self._find_captures(_sized(signature[0], static_size))

    def _find_captures(self, batch: Any) -> None:
        """Finds what the step captures by tracing it alone."""
        try:
            with self.bindings.reading_once():
                graph = trace_step(self.model, batch)
        except Exception:  # it runs eagerly alone, or for a size that is not known yet
            return
        self.tensors.note_captures(captured_resources(graph), self.bindings.graph_variables)

    def refresh(self) -> None:
        """Makes ready anew a model that was compiled again, or given another optimizer, for the next step."""
        was_bound = self.bindings.bound
        self.bindings.release()
        self._read_compilation()
        if self._data is not None:
            if was_bound:
                self.prepare(*self._data)
            else:
                self.build(*self._data)

    def _read_compilation(self) -> None:
        self._compilation, self._chosen = (self.model._loss_tracker, self.model.optimizer), False
        self._use({"": self.model.optimizer, **attribute_optimizers(self.model)} if self.is_custom else {})

    def _use(self, optimizers: Mapping[str, Any]) -> None:
        """Makes these the optimizers that a step applies; one alone needs no name."""
        if len(optimizers) < 2:
            optimizers = dict(zip([""], [*optimizers.values(), self.model.optimizer], strict=False))
        self.optimizers = dict(optimizers)
        self.bindings = HyperparameterBindings(self.model, self.optimizers)
        self.tensors = TrainingTensors(self.model, list(self.optimizers.values()))
        self._trainable: tuple[bool, ...] = ()
        self._forget_blocks()

    def _build(self, spec: Any, batch: Any, static_size: int | None) -> None:
        """Builds the model by its `call`, or, as its `train_step` may do without, by what a first step would build."""
        if type(self.model).call is not keras.Model.call and (self._layers_built or not self.is_custom):
            for size in dict.fromkeys((None, static_size)):
                with contextlib.suppress(Exception):  # what is wrong the step will raise, as it does in `Model.fit`
                    self.model._symbolic_build(data_batch=_keras_tensors(spec, size))
                    return
        self._trace_step(batch)

    def _trace_step(self, batch: Any) -> None:
        try:
            trace_step(self.model, batch)
        except Exception:
            if not self.model.run_eagerly:
                raise
            self._needs_first_step = True

    def _find_applied_optimizers(self, batch: Any) -> None:
        """Where a model has several optimizers, finds those that its step applies: by tracing it on such a batch."""
        if len(self.optimizers) < 2 or self._chosen:
            return
        with applied_in(self.optimizers) as applied:
            self._trace_step(batch)
        self._chosen = True
        if applied:
            self._use({name: optimizer for name, optimizer in self.optimizers.items() if name in applied})

    # -------------------------------------------------------------------------- what it is

    @property
    def compiled_anew(self) -> bool:
        """Whether the model has been compiled, or given another optimizer, since `refresh`."""
        tracker, optimizer = self._compilation
        return self.model._loss_tracker is not tracker or self.model.optimizer is not optimizer

    @property
    def is_custom(self) -> bool:
        """Whether its `train_step` is the user's own."""
        return type(self.model).train_step is not keras.Model.train_step

    @property
    def limitation(self) -> str:
        """That only the first step can build the model, in a sentence; empty where it is built."""
        if not self._needs_first_step or self._layers_built:
            return ""
        return "The run cannot be rewound to before its first step, because only that step can build the model."

    @property
    def _layers_built(self) -> bool:
        return all(layer.built for layer in self.model._flatten_layers(include_self=False))

    @property
    def has_static_batch_size(self) -> bool:
        """Whether it was made for batches of one size, as a stateful recurrent one is."""
        inputs = keras.tree.flatten(getattr(self.model, "inputs", None) or ())
        return any(tensor.shape[0] is not None for tensor in inputs)

    @property
    def trainable(self) -> tuple[bool, ...]:
        """Whether each layer is trainable."""
        return tuple(layer.trainable for layer in self.model._flatten_layers())

    @property
    def built_for(self) -> tuple[tuple[int, ...], ...]:
        """For each optimizer, the model's variables that it was built for, by position."""
        return self.tensors.built_for

    @property
    def steps_to_update(self) -> int:
        """Steps until gradients that are being accumulated have been applied; 0 where none are."""
        left = [
            -int(optimizer._iterations) % optimizer.gradient_accumulation_steps
            for optimizer in map(_inner, self.optimizers.values())
            if optimizer.gradient_accumulation_steps and optimizer.built
        ]
        return max(left, default=0)

    @property
    def steps_before_update(self) -> int:
        """Steps that only accumulate gradients, before one applies them; 0 where none are accumulated."""
        counts = [_inner(optimizer).gradient_accumulation_steps or 1 for optimizer in self.optimizers.values()]
        return (self.steps_to_update or max(counts)) - 1

    @property
    def traced(self) -> bool:
        """Whether a block of steps has been compiled."""
        return bool(self._blocks)

    @property
    def structure(self) -> tuple[Any, ...]:
        """What a graph made of the model depends on."""
        return self.bindings.structure, self._trainable, *self._compilation

    def epoch_logs(self, last: Mapping[str, Any] | None) -> dict[str, Any]:
        """What Keras reports of an epoch: the metrics' results, or the last step's logs where they differ in name."""
        if last is None:  # a run that was cut off after the last step of an epoch
            return dict(self.model.get_metrics_result())
        return dict(self.model._get_metrics_result_or_logs(dict(last)) if self.is_custom else last)

    # -------------------------------------------------------------------------- changed

    def set(self, values: Mapping[str, Value]) -> None:
        """Sets those hyperparameters that differ, from the next step on; see `HyperparameterBindings.set`."""
        self.bindings.set(values)

    def adopt_external_changes(self) -> dict[str, tuple[float, float]]:
        """Keeps the hyperparameters that others set on the model while it trains; returns name -> (old, new)."""
        return self.bindings.adopt_external_changes()

    def release(self) -> None:
        """Puts plain numbers back, so that the model is a stock one."""
        self.bindings.release()

    def update_trainable(self) -> None:
        """Makes the blocks to come, and the optimizer, know which layers are trainable now."""
        self._trainable = self.trainable
        self.tensors.extend_optimizers()

    def describe_trainable_changes(self, before: tuple[bool, ...]) -> str:
        """In words, which layers are trainable now and were not, or the other way round."""
        layers = [layer.name for layer in self.model._flatten_layers()]
        changes = zip(layers, before, self.trainable, strict=False)
        changed = [f"{name}.trainable = {new}" for name, old, new in changes if old != new]
        return ", ".join(changed) or "other layers"

    def apply_moving_averages(self) -> str:
        """Replaces the weights by their moving averages; returns the optimizer's class, or nothing if it has none."""
        optimizer = _inner(self.model.optimizer)
        if optimizer is None or not optimizer.use_ema or int(optimizer.iterations) == 0:
            return ""
        optimizer.finalize_variable_values(self.model.trainable_weights)
        return type(optimizer).__name__

    @contextlib.contextmanager
    def without_side_effects(self) -> Iterator[None]:
        """Within, the model is used for something else: its metrics, seeds and flags are put back at the end."""
        kept, flags = self.tensors.read_side_effects(), {name: getattr(self.model, name, None) for name in _FLAGS}
        try:
            yield
        finally:
            for variable, value in kept:
                variable.assign(value)
            for flag, was in flags.items():
                setattr(self.model, flag, was)

    # -------------------------------------------------------------------------- blocks

    def block(self, static_size: int | None, signature: Any) -> Block | Stepwise:
        """The compiled block for the present structure, of batches of one size or of any."""
        variables = self.tensors.groups()["optimizer"]
        known = self._traced_with or variables
        if len(variables) != len(known) or any(map(operator.is_not, variables, known)):
            self._forget_blocks()  # made for the variables of an optimizer that was built again
        key = self.bindings.structure, self._trainable, static_size
        if key not in self._blocks:
            measured = self.bindings.scheduled_rates if self.bindings.schedules else None
            block = self._blocks[key] = training_block(self.model, self.bindings.reading_once, static_size, measured)
            block.trace(*signature)  # for data of any length, so that once is enough
        self._traced_with = self.tensors.groups()["optimizer"]
        if len(captures := self._blocks[key].captures) != self._captures_noted.get(key):
            self.tensors.note_captures(captures, self.bindings.graph_variables)
            self._captures_noted[key] = len(captures)
        return self._blocks[key]

    def _forget_blocks(self) -> None:
        self._blocks, self._traced_with, self._captures_noted = {}, [], {}

    # -------------------------------------------------------------------------- restored

    def restore(
        self,
        tensors: Mapping[str, Sequence[np.ndarray]],
        values: Mapping[str, Value],
        trainable: tuple[bool, ...],
        built_for: Sequence[Sequence[int]],
    ) -> None:
        """Returns to the tensors, hyperparameters and structure of another time.

        Args:
            tensors: What `tensors.read()` returned then.
            values: Hyperparameter -> number, or `"schedule"`.
            trainable: For each layer; empty where that is not known.
            built_for: What `built_for` was.

        Raises:
            ValueError: If they are those of another model; nothing was changed then.
        """
        self.check(values, trainable)
        following = dict.fromkeys(self.bindings.following, "schedule")
        before: Any = self.bindings.values | following, self.trainable, self.built_for, self.bindings.slots
        self.bindings.bind()
        if self.tensors.groups()["model"] and not tensors["model"]:
            raise ValueError("Before its first step the model was not built. Rewind to a later step.")
        try:
            self._restructure(values, trainable, built_for)
            self._fit_slots([array.shape for array in tensors["optimizer"]])
            self.tensors.check(tensors)
        except ValueError:
            self._restructure(*before[:3])
            self.bindings.make_slots(before[3])
            raise
        self.tensors.write(tensors)

    def check(self, values: Mapping[str, Any], trainable: tuple[bool, ...]) -> None:
        """Makes sure that hyperparameters and layers of another time can be this model's.

        Raises:
            ValueError: If they are those of another model or optimizer.
        """
        if missing := set(self.bindings.values) - set(values):
            raise ValueError(
                f"The checkpoint is of another model or optimizer: it has no {', '.join(sorted(missing))}. "
                "Use the model that was trained, compiled as it was."
            )
        if trainable and len(trainable) != len(self.trainable):
            raise ValueError(
                f"The checkpoint is of another model, of {len(trainable)} layers: `{self.model.name}` has "
                f"{len(self.trainable)}. Use the model that was trained."
            )

    def _restructure(self, values: Mapping[str, Value], trainable: tuple[bool, ...], built_for: Any) -> None:
        if trainable and trainable != self.trainable:
            layers = self.model._flatten_layers()
            for layer, flag in zip(layers, trainable, strict=True):  # the outer ones first: theirs are handed down
                layer.trainable = flag
            self._trainable = trainable
        self.tensors.build_for(built_for)
        self.bindings.set({name: value for name, value in values.items() if name in self.bindings.values})

    def _fit_slots(self, shapes: list[tuple[int, ...]]) -> None:
        """Gives momentums the velocities that a state of such optimizer variables has: at 0 it may have them or not."""
        values = self.bindings.values
        momentums = [name for name in values if name.rpartition(".")[2] == "momentum"]
        certain = [name for name in momentums if values[name] != 0]
        for count in range(len(momentums) - len(certain) + 1):
            for others in itertools.combinations([name for name in momentums if values[name] == 0], count):
                self.bindings.make_slots([*certain, *others])
                if self.tensors.shapes("optimizer") == shapes:
                    return


def _tensor_spec(tensor: Any) -> Any:
    return tf.TensorSpec(tensor.shape, tensor.dtype)


def _keras_tensors(spec: Any, size: int | None) -> Any:
    """The Keras tensors, without data, that a model is built from, of batches of one size or of any."""
    if size is None:
        return symbolic(spec)
    return keras.tree.map_structure(lambda one: keras.KerasTensor((size, *one.shape[1:]), one.dtype), symbolic(spec))


def _sized(batch: Any, size: int | None) -> Any:
    """The same specs of a batch, of this size."""

    def sized(spec: Any) -> Any:
        if not isinstance(spec, tf.TensorSpec) or spec.shape.rank in (None, 0):
            return spec
        return tf.TensorSpec([size, *spec.shape[1:]], spec.dtype)

    return tf.nest.map_structure(sized, batch)


def _inner(optimizer: Any) -> Any:
    return getattr(optimizer, "inner_optimizer", optimizer)
