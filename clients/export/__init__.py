"""A client's model off the device: export, and prediction on a file of examples."""
