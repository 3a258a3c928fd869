"""A run as a plain Keras program, without babysit, that comes to the same weights.

The program is a table of stretches in which nothing changes, and one short loop over them.
Whatever a person typed goes into it through `repr`, as data.
"""

import hashlib
import os
import platform
import pprint
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from babysit.engine import catalog
from babysit.engine.architecture import is_whole
from babysit.engine.catalog import AttributeRef, HyperparameterSpec
from babysit.engine.optimizers import by_occurrence
from babysit.export.schedules import Run
from babysit.export.stretches import TINY, Line, Stretch
from babysit.store.files import State

WIDTH = 116

_HEAD = """# A training run once more, in plain Keras: with every change of its hyperparameters, its batch sizes
# and the order of its examples. It says at the end whether it came to the same weights, bit for bit: it does
# where ENVIRONMENT is the same; elsewhere sums may be rounded otherwise.

import hashlib
import math
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
"""

_BUILT = """
def build_model():
    return keras.saving.deserialize_keras_object(MODEL)  # below, as Keras writes a compiled model
"""

_UNBUILT = """
def build_model():
    # The model has parts that Keras cannot write down: return it here, built and compiled as it was.
    raise NotImplementedError("Fill in `build_model`.")
"""

_DATA = """
def load_data():
    # Return (x, y) or (x, y, sample_weight), or (x,) where there is no y, arrays, as `fit` was given them: without
    # a part set aside for validation, and with class weights as weights of the examples.
    raise NotImplementedError("Fill in `load_data`.")
"""

_KEEPS = """
def kept_by(model):
    # Hyperparameter -> the objects that keep it, and the name of the attribute or item.
    layers = list(model._flatten_layers())
    return {
LINES    }
"""

_ORDER = """
def order_of(number, size, declared):
    # The order of the examples in a pass over them, the first one being number 0.
"""
_SHUFFLED = """    rng = np.random.Generator(np.random.PCG64([SEED, number]))
"""
_ORDERS = {
    False: _ORDER
    + """    return np.arange(size)
""",
    True: _ORDER
    + _SHUFFLED
    + """    return rng.permutation(size)
""",
    "batch": _ORDER
    + _SHUFFLED
    + """    whole = size - size % declared
    batches = rng.permuted(np.arange(whole).reshape(-1, declared), axis=1)
    return np.concatenate([batches.ravel(), rng.permutation(np.arange(whole, size))])
""",
}

_READINESS = """
def prepared(array):
    # As `Model.fit` hands arrays on: floats in Keras's own type.
    array = np.asarray(array)
    return array.astype(keras.config.floatx()) if array.dtype.kind == "f" else array


def set_trainable(model, flags):
    for layer, flag in zip(model._flatten_layers(), flags, strict=True):
        layer.trainable = flag


def make_ready(model, data):
BUILDINGLINES    restore(model, "start")


def restore(model, state):
    arrays = np.load(Path(__file__).with_name(STATES))
    for i, variable in enumerate([*model.variables, VARIABLES]):
        # NumPy's files know no bfloat16: its bits lie in them, without a type.
        variable.assign(arrays[f"{state}.{i}"].view(tf.as_dtype(variable.dtype).as_numpy_dtype))
CONSTANTS

def digest(model):
    sha = hashlib.sha256()
    for variable in model.variables:
        sha.update(variable.value.numpy().tobytes())
    return sha.hexdigest()
"""

# How a model is built: by its `call`, or, as its `train_step` may do without, as `Model.fit` does.
_BY_CALL = """    if not model.built:
        x = data[0] if isinstance(data, tuple) else data
        model(keras.tree.map_structure(lambda array: array[:1], x))
"""
_BY_STEP = """    # As `Model.fit` builds it: by tracing its step.
    step = tf.autograph.experimental.do_not_convert(lambda batch: model.train_step(batch))
    tf.function(step).get_concrete_function(tf.data.Dataset.from_tensor_slices(data).batch(1).element_spec)
"""
_BY_BOTH = """    if not model.built:
        x = data[0] if isinstance(data, tuple) else data
        try:
            model(keras.tree.map_structure(lambda array: array[:1], x))
        except Exception:  # its step calls it with something else, or not at all
            pass
        step = tf.autograph.experimental.do_not_convert(lambda batch: model.train_step(batch))
        tf.function(step).get_concrete_function(tf.data.Dataset.from_tensor_slices(data).batch(1).element_spec)
"""

