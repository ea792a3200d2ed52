"""What only the attacker owns: triggers, generators, losses and the stages that train them."""

__all__: list[str] = []
