"""The data of a client: loaders, data schema, preprocessing, and how well it measures."""
