import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

from babysit import demos

MODELS = [demos.dense_network, demos.convolutional_network]
every_model = pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)


def test_digits_have_the_shapes_types_and_ranges_they_say():
    (x, y), (x_validation, y_validation) = demos.digits()
    assert x.shape == (1437, 8, 8, 1)
    assert x_validation.shape == (360, 8, 8, 1)
    assert (y.shape, y_validation.shape) == ((1437,), (360,))
    assert (x.dtype, y.dtype) == (np.float32, np.int64)
    assert (x.min(), x.max()) == (0, 1)
    assert set(y) == set(y_validation) == set(range(10))


def test_digits_are_scikit_learn_s_each_once():
    images, labels = load_digits(return_X_y=True)
    (x, y), (x_validation, y_validation) = demos.digits()
    rows = np.column_stack([np.concatenate([x, x_validation]).reshape(-1, 64) * 16, [*y, *y_validation]])
    expected = np.column_stack([images, labels])
    np.testing.assert_array_equal(sorted(map(tuple, rows)), sorted(map(tuple, expected)))


def test_digits_are_the_same_for_the_same_seed_and_other_for_another():
    (x, _), _ = demos.digits()
    np.testing.assert_array_equal(demos.digits(seed=0)[0][0], x)
    assert not np.array_equal(demos.digits(seed=1)[0][0], x)


@pytest.mark.parametrize("validation", [1, 100, 1796])
def test_as_many_digits_as_asked_for_are_set_aside(validation):
    (x, y), (x_validation, y_validation) = demos.digits(validation)
    assert len(x) == len(y) == 1797 - validation
    assert len(x_validation) == len(y_validation) == validation


@every_model
def test_models_come_built_and_compiled_with_sgd_and_momentum(make):
    model = make()
    assert model.built and model.compiled
    assert isinstance(model.optimizer, keras.optimizers.SGD)
    assert model.optimizer.momentum == 0.9
    assert float(model.optimizer.learning_rate) == pytest.approx(0.01)
    assert model.output_shape == (None, 10)


@every_model
def test_models_take_the_optimizer_they_are_given(make):
    assert isinstance(make("adam").optimizer, keras.optimizers.Adam)
    optimizer = keras.optimizers.RMSprop(0.5)
    assert make(optimizer).optimizer is optimizer


def test_models_of_one_seed_begin_and_train_alike():
    (x, y), _ = demos.digits()
    variables = []
    for _ in range(2):
        model = demos.convolutional_network(seed=3)
        model.fit(x[:64], y[:64], verbose=0)  # its shuffle and dropout follow from the seed
        variables.append([variable.numpy() for variable in model.variables])
    for one, other in zip(*variables, strict=True):
        np.testing.assert_array_equal(one, other)


@every_model
def test_models_of_two_seeds_differ(make):
    one, other = make(seed=1), make(seed=2)
    assert not np.array_equal(one.trainable_variables[0], other.trainable_variables[0])


@every_model
def test_without_a_seed_the_process_s_own_random_state_goes_on(make):
    keras.utils.set_random_seed(5)
    make()
    one = np.random.random()
    keras.utils.set_random_seed(5)
    assert np.random.random() == one


def test_a_model_learns_the_digits():
    (x, y), validation = demos.digits()
    model = demos.dense_network("adam", seed=0)
    model.fit(x, y, batch_size=128, epochs=4, verbose=0)
    assert model.evaluate(*validation, verbose=0, return_dict=True)["accuracy"] > 0.8


def test_the_dense_network_is_64_128_10_with_batch_normalisation():
    shapes = [variable.shape for variable in demos.dense_network().trainable_variables]
    assert shapes == [(64, 128), (128,), (128,), (128, 10), (10,)]


def test_the_convolutional_network_has_two_convolutions_and_dropout():
    kinds = [type(layer).__name__ for layer in demos.convolutional_network().layers]
    assert kinds.count("Conv2D") == 2
    assert kinds.count("Dropout") == 1