_CONSTANTS = """    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # which makes constants of its variables
"""

_TRAINING = """
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
    kept, pass_, done, declared, traced_for = kept_by(model), 0, 0, DECLARED, 0
SCHEDULES    for steps, batch_size, changes, _ in STRETCHES:
EVENTS        for name in kept.keys() & changes.keys():
            value = changes[name]
TAKEN            for owner, attribute in kept[name]:
                if isinstance(owner, dict):
                    owner[attribute] = value
                else:
                    setattr(owner, attribute, value)
        # All else is a constant of the traced step, and acts only when that is traced anew.
        if changes.keys() - set(VARIABLES):
            traced_for = 0
        while steps:
            taken = min(steps, math.ceil((size - done) / batch_size))
            alike = batch_size == declared and size % batch_size == done % batch_size == 0
            rows = order_of(pass_, size, declared)[done : done + taken * batch_size]
            batches = tf.data.Dataset.from_tensor_slices(keras.tree.map_structure(lambda array: array[rows], data))
            size_told = batch_size if alike else None
            if traced_for != size_told:
                model.make_train_function(force=True)
            model.fit(batches.batch(batch_size, drop_remainder=alike), shuffle=False, verbose=0)
            steps, done, traced_for = steps - taken, done + taken * batch_size, size_told
            if done >= size:
                pass_, done = pass_ + 1, 0
    return model
"""

# What a stretch may begin with beside hyperparameters, in the order in which it comes.
_EVENTS = {
    "trainable": """            set_trainable(model, changes["trainable"])
""",
    "state": """            restore(model, changes["state"])  # weights that were put in place by hand, or by a callback
""",
    "average": """            optimizer = model.optimizer
            type(optimizer).finalize_variable_values(optimizer, model.trainable_variables)
""",
    "velocities": """            for optimizer, factors in changes["velocities"].items():
                for factor in factors:
                    for velocity in velocities_of(model)[optimizer]:
                        velocity.assign(velocity * factor)
""",
    "place": """            pass_, done = changes["place"]
""",
    "declared": """            declared = changes["declared"]
""",
}

_SCHEDULES = """    schedules = {name: owner._learning_rate for name in SCHEDULED for owner, _ in kept[name]}
"""
_TAKEN = """            if name in schedules:  # a number over a schedule is a schedule too
                constant = keras.optimizers.schedules.PiecewiseConstantDecay
                value = schedules[name] if value == "schedule" else constant([0], [value, value])
"""

_VELOCITIES = """
def velocities_of(model):
    return {
LINES    }
"""

_END = """
if __name__ == "__main__":
    for sentence in REMARKS:
        print(sentence)
    same = digest(train()) == WEIGHTS
    print("The weights are the same, bit for bit." if same else "The weights differ from those of the run.")
    sys.exit(0 if same else 1)
"""


def write(run: Run, path: Path) -> None:
    """Writes the program, and beside it the arrays that it needs, under the same name with `.npz`.

    Raises:
        ValueError: If the run has not begun, its data are not dense, the checkpoint of its start cannot be used, or
            it holds no weights yet.
    """
    if not all(fit.get("is_dense", True) for fit in run.fits):
        raise ValueError(
            "`export_script` needs dense data, whose examples a program can pick one by one. Received: sparse or "
            "ragged ones. `panda.schedules()` and `export_logbook` tell of such a run."
        )
    places = dict(_places(run))
    line = Line(run, places)
    if len(line.states["start"].tensors["model"]) != len(run.model.variables):
        raise ValueError(
            "`export_script` needs the weights that the run began with. Received: a model that only its first step "
            "could build. `panda.schedules()` and `export_logbook` tell of such a run."
        )
    arrays = path.with_suffix(".npz")
    states = _arrays(run, line)
    source = "\n".join(_parts(run, line, places, arrays.name))
    with open(arrays, "wb") as file:
        np.savez(file, allow_pickle=False, **states)
    path.write_text(source, encoding="utf-8")


