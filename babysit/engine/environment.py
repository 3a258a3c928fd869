"""The environment: what the bits of a training depend on besides its data and its seed, in plain data."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

# Read by TensorFlow, oneDNN, XLA and CUDA, and known to change results or the order of sums.
_FLAGS = (
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_DETERMINISTIC_OPS",
    "TF_CUDNN_DETERMINISTIC",
    "TF_CUDNN_USE_AUTOTUNE",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "TF_XLA_FLAGS",
    "XLA_FLAGS",
    "OMP_NUM_THREADS",
    "ONEDNN_MAX_CPU_ISA",
    "NVIDIA_TF32_OVERRIDE",
    "CUBLAS_WORKSPACE_CONFIG",
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
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor() or platform.processor() or "unknown",
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "devices": ", ".join(map(_device, tf.config.list_physical_devices())),
        "threads within an operation": str(threading.get_intra_op_parallelism_threads() or "one a core"),
        "threads for operations": str(threading.get_inter_op_parallelism_threads() or "one a core"),
        "TensorFloat-32": "on" if tf.config.experimental.tensor_float_32_execution_enabled() else "off",
        "XLA for all": tf.config.optimizer.get_jit() or "off",
        **{flag: os.environ.get(flag, _NOT_SET) for flag in _FLAGS},
    }


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What is not as it was, a phrase each, such as `TensorFlow 2.20.0 then, 2.21.0 now`; empty if nothing is."""
    names = [*then, *(name for name in now if name not in then)]
    pairs = {name: (then.get(name, _NOT_SET), now.get(name, _NOT_SET)) for name in names}
    return [f"{name} {before} then, {after} now" for name, (before, after) in pairs.items() if before != after]


def _device(device: "tf.config.PhysicalDevice") -> str:
    """Its kind, and where TensorFlow knows it the model."""
    details = tf.config.experimental.get_device_details(device) if device.device_type == "GPU" else {}
    return str(details.get("device_name") or device.device_type)


def _processor() -> str:
    """The model of the processor, as Linux names it; empty where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
