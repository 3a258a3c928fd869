"""Sanity: whether the loss of a run's first step is what a network that knows nothing yet should have."""

import math
from typing import Any

import keras

_SOFTMAX = (keras.losses.SparseCategoricalCrossentropy, keras.losses.CategoricalCrossentropy)
_SOFTMAX_FUNCTIONS = (keras.losses.sparse_categorical_crossentropy, keras.losses.categorical_crossentropy)
_MEANS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")


def first_loss(model: Any, spec: Any, loss: float, batch_size: int) -> str:
    """What is odd about the loss of the first step, in a sentence; empty if nothing is, or nothing is known.

    A network that knows nothing yet gives C classes about the same probability, and its
    cross-entropy is ln C (Karpathy 2019, A recipe for training neural networks, "verify loss @
    init"). Logits of variance v add about v / 2; customary beginnings have v below 2. A loss below
    ln C is that of a network which has been trained before, and nothing to say of.

    Args:
        model: A compiled model.
        spec: Of a batch, in plain data.
        loss: Of the batch of the first step.
        batch_size: Its examples.
    """
    classes = _classes(model)
    weighted = isinstance(spec, list) and len(spec) > 2 and spec[2] is not None
    if classes is None or weighted or _adds_losses(model) or not math.isfinite(loss):
        return ""
    expected = math.log(classes)
    if loss <= expected + 2 + 4 / math.sqrt(batch_size):
        return ""
    return (
        f"The loss of the first step was {loss:.3g}; a network that knows nothing yet should begin near ln {classes:,} "
        f"= {expected:.3g}. Inputs that are not scaled, a last layer that begins too large, or a wrong `from_logits` "
        "do that."
    )


def _classes(model: Any) -> int | None:
    """Classes between which a softmax cross-entropy, the only loss, decides; None if it is another."""
    stock = type(model).train_step is keras.Model.train_step and type(model).compute_loss is keras.Model.compute_loss
    loss = keras.losses.get(model.loss) if isinstance(model.loss, str) else model.loss
    means = getattr(loss, "reduction", "sum_over_batch_size") in _MEANS and getattr(loss, "axis", -1) == -1
    shape: Any = getattr(model, "output_shape", None)
    plain = isinstance(shape, tuple) and len(shape) > 1 and isinstance(shape[-1], int) and shape[-1] > 1
    known = type(loss) in _SOFTMAX or any(loss is one for one in _SOFTMAX_FUNCTIONS)
    if not (stock and means and plain and known) or model._compile_loss._user_loss_weights is not None:
        return None
    return int(shape[-1])


def _adds_losses(model: Any) -> bool:
    """Whether anything is added to the loss, such as a penalty on weights."""
    layers = model._flatten_layers()
    added = any(layer._losses or layer.activity_regularizer is not None for layer in layers)
    return added or any(variable.regularizer is not None for variable in model.trainable_variables)
