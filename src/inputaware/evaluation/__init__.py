"""The three tests of the paper and the size of the trigger."""

__all__: list[str] = []
