"""Defenses: each looks at a suspect classifier with clean data, and returns a verdict."""

__all__: list[str] = []
