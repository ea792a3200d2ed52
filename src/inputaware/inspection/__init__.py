"""Inspection: what triggers look like and where a classifier looks, as arrays."""

__all__: list[str] = []
