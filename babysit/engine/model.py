"""The subject: the one model that is trained, and all that is made of it so that it can be steered.

Its optimizers, bindings, tensors and compiled blocks belong together: a model that is
compiled anew, or of which other layers learn, has others.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from babysit.engine.bindings import HyperparameterBindings
from babysit.engine.block import Block, Stepwise, trace_step, training_block
from babysit.engine.data.source import symbolic
from babysit.engine.tensors import TrainingTensors, applied_in, attribute_optimizers
from babysit.store.files import State

# What `Model.fit` and its kin leave on a model.
_FLAGS = ("stop_training", "stop_evaluating", "history")


class TrainableModel:
    """A compiled Keras model, with the optimizers that its step applies.

    Args:
        model: Trained in place.

    Attributes:
        model: The same.
        optimizers: Prefix of the names of hyperparameters -> optimizer.
        bindings: The live hyperparameters.
        tensors: What a training changes.
        restless: Why steps taken again may differ, in a sentence, once that is seen.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.restless = model, ""
        self._frozen: tuple[bool, ...] = ()
        self._opaque = False
        self.refresh()

    def refresh(self) -> None:
        """Finds the optimizers and hyperparameters of the model as it is compiled now."""
        self._compiled, self._chosen = (self.model._loss_tracker, self.model.optimizer), False
        self._use({"": self.model.optimizer, **attribute_optimizers(self.model)} if self.is_custom else {})

    def _use(self, optimizers: Mapping[str, Any]) -> None:
        """Makes these the optimizers that a step applies; one alone needs no name."""
        if len(optimizers) < 2:
            optimizers = dict(zip([""], [*optimizers.values(), self.model.optimizer], strict=False))
        self.optimizers = dict(optimizers)
        self.bindings = HyperparameterBindings(self.model, self.optimizers)
        self.tensors = TrainingTensors(self.model, list(self.optimizers.values()))
        self._blocks: dict[Any, Block | Stepwise] = {}

    def prepare(self, spec: Any, signature: Any = None) -> None:
        """Builds the model, finds its hyperparameters and the optimizers that its step applies.

        Args:
            spec: Of a batch, in plain data; None if that is not known.
            signature: TensorFlow's specs of the data and their order; None for those of `spec`.
        """
        if spec is None:
            self.bindings.read()
            return
        batch = signature[0] if signature else keras.tree.map_structure(_tensor_spec, symbolic(spec))
        with self.model.distribute_strategy.scope():
            self._build(spec, batch)
            self.bindings.read()
            self._choose(batch)

    def _build(self, spec: Any, batch: Any) -> None:
        """Builds the model by its `call`, or, as its `train_step` may do without, by what a first step would build."""
        if type(self.model).call is not keras.Model.call and (self._layers_built or not self.is_custom):
            with contextlib.suppress(Exception):  # what is wrong the step will say, as it does to `Model.fit`
                self.model._symbolic_build(data_batch=symbolic(spec))
                return
        self._trace(batch)

    def _trace(self, batch: Any) -> None:
        """Traces the step on such a batch."""
        try:
            trace_step(self.model, batch)
        except Exception:
            if not self.model.run_eagerly:
                raise
            self._opaque = True  # until its first step builds it

    def _choose(self, batch: Any) -> None:
        """Where a model has several optimizers, finds those that its step applies: by tracing it on such a batch."""
        if len(self.optimizers) < 2 or self._chosen:
            return
        with applied_in(self.optimizers) as applied:
            self._trace(batch)
        self._chosen = True
        if applied:
            self._use({name: optimizer for name, optimizer in self.optimizers.items() if name in applied})

    # -------------------------------------------------------------------------- what it is

    @property
    def compiled_anew(self) -> bool:
        """Whether the model has been compiled, or given another optimizer, since we looked."""
        tracker, optimizer = self._compiled
        return self.model._loss_tracker is not tracker or self.model.optimizer is not optimizer

    @property
    def is_custom(self) -> bool:
        """Whether its `train_step` is the user's own."""
        return type(self.model).train_step is not keras.Model.train_step

    @property
    def unbuilt(self) -> str:
        """That only the first step can build the model, in a sentence; empty where it is built."""
        if not self._opaque or self._layers_built:
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
        return self.bindings.graph, self._frozen, *self._compiled

    def apply_moving_averages(self) -> str:
        """Puts moving averages, where there are any, in place of the weights; returns which optimizer did."""
        optimizer = _inner(self.model.optimizer)
        if optimizer is None or not optimizer.use_ema or int(optimizer.iterations) == 0:
            return ""
        optimizer.finalize_variable_values(self.model.trainable_weights)
        return type(optimizer).__name__

    def epoch_logs(self, last: Mapping[str, Any]) -> dict[str, Any]:
        """What Keras reports of an epoch: the metrics' results, or the last step's logs where they differ in name."""
        return dict(self.model._get_metrics_result_or_logs(dict(last)) if self.is_custom else last)

    @contextlib.contextmanager
    def without_side_effects(self) -> Iterator[None]:
        """Within, somebody looks at the model: its metrics, seeds and flags are put back at the end."""
        kept, flags = self.tensors.read_side_effects(), {name: getattr(self.model, name, None) for name in _FLAGS}
        try:
            yield
        finally:
            for variable, value in kept:
                variable.assign(value)
            for flag, was in flags.items():
                setattr(self.model, flag, was)

    # ------------------------------------------------------------------------- its structure

    def note_trainable(self) -> None:
        """Takes note of which layers learn, for the blocks to come."""
        self._frozen = self.trainable

    def extend_optimizers(self) -> None:
        """Settles, and makes the optimizer know what was frozen when it was built and now learns."""
        self.note_trainable()
        if self.tensors.extend_optimizers():
            self._blocks.clear()

    def block(self, fixed: int | None, signature: Any, may_unroll: bool = False) -> Block | Stepwise:
        """The compiled block for the present structure, of batches of one size or of any."""
        key = self.bindings.graph, self._frozen, fixed, may_unroll
        if key not in self._blocks:
            measured = self.bindings.scheduled_rates if self.bindings.schedules else None
            block = self._blocks[key] = training_block(self.model, self.bindings.reading_once, fixed, measured)
            block.trace(*signature)  # for data of any length, so that once is enough
            self.restless = self.restless or block.remark or self.tensors.unknown(block.changes)
        if may_unroll and self._blocks[key].worth_unrolling:
            self._blocks[key].unroll()
            self._blocks[key].trace(*signature)
        return self._blocks[key]

    def restore(self, state: State) -> None:
        """Takes the structure of a state, which layers learn and what the optimizers know, and its tensors.

        Raises:
            ValueError: If it is that of another model; nothing was changed then.
        """
        before = self.bindings.values, self.bindings.structure, self.trainable, self.tensors.built_for
        self.bindings.bind()
        if self.tensors.groups()["model"] and not state.tensors["model"]:
            raise ValueError("Before its first step the model was not built. Rewind to a later step.")
        try:
            self._restructure(state.hyperparameters, state.structure, state.trainable, state.built_on)
            self.tensors.check(state.tensors)
        except ValueError:
            self._restructure(*before)
            raise
        self.tensors.write(state.tensors)

    def _restructure(self, values: Any, structure: Any, trainable: tuple[bool, ...], built_for: Any) -> None:
        if trainable and trainable != self.trainable:
            layers = self.model._flatten_layers()
            for layer, flag in zip(layers, trainable, strict=True):  # the outer ones first: theirs are handed down
                layer.trainable = flag
            self._frozen = trainable
        if self.tensors.build_for(built_for):
            self._blocks.clear()
        self.bindings.restore(values, structure)

    def check(self, hyperparameters: Mapping[str, float], trainable: tuple[bool, ...]) -> None:
        """Makes sure that a state can be its own.

        Raises:
            ValueError: If it is that of another model or optimizer.
        """
        if missing := set(self.bindings.values) - set(hyperparameters):
            raise ValueError(
                f"The checkpoint is of another model or optimizer: it has no {', '.join(sorted(missing))}. "
                "Use the model that was trained, compiled as it was."
            )
        if trainable and len(trainable) != len(self.trainable):
            raise ValueError(
                f"The checkpoint is of another model, of {len(trainable)} layers: `{self.model.name}` has "
                f"{len(self.trainable)}. Use the model that was trained."
            )

    def describe_trainable_changes(self, before: tuple[bool, ...]) -> str:
        """In words, which layers learn now and did not, or the other way round."""
        layers = [layer.name for layer in self.model._flatten_layers()]
        changes = zip(layers, before, self.trainable, strict=False)
        changed = [f"{name}.trainable = {new}" for name, old, new in changes if old != new]
        return ", ".join(changed) or "layers changed by hand"


def _tensor_spec(tensor: Any) -> Any:
    return tf.TensorSpec(tensor.shape, tensor.dtype)


def _inner(optimizer: Any) -> Any:
    return getattr(optimizer, "inner_optimizer", optimizer)
