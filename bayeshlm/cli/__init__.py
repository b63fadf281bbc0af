"""The command line: arguments, files and the terminal; no statistics.

`commands` names commands and options; `fitting`, `simulating` and `showcase` carry them out; `tables` turns results
into rows; `terminal` prints them. Only typer and rich are imported before a command starts its work.
"""

from __future__ import annotations

from bayeshlm.cli.commands import main as main
