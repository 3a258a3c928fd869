"""A zoo: small models of every kind that Keras trains, each with data, and what is known of it.

`ZOO` maps a name to a function that returns (`make_model`, `arguments`): a function that makes
and compiles the model, equal each time, and what its `fit` is given. `dial` tells the name of a
hyperparameter that can be changed while it trains.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, losses, metrics, ops, optimizers

Make = Callable[[], keras.Model]
Member = Callable[[], tuple[Make, dict[str, Any]]]

ZOO: dict[str, Member] = {}
# What is changed where there is no plain learning rate: a GAN has two, a schedule moves its own.
_DIALS: dict[str, tuple[str, float]] = {}
_DEFAULT_DIAL = ("learning_rate", 0.003)


def dial(name: str) -> tuple[str, float]:
    """A hyperparameter of the member, as babysit calls it, and another value for it."""
    return _DIALS.get(name, _DEFAULT_DIAL)


def put(model: keras.Model, name: str, value: float) -> keras.Model:
    """Gives a model that was never trained another value of a hyperparameter; the same as compiling it so."""
    optimizer, attribute = model.optimizer, name
    if "." in name:
        whose, attribute = name.split(".")
        optimizer = getattr(model, f"{whose}_optimizer")
    setattr(getattr(optimizer, "inner_optimizer", optimizer), attribute, value)
    return model


def applied(model: keras.Model) -> list[keras.Optimizer]:
    """The optimizers that took steps; a GAN's `model.optimizer` takes none."""
    found = [model.optimizer, *(v for v in vars(model).values() if isinstance(v, optimizers.Optimizer))]
    unique = {id(optimizer): optimizer for optimizer in found if optimizer is not None}
    return [optimizer for optimizer in unique.values() if int(optimizer.iterations) > 0]


def variables(model: keras.Model) -> list[keras.Variable]:
    """The variables of the model and of the optimizers applied, by position."""
    return model.variables + [variable for optimizer in applied(model) for variable in optimizer.variables]


def state(model: keras.Model) -> list[np.ndarray]:
    """Copies of what those variables hold."""
    return [variable.numpy().copy() for variable in variables(model)]


def rows(arguments: dict[str, Any], which: Any) -> dict[str, Any]:
    """What a `fit` is given, with some of the examples alone."""
    parts = {name: arguments[name] for name in ("x", "y", "sample_weight") if name in arguments}
    return arguments | keras.tree.map_structure(lambda array: array[which], parts)


def member(name: str, dial: tuple[str, float] | None = None) -> Callable[[Member], Member]:
    """Takes a function into the zoo; its models are made under a fixed seed."""

    def enter(function: Member) -> Member:
        def seeded() -> tuple[Make, dict[str, Any]]:
            make, arguments = function()

            def remake() -> keras.Model:
                keras.utils.set_random_seed(23)
                return make()

            return remake, {"batch_size": 16, "epochs": 2, **arguments}

        ZOO[name] = seeded
        if dial is not None:
            _DIALS[name] = dial
        return function

    return enter


# ------------------------------------------------------------------------------------- data