def _parts(run: Run, line: Line, places: Mapping[str, HyperparameterSpec], arrays: str) -> Iterator[str]:
    stretches = line.stretches()
    used = {name for stretch in stretches for name in stretch.changes}
    yield _HEAD
    yield _constants(run, line, arrays)
    yield _table(stretches)
    yield _BUILT if is_whole(run.architecture) else _UNBUILT
    yield _DATA
    yield _keeps(run, {name: place for name, place in places.items() if name in used})
    yield _ORDERS[line.first_fit["shuffle"]]
    yield _readiness(run, line)
    yield _training(run, used)
    yield _architecture(run) if is_whole(run.architecture) else ""
    yield _END


def digest(model: Any) -> str:
    """sha256 of the weights of a model, in their order, hexadecimal; the program has the same function."""
    sha = hashlib.sha256()
    for variable in model.variables:
        sha.update(variable.value.numpy().tobytes())
    return sha.hexdigest()


# -------------------------------------------------------------------------------- the arrays


def _arrays(run: Run, line: Line) -> dict[str, np.ndarray]:
    """Name of the state and number of the variable -> its value."""
    found: dict[str, np.ndarray] = {}
    for name, state in line.states.items():
        tensors = [*state.tensors["model"], *_of_optimizers(run, line, state)]
        found |= {f"{name}.{i}": tensor for i, tensor in enumerate(tensors)}
    return found


def _of_optimizers(run: Run, line: Line, state: State) -> list[np.ndarray]:
    """A state's optimizer variables, and zeros for those that come later: the program makes all of them at once."""
    if not line.velocities - set(state.structure) and state.built_on == line.built_on:
        return list(state.tensors["optimizer"])
    tensors, found = iter(state.tensors["optimizer"]), []
    for (prefix, optimizer), then, last in zip(run.optimizers.items(), state.built_on, line.built_on, strict=True):
        momentum = f"{prefix}.momentum".lstrip(".")
        have = _layout(run.model, optimizer, momentum in state.structure, then)
        need = _layout(run.model, optimizer, momentum in line.velocities, last)
        known = {key: next(tensors) for key in have}
        found += [known.get(key, zeros) for key, zeros in need.items()]
    return found


def _layout(model: Any, optimizer: Any, has_velocities: bool, built_on: tuple[int, ...]) -> dict[Any, np.ndarray]:
    """The variables of such an optimizer as it is built, in their order: name and occurrence -> the value."""
    twin = type(optimizer).from_config(optimizer.get_config())
    inner = getattr(twin, "inner_optimizer", twin)
    if catalog.slots_name(inner):
        inner.momentum = 0.5 if has_velocities else 0.0
    twin.build([model.variables[i] for i in built_on])
    return {key: variable.numpy() for key, variable in by_occurrence(twin).items()}


# ------------------------------------------------------------------------- where values are kept


def _places(run: Run) -> Iterator[tuple[str, HyperparameterSpec]]:
    """Hyperparameter -> its place, with spots whose owners `_owner` knows."""
    for prefix, optimizer in catalog.optimizers_in(run.optimizers).items():
        for place in (catalog.learning_rate_spec(prefix, optimizer), *catalog.optimizer_specs(prefix, optimizer)):
            yield place.name, place
    for place in catalog.loss_specs(run.model):
        yield place.name, place
    for place in catalog.layer_specs(run.model):
        yield place.name, place


