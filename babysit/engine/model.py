"""The one model that is trained, and all that is made of it so that it can be steered.

Its optimizers, hyperparameters, tensors and compiled blocks belong together: a model that is
compiled anew, or of which other layers are trainable, has others.
"""

import contextlib
import operator
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from babysit.core.state import State
from babysit.engine.bindings import HyperparameterBindings, Value
from babysit.engine.block import Block, evaluation_block, trace_step, training_block
from babysit.engine.data.window import map_arrays, signature_of, symbolic
from babysit.engine.optimizers import applied_in, inner, optimizers_of
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
        self.model, self._chosen = model, False
        self._read_compilation()

    # ------------------------------------------------------------------------- made ready

    def build(self, spec: Any, static_size: int | None = None) -> None:
        """Builds the model, and finds its hyperparameters and the optimizers that its step applies; then `bind`.

        Args:
            spec: Of a batch, in plain data.
            static_size: The one size that every batch has, or None.

        Raises:
            Exception: What tracing its step raises, where that is what builds it.
        """
        if self.compiled_anew:
            self.bindings.release()
            self._read_compilation()
        static_size = static_size or self.own_batch_size
        if self._build_by_call(spec, static_size) and self._chosen:
            return self.bindings.read()
        applied = applied_in(self.optimizers, self._trace_step(signature_of(spec), static_size))
        self._chosen = True
        if 0 < len(applied) < len(self.optimizers):
            return self._use(applied)
        self.bindings.read()

    def bind(self, signature: Any, static_size: int | None = None) -> None:
        """Makes the hyperparameters live, and traces the first block: what its step captures is known then."""
        self.bindings.bind()
        self.update_trainable()
        self.block(static_size, signature)

    def _read_compilation(self) -> None:
        self._compilation, optimizers = (self.model._loss_tracker, self.model.optimizer), optimizers_of(self.model)
        self._chosen = len(optimizers) == 1  # which of several the step applies, its graph says
        self._use(optimizers)

    def _use(self, optimizers: Mapping[str, Any]) -> None:
        """Makes these the optimizers that a step applies; one alone needs no name."""
        prefixes = optimizers if len(optimizers) > 1 else [""]
        self.optimizers = dict(zip(prefixes, optimizers.values(), strict=True))
        self.bindings = HyperparameterBindings(self.model, self.optimizers)
        self.tensors = TrainingTensors(self.model, list(self.optimizers.values()))
        self._trainable: tuple[bool, ...] = ()
        self._blocks: dict[Any, Block] = {}
        self._traced_with: list[Any] = []  # the optimizers' variables that the blocks were made for

    def _build_by_call(self, spec: Any, static_size: int | None) -> bool:
        """Builds the model by its `call`; not where its `train_step` may do without, or that cannot be."""
        is_built = all(layer.built for layer in self.model._flatten_layers(include_self=False))
        if type(self.model).call is keras.Model.call or (self.is_custom and not is_built):
            return False
        for size in dict.fromkeys((None, static_size)):
            with contextlib.suppress(Exception):  # what is wrong the step will raise, as it does in `Model.fit`
                self.model._symbolic_build(data_batch=_sized(symbolic(spec), size))
                return True
        return False

    def _trace_step(self, batch: Any, static_size: int | None) -> Any:
        """The graph of a step by itself, which builds what a first step would."""
        with self.bindings.live_values.reading_once():
            return trace_step(self.model, _sized(batch, static_size or 2))

    # -------------------------------------------------------------------------- what it is

    @property
    def compiled_anew(self) -> bool:
        """Whether the model has been compiled, or given another optimizer or schedule, since `build`."""
        tracker, optimizer = self._compilation
        is_same = self.model._loss_tracker is tracker and self.model.optimizer is optimizer
        return not is_same or self.bindings.rate_replaced

    @property
    def is_custom(self) -> bool:
        """Whether its `train_step` is the user's own."""
        return type(self.model).train_step is not keras.Model.train_step

    @property
    def own_batch_size(self) -> int | None:
        """The batch size that it was made for, as a stateful recurrent one is; None for any."""
        inputs = keras.tree.flatten(getattr(self.model, "inputs", None) or ())
        size: int | None = next((tensor.shape[0] for tensor in inputs if tensor.shape[0] is not None), None)
        return size

    @property
    def trainable(self) -> tuple[bool, ...]:
        """Whether each layer is trainable."""
        return tuple(layer.trainable for layer in self.model._flatten_layers())

    @property
    def steps_to_update(self) -> int:
        """Steps until gradients that are being accumulated have been applied; 0 where none are."""
        left = [
            -int(optimizer._iterations) % optimizer.gradient_accumulation_steps
            for optimizer in map(inner, self.optimizers.values())
            if optimizer.gradient_accumulation_steps and optimizer.built
        ]
        return max(left, default=0)

    @property
    def accumulated_steps(self) -> int:
        """Steps whose gradients are applied together; 1 where none are accumulated."""
        return max(inner(optimizer).gradient_accumulation_steps or 1 for optimizer in self.optimizers.values())

    @property
    def accumulates(self) -> bool:
        """Whether gradients are accumulated over several steps."""
        return self.accumulated_steps > 1

    @property
    def steps_before_update(self) -> int:
        """Steps that only accumulate gradients, before one applies them; 0 where none are accumulated."""
        return (self.steps_to_update or self.accumulated_steps) - 1

    @property
    def structure(self) -> tuple[Any, ...]:
        """What a graph made of the model depends on."""
        return self.bindings.structure, self._trainable, *self._compilation

    def epoch_logs(self, last: Mapping[str, Any] | None) -> dict[str, Any]:
        """What Keras reports of an epoch: the metrics' results, or the last step's logs where they differ in name."""
        # A run may have been cut off after the last step of an epoch; a log that is no scalar is no part of a block's.
        if last is None or (None in last.values() and not self.is_custom):
            return dict(self.model.get_metrics_result())
        return dict(self.model._get_metrics_result_or_logs(dict(last)) if self.is_custom else last)

    # -------------------------------------------------------------------------- changed

    def release(self) -> None:
        """Puts plain numbers back, so that the model is a stock one."""
        self.bindings.release()

    def update_trainable(self) -> None:
        """Makes the blocks to come, and the optimizer, know which layers are trainable now."""
        self._trainable = self.trainable
        self.tensors.extend_optimizers()

    def finish(self) -> str:
        """Replaces the weights by their moving averages; returns the optimizer's class, or nothing if it has none."""
        optimizer = inner(self.model.optimizer)
        if not optimizer.use_ema or int(optimizer.iterations) == 0:
            return ""
        optimizer.finalize_variable_values(self.model.trainable_weights)
        return type(optimizer).__name__

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
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

    def block(self, static_size: int | None, signature: Any) -> Block:
        """The compiled block for the present structure, of batches of one size or of any."""
        variables = self.tensors.of_optimizers
        if len(variables) != len(self._traced_with) or any(map(operator.is_not, variables, self._traced_with)):
            self._blocks = {}  # made for the variables of an optimizer that was built again
        key = self.bindings.structure, self._trainable, static_size
        if key not in self._blocks:
            measured = self.bindings.scheduled_rates
            block = training_block(self.model, self.bindings.live_values.reading_once, static_size, measured)
            untraceable = (Exception,) if self.model.run_eagerly else ()  # which may call whatever it likes
            with contextlib.suppress(*untraceable):
                # For data of any length, so that once is enough.
                graph = block.trace(*signature) or self._trace_step(signature[0], static_size)
                self.tensors.note_captures(graph, self.bindings.live_values.variables)
            self._blocks[key], self._traced_with = block, self.tensors.of_optimizers
        return self._blocks[key]

    def evaluation_block(self, static_size: int | None) -> Block:
        """The compiled block of `test_step` for the present structure, kept from one fit to the next."""
        key = self.structure, static_size
        if key not in self._blocks:
            self._blocks[key] = evaluation_block(self.model, static_size)
        return self._blocks[key]

    # -------------------------------------------------------------------------- restored

    def restore(self, state: State) -> None:
        """Returns to the tensors, hyperparameters and structure of another time.

        Raises:
            ValueError: If they are those of another model; nothing was changed then.
        """
        values = state.controls.at(state.position.step)
        if set(self.bindings.values) - set(values) or len(state.trainable) != len(self.trainable):
            raise ValueError(
                "The checkpoint is of another model or optimizer, with other layers or hyperparameters than those of "
                f"`{self.model.name}`. Use the model that was trained, compiled as it was."
            )
        before: Any = self.bindings.settings, self.trainable, self.tensors.built_for, self.bindings.slots
        self.bindings.bind()
        try:
            self._restructure(values, state.trainable, state.built_for, state.slots)
            self.tensors.check(state.tensors)
        except ValueError:
            self._restructure(*before)
            raise
        self.tensors.write(state.tensors)

    def _restructure(
        self, values: Mapping[str, Value], trainable: tuple[bool, ...], built_for: Any, slots: Any
    ) -> None:
        if trainable != self.trainable:
            layers = self.model._flatten_layers()
            for layer, flag in zip(layers, trainable, strict=True):  # the outer ones first: theirs are handed down
                layer.trainable = flag
            self._trainable = trainable
        self.tensors.build_for(built_for)
        self.bindings.set(values)
        self.bindings.make_slots(slots)


def _sized(batch: Any, size: int | None) -> Any:
    """The same specs of a batch, TensorFlow's or Keras's, with this size where they are dense."""

    def sized(spec: Any) -> Any:
        is_keras = isinstance(spec, keras.KerasTensor) and not (spec.sparse or spec.ragged)
        is_dense = is_keras or isinstance(spec, tf.TensorSpec)
        return type(spec)([size, *spec.shape[1:]], spec.dtype) if is_dense else spec

    return map_arrays(sized, batch)
