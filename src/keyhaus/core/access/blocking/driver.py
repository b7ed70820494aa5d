"""What only one side has beside its methods. Its twin is `aio/driver.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from keyhaus.core.access.mapping import TypedMapping

if TYPE_CHECKING:
    from keyhaus.core.access.blocking.access import Door


class Faces:
    """Other ways to see the same data."""

    def as_mapping(self) -> TypedMapping:
        """All keys with their typed values, as a mapping: in the place of a dict that stays, of shelve, or of dbm."""
        return TypedMapping(cast("Door", self))
