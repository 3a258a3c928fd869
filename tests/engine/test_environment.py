import json
import platform

import keras
import numpy as np
import tensorflow as tf

from babysit.engine import environment
from babysit.engine.environment import describe, differences


def test_it_describes_what_this_process_runs_on():
    told = describe()
    versions = [platform.python_version(), tf.__version__, keras.__version__, np.__version__]
    assert [told[name] for name in ("Python", "TensorFlow", "Keras", "NumPy")] == versions
    assert platform.machine() in told["system"]
    assert told["devices"].count("CPU") == len(tf.config.list_physical_devices("CPU"))


def test_it_is_plain_data_that_survives_writing_and_differs_from_itself_in_nothing():
    told = describe()
    assert all(isinstance(name, str) and isinstance(value, str) and value for name, value in told.items())
    assert json.loads(json.dumps(told)) == told
    assert differences(json.loads(json.dumps(told)), describe()) == []


def test_a_flag_that_was_set_is_reported_and_one_that_changes_no_result_is_not(monkeypatch):
    for flag in ("TF_ENABLE_ONEDNN_OPTS", "XLA_FLAGS", "TF_DETERMINISTIC_OPS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(flag, raising=False)
        before = describe()
        monkeypatch.setenv(flag, "0")
        assert differences(before, describe()) == [f"{flag} not set then, 0 now"]
        assert differences(describe(), before) == [f"{flag} 0 then, not set now"]
    before = describe()
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    assert differences(before, describe()) == []


def test_threads_are_reported(monkeypatch):
    before = describe()
    monkeypatch.setattr(tf.config.threading, "get_intra_op_parallelism_threads", lambda: 3)
    assert differences(before, describe()) == ["threads within an operation one a core then, 3 now"]


def test_every_difference_is_a_phrase_also_what_only_one_side_knows():
    then = {"TensorFlow": "2.20.0", "Keras": "3.15.1", "gone": "1"}
    now = {"TensorFlow": "2.21.0", "Keras": "3.15.1", "new": "2"}
    assert differences(then, now) == [
        "TensorFlow 2.20.0 then, 2.21.0 now",
        "gone 1 then, not set now",
        "new not set then, 2 now",
    ]


def test_another_processor_is_reported(monkeypatch):
    before = describe()
    monkeypatch.setattr(environment, "_processor", lambda: "Model T")
    assert any(words.endswith("then, Model T now") for words in differences(before, describe()))


def test_where_the_system_says_nothing_about_its_processor_it_is_unknown(monkeypatch):
    monkeypatch.setattr(environment.Path, "read_text", lambda path: (_ for _ in ()).throw(OSError))
    monkeypatch.setattr(environment.platform, "processor", lambda: "")
    assert describe()["processor"] == "unknown"
