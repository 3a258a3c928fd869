"""What a run is: plain data and pure functions. No TensorFlow, no files, no threads."""
