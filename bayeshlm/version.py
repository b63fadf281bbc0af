"""The version, which everything else takes from here: the package's metadata too."""

from __future__ import annotations

__version__ = "0.1.0"
