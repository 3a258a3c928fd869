"""A run as a plain Keras program, without babysit, that comes to the same weights.

The program is a table of segments in which nothing changes, and one short loop over them.
Whatever a person typed goes into it through `repr`, as data.
"""

import hashlib
import itertools
import os
import platform
import pprint
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from babysit.core.state import State
from babysit.engine import catalog
from babysit.engine.architecture import is_whole
from babysit.engine.catalog import AttributeRef, HyperparameterSpec
from babysit.engine.optimizers import by_occurrence
from babysit.export.program import PROGRAM
from babysit.export.segments import Fold
from babysit.export.segments import Run as Run


def write(run: Run, path: Path) -> None:
    """Writes the program, and beside it the arrays that it needs, under the same name with `.npz`.

    Raises:
        ValueError: If a plain program cannot train the run again; the message says why.
    """
    specs = _specs(run)
    momentums = {name for name, spec in specs.items() if _has_velocities(spec)}
    fold = Fold(run, momentums)
    if len(fold.states["start"].tensors["model"]) != len(run.model.variables):
        raise ValueError(
            "The run cannot be exported: only its first step could build the model, so that the weights that it began "
            "with are not known. `panda.schedules()` and `export_logbook` still can."
        )
    arrays = path.with_suffix(".npz")
    states = _arrays(run, fold, sorted(momentums))
    untraced = [name for name, schedule in run.schedules.items() if schedule is None]
    places = {
        "environment": _environment(),
        "states": arrays.name,
        "weights": digest(run.model),
        "seed": run.seed,
        "examples": fold.fit.size,
        "untraced": ["shuffle", "seeds", *untraced],
        "remarks": _remarks(run, fold),
        "model": run.architecture if is_whole(run.architecture) else None,
    }
    program = PROGRAM.substitute(
        {name: _literal(value) for name, value in places.items()},
        segments=_table(fold),
        assignments=_assignments(run, specs),
        schedules=", ".join(_schedules(run, specs)),
        optimizers=_optimizers_made(run, fold),
        variables=", ".join(f"*{source}.variables" for source in _optimizers(run).values()),
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


def _arrays(run: Run, fold: Fold, momentums: Sequence[str]) -> dict[str, np.ndarray]:
    """Name of the state and number of the variable -> its value."""
    found: dict[str, np.ndarray] = {}
    for name, state in fold.states.items():
        tensors = [*state.tensors["model"], *_of_optimizers(run, fold, momentums, state)]
        found |= {f"{name}.{i}": tensor for i, tensor in enumerate(tensors)}
    return found


def _of_optimizers(run: Run, fold: Fold, momentums: Sequence[str], state: State) -> list[np.ndarray]:
    """A state's optimizer variables, and zeros for those that come later: the program makes all of them at once."""
    tensors = state.tensors["optimizer"]
    for present in itertools.product((True, False), repeat=len(momentums)):
        layout = _layout(run, set(itertools.compress(momentums, present)), state.built_for)
        if [array.shape for array in layout.values()] == [tensor.shape for tensor in tensors]:
            known = dict(zip(layout, tensors, strict=True))
            wanted = _layout(run, fold.velocities, fold.built_for)
            return [known.get(key, zeros) for key, zeros in wanted.items()]
    raise ValueError(
        f"The run cannot be exported: the optimizer at step {state.position.step:,} had other variables than the "
        "present one, and a program compiles the model once."
    )


def _layout(run: Run, velocities: Collection[str], built_for: Iterable[Iterable[int]]) -> dict[Any, np.ndarray]:
    """What optimizers would hold, were they built for some of the model's variables: key -> value at first, in order.

    Args:
        run: The run.
        velocities: The momentums that have velocities.
        built_for: For each optimizer, the positions of the variables.
    """
    found: dict[Any, np.ndarray] = {}
    for (prefix, optimizer), positions in zip(run.optimizers.items(), built_for, strict=True):
        twin = type(optimizer).from_config(optimizer.get_config())
        for inner_prefix, inner in catalog.optimizers_in({prefix: twin}).items():
            if catalog.slots_name(inner):
                inner.momentum = 0.5 if f"{inner_prefix}.momentum".lstrip(".") in velocities else 0.0
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


def _assignments(run: Run, specs: Mapping[str, HyperparameterSpec]) -> str:
    """Lines of the program that set what changes, wherever the model holds it."""
    sources = _sources(run)
    lines = []
    for name, spec in specs.items():
        places = " = ".join(_place(ref, sources[id(ref.owner)]) for ref in spec.refs)
        lines.append(f"    if {name!r} in changes:\n        {places} = changes[{name!r}]\n")
    return "".join(lines)


def _place(ref: AttributeRef, source: str) -> str:
    if isinstance(ref.owner, dict):
        return f"{source}[{ref.attribute!r}]"
    return f"{source}.{'learning_rate' if ref.attribute == '_learning_rate' else ref.attribute}"


def _schedules(run: Run, specs: Mapping[str, HyperparameterSpec]) -> Iterable[str]:
    sources = _sources(run)
    for name, schedule in run.schedules.items():
        if schedule is not None:
            yield f"{name!r}: {sources[id(specs[name].refs[0].owner)]}._learning_rate"


# ------------------------------------------------------------------------------- the source


def _literal(value: Any) -> str:
    return pprint.pformat(value, width=116, sort_dicts=False, compact=True)


def _environment() -> dict[str, Any]:
    versions = {"keras": keras.__version__, "tensorflow": tf.__version__, "numpy": np.__version__}
    return {"python": platform.python_version(), **versions, "machine": platform.machine(), "cores": os.cpu_count()}


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
    return "".join(f"    {line}\n" for row in rows for line in f"{_literal(row)},".split("\n"))


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
