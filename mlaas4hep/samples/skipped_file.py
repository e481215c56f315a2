"""skipped.json: the files that were left out of a sample, as a samples file that can be read to try them again.

write_skipped_file(Path("skipped.json"), skipped_samples(fileset, left_out, labels=None))
read_reasons(Path("skipped.json"))      # {"b.root": "b.root is not a ROOT file"}
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlaas4hep.config.samples import load_samples
from mlaas4hep.errors import MLaaS4HEPError
from mlaas4hep.files import write_json
from mlaas4hep.input_files import read_json
from mlaas4hep.io.storage.location import absolute_name
from mlaas4hep.samples.bad_files import LeftOutFile
from mlaas4hep.samples.fileset import Fileset


def skipped_samples(
    fileset: Fileset, left_out: Sequence[LeftOutFile], labels: Sequence[object] | None = None
) -> dict[str, Any]:
    """Return the content of skipped.json.

    Args:
        fileset: all files, including those that were left out.
        labels: label of each of these files, if they belong to a plain list; None: they have none.
    """
    samples: dict[str, Any] = {}
    for file in left_out:
        index = fileset.sample_of[file.index]
        label = "" if labels is None else str(labels[file.index])
        name = fileset.names[index] or label or "files"
        if name not in samples:
            described = fileset.samples[index].model_dump(exclude_defaults=True, exclude={"files", "reasons"})
            samples[name] = {"files": {}, **described, "reasons": {}} | ({"label": label} if label else {})
        path = absolute_name(file.name)
        samples[name]["files"][path] = fileset.trees[file.index]
        samples[name]["reasons"][path] = file.reason
    return samples


def write_skipped_file(path: Path, samples: dict[str, Any]) -> None:
    """Write skipped.json; remove it if no files were left out."""
    if samples:
        write_json(path, samples)
    else:
        path.unlink(missing_ok=True)


def is_skipped_file(path: Path) -> bool:
    """Return whether a file was written by `write_skipped_file`."""
    with suppress(MLaaS4HEPError):
        content = read_json(path)
        entries = list(content.values()) if isinstance(content, dict) else []
        return bool(entries) and all(isinstance(one, dict) and "reasons" in one for one in entries)
    return False


def read_reasons(path: Path) -> dict[str, str]:
    """Return why files were left out, by absolute name; {} if the file does not exist.

    Raises:
        FileUnreadable, ConfigError: the file cannot be read, or is not a samples file.
    """
    if not path.exists():
        return {}
    return {name: reason for sample in load_samples(str(path)).values() for name, reason in sample.reasons.items()}
