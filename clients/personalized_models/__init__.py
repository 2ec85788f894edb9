"""Clients that keep a whole personalized model: Ditto, MR-MTL, L2GD, pFedMe and APFL.

All but APFL seek ``min f_i(theta_i) + lambda/2 ||theta_i - theta_0||^2`` and differ in what the
anchor ``theta_0`` is: the FedAvg model (Ditto), the mean of the clients' models (MR-MTL, L2GD), or
the minimizer of the clients' Moreau envelopes (pFedMe). The proximal term is solved implicitly
(:func:`clients.local_training.proximal.proximal_step`), so that no ``lambda`` is too large for a
learning rate. ``lambda = 0`` is training alone, and at infinity a client's model is the shared one,
trained as FedAvg trains it.
"""
