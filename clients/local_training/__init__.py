"""The local training loop: steps, proximal terms, fine-tuning, adaptation of unseen clients."""
