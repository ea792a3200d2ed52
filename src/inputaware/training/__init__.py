"""The loop that runs an attack's stages; it knows no attack."""

__all__: list[str] = []
