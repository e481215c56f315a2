"""Options for reading that all files of a sample share.

ReadOptions.parse({"branch": "Events", "selected_branches": ["Jet_*"], "workers": 4})
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import ConfigDict, Field

from mlaas4hep.config import FilesParams
from mlaas4hep.config.checked import Names
from mlaas4hep.errors import ConfigError
from mlaas4hep.expressions.preproc import Preproc
from mlaas4hep.io import Column, Kind
from mlaas4hep.io.storage.replicas import RetryPolicy
from mlaas4hep.list_lengths import ListLength, MaxLength, parse_max_length
from mlaas4hep.reader.selection import match
from mlaas4hep.specs.specs import Specs


class ReadOptions(FilesParams):
    """The options for reading (see `FilesParams`), and further options for programs.

    Attributes:
        nan: value of x where there is no measured value.
        preproc: new branches and cuts.
        extra: flat columns to return in addition to the features: names, globs, `/regular expressions/`.
        derived: expressions whose values to return in addition to the features, by name.
        exclude_missing: whether patterns of excluded branches may match nothing in a file.
        require_features: whether a file without features is an error.
        cut: condition that events must pass, after the preprocessing; "": all pass.
        optional_branches: whether patterns of selected branches and of inputs may match nothing in a file.
        all_features: the features of all files together, by name; those that a file lacks are missing values. None:
            the options select the features.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=True)

    nan: float = np.nan
    preproc: Preproc | None = None
    extra: Names = Field([])
    derived: dict[str, str] = Field({})
    exclude_missing: bool = False
    require_features: bool = True
    cut: str = ""
    optional_branches: bool = False
    all_features: dict[str, Column] | None = None

    @property
    def retry_policy(self) -> RetryPolicy:
        """Timeout and retries for servers."""
        return RetryPolicy(self.timeout, self.retries)

    def limited(self, specs: Specs) -> Specs:
        """Return specs whose lists are no longer than `max_length`, or than `inner_length` for parts of objects."""
        lists = [name for name, branch in specs.branches.items() if branch.kind.depth]
        lengths = max_lengths(self.max_length, {name: branch.kind for name, branch in specs.branches.items()})
        for one in self.inputs.values():
            if one.length is not None:  # objects are sorted before they are cut
                for name in match(dict.fromkeys(lists), [*one.branches, *filter(None, [one.key])], "", True):
                    lengths.pop(name, None)
        return specs.with_max_lengths(lengths | self._lengths_of_parts(specs))

    def _lengths_of_parts(self, specs: Specs) -> dict[str, ListLength]:
        """Return the lengths of lists of lists that are used only in inputs with an `inner_length`."""
        nested = [name for name, branch in specs.branches.items() if branch.kind is Kind.NESTED]
        inner: dict[str, list[int | None]] = {}
        for one in self.inputs.values():
            for name in match(dict.fromkeys(nested), one.branches, "", True):
                inner.setdefault(name, []).append(one.inner_length)
        return {
            name: ListLength(specs.branches[name].dim, max(length for length in used if length is not None))
            for name, used in inner.items()
            if None not in used
        }


def max_lengths(choice: MaxLength, kinds: Mapping[str, Kind]) -> dict[str, ListLength]:
    """Return the maximum length of each branch with lists; the last of several matching patterns counts.

    Args:
        kinds: the branches of the vectors.

    Raises:
        BranchNotFound: a pattern matches none of the branches of the vectors.
        ConfigError: a pattern matches no list, or sets an inner length, but matches no list of lists.
    """
    default, some = parse_max_length(choice)
    lengths = {name: default for name, kind in kinds.items() if kind.depth and default is not None}
    for pattern, length in some.items():
        found = [name for name in match(kinds, [pattern], "the vectors") if kinds[name].depth]
        if not found:
            raise ConfigError(f"branch '{pattern}' is not a list, so max_length does not apply to it")
        if length.outer != length.inner and all(kinds[name] is Kind.JAGGED for name in found):
            raise ConfigError(
                f"branch '{pattern}' is not a list of lists, so max_length cannot be {length.outer}x{length.inner}",
                hint=f"set its maximum length: {length.outer}",
            )
        lengths.update(dict.fromkeys(found, length))
    return lengths
