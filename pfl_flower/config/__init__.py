"""The run config: its keys, what a value may be, and what follows from them."""
