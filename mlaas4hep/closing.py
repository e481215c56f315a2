"""What is closed when a `with` block ends.

class Source(Closing): ...
with Source("data.root") as source: ...
"""

from __future__ import annotations

from types import TracebackType

from typing_extensions import Self


class Closing:
    """Something with a `close` that may be used in a `with` statement."""

    def close(self) -> None:
        """Give back what is held."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
