"""pFedHN: a network on the server that writes every client's model."""
