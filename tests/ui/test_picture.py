"""A picture of one's own: drawn as the run moves, on a thread of its own, and never in the way of the training."""

import gc
import io
import threading
import weakref

import numpy as np
import pytest
from PIL import Image

import babysit
from babysit import demos
from tests.patience import until


@pytest.fixture
def panda():
    (x, y), _ = demos.digits()
    panda = babysit.Panda(demos.dense_network(seed=1), seed=0)
    panda.fit(x[:320], y[:320], epochs=1000, paused=True)
    return panda


def test_it_shows_the_state_at_a_boundary(panda):
    drawn, threads = [], set()

    def sample(model):
        threads.add(threading.current_thread())
        return int(model.optimizer.iterations.numpy())

    def draw(figure, step):
        threads.add(threading.current_thread())
        figure.add_subplot().set_facecolor("red" if step == 70 else "blue")
        drawn.append((step, len(figure.axes)))

    widget = panda.picture(sample, draw, size=(4, 2))
    until(lambda: drawn)
    panda.run(70)
    until(lambda: drawn[-1] == (70, 1))  # on an empty figure each time
    assert drawn[0] == (0, 1)
    assert len(threads) == 2 and threading.current_thread() not in threads

    image = widget.children[0]
    until(lambda: tuple(np.asarray(Image.open(io.BytesIO(image.value)).convert("RGB"))[144, 288]) == (255, 0, 0))
    count = len(drawn)
    panda.rewind(0)
    panda.set(learning_rate=0.02)
    until(lambda: len(drawn) > count and drawn[-1][0] == 0)
    assert [entry.action for entry in panda.journal] == ["fit", "rewind", "set"]


def test_what_goes_wrong_is_shown_and_training_goes_on(panda):
    faults = ["<sample>", "<draw>"]

    def sample(model):
        if "<sample>" in faults:
            raise ValueError(faults[0])

    def draw(figure, data):
        if faults:
            raise ValueError(faults[0])

    widget = panda.picture(sample, draw)
    message = widget.children[1]
    until(lambda: "ValueError: &lt;sample&gt;" in message.value)
    faults.pop(0)
    panda.run(1)
    until(lambda: "ValueError: &lt;draw&gt;" in message.value)
    faults.pop(0)
    panda.resume()
    until(lambda: message.value == "")
    assert panda.state == "running"


def test_at_rest_and_when_another_takes_its_place_nothing_is_drawn(panda):
    counts = {"first": 0, "second": 0}

    def counted(name):
        counts[name] += 1

    panda.picture(lambda model: "first", lambda figure, name: counted(name))
    until(lambda: counts["first"] == 1)
    panda.picture(lambda model: "second", lambda figure, name: counted(name))
    until(lambda: counts["second"] == 1)
    for _ in range(3):
        seen = counts["second"]
        panda.run(1)
        until(lambda seen=seen: counts["second"] > seen)
    assert counts == {"first": 1, "second": 4}


def test_once_the_run_has_ended_no_screen_keeps_it_from_being_collected():
    panda = babysit.Panda(demos.dense_network(seed=1)).fit(*demos.digits()[0], epochs=1)
    panda.dashboard()
    panda.picture(lambda model: None, lambda figure, nothing: None)
    pump, drawer, held = panda._dashboard._pump, panda._picture._thread, weakref.ref(panda)
    panda.wait()
    assert pump.is_alive() and drawer.is_alive()
    del panda
    until(lambda: gc.collect() >= 0 and held() is None, every_s=0.2)
    until(lambda: not pump.is_alive() and not drawer.is_alive())
