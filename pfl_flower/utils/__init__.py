"""Files that are written whole or not at all, and functions that are named in a text."""
