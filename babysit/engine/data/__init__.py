"""Whatever `Model.fit` takes, as one source of batches of any size."""
