"""`python -m bayeshlm` is the command `bayeshlm`."""

from __future__ import annotations

from bayeshlm.cli import main

if __name__ == "__main__":
    main()
