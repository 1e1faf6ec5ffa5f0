"""Vectors of texts from an encoder that stays as it is."""