def table(n: int = 120, features: int = 6) -> dict[str, np.ndarray]:
    """Numbers and a target that follows from them; 120 leaves a last batch of 8."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(n, features)).astype("float32")
    y = (x @ rng.normal(size=(features, 1)) + 0.1 * rng.normal(size=(n, 1))).astype("float32")
    return {"x": x, "y": y}


def classes(n: int = 120, features: int = 6, of: int = 3) -> dict[str, np.ndarray]:
    """Numbers and the class, from 0 on, that they belong to."""
    data = table(n, features)
    edges = np.quantile(data["y"], np.linspace(0, 1, of + 1)[1:-1])
    return {"x": data["x"], "y": np.digitize(data["y"][:, 0], edges)}


def images(n: int = 96) -> dict[str, np.ndarray]:
    """Images of 8 × 8 × 3 with values from 0 to 255, and which half is the brighter one."""
    rng = np.random.default_rng(6)
    x = rng.uniform(0, 255, size=(n, 8, 8, 3)).astype("float32")
    return {"x": x, "y": (x[:, :4].mean((1, 2, 3)) > x[:, 4:].mean((1, 2, 3))).astype("int64")}


def words(n: int = 104, length: int = 7) -> dict[str, np.ndarray]:
    """Sentences of words 1 to 11, padded by 0, and whether they hold the word 3."""
    rng = np.random.default_rng(7)
    x = rng.integers(1, 12, size=(n, length))
    x *= np.arange(length) < rng.integers(2, length + 1, size=(n, 1))
    return {"x": x, "y": (x == 3).any(1).astype("int64")}


def dense(*hidden: Any, outputs: int = 1, activation: str | None = None, features: int = 6) -> keras.Sequential:
    """A small dense network, not yet compiled."""
    first = [keras.Input((features,)), *(hidden or (layers.Dense(8, "relu"),))]
    return keras.Sequential([*first, layers.Dense(outputs, activation=activation)])


def compiled(model: keras.Model, optimizer: Any = "adam", loss: Any = "mse", **how: Any) -> keras.Model:
    """The model, compiled."""
    model.compile(optimizer, loss, **how)
    return model


def classifier(optimizer: Any = None, hidden: int = 0) -> keras.Model:
    """A network for the digits that is quickly compiled, its weights the same each time; SGD of momentum 0.9."""
    keras.utils.set_random_seed(3)
    first = [keras.Input((8, 8, 1)), layers.Flatten(), *([layers.Dense(hidden)] if hidden else [])]
    model = keras.Sequential([*first, layers.Dense(10, "softmax")])
    optimizer = optimizer or optimizers.SGD(0.01, momentum=0.9)
    return compiled(model, optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])


# ----------------------------------------------------------------- the shapes a model may have


@member("sequential dense")
def _sequential() -> tuple[Make, dict[str, Any]]:
    def make() -> keras.Model:
        model = dense(layers.Dense(16), layers.BatchNormalization(), layers.ReLU(), outputs=3, activation="softmax")
        return compiled(
            model, optimizers.SGD(0.05, momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"]
        )

    return make, classes()


@member("several inputs and outputs")
def _several() -> tuple[Make, dict[str, Any]]:
    data, labels = table(), classes()["y"]
    rng = np.random.default_rng(8)

    def make() -> keras.Model:
        left, right = keras.Input((4,), name="left"), keras.Input((2,), name="right")
        shared = layers.Dense(6, "relu")(layers.Concatenate()([layers.Dense(4)(left), right]))
        outputs = {
            "value": layers.Dense(1, name="value")(shared),
            "kind": layers.Dense(3, "softmax", name="kind")(shared),
        }
        return compiled(
            keras.Model({"left": left, "right": right}, outputs),
            "sgd",
            {"value": "mse", "kind": "sparse_categorical_crossentropy"},
            loss_weights={"value": 0.3, "kind": 1.5},
            metrics={"value": ["mae", "mse"], "kind": ["accuracy"]},
            weighted_metrics={"kind": ["accuracy"]},
        )

    return make, {
        "x": {"left": data["x"][:, :4], "right": data["x"][:, 4:]},
        "y": {"value": data["y"], "kind": labels},
        "sample_weight": {"value": rng.uniform(size=120), "kind": rng.uniform(size=120)},
    }


class Residual(keras.Model):
    """A subclassed model: its graph is its own `call`, with shared layers, and it is not built before it is fitted."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.outside, self.dropout = layers.Dense(6, "tanh"), layers.Dense(1), layers.Dropout(0.2)

    def call(self, inputs: Any, training: bool = False) -> Any:
        once = inputs + self.inside(inputs)
        return self.outside(self.dropout(once + self.inside(once), training=training))


@member("subclassed with its own call")
def _subclassed() -> tuple[Make, dict[str, Any]]:
    return lambda: compiled(Residual(), metrics=["mae"]), table()


