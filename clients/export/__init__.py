"""Export of a client's model from its device, and prediction on a file of examples."""
