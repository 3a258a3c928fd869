"""The environment: what the bits of a training depend on besides its data and its seed, in plain data."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

# Variables that begin so are read by TensorFlow, oneDNN, XLA and CUDA, and may change results or the order of sums.
_FLAGS = (
    "TF_ENABLE_",
    "TF_DETERMINISTIC_",
    "TF_CUDNN_",
    "TF_NUM_",
    "TF_XLA_",
    "XLA_",
    "OMP_",
    "ONEDNN_",
    "NVIDIA_",
    "CUBLAS_",
)
_NOT_SET = "not set"


def describe() -> dict[str, str]:
    """What exactness depends on here and now: name -> value, all of them words for people."""
    threading = tf.config.threading
    return {
        "Python": platform.python_version(),
        "TensorFlow": tf.__version__,
        "Keras": keras.__version__,
        "NumPy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "devices": ", ".join(map(_device, tf.config.list_physical_devices())),
        "threads within an operation": str(threading.get_intra_op_parallelism_threads() or "one a core"),
        "threads for operations": str(threading.get_inter_op_parallelism_threads() or "one a core"),
        "TensorFloat-32": "on" if tf.config.experimental.tensor_float_32_execution_enabled() else "off",
        "XLA for all": tf.config.optimizer.get_jit() or "off",
        **{name: value for name, value in sorted(os.environ.items()) if name.startswith(_FLAGS)},
    }


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What is not as it was, a phrase each, such as `TensorFlow 2.20.0 then, 2.21.0 now`; empty if nothing is."""
    pairs = {name: (then.get(name, _NOT_SET), now.get(name, _NOT_SET)) for name in {**then, **now}}
    return [f"{name} {before} then, {after} now" for name, (before, after) in pairs.items() if before != after]


def _device(device: "tf.config.PhysicalDevice") -> str:
    """Its kind, and where TensorFlow knows it the model."""
    details = tf.config.experimental.get_device_details(device) if device.device_type == "GPU" else {}
    return str(details.get("device_name") or device.device_type)


def _processor() -> str:
    """The model of the processor, as Linux names it where it does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or "unknown")
