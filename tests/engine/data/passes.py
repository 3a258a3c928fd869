"""Goes through a source, as a loop does that holds nothing but a position."""

from contextlib import nullcontext

import numpy as np

from babysit.core.position import FitSpec, Position
from babysit.engine.block import training_block
from babysit.engine.data.window import symbolic


def fit_of(data, steps_per_epoch=None):
    return FitSpec(data.fingerprint, data.size, data.batch_size, data.shuffle, steps_per_epoch)


def steps_of(window):
    """The labels of each step of a window: examples are told apart by them."""
    labels = window.data[1].numpy()
    order = np.arange(len(labels)) if window.order is None else window.order.numpy()
    starts = [window.offset + i * window.batch_size for i in range(window.count)]
    steps = [labels[order[start : start + window.batch_size]].tolist() for start in starts]
    assert sum(map(len, steps)) == window.examples
    return steps


def walk(data, position=None, plan=((1000, None),), fit=None):
    """The labels of each step of what is left of a pass, and its end; (steps, batch size) in turn."""
    position, fit, taken, i = position or Position(), fit or fit_of(data), [], 0
    while not data.is_over(position):
        steps, batch_size = plan[i % len(plan)]
        window = data.window(position, batch_size or data.batch_size, steps, fit)
        assert 1 <= window.count <= steps
        taken += steps_of(window)
        position = position.advanced(window.count, window.examples)
        i += 1
    return taken, position


def steps(data, position=None, plan=((1000, None),)):
    return walk(data, position, plan)[0]


def begin_pass(number):
    return Position(data_pass=number, epoch=number)


def train(model, data, epochs=3, steps=4, steps_per_epoch=None):
    """Trains a model as a trainer does, and returns how many steps each epoch had."""
    model._symbolic_build(data_batch=symbolic(data.spec))
    model.optimizer.build(model.trainable_variables)
    blocks, fit, position, counts = {}, fit_of(data, steps_per_epoch), Position(), []
    for _ in range(epochs):
        model.reset_metrics()
        data.epoch_began(position)
        while not (data.is_over(position) or position.epoch_over(fit)):
            left = steps if steps_per_epoch is None else min(steps, steps_per_epoch - position.epoch_step)
            window = data.window(position, data.batch_size, left, fit)
            if window.static_size not in blocks:
                blocks[window.static_size] = training_block(model, nullcontext, window.static_size)
                blocks[window.static_size].trace(*data.signature)
            blocks[window.static_size].run(*window[:5])
            position = position.advanced(window.count, window.examples)
        counts.append(position.epoch_step)
        pass_over = data.is_over(position)
        data.epoch_ended(position, pass_over)
        position = position.epoch_ended(pass_over)
    return counts
