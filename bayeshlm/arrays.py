"""The two array types of the package; shapes stand in docstrings and beside each broadcast."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Codes = NDArray[np.int64]  # positions in a list of groups, categories or columns
