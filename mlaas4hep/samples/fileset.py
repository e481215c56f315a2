"""The files of all samples.

    fileset = Fileset.of("samples.json")            # or a list of files, a comma-separated list, a glob
    fileset.files, fileset.samples[fileset.sample_of[0]]

A plain list of files is one sample without a name. See `config.samples` for samples files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlaas4hep import console
from mlaas4hep.config.samples import SampleParams, is_samples_file, load_samples, parse_samples
from mlaas4hep.errors import ConfigError, sample_in_errors
from mlaas4hep.io.storage.location import expand, read_file_list

Files = str | Sequence[str | os.PathLike[str]] | Mapping[str, Any]
"""A samples file, a text file with one file per line, a comma-separated list or a glob; a list of files; or the content
of a samples file."""


@dataclass(frozen=True)
class Fileset:
    """The files of all samples, and the parameters of the samples.

    Attributes:
        files: paths, URLs or LFNs, in the order given.
        trees: tree of each file; "": `branch` of the sample or of the params.
        sample_of: index of the sample that each file belongs to.
        samples: parameters of each sample.
        names: name of each sample; "" for a plain list of files.
    """

    files: tuple[str, ...]
    trees: tuple[str, ...]
    sample_of: tuple[int, ...]
    samples: tuple[SampleParams, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, files: Files) -> Fileset:
        """Resolve the names of the files.

        Raises:
            FileUnreadable: a list or a samples file cannot be read, or a glob matches nothing.
            ConfigError: the list of files is empty, or the samples file is invalid.
        """
        if isinstance(files, Mapping):
            return cls._of_samples(parse_samples(files), None)
        if isinstance(files, str):
            if is_samples_file(files):
                return cls._of_samples(load_samples(files), Path(files).parent)
            return cls.of_names(read_file_list(files))
        return cls.of_names(expand(os.fspath(file) for file in files))

    @classmethod
    def of_names(cls, names: Sequence[str]) -> Fileset:
        """Return a plain list of files, given their resolved names; raise ConfigError if there are none."""
        count = len(names)
        if not count:
            raise ConfigError("there are no files to read", hint="name at least one file")
        only = SampleParams.model_construct(files=dict.fromkeys(names, ""))
        return cls(tuple(names), ("",) * count, (0,) * count, (only,), ("",))

    @classmethod
    def _of_samples(cls, samples: Mapping[str, SampleParams], folder: Path | None) -> Fileset:
        """Return the files of samples; relative names may be relative to a folder."""
        files: list[str] = []
        trees: list[str] = []
        sample_of: list[int] = []
        for index, (name, sample) in enumerate(samples.items()):
            ignored = [key for key in ("xsec", "sumw", "weight") if key in sample.metadata and not getattr(sample, key)]
            if ignored:
                console.notice(
                    f"sample '{name}': '{ignored[0]}' in its metadata is not used; move it out of 'metadata'"
                )
            for pattern, tree in sample.files.items():
                with sample_in_errors(name):
                    found = expand([pattern], folder)
                files += found
                trees += [tree] * len(found)
                sample_of += [index] * len(found)
        return cls(tuple(files), tuple(trees), tuple(sample_of), tuple(samples.values()), tuple(samples))

    @property
    def has_names(self) -> bool:
        """Whether the samples have names."""
        return self.names != ("",)

    @property
    def sample_labels(self) -> list[str]:
        """Label of each sample: its own, or its name."""
        return [sample.label or name for sample, name in zip(self.samples, self.names, strict=True)]

    def labels(self) -> list[str] | None:
        """Return the label of the sample of each file; None if all files have the same label."""
        if not self.has_names:
            return None
        labels = self.sample_labels
        return [labels[sample] for sample in self.sample_of] if len(set(labels)) > 1 else None

    def select(self, indices: Sequence[int]) -> Fileset:
        """Return the fileset with some of its files, and all samples."""
        files, trees = (tuple(column[index] for index in indices) for column in (self.files, self.trees))
        return replace(self, files=files, trees=trees, sample_of=tuple(self.sample_of[index] for index in indices))
