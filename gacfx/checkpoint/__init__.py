"""Checkpoint folders: read a dense model, write a compressed one, load it with transformers."""
