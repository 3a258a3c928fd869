"""The optimizers of a model: which there are, which of them a step applies, and one built again."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras


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


def attribute_optimizers(model: Any) -> dict[str, Any]:
    """Optimizers that a model keeps beside `model.optimizer`, by what they are for.

    `discriminator_optimizer` and the optimizer that a submodel `discriminator` was compiled
    with are both called `discriminator`.
    """
    found: dict[str, Any] = {}
    for attribute, value in vars(model).items():
        optimizer = value if isinstance(value, keras.Optimizer) else getattr(value, "optimizer", None)
        if attribute.startswith("_") or attribute == "optimizer" or not isinstance(optimizer, keras.Optimizer):
            continue
        if optimizer is not model.optimizer and not any(optimizer is other for other in found.values()):
            found[_purpose(attribute, found)] = optimizer
    return found


def _purpose(attribute: str, known: Mapping[str, Any]) -> str:
    for ending in ("_optimizer", "_optim", "_opt"):
        plain = attribute.removesuffix(ending)
        if plain not in ("", attribute) and plain not in known:
            return plain
    return attribute


@contextlib.contextmanager
def applied_in(optimizers: Mapping[str, Any]) -> Iterator[set[str]]:
    """Within, gathers the names of the optimizers that are applied, be it only in a trace."""
    applied: set[str] = set()

    def listening(name: str, apply: Any) -> Any:
        def listen(*args: Any, **kwargs: Any) -> Any:
            applied.add(name)
            return apply(*args, **kwargs)

        return listen

    for name, optimizer in optimizers.items():
        optimizer.apply = listening(name, optimizer.apply)
    try:
        yield applied
    finally:
        for optimizer in optimizers.values():
            del optimizer.apply
