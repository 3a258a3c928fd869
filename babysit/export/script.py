"""A run as a plain Keras program, without babysit, that comes to the same weights.

The program is a table of segments in which nothing changes, and one short loop over them.
Whatever a person typed goes into it through `repr`, as data.
"""

import hashlib
import pprint
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from babysit.engine import catalog
from babysit.engine.catalog import AttributeRef, HyperparameterSpec
from babysit.engine.environment import describe
from babysit.engine.model import TrainableModel
from babysit.engine.optimizers import by_occurrence, inner
from babysit.export.program import PROGRAM
from babysit.export.segments import Fold, refusal
from babysit.session.session import Session


def write(session: Session, trained: TrainableModel, architecture: Any, path: Path) -> None:
    """Writes the program, and beside it the arrays that it needs, under the same name with `.npz`.

    Args:
        session: The run, which has begun.
        trained: Its model.
        architecture: The compiled model in plain data, or None.
        path: The program's.

    Raises:
        ValueError: If a plain program cannot train the run again; the message says why.
    """
    model = trained.model
    if list(trained.optimizers.values()) != [model.optimizer] or hasattr(model.optimizer, "optimizers"):
        raise refusal("its step applies other optimizers than `model.optimizer` alone")
    fold = Fold(session, "momentum" if catalog.slots_name(inner(model.optimizer)) else None)
    arrays = path.with_suffix(".npz")
    places = {
        "environment": describe(),
        "states": arrays.name,
        "weights": digest(model),
        "seed": fold.states["start"].seed,
        "examples": fold.fit.size,
        "built_for": list(fold.built_for),
        "remarks": _remarks(session, fold),
        "model": architecture,
    }
    program = PROGRAM.substitute(
        {name: _literal(value) for name, value in places.items()},
        segments=_table(fold),
        assignments=_assignments(model),
    )
    states = _arrays(model, fold)
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


def _arrays(model: Any, fold: Fold) -> dict[str, np.ndarray]:
    """Name of the state and number of the variable -> its value.

    The program makes all variables of the optimizer at once: those that come later, as layers are thawed, begin with
    zeros.
    """
    found: dict[str, np.ndarray] = {}
    wanted = _layout(model, fold.built_for)
    for name, state in fold.states.items():
        known = dict(zip(_layout(model, state.built_for[0]), state.tensors["optimizer"], strict=True))
        tensors = [*state.tensors["model"], *(known.get(key, first) for key, first in wanted.items())]
        found |= {f"{name}.{i}": tensor for i, tensor in enumerate(tensors)}
    return found


def _layout(model: Any, positions: Sequence[int]) -> dict[Any, np.ndarray]:
    """What the optimizer holds if built for these of the model's variables: key -> value at first, in order."""
    twin = type(model.optimizer).from_config(model.optimizer.get_config())
    twin.build([model.variables[i] for i in positions])
    return {key: variable.numpy() for key, variable in by_occurrence(twin).items()}


# ------------------------------------------------------------------ where hyperparameters are held


def _specs(model: Any) -> list[HyperparameterSpec]:
    """Where the model holds its hyperparameters."""
    optimizer = inner(model.optimizer)
    of_optimizer = [catalog.learning_rate_spec("", optimizer), *catalog.optimizer_specs("", optimizer)]
    return [*catalog.loss_specs(model), *catalog.layer_specs(model), *of_optimizer]


def _sources(model: Any) -> dict[int, str]:
    """Object that holds a hyperparameter -> how the program reaches it."""
    found: dict[int, str] = {id(inner(model.optimizer)): "optimizer", id(model.loss): "model.loss"}
    found[id(getattr(model.loss, "_fn_kwargs", None))] = "model.loss._fn_kwargs"
    for i, layer in enumerate(model._flatten_layers()):
        found |= {id(layer.activity_regularizer): f"layers[{i}].activity_regularizer", id(layer): f"layers[{i}]"}
    for i, variable in enumerate(model.variables):
        found[id(variable.regularizer)] = f"model.variables[{i}].regularizer"
    return found


def _assignments(model: Any) -> str:
    """Lines of the program that set what changes, wherever the model holds it."""
    sources = _sources(model)
    lines = []
    for spec in _specs(model):
        places = " = ".join(_place(ref, sources[id(ref.owner)]) for ref in spec.refs)
        lines.append(f"    if {spec.name!r} in changes:\n        {places} = changes[{spec.name!r}]\n")
    return "".join(lines)


def _place(ref: AttributeRef, source: str) -> str:
    if isinstance(ref.owner, dict):
        return f"{source}[{ref.attribute!r}]"
    return f"{source}.{'learning_rate' if ref.attribute == '_learning_rate' else ref.attribute}"


# ------------------------------------------------------------------------------- the source


def _literal(value: Any) -> str:
    return pprint.pformat(value, width=116, sort_dicts=False, compact=True)


def _remarks(session: Session, fold: Fold) -> list[str]:
    remarks = list(session.plan.remarks if session.plan else ())
    if fold.facts["is_stream"]:
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
