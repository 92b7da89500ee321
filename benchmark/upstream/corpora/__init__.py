"""Corpora: the captioned images that a generator was trained on, and that retrieval searches."""
