"""Clients that keep a whole personalized model: Ditto, MR-MTL, L2GD, pFedMe and APFL."""
