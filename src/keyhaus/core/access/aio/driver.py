"""What only one side has beside its methods. Its twin is `blocking/driver.py`."""

from __future__ import annotations


class AsyncFaces:
    """Nothing: Python's mappings can't be waited for."""