def _owners(run: Run) -> dict[int, str]:
    """Object that keeps a hyperparameter -> how the program reaches it."""
    found: dict[int, str] = {id(optimizer): source for optimizer, source in _optimizers(run)}
    for optimizer, source in _optimizers(run):
        found[id(getattr(optimizer, "inner_optimizer", None))] = f"{source}.inner_optimizer"
        inner = getattr(optimizer, "optimizers", ()) if isinstance(optimizer, keras.optimizers.MultiOptimizer) else ()
        found |= {id(one): f"{source}.optimizers[{i}]" for i, one in enumerate(inner)}
    loss = run.model.loss
    several = loss.items() if isinstance(loss, Mapping) else enumerate(loss) if isinstance(loss, list | tuple) else ()
    for one, source in [(loss, "model.loss"), *((one, f"model.loss[{key!r}]") for key, one in several)]:
        found |= {id(one): source, id(getattr(one, "_fn_kwargs", None)): f"{source}._fn_kwargs"}
    found |= {id(layer): f"layers[{i}]" for i, layer in enumerate(run.model._flatten_layers())}
    for i, layer in enumerate(run.model._flatten_layers()):
        found[id(layer.activity_regularizer)] = f"layers[{i}].activity_regularizer"
    for i, variable in enumerate(run.model.variables):
        found[id(variable.regularizer)] = f"model.variables[{i}].regularizer"
    return found


def _optimizers(run: Run) -> list[tuple[Any, str]]:
    """Each optimizer that a step applies, and how the program reaches it."""
    kept = vars(run.model).items()
    known = {id(value): f"model.{name}" for name, value in kept if isinstance(value, keras.Optimizer)}
    known |= {id(getattr(value, "optimizer", None)): f"model.{name}.optimizer" for name, value in kept}
    known[id(run.model.optimizer)] = "model.optimizer"
    return [(optimizer, known[id(optimizer)]) for optimizer in run.optimizers.values()]


def _keeps(run: Run, places: Mapping[str, HyperparameterSpec]) -> str:
    owners = _owners(run)

    def source(spot: AttributeRef) -> str:
        attribute = "learning_rate" if spot.attribute == "_learning_rate" else spot.attribute
        return f"({owners[id(spot.owner)]}, {attribute!r})"

    lines = [f"        {name!r}: [{', '.join(map(source, place.refs))}],\n" for name, place in places.items()]
    return _KEEPS.replace("LINES", "".join(lines))


# ------------------------------------------------------------------------------- the source


def _literal(value: Any) -> str:
    return pprint.pformat(value, width=WIDTH, sort_dicts=False)


def _constants(run: Run, line: Line, arrays: str) -> str:
    fit = line.first_fit
    values = {
        "NAME": run.model.name,
        "ENVIRONMENT": {
            "python": platform.python_version(),
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
            "numpy": np.__version__,
            "machine": platform.machine(),
            "cores": os.cpu_count(),
        },
        "STATES": arrays,
        "WEIGHTS": digest(run.model),
        "SEED": run.seed,
        "EXAMPLES": fit["size"],
        "DECLARED": fit["declared"],
        "REMARKS": _notes(run, line),
    }
    return "".join(f"{_MEANT[name]}{name} = {_literal(value)}\n" for name, value in values.items())


def _notes(run: Run, line: Line) -> list[str]:
    stream = (
        "The data came in batches of their own: `load_data` must give the examples in the order in which they came, "
    )
    stream += "and each pass is taken to be the same."
    return [*line.notes, *([stream] if line.first_fit["is_stream"] else [])]


_MEANT = {
    "NAME": "",
    "ENVIRONMENT": "",
    "STATES": "# The file beside this one with the weights and optimizer variables to begin with.\n",
    "WEIGHTS": "# sha256 of the weights at the end.\n",
    "SEED": "# With the number of the pass it determines the order of the examples.\n",
    "EXAMPLES": "",
    "DECLARED": "# The batch size `fit` was given: where all batches have it, TensorFlow is told.\n",
    "REMARKS": "# What was said of the run, and what this program cannot repeat.\n",
}


def _table(stretches: Iterable[Stretch]) -> str:
    rows = [_row((each.steps, each.batch_size, each.changes, each.why)) for each in stretches]
    tiny = f"# {TINY!r} is momentum 0 that keeps velocities.\n" if any(repr(TINY) in row for row in rows) else ""
    head = f"# Steps, examples a step, what changes before the first of them, and why.\n{tiny}"
    return f"{head}STRETCHES = [\n{''.join(rows)}]\n"


