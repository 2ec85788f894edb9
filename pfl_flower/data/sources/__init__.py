"""The data sets that come with the app, or that it knows how to find."""
