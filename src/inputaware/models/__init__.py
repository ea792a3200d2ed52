"""The networks that a defender is handed: classifiers and their normalisation."""

__all__: list[str] = []
