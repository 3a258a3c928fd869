"""How a step is taken. TensorFlow and Keras."""
