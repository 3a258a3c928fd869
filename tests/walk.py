"""A walk over the examples by hand: the order of each pass, and the place in it."""

import math

from babysit.core.order import permutation


class Sampler:
    def __init__(self, size, seed, shuffle=True, batch_size=32):
        self.size, self.seed, self.shuffle, self.batch_size = size, seed, shuffle, batch_size
        self.epoch = self.cursor = 0

    @property
    def order(self):
        return permutation(self.size, self.seed, self.epoch, self.shuffle, self.batch_size)

    @property
    def finished(self):
        return self.cursor >= self.size

    def advance(self, steps, batch_size):
        self.cursor = min(self.cursor + steps * batch_size, self.size)

    def steps_left(self, batch_size):
        return math.ceil((self.size - self.cursor) / batch_size)

    def next_epoch(self):
        self.epoch, self.cursor = self.epoch + 1, 0

    def restore(self, epoch, cursor):
        self.epoch, self.cursor = epoch, cursor
