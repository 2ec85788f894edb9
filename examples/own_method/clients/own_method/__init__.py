"""An example: a personal head that is evaluated by its moving average."""
