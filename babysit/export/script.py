"""A run as a plain Keras program, without babysit, that comes to the same weights.

The program is a table of segments in which nothing changes, and one short loop over them.
Whatever a person typed goes into it through `repr`, as data.
"""

import hashlib
import itertools
import os
import platform
import pprint
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from babysit.core.state import State
from babysit.engine import catalog
from babysit.engine.architecture import is_whole
from babysit.engine.catalog import AttributeRef, HyperparameterSpec
from babysit.engine.optimizers import by_occurrence
from babysit.export.segments import TINY, Fold
from babysit.export.segments import Run as Run

WIDTH = 116

_PROGRAM = Template("""\
# A training run once more, in plain Keras: with every change of its hyperparameters, its batch sizes and
# the order of its examples. It says at the end whether it came to the same weights, bit for bit: it does
# where ENVIRONMENT is the same; elsewhere sums may be rounded otherwise.

import hashlib
import math
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

$constants
# Pass over the data, first example of it, steps, examples a step, what changes before the first step, and why.
$segments

$building

def load_data():
    # Return (x, y) or (x, y, sample_weight), or (x,) where there is no y, arrays, as `fit` was given them: without
    # a part set aside for validation, and with class weights as weights of the examples.
    raise NotImplementedError("Fill in `load_data`.")


def owners_of(model):
    # Hyperparameter -> the objects that hold it, and the name of the attribute or item.
    layers = list(model._flatten_layers())
    return {
$owners    }


def order_of(data_pass, size, shuffle):
    # The order of the examples in a pass over them, the first one being number 0.
    if not shuffle:
        return np.arange(size)
    rng = np.random.Generator(np.random.PCG64([SEED, data_pass]))
    if shuffle is True:
        return rng.permutation(size)
    whole = size - size % shuffle  # shuffled within batches of that size
    batches = rng.permuted(np.arange(whole).reshape(-1, shuffle), axis=1)
    return np.concatenate([batches.ravel(), rng.permutation(np.arange(whole, size))])


def prepared(array):
    # As `Model.fit` hands arrays on: floats in Keras's own type.
    array = np.asarray(array)
    return array.astype(keras.config.floatx()) if array.dtype.kind == "f" else array


def make_ready(model, data):
    if not model.built:  # as `Model.fit` builds it: by tracing its step
        step = tf.autograph.experimental.do_not_convert(lambda batch: model.train_step(batch))
        batches = tf.data.Dataset.from_tensor_slices(data).batch(1, drop_remainder=True)
        tf.function(step).get_concrete_function(batches.element_spec)
$optimizers    restore(model, "start")


def restore(model, state):
    arrays = np.load(Path(__file__).with_name(STATES))
    for i, variable in enumerate([*model.variables, $variables]):
        # NumPy's files know no bfloat16: its bits lie in them, without a type.
        variable.assign(arrays[f"{state}.{i}"].view(tf.as_dtype(variable.dtype).as_numpy_dtype))
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # which makes constants of its variables


def set_trainable(model, flags):
    for layer, flag in zip(model._flatten_layers(), flags, strict=True):
        layer.trainable = flag


def set_seeds(model, seeds):
    generators = [generator for layer in model._flatten_layers() for generator in layer._seed_generators]
    for generator, seed in zip(generators, seeds, strict=False):
        generator.state.assign(seed)


def set_hyperparameter(owners, value):
    for owner, attribute in owners:
        if isinstance(owner, dict):
            owner[attribute] = value
        else:
            setattr(owner, attribute, value)


def train():
    data = load_data()
    data = keras.tree.lists_to_tuples(data if isinstance(data, list | tuple) else (data,))
    data = keras.tree.map_structure(prepared, data)
    size = len(keras.tree.flatten(data)[0])
    if EXAMPLES not in (None, size):
        raise ValueError(f"`load_data` must give {EXAMPLES} examples. Received: {size}.")
    if len(data) == 1 and not isinstance(data[0], tuple):
        (data,) = data
    model = build_model()
    make_ready(model, data)
    owners, shuffle, static = owners_of(model), False, None
    schedules = {name: owners[name][0][0]._learning_rate for name in SCHEDULED}
    for data_pass, first, steps, batch_size, changes, _ in SEGMENTS:
        if "trainable" in changes:
            set_trainable(model, changes["trainable"])
        if "state" in changes:
            restore(model, changes["state"])  # weights that were put in place by hand, or by a callback
        if "seeds" in changes:
            set_seeds(model, changes["seeds"])  # validation and callbacks drew on them
        shuffle, static = changes.get("shuffle", shuffle), changes.get("static", static)
        for name in owners.keys() & changes.keys():
            value = changes[name]
            if name in schedules:  # a number over a schedule is a schedule too
                constant = keras.optimizers.schedules.PiecewiseConstantDecay
                value = schedules[name] if value == "schedule" else constant([0], [value, value])
            set_hyperparameter(owners[name], value)
        # All else is a constant of the traced step, and acts only when that is traced anew.
        if changes.keys() - set(UNTRACED):
            model.make_train_function(force=True)
        if steps:
            rows = order_of(data_pass, size, shuffle)[first : first + steps * batch_size]
            batches = tf.data.Dataset.from_tensor_slices(keras.tree.map_structure(lambda array: array[rows], data))
            model.fit(batches.batch(batch_size, drop_remainder=static is not None), shuffle=False, verbose=0)
    return model


def digest(model):
    sha = hashlib.sha256()
    for variable in model.variables:
        sha.update(variable.value.numpy().tobytes())
    return sha.hexdigest()

$model
if __name__ == "__main__":
    for sentence in REMARKS:
        print(sentence)
    same = digest(train()) == WEIGHTS
    print("The weights are the same, bit for bit." if same else "The weights differ from those of the run.")
    sys.exit(0 if same else 1)
""")

