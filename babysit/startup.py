"""The first import of TensorFlow, without the lines that it logs of its start on every machine alike.

`TF_CPP_MIN_LOG_LEVEL` alone does not keep them off the page: some are written before it is read. Where that variable
is set, nothing is done here, and all is shown that it lets pass.
"""

import os
import re
import sys
import tempfile

_VARIABLE = "TF_CPP_MIN_LOG_LEVEL"
_GPU = ("/proc/driver/nvidia", "/dev/dxg")  # one of them is there where a driver for NVIDIA's is
_NOISE = re.compile(
    rb"WARNING: All log messages before absl|I0000 |.*failed call to cuInit|.*Unable to register cu"
    rb"|.*computation placer already registered"
)


def import_tensorflow() -> None:
    """Imports TensorFlow; what is written to stderr meanwhile comes after it, without what is known to mean nothing."""
    try:
        stderr = os.dup(2)
    except OSError:  # a process without stderr shows nothing anyway
        return
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            import tensorflow as tf

            if not any(map(os.path.exists, _GPU)):
                tf.config.list_physical_devices()  # which logs that there is no GPU, else at the first operation
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            log.seek(0)
            os.write(2, b"".join(line for line in log if not _NOISE.match(line)))


if "tensorflow" not in sys.modules and _VARIABLE not in os.environ:
    os.environ[_VARIABLE] = "1"  # later on, warnings and errors
    import_tensorflow()