@member("nested and partly frozen, with constraints and learned activations")
def _nested() -> tuple[Make, dict[str, Any]]:
    def make() -> keras.Model:
        inner = keras.Sequential([keras.Input((6,)), layers.Dense(8, "relu"), layers.BatchNormalization()])
        frozen = layers.Dense(6, "tanh")
        frozen.trainable = False
        bound = layers.Dense(8, kernel_constraint=keras.constraints.MaxNorm(0.8), bias_constraint="non_neg")
        spectral = layers.SpectralNormalization(layers.Dense(5))
        return compiled(dense(frozen, inner, bound, layers.PReLU(), layers.UnitNormalization(), spectral), "sgd")

    return make, table()


@member("convolutions")
def _convolutions() -> tuple[Make, dict[str, Any]]:
    def make() -> keras.Model:
        model = keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                layers.Rescaling(1 / 255),
                layers.Conv2D(4, 3, padding="same", use_bias=False),
                layers.BatchNormalization(),
                layers.SpatialDropout2D(0.2),
                layers.DepthwiseConv2D(3, strides=2),
                layers.GlobalAveragePooling2D(),
                layers.Dense(2),
            ]
        )
        loss = losses.SparseCategoricalCrossentropy(from_logits=True)
        return compiled(model, "sgd", loss, metrics=["accuracy"])

    return make, images()


@member("lstm over masked words")
def _lstm() -> tuple[Make, dict[str, Any]]:
    def make() -> keras.Model:
        model = keras.Sequential(
            [
                keras.Input((None,), dtype="int64"),
                layers.Embedding(12, 4, mask_zero=True),
                layers.LSTM(4, dropout=0.1, recurrent_dropout=0.1),
                layers.Dense(1, "sigmoid"),
            ]
        )
        return compiled(model, "sgd", "binary_crossentropy")

    return make, words()


@member("attention")
def _attention() -> tuple[Make, dict[str, Any]]:
    def make() -> keras.Model:
        tokens = keras.Input((7,), dtype="int64")
        x = layers.Embedding(12, 8, mask_zero=True)(tokens)
        x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4, dropout=0.1)(x, x))
        x = layers.LayerNormalization()(x + layers.Dense(8, "gelu")(x))
        outputs = layers.Dense(1, "sigmoid")(layers.GlobalAveragePooling1D()(x))
        return compiled(keras.Model(tokens, outputs), "sgd", "binary_crossentropy")

    return make, words()


@member("augmentation inside the model")
def _augmentation() -> tuple[Make, dict[str, Any]]:
    data = images()

    def make() -> keras.Model:
        normalize = layers.Normalization()
        normalize.adapt(data["x"])
        before = [normalize, layers.RandomFlip("horizontal"), layers.RandomRotation(0.1), layers.GaussianNoise(0.1)]
        after = [layers.Conv2D(3, 3, activation="relu"), layers.Flatten(), layers.Dense(1, "sigmoid")]
        model = keras.Sequential([keras.Input((8, 8, 3)), *before, *after])
        return compiled(model, "sgd", "binary_crossentropy", jit_compile=False)

    return make, data


# --------------------------------------------------------------------- steps of one's own


