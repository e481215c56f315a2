"""Names that people write → places where the bytes may lie.

    candidates("/store/data/x.root", ["root://eospublic.cern.ch"])
    # ['/store/data/x.root', 'root://eospublic.cern.ch//store/data/x.root']

A name is a local path, a glob, a URL (`root://`, `http(s)://`, ...) or a logical file name (LFN, `/store/...`), which
is tried on disk first and then at each redirector in turn. Opening the places is left to `source`.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from mlaas4hep.errors import FileUnreadable, nearest
from mlaas4hep.input_files import check_is_file, read_lines

CMS_REDIRECTORS = ("root://cmsxrootd.fnal.gov", "root://xrootd-cms.infn.it", "root://cms-xrd-global.cern.ch")
"""CMS's regional redirectors (US, Europe) and the global one; `--redirector` takes them as a comma list."""

ROOT_MAGIC = b"root\0"
"""First bytes of a ROOT file: its name, and of its version, an integer of four bytes, the first."""

MAGIC = {ROOT_MAGIC: "ROOT", b"PAR1": "Parquet", b"ARROW1": "Arrow", b"Obj\x01": "Avro"}
"""First bytes of a file, and what it is."""

ENDINGS = {
    ".parquet": "Parquet", ".arrow": "Arrow", ".feather": "Arrow", ".ipc": "Arrow", ".avro": "Avro",
    ".csv": "CSV", ".tsv": "CSV", ".json": "JSON", ".jsonl": "JSON", ".ndjson": "JSON",
}  # fmt: skip
"""Ends of the names of data files, and what these are."""

COMPRESSED = (".gz", ".bz2", ".zst")

TEXT_DATA = tuple(
    ending + packed for ending, kind in ENDINGS.items() if kind in ("CSV", "JSON") for packed in ("", *COMPRESSED)
)
"""Ends of the names of data files that are text, as lists of files are."""


def is_url(name: str) -> bool:
    """Tell whether a name has a scheme, as in `root://host//path`."""
    return "://" in name


def shown(name: str) -> str:
    """Return a name without what only its owner should see: passwords, and what follows a question mark (tokens)."""
    if not is_url(name):
        return name
    scheme, _, rest = name.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path.partition('?')[0]}"


def candidates(name: str, redirectors: Sequence[str] = ()) -> list[str]:
    """Return the places to try for one file, in order.

    Args:
        name: path, URL or LFN.
        redirectors: `root://host[:port]`, asked in turn for an LFN that does not lie on disk, and for the LFN in a URL
            (`root://host//store/...`) after its own host.

    Raises:
        FileUnreadable: a local path that does not exist.
    """
    if os.path.isfile(name):
        return [name]
    if is_url(name):
        lfn = name[name.find("/store/") :] if name.startswith("root://") and "//store/" in name else ""
        return list(dict.fromkeys([name, *(_at(redirector, lfn) for redirector in redirectors if lfn)]))
    if name.startswith("/store/"):
        if redirectors:
            return [_at(redirector, name) for redirector in redirectors]
        raise FileUnreadable(
            f"{name} is not on this disk", hint="name a redirector, as in --redirector=" + CMS_REDIRECTORS[0]
        )
    if os.path.isdir(name):
        raise FileUnreadable(
            f"{name} is a folder, not a file", hint=f"name its files, as in '{name.rstrip('/')}/*.root'"
        )
    check_is_file(name)
    raise FileUnreadable(f"there is no file {name}", nearest=_neighbours(name))


def _at(redirector: str, lfn: str) -> str:
    return f"{redirector.rstrip('/')}/{lfn}"


def expand(names: Iterable[str], base: Path | None = None) -> list[str]:
    """Return the files that a list of names, globs and URLs stands for, in the order given, globs sorted.

    Args:
        names: what the user wrote.
        base: folder that relative names are looked for in when the working directory does not have them.

    Raises:
        FileUnreadable: a glob matches nothing.
    """
    files: list[str] = []
    for name in names:
        if is_url(name):
            files.append(name)
        elif glob.has_magic(name) and not os.path.exists(name):
            files.extend(_matches(name, base))
        else:
            files.append(_find(name, base))
    return files


def read_file_list(text: str) -> list[str]:
    """Return the data files that `--files` stands for.

    Args:
        text: a text file with one name a line, a comma list, a glob, or a single data file.

    Raises:
        FileUnreadable: the list does not exist or names no files.
    """
    if "," not in text and _is_list(text):
        files = expand(read_lines(text), Path(text).parent)
        if not files:
            raise FileUnreadable(f"{text} names no files", hint="write one file a line")
        return files
    return expand(part.strip() for part in text.split(",") if part.strip())


def _is_list(name: str) -> bool:
    """Tell a list of files from a data file: by its content, and where data are text too, by its name."""
    if is_url(name) or glob.has_magic(name) or name.lower().endswith(TEXT_DATA):
        return False
    if not os.path.isfile(name):
        return name.endswith((".txt", ".list"))
    with open(name, "rb") as file:
        head = file.read(8)
    return not head.startswith(tuple(MAGIC))


def _matches(pattern: str, base: Path | None) -> list[str]:
    found = sorted(glob.glob(pattern, recursive=True))
    if not found and base is not None:
        found = sorted(glob.glob(str(base / pattern), recursive=True))
    if not found:
        raise FileUnreadable(f"no file matches {pattern}")
    return found


def _find(name: str, base: Path | None) -> str:
    if base is not None and not os.path.exists(name) and (base / name).exists():
        return str(base / name)
    return name


def _neighbours(name: str) -> list[str]:
    folder = Path(name).parent
    if not folder.is_dir():
        return []
    close = nearest(Path(name).name, sorted(entry.name for entry in folder.iterdir()))
    return [str(folder / match) for match in close]
