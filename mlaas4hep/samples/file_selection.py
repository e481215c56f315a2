"""Selection of the readable files of a sample.

selection = FileSelection(readers)
summaries = list(selection.readable(summarise, workers=2))      # of the files that can be read
selection.left_out                                              # the others, with reasons
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from mlaas4hep import console
from mlaas4hep.errors import FileUnreadable
from mlaas4hep.io.storage.location import absolute_name, redacted
from mlaas4hep.reader import DataReader
from mlaas4hep.samples.bad_files import BadFile, LeftOutFile, check_max_bad
from mlaas4hep.samples.readers import SampleReaders

Result = TypeVar("Result")


class FileSelection:
    """Removes the files that cannot be read from the readers of a sample, if on_error="skip".

    Attributes:
        indices: index, among the files that the user gave, of each file of the readers.
        left_out: the files that were removed, sorted by index.
    """

    def __init__(self, readers: SampleReaders, recorded: Mapping[str, str] | None = None) -> None:
        """Start with all files.

        Args:
            recorded: reasons by name of the files that an earlier part of the run left out. These files are removed
                even if they can be read now, and all others must be readable. None: this is a new run.
        """
        self._readers = readers
        self._continues = recorded is not None
        self._count = len(readers.inputs)
        self.indices = list(range(len(readers.inputs)))
        self.left_out: list[LeftOutFile] = []
        if recorded:
            self._leave_out_again(recorded)

    def readable(self, use: Callable[[DataReader], Result], workers: int) -> Iterator[Result]:
        """Yield the result of a function for the reader of each file that can be read; at the end, remove the others.

        Raises:
            FileUnreadable, TreeNotFound: a file cannot be read and must not be removed, or too many cannot be read.
        """
        bad: dict[int, str] = {}
        for index, result in enumerate(self._readers.map_readable(use, workers)):
            if not isinstance(result, BadFile):
                yield result
            elif self._readers.options.on_error != "skip" or self._count == 1:
                raise result.error
            elif self._continues:
                raise FileUnreadable(
                    f"{result.reason}; the run began with this file",
                    hint="make the file readable and use --resume again, or start again without --resume",
                )
            else:
                bad[index] = result.reason
        self._remove(bad)

    def _remove(self, bad: Mapping[int, str]) -> None:
        files = self._readers.files
        self.left_out += [LeftOutFile(self.indices[index], files[index], reason) for index, reason in bad.items()]
        self.left_out.sort(key=lambda file: file.index)
        if not self._continues:
            check_max_bad([file.reason for file in self.left_out], self._count, self._readers.options.max_bad)
        if bad:
            self._readers.leave_out(bad)
            self.indices = [number for index, number in enumerate(self.indices) if index not in bad]

    def _leave_out_again(self, recorded: Mapping[str, str]) -> None:
        by_path = {absolute_name(name): reason for name, reason in recorded.items()}
        names = list(map(absolute_name, self._readers.files))
        for index, name in enumerate(names):
            if name in by_path and self._can_open(index):
                console.notice(
                    f"{redacted(self._readers.files[index])} can be read now, but stays left out, because the run began"
                    " without it; start again without --resume to include it"
                )
        self._remove({index: by_path[name] for index, name in enumerate(names) if name in by_path})

    def _can_open(self, index: int) -> bool:
        try:
            with self._readers.borrow(index):
                return True
        except (OSError, KeyError):  # KeyError: no such tree
            return False
