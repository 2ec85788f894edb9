"""Pictures in files: who has which, decoding, and a memory-mapped file of what is decoded."""
