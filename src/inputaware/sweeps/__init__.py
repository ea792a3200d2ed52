"""Many runs at once: a grid of configurations on Ray, and what their seeds say together."""

__all__: list[str] = []
