"""Figures: pictures and plots made of arrays, in one style; no torch, no files of a run."""

__all__: list[str] = []
