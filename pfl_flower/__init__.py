"""The Flower app: run config -> data, model, method; results of every client."""
