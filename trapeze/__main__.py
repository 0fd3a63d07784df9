"""`python -m trapeze`."""

from __future__ import annotations

from trapeze.cli import main

if __name__ == "__main__":
    main()
