"""Trainings steered at random and killed at random moments.

Run as `python -m tests.faults.steered FOLDER COUNT SEED`: leaves COUNT runs below FOLDER, each killed
somewhere in its life, and prints for each how far it had come: a list of [folder, words].
"""

import itertools
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import keras
import numpy as np

import babysit

X = np.random.default_rng(0).normal(size=(320, 8)).astype("float32")
Y = np.arange(320) % 3


def network():
    layers = [keras.layers.Dense(16, "relu"), keras.layers.Dropout(0.2), keras.layers.Dense(3, "softmax")]
    model = keras.Sequential([keras.Input((8,)), *layers])
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def moves(panda, chance):
    """What a hand may do to a training that runs."""
    return [
        lambda: panda.set(learning_rate=10 ** chance.uniform(-4, -2), why="at random"),
        lambda: panda.set(momentum=chance.choice([0.5, 0.9]), batch_size=chance.choice([16, 32])),
        lambda: panda.save(),
        lambda: panda.note("at random"),
        lambda: panda.rewind(chance.choice(panda.checkpoints)),
        lambda: panda.rewind(chance.randint(0, panda.step), hyperparameters=chance.choice(["checkpoint", "keep"])),
        lambda: (panda.pause(), panda.run(chance.randint(1, 9)), panda.resume()),
    ]


def steer(folder, seed, tell):
    """Trains and steers for ever; tells when the panda is made, when it trains, and after each move."""
    chance = random.Random(seed)
    panda = babysit.Panda(network(), folder, seed=7)
    tell("made")
    panda.fit(X, Y, epochs=10**6, verbose=0)
    tell("begun")
    for count in itertools.count(1):
        chance.choice(moves(panda, chance))()
        tell(f"{count} moves")


def killed(folder, seed):
    """Forks a training, and kills it after a time drawn at random; returns what it told last."""
    reader, writer = os.pipe()
    child = os.fork()  # TensorFlow is imported here, and not used: each child starts its own threads
    if child == 0:
        try:
            steer(folder, seed, lambda words: os.write(writer, f"{words}\n".encode()))
        finally:
            os._exit(1)
    os.close(writer)
    told = open(reader)  # noqa: SIM115  (read to its end, and closed, below)
    chance = random.Random(-seed)
    # Some die before anything is told, some while the first block is compiled, most while they are steered.
    said = ["nothing", *(told.readline().strip() for _ in range([0, 2, 3, 5, 9][seed % 5]))]
    time.sleep(chance.uniform(0, 1.5))
    alive = os.waitpid(child, os.WNOHANG) == (0, 0)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with told:
        said += told.read().splitlines()
    return said[-1] if alive else f"it ended by itself, after {said[-1]}"


def main(folder, count, seed):
    """Prints what became of so many runs."""
    runs = {f"run-{i}": seed + i for i in range(count)}
    print(json.dumps([[name, killed(folder / name, number)] for name, number in runs.items()]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
