"""The command line: arguments, files and the terminal; no statistics.

`commands` names commands and options; `fitting`, `simulating`, `studying` and `showcase` carry them out; `tables` and
`study_tables` turn results into rows; `terminal` prints them; `interrupts` is about Ctrl-C. Only typer and rich are
imported before a command starts its work, and what it works with only after the checks that need less.
"""

from __future__ import annotations

import sys

from bayeshlm.cli.interrupts import interrupts_counted


def main() -> None:
    """Entry point of the command `bayeshlm`."""
    signals: list[int] = []
    try:
        with interrupts_counted(signals):
            from bayeshlm.cli.commands import main as run

            run()
    except KeyboardInterrupt:  # before a command began: then nothing was written
        sys.stderr.write("Error: Interrupted.\n")
        raise SystemExit(130) from None