def _row(row: tuple[Any, ...]) -> str:
    return "".join(f"    {line}\n" for line in f"{_literal(row)},".split("\n"))


def _architecture(run: Run) -> str:
    literal = pprint.pformat(run.architecture, width=WIDTH, sort_dicts=False, compact=True)  # it may hold vocabularies
    infinite = "inf, nan = math.inf, math.nan\n" if re.search(r"\b(inf|nan)\b", literal) else ""
    return f"\n{infinite}MODEL = {literal}\n"


def _readiness(run: Run, line: Line) -> str:
    sources = [source for _, source in _optimizers(run)]
    lines = []
    if not all(line.states["start"].trainable):
        lines.append(f"set_trainable(model, {list(line.states['start'].trainable)!r})")
    for prefix, source, built_on in zip(run.optimizers, sources, line.built_on, strict=True):
        lines.append(f"{source} = type({source}).from_config({source}.get_config())  # one that is not built")
        inner = ".inner_optimizer" if hasattr(run.optimizers[prefix], "inner_optimizer") else ""
        if f"{prefix}.momentum".lstrip(".") in line.velocities:
            lines.append(f"{source}{inner}.momentum = 0.5  # any but 0, so that it makes velocities")
        lines.append(f"{source}.build([model.variables[i] for i in {list(built_on)!r}])")
        if line.averages:
            lines.append(f"{source}.finalize_variable_values = lambda variables: None  # not behind every stretch")
    variables = ", ".join(f"*{source}.variables" for source in sources)
    parts = {
        "BUILDING": _building(run.model),
        "LINES": "".join(f"    {one}\n" for one in lines),
        "VARIABLES": variables,
        "CONSTANTS\n": _CONSTANTS if _adapted(run.model) else "",
    }
    readiness = _filled(_READINESS, parts)
    velocities = [
        f"        {prefix!r}: [slot for slot in {source}.{name} if slot is not None],\n"
        for prefix, optimizer, source in _inner_optimizers(run)
        if (name := catalog.slots_name(optimizer))
    ]
    return readiness + (_VELOCITIES.replace("LINES", "".join(velocities)) if line.multiplies else "")


def _building(model: Any) -> str:
    if type(model).call is keras.Model.call:
        return _BY_STEP
    return _BY_CALL if type(model).train_step is keras.Model.train_step else _BY_BOTH


def _adapted(model: Any) -> bool:
    """Whether layers keep constants that are made of their variables."""
    layers = model._flatten_layers()
    return any(isinstance(layer, keras.layers.Normalization) and layer.input_mean is None for layer in layers)


def _inner_optimizers(run: Run) -> list[tuple[str, Any, str]]:
    """Prefix of the names, the optimizer that holds them, and how the program reaches it."""
    owners = _owners(run)
    return [(prefix, one, owners[id(one)]) for prefix, one in catalog.optimizers_in(run.optimizers).items()]


def _training(run: Run, used: set[str]) -> str:
    events = "".join(f"        if {name!r} in changes:\n{_EVENTS[name]}" for name in _EVENTS if name in used)
    scheduled = sorted(name for name in used if run.schedules.get(name) is not None)
    variables = ["place", "declared", *(name for name, schedule in run.schedules.items() if schedule is None)]
    parts = {
        "EVENTS": events,
        "SCHEDULES": _SCHEDULES.replace("SCHEDULED", repr(scheduled)) if scheduled else "",
        "TAKEN": _TAKEN if scheduled else "",
        "VARIABLES": _literal(variables),
    }
    return _filled(_TRAINING, parts)


def _filled(template: str, parts: Mapping[str, str]) -> str:
    """The template with its marks replaced, all at once: what is put in is not looked at again."""
    marks = re.compile("|".join(map(re.escape, parts)))
    return marks.sub(lambda found: parts[found[0]], template)
