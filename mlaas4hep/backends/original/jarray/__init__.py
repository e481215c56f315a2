"""Layers for lists that are padded to a fixed length."""
