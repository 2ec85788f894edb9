"""The server side of the app: client discovery, the rounds of every method, checkpoints."""
