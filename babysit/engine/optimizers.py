"""The optimizers of a model: which there are, which of them a step applies, and one built again."""

from collections.abc import Sequence
from typing import Any

import keras


def inner(optimizer: Any) -> Any:
    """The optimizer that holds the hyperparameters: the one that a `LossScaleOptimizer` wraps, or itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def rebuild(optimizer: Any, variables: Sequence[Any]) -> None:
    """Builds an optimizer again for these variables; what it holds for those it knows stays."""
    old = by_occurrence(optimizer)
    kept = {id(optimizer._iterations), id(optimizer._learning_rate)}
    for variable in list(optimizer.variables):
        if id(variable) not in kept:
            optimizer._tracker.untrack(variable)
    optimizer.built = False
    optimizer._trainable_variables_indices.clear()
    optimizer.build(list(variables))
    for key, variable in by_occurrence(optimizer).items():
        if key in old:
            variable.assign(old[key].value)


def by_occurrence(optimizer: Any) -> dict[tuple[str, int], Any]:
    """An optimizer's variables by name, and by their order where a name comes twice."""
    found: dict[tuple[str, int], Any] = {}
    for variable in optimizer.variables:
        count = sum(name == variable.name for name, _ in found)
        found[variable.name, count] = variable
    return found


def optimizers_of(model: Any) -> dict[str, Any]:
    """Prefix -> `model.optimizer`, under "", and those that a model with its own `train_step` keeps beside it.

    `discriminator_optimizer` and the optimizer that a submodel `discriminator` was compiled
    with are both called `discriminator`.
    """
    found = {"": model.optimizer}
    for attribute, value in vars(model).items() if type(model).train_step is not keras.Model.train_step else ():
        optimizer = value if isinstance(value, keras.Optimizer) else getattr(value, "optimizer", None)
        is_new = isinstance(optimizer, keras.Optimizer) and all(optimizer is not other for other in found.values())
        if is_new and not attribute.startswith("_"):
            name = attribute.removesuffix("_optimizer")
            found[attribute if name in found else name] = optimizer
    return found


def applied_in(optimizers: dict[str, Any], graph: Any) -> dict[str, Any]:
    """Those that the step in a graph applies: it counts their steps."""
    captured = {id(outer) for outer, _ in graph.captures}
    return {name: one for name, one in optimizers.items() if id(inner(one)._iterations.value.handle) in captured}
