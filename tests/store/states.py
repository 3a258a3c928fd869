"""Small states for tests of the store; no TensorFlow."""

from dataclasses import replace

import numpy as np

from babysit.core.controls import Controls, Ramp
from babysit.core.position import FitSpec, Position
from babysit.core.scale import Scale
from babysit.core.state import State

BRANCH = "branch 1"
STATE = State(
    position=Position(step=5, epoch=1, epoch_step=2, data_pass=1, example=64),
    controls=Controls(
        values={"momentum": 0.1 + 0.2, "learning_rate": 5e-324, "batch_size": 2**40},
        scales={"learning_rate": Scale(0.0, 1.0)},
        ramps={"momentum": Ramp(4, 3, 0.1, 0.3, Scale(0.1, 0.3))},
        fit=FitSpec("fingerprint", 128, 32, "batch"),
        since={"momentum": 4},
    ),
    tensors={
        "model": [np.arange(6, dtype="float32").reshape(2, 3), np.ones((), "float32")],
        "optimizer": [np.array(7, "int64"), np.full((2, 3), 0.1, "float32")],
        "metrics": [np.zeros((), "float32")],
    },
    seed=3,
    followed={"learning_rate": 0.01},
    trainable=(True, False),
    built_for=((0, 1), ()),
    slots=("momentum",),
    event=17,
)


def at(step, **about):
    """The state after so many steps."""
    return replace(STATE, position=replace(STATE.position, step=step, example=32 * step), **about)


def with_model(*arrays):
    """The state with other model variables."""
    return replace(STATE, tensors={**STATE.tensors, "model": list(arrays)})


def assert_equal(one, other):
    """Two states are the same, bit for bit."""
    assert replace(one, tensors={}) == replace(other, tensors={})
    assert list(one.controls.values) == list(other.controls.values)
    assert one.tensors.keys() == other.tensors.keys()
    for group in one.tensors:
        for a, b in zip(one.tensors[group], other.tensors[group], strict=True):
            assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
