"""An example: averaging by the square roots of the numbers of examples."""