_BUILT = """
def build_model():
    return keras.saving.deserialize_keras_object(MODEL)  # below, as Keras writes a compiled model
"""

_UNBUILT = """
def build_model():
    # The model has parts that Keras cannot write down: return it here, built and compiled as it was.
    raise NotImplementedError("Fill in `build_model`.")
"""


def write(run: Run, path: Path) -> None:
    """Writes the program, and beside it the arrays that it needs, under the same name with `.npz`.

    Raises:
        ValueError: If a plain program cannot train the run again; the message says why.
    """
    specs = _specs(run)
    fold = Fold(run, {name for name, spec in specs.items() if _has_velocities(spec)})
    if len(fold.states["start"].tensors["model"]) != len(run.model.variables):
        raise ValueError(
            "The run cannot be exported: only its first step could build the model, so that the weights that it began "
            "with are not known. `panda.schedules()` and `export_logbook` still can."
        )
    arrays = path.with_suffix(".npz")
    states = _arrays(run, fold)
    is_known = is_whole(run.architecture)
    program = _PROGRAM.substitute(
        constants=_constants(run, fold, arrays.name),
        segments=_table(fold),
        building=_BUILT if is_known else _UNBUILT,
        owners=_owners_of(run, specs),
        optimizers=_optimizers_made(run, fold),
        variables=", ".join(f"*{source}.variables" for source in _optimizers(run).values()),
        model=_architecture(run.architecture) if is_known else "",
    )
    with open(arrays, "wb") as file:
        np.savez(file, allow_pickle=False, **states)
    path.write_text(program, encoding="utf-8")


def digest(model: Any) -> str:
    """sha256 of the weights of a model, in their order, hexadecimal; the program has the same function."""
    sha = hashlib.sha256()
    for variable in model.variables:
        sha.update(variable.value.numpy().tobytes())
    return sha.hexdigest()


# -------------------------------------------------------------------------------- the arrays


def _arrays(run: Run, fold: Fold) -> dict[str, np.ndarray]:
    """Name of the state and number of the variable -> its value."""
    found: dict[str, np.ndarray] = {}
    for name, state in fold.states.items():
        tensors = [*state.tensors["model"], *_of_optimizers(run, fold, state)]
        found |= {f"{name}.{i}": tensor for i, tensor in enumerate(tensors)}
    return found


