"""A run as a plain Keras program, without babysit, that comes to the same weights.

The program is a table of segments in which nothing changes, and one short loop over them.
Whatever a person typed goes into it through `repr`, as data.
"""

import hashlib
import pprint
from pathlib import Path
from typing import Any

import numpy as np

from babysit.engine import catalog
from babysit.engine.catalog import AttributeRef, HyperparameterSpec
from babysit.engine.environment import describe
from babysit.engine.model import TrainableModel
from babysit.engine.optimizers import inner
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
    fold = Fold(session, catalog.slots_name(inner(model.optimizer)) is not None)
    start, states = fold.states["start"], path.with_suffix(".npz")
    if "raw" in start.tensors:
        raise refusal("its step uses variables that are no part of the model")
    places = {
        "environment": describe(),
        "states": states.name,
        "weights": digest(model),
        "seed": start.seed,
        "examples": fold.size,
        "layouts": {name: (list(one.trainable), list(one.built_for[0])) for name, one in fold.states.items()},
        "model": architecture,
    }
    program = PROGRAM.substitute(
        {name: _literal(value) for name, value in places.items()},
        segments=_table(fold),
        assignments=_assignments(model),
    )
    groups = {name: [*one.tensors["model"], *one.tensors["optimizer"]] for name, one in fold.states.items()}
    arrays = {f"{name}.{i}": array for name, group in groups.items() for i, array in enumerate(group)}
    np.savez(states, allow_pickle=False, **arrays)
    path.write_text(program, encoding="utf-8")


def digest(model: Any) -> str:
    """sha256 of the weights of a model, in their order, hexadecimal; the program has the same function."""
    sha = hashlib.sha256()
    for variable in model.variables:
        sha.update(variable.value.numpy().tobytes())
    return sha.hexdigest()


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


def _table(fold: Fold) -> str:
    rows = [(one.data_pass, one.first, one.steps, one.batch_size, one.changes, one.why) for one in fold.segments]
    return "".join(f"    {line}\n" for row in rows for line in f"{_literal(row)},".split("\n"))
