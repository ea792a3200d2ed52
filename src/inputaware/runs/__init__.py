"""What a run leaves on disk: folder, checkpoint, journal, environment record, results."""

__all__: list[str] = []
