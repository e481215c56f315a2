"""Base class of objects that are closed at the end of a `with` block.

class Source(Closeable): ...
with Source("data.root") as source: ...
"""

from __future__ import annotations

from typing_extensions import Self


class Closeable:
    """Base class of objects with a method `close`, for use in `with` statements."""

    def close(self) -> None:
        """Release the resources of the object."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
