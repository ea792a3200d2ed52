"""What a person sees in the terminal: progress on stderr, tables on stdout."""

__all__: list[str] = []