def _of_optimizers(run: Run, fold: Fold, state: State) -> list[np.ndarray]:
    """A state's optimizer variables, and zeros for those that come later: the program makes all of them at once."""
    tensors, names = state.tensors["optimizer"], sorted(fold.velocities)
    for present in itertools.product((True, False), repeat=len(names)):
        layout = _layout(run, dict(zip(names, present, strict=True)), state.built_for)
        if [array.shape for array in layout.values()] == [tensor.shape for tensor in tensors]:
            known = dict(zip(layout, tensors, strict=True))
            wanted = _layout(run, dict.fromkeys(names, True), fold.built_for)
            return [known.get(key, zeros) for key, zeros in wanted.items()]
    raise ValueError(
        f"The run cannot be exported: the optimizer at step {state.position.step:,} had other variables than the "
        "present one, and a program compiles the model once."
    )


def _layout(run: Run, velocities: Mapping[str, bool], built_for: Iterable[Iterable[int]]) -> dict[Any, np.ndarray]:
    """What optimizers would hold, were they built for some of the model's variables: key -> value at first, in order.

    Args:
        run: The run.
        velocities: Momentum -> whether there are velocities.
        built_for: For each optimizer, the positions of the variables.
    """
    found: dict[Any, np.ndarray] = {}
    for (prefix, optimizer), positions in zip(run.optimizers.items(), built_for, strict=True):
        twin = type(optimizer).from_config(optimizer.get_config())
        for inner_prefix, inner in catalog.optimizers_in({prefix: twin}).items():
            if catalog.slots_name(inner):
                inner.momentum = 0.5 if velocities.get(f"{inner_prefix}.momentum".lstrip(".")) else 0.0
        twin.build([run.model.variables[i] for i in positions])
        found |= {(prefix, key): variable.numpy() for key, variable in by_occurrence(twin).items()}
    return found


# ------------------------------------------------------------------ where hyperparameters are held


def _specs(run: Run) -> dict[str, HyperparameterSpec]:
    """Hyperparameter -> where the model holds it."""
    found = [*catalog.loss_specs(run.model), *catalog.layer_specs(run.model)]
    for prefix, optimizer in catalog.optimizers_in(run.optimizers).items():
        found += [catalog.learning_rate_spec(prefix, optimizer), *catalog.optimizer_specs(prefix, optimizer)]
    return {spec.name: spec for spec in found}


def _has_velocities(spec: HyperparameterSpec) -> bool:
    return spec.refs[0].attribute == "momentum" and catalog.slots_name(spec.refs[0].owner) is not None


def _optimizers(run: Run) -> dict[str, str]:
    """Prefix of each optimizer that a step applies -> how the program reaches it."""
    attributes = vars(run.model).items()
    known = {id(value): f"model.{name}" for name, value in attributes if isinstance(value, keras.Optimizer)}
    known |= {id(getattr(value, "optimizer", None)): f"model.{name}.optimizer" for name, value in attributes}
    known[id(run.model.optimizer)] = "model.optimizer"
    return {prefix: known[id(optimizer)] for prefix, optimizer in run.optimizers.items()}


def _sources(run: Run) -> dict[int, str]:
    """Object that holds a hyperparameter -> how the program reaches it."""
    found: dict[int, str] = {}
    for prefix, source in _optimizers(run).items():
        optimizer = run.optimizers[prefix]
        inner = getattr(optimizer, "optimizers", ()) if isinstance(optimizer, keras.optimizers.MultiOptimizer) else ()
        found |= {id(optimizer): source, id(getattr(optimizer, "inner_optimizer", None)): f"{source}.inner_optimizer"}
        found |= {id(one): f"{source}.optimizers[{i}]" for i, one in enumerate(inner)}
    loss = run.model.loss
    several = loss.items() if isinstance(loss, Mapping) else enumerate(loss) if isinstance(loss, list | tuple) else ()
    for one, source in [(loss, "model.loss"), *((one, f"model.loss[{key!r}]") for key, one in several)]:
        found |= {id(one): source, id(getattr(one, "_fn_kwargs", None)): f"{source}._fn_kwargs"}
    for i, layer in enumerate(run.model._flatten_layers()):
        found |= {id(layer.activity_regularizer): f"layers[{i}].activity_regularizer", id(layer): f"layers[{i}]"}
    for i, variable in enumerate(run.model.variables):
        found[id(variable.regularizer)] = f"model.variables[{i}].regularizer"
    return found