class FromScratch(keras.Model):
    """The guide's lower-level step: a gradient tape, and metrics of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loss_tracker, self.mae = metrics.Mean(name="loss"), metrics.MeanAbsoluteError(name="mae")

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y = data
        with tf.GradientTape() as tape:
            predicted = self(x, training=True)
            loss = ops.mean(losses.mean_squared_error(y, predicted))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        self.loss_tracker.update_state(loss)
        self.mae.update_state(y, predicted)
        return {"loss": self.loss_tracker.result(), "mae": self.mae.result()}

    @property
    def metrics(self) -> list[Any]:
        return [self.loss_tracker, self.mae]


@member("train_step from scratch")
def _scratch() -> tuple[Make, dict[str, Any]]:
    def make() -> keras.Model:
        body = dense()
        model = FromScratch(body.inputs, body.outputs)
        model.compile(optimizers.Adam(0.01))
        return model

    return make, table()


class OddLogs(keras.Model):
    """A `train_step` whose logs are of a shape that Keras accepts and few write."""

    odd = "loss alone"

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y = data
        with tf.GradientTape() as tape:
            loss = ops.mean(ops.square(y - self(x, training=True)))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {
            "none": {},
            "loss alone": {"loss": loss},
        }[self.odd]


def _odd(kind: str) -> Member:
    def function() -> tuple[Make, dict[str, Any]]:
        def make() -> keras.Model:
            body = dense()
            model = OddLogs(body.inputs, body.outputs)
            model.odd = kind
            model.compile(optimizers.SGD(0.05))
            return model

        return make, table()

    return function


member("train_step with a loss and no tracker")(_odd("loss alone"))


class Gan(keras.Model):
    """Keras's guide: two networks, two optimizers, and one more that `compile` makes and nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        self.discriminator = dense(layers.Dense(8), layers.LeakyReLU(), features=6)
        self.generator = dense(layers.Dense(8, "relu"), features=3, outputs=6)
        self.seed_generator = keras.random.SeedGenerator(1337)
        self.discriminator_loss = metrics.Mean(name="discriminator_loss")
        self.generator_loss = metrics.Mean(name="generator_loss")

    @property
    def metrics(self) -> list[Any]:
        return [self.discriminator_loss, self.generator_loss]

    def compile(self, discriminator_optimizer: Any, generator_optimizer: Any, loss_fn: Any) -> None:
        super().compile()
        self.discriminator_optimizer, self.generator_optimizer = discriminator_optimizer, generator_optimizer
        self.loss_fn = loss_fn

    def train_step(self, real: Any) -> dict[str, Any]:
        real = real[0] if isinstance(real, tuple) else real
        size = ops.shape(real)[0]
        noise = keras.random.normal((size, 3), seed=self.seed_generator)
        both = ops.concatenate([self.generator(noise), real], axis=0)
        labels = ops.concatenate([ops.ones((size, 1)), ops.zeros((size, 1))], axis=0)
        with tf.GradientTape() as tape:
            discriminator_loss = self.loss_fn(labels, self.discriminator(both))
        self._apply(tape, discriminator_loss, self.discriminator, self.discriminator_optimizer)

        noise = keras.random.normal((size, 3), seed=self.seed_generator)
        with tf.GradientTape() as tape:
            judged = self.discriminator(self.generator(noise))
            generator_loss = self.loss_fn(ops.zeros((size, 1)), judged)
        self._apply(tape, generator_loss, self.generator, self.generator_optimizer)

        self.discriminator_loss.update_state(discriminator_loss)
        self.generator_loss.update_state(generator_loss)
        return {metric.name: metric.result() for metric in self.metrics}

    @staticmethod
    def _apply(tape: Any, loss: Any, network: Any, optimizer: Any) -> None:
        gradients = tape.gradient(loss, network.trainable_weights)
        optimizer.apply(gradients, network.trainable_weights)


@member("gan with two optimizers", dial=("discriminator.learning_rate", 0.02))
def _gan() -> tuple[Make, dict[str, Any]]:
    def make() -> keras.Model:
        model = Gan()
        model.compile(
            discriminator_optimizer=optimizers.Adam(0.003, beta_1=0.5),
            generator_optimizer=optimizers.Adam(0.001),
            loss_fn=losses.BinaryCrossentropy(from_logits=True),
        )
        return model

    return make, {"x": table()["x"]}


