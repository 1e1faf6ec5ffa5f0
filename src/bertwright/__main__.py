"""`python -m bertwright` is the `bertwright` command."""

from __future__ import annotations

import sys

from bertwright.cli.main import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