def _owners_of(run: Run, specs: Mapping[str, HyperparameterSpec]) -> str:
    sources = _sources(run)

    def pair(ref: AttributeRef) -> str:
        attribute = "learning_rate" if ref.attribute == "_learning_rate" else ref.attribute
        return f"({sources[id(ref.owner)]}, {attribute!r})"

    lines = [f"        {name!r}: [{', '.join(map(pair, spec.refs))}],\n" for name, spec in specs.items()]
    return "".join(lines)


# ------------------------------------------------------------------------------- the source


def _literal(value: Any) -> str:
    return pprint.pformat(value, width=WIDTH, sort_dicts=False)


def _constants(run: Run, fold: Fold, arrays: str) -> str:
    environment = {
        "python": platform.python_version(),
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }
    scheduled = {name: schedule is not None for name, schedule in run.schedules.items()}
    untraced = ["shuffle", "seeds", *(name for name, follows in scheduled.items() if not follows)]
    constants = [
        ("NAME", run.model.name, ""),
        ("ENVIRONMENT", environment, ""),
        ("STATES", arrays, "The file beside this one with the weights and optimizer variables to begin with."),
        ("WEIGHTS", digest(run.model), "sha256 of the weights at the end."),
        ("SEED", run.seed, "With the number of the pass it determines the order of the examples."),
        ("EXAMPLES", fold.fit.size, ""),
        ("SCHEDULED", [name for name, follows in scheduled.items() if follows], "What follows a schedule, or did."),
        ("UNTRACED", untraced, "What may change without the step being traced anew."),
        ("REMARKS", _remarks(run, fold), "What was said of the run, and what this program cannot repeat."),
    ]
    lines = [f"# {meant}\n{name} = {_literal(value)}\n" for name, value, meant in constants]
    return "".join(line.removeprefix("# \n") for line in lines)


def _remarks(run: Run, fold: Fold) -> list[str]:
    remarks = list(run.remarks)
    if fold.is_stream:
        remarks.append(
            "The data came in batches: `load_data` must give the examples in the order in which they came. "
            "Each pass is taken to be the same, in batches of one size but the last."
        )
    if any("raw" in state.tensors for state in fold.states.values()):
        remarks.append("The step uses variables that are no part of the model: they begin as `build_model` makes them.")
    return remarks


def _table(fold: Fold) -> str:
    rows = [(one.data_pass, one.first, one.steps, one.batch_size, one.changes, one.why) for one in fold.segments]
    lines = "".join(f"    {line}\n" for row in rows for line in f"{_literal(row)},".split("\n"))
    tiny = f"# {TINY!r} is momentum 0 that keeps velocities.\n" if repr(TINY) in lines else ""
    return f"{tiny}SEGMENTS = [\n{lines}]"


def _architecture(architecture: Any) -> str:
    literal = pprint.pformat(architecture, width=WIDTH, sort_dicts=False, compact=True)  # it may hold vocabularies
    infinite = "inf, nan = math.inf, math.nan\n" if re.search(r"\b(inf|nan)\b", literal) else ""
    return f"\n{infinite}MODEL = {literal}\n\n"


def _optimizers_made(run: Run, fold: Fold) -> str:
    """Lines of the program that make the optimizers, not built yet, and build them with all they will need."""
    lines, flags = [], list(fold.states["start"].trainable)
    if not all(flags):
        lines.append(f"set_trainable(model, {flags!r})")
    sources = _sources(run)
    for (prefix, source), positions in zip(_optimizers(run).items(), fold.built_for, strict=True):
        lines.append(f"{source} = type({source}).from_config({source}.get_config())  # one that is not built")
        for name, inner in catalog.optimizers_in({prefix: run.optimizers[prefix]}).items():
            if f"{name}.momentum".lstrip(".") in fold.velocities:
                lines.append(f"{sources[id(inner)]}.momentum = 0.5  # any but 0, so that it makes velocities")
            if inner.use_ema:
                lines.append(f"{source}.finalize_variable_values = lambda variables: None  # not after every segment")
        lines.append(f"{source}.build([model.variables[i] for i in {list(positions)!r}])")
    return "".join(f"    {one}\n" for one in lines)