class Sampling(layers.Layer):
    """Draws from the latent distribution and adds its divergence from the normal one to the loss."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(4)

    def call(self, inputs: Any) -> Any:
        mean, log_variance = inputs
        divergence = -0.5 * (1 + log_variance - ops.square(mean) - ops.exp(log_variance))
        self.add_loss(0.01 * ops.mean(ops.sum(divergence, axis=1)))
        noise = keras.random.normal(ops.shape(mean), seed=self.seed_generator)
        return mean + ops.exp(0.5 * log_variance) * noise


@member("variational autoencoder")
def _autoencoder() -> tuple[Make, dict[str, Any]]:
    def make() -> keras.Model:
        inputs = keras.Input((6,))
        hidden = layers.Dense(8, "relu")(inputs)
        latent = Sampling()([layers.Dense(2)(hidden), layers.Dense(2)(hidden)])
        return compiled(keras.Model(inputs, layers.Dense(6)(layers.Dense(8, "relu")(latent))), "sgd")

    x = table()["x"]
    return make, {"x": x, "y": x}


class Uncallable(keras.Model):
    """Only its `train_step` says what it is: it has no `call`, and its networks are built in the first step."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = keras.Sequential([layers.Dense(8, "relu"), layers.Dense(2), layers.Dropout(0.2, seed=5)])
        self.decoder = keras.Sequential([layers.Dense(8, "relu"), layers.Dense(6)])
        self.distance = metrics.Mean(name="distance")

    @property
    def metrics(self) -> list[Any]:
        return [self.distance]

    def train_step(self, data: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            distance = ops.mean(ops.square(self.decoder(self.encoder(data, training=True)) - data))
        self.optimizer.apply(tape.gradient(distance, self.trainable_weights), self.trainable_weights)
        self.distance.update_state(distance)
        return {"distance": self.distance.result()}


@member("autoencoder without a call")
def _uncallable() -> tuple[Make, dict[str, Any]]:
    def make() -> keras.Model:
        model = Uncallable()
        model.compile(optimizers.SGD(0.02))
        return model

    return make, {"x": table()["x"]}


# --------------------------------------------------------------------- ways to be compiled


@member("mixed_float16")
def _mixed() -> tuple[Make, dict[str, Any]]:
    def make() -> keras.Model:
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy("mixed_float16")
        try:
            model = dense(layers.Dense(8, "relu"), layers.BatchNormalization())
        finally:
            keras.config.set_dtype_policy(before)
        return compiled(model, optimizers.SGD(0.01), metrics=["mae"])

    return make, table()


@member("gradient accumulation")
def _accumulation() -> tuple[Make, dict[str, Any]]:
    optimizer = {"learning_rate": 0.05, "momentum": 0.9, "gradient_accumulation_steps": 4}
    return lambda: compiled(dense(), optimizers.SGD(**optimizer)), table()


@member("averaged weights written back every 5 steps")
def _averaged_often() -> tuple[Make, dict[str, Any]]:
    average = {"use_ema": True, "ema_momentum": 0.8, "ema_overwrite_frequency": 5}
    return lambda: compiled(dense(), optimizers.SGD(0.05, **average)), table()


@member("adamw under a cosine with warmup", dial=("beta_1", 0.5))
def _schedule() -> tuple[Make, dict[str, Any]]:
    def make() -> keras.Model:
        rate = optimizers.schedules.CosineDecay(0.0, 12, warmup_target=0.02, warmup_steps=4)
        return compiled(dense(), optimizers.AdamW(rate, weight_decay=0.05))

    return make, table()


@member("run eagerly")
def _eager() -> tuple[Make, dict[str, Any]]:
    return lambda: compiled(dense(), run_eagerly=True), table(40)


@member("metrics that remember")
def _metrics() -> tuple[Make, dict[str, Any]]:
    data = classes(of=3)

    def make() -> keras.Model:
        return compiled(
            dense(outputs=3, activation="softmax"),
            optimizers.SGD(0.1),
            losses.CategoricalCrossentropy(label_smoothing=0.1),
            metrics=[
                metrics.AUC(num_thresholds=20, name="auc"),
                metrics.F1Score(average=None, name="f1"),
            ],
            weighted_metrics=[metrics.CategoricalAccuracy(name="accuracy")],
        )

    weight = np.random.default_rng(3).uniform(size=120)
    return make, {"x": data["x"], "y": np.eye(3, dtype="float32")[data["y"]], "sample_weight": weight}


@member("class weights")
def _class_weight() -> tuple[Make, dict[str, Any]]:
    def make() -> keras.Model:
        model = dense(outputs=3, activation="softmax")
        return compiled(model, "adagrad", "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])

    return make, classes() | {"class_weight": {0: 1.0, 1: 0.5, 2: 4.0}}
