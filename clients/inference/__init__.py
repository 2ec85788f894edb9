"""Fisher information, Laplace approximations and Gaussian posteriors."""
