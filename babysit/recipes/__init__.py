"""What can be done with a run through its public face alone: trying values, and finding a learning rate."""
