"""The device side of clustered federated learning: start gradients and losses of models."""
