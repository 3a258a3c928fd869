"""What the package uses of Keras's and TensorFlow's inner modules, and no other module does.

No release promises these names; `tests/engine/test_internals.py` says which of them one lacks.
"""

from keras.src.backend.common.global_state import GLOBAL_STATE_TRACKER, get_global_attribute
from keras.src.trainers.data_adapters import get_data_adapter
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter
from keras.src.trainers.data_adapters.array_slicing import (
    can_slice_array,
    convert_to_sliceable,
    train_validation_split,
)
from keras.src.trainers.data_adapters.data_adapter_utils import convert_to_tf_tensor_spec, is_scipy_sparse
from keras.src.utils.naming import to_snake_case
from keras.src.utils.python_utils import pythonify_logs
from tensorflow.python.framework.auto_control_deps_utils import get_read_only_resource_input_indices_graph
from tensorflow.python.framework.ops import EagerTensor
from tensorflow.python.ops.resource_variable_ops import BaseResourceVariable, ResourceVariable

GLOBAL_SEED_GENERATOR = "global_seed_generator"  # the attribute with Keras's own generator
