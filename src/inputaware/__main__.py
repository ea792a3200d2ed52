"""``python -m inputaware`` does what the command ``inputaware`` does."""

import sys

from inputaware.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
