"""The device side of the app: the node config and the model card."""
