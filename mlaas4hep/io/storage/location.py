"""Resolve the names that users give to the locations of files.

    candidates("/store/data/x.root", ["root://eospublic.cern.ch"])
    # ['/store/data/x.root', 'root://eospublic.cern.ch//store/data/x.root']

A name is a local path, a glob, a URL (`root://`, `http(s)://`, ...) or a logical file name (LFN, `/store/...`), which
is tried on disk first, and then at each redirector. A tree may follow it, as in `data.root:Events`. `replicas` opens
the locations.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from mlaas4hep.errors import FileUnreadable, nearest
from mlaas4hep.input_files import check_is_file, read_lines
from mlaas4hep.shell import quoted

CMS_REDIRECTORS = ("root://cmsxrootd.fnal.gov", "root://xrootd-cms.infn.it", "root://cms-xrd-global.cern.ch")
"""CMS's regional redirectors (US, Europe) and the global one; `--redirector` takes them as a comma-separated list."""

HEAD = 64
"""Number of bytes that `format_of` needs."""

_ROOT_MAGIC = b"root"
_MAGIC = {b"PAR1": "Parquet", b"ARROW1": "Arrow", b"Obj\x01": "Avro"}

ENDINGS = {
    ".parquet": "Parquet", ".arrow": "Arrow", ".feather": "Arrow", ".ipc": "Arrow", ".avro": "Avro",
    ".csv": "CSV", ".tsv": "CSV", ".json": "JSON", ".jsonl": "JSON", ".ndjson": "JSON",
}  # fmt: skip
"""Formats of data files by suffix."""

COMPRESSED = (".gz", ".bz2", ".zst")

TEXT_DATA = tuple(
    ending + packed for ending, kind in ENDINGS.items() if kind in ("CSV", "JSON") for packed in ("", *COMPRESSED)
)
"""Suffixes of data files that are text, like lists of files."""


_WITH_TREE = re.compile(r"(.+\.root(?:\.[0-9]+)?):(.*)", re.IGNORECASE | re.DOTALL)
"""A name with a tree; the same as in uproot."""

_HOST_AND_PORT = re.compile(r"[\w+.-]+://[^/]*:[0-9]+(?=/)")


def format_of(head: bytes) -> str:
    """Return the format of a file, given its first bytes; "" for text and unknown formats.

    A text may begin with "root" like a ROOT file (`root://...`), but the header of a ROOT file contains null bytes.
    """
    if head.startswith(_ROOT_MAGIC) and b"\0" in head[:HEAD]:
        return "ROOT"
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "")


def is_url(name: str) -> bool:
    """Return whether a name has a scheme, as in `root://host//path`."""
    return "://" in name


def absolute_name(name: str) -> str:
    """Return a name that is valid in every working directory."""
    return name if is_url(name) else os.path.abspath(name)


def redacted(name: str) -> str:
    """Return a name without credentials: user, password and query string of a URL."""
    if not is_url(name):
        return name
    scheme, _, rest = name.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path.partition('?')[0]}"


def split_tree(name: str) -> tuple[str, str]:
    """Split a name into the name of the file and the tree in it, "" if there is none.

    As in uproot, a tree follows the last `.root:` (or `.root.1:`). It also follows any file on disk, but a name that is
    itself a file on disk is not split. In a URL, a port is not a tree, and a query string belongs to the file.

        split_tree("data.root:folder/Events;1")                     # ("data.root", "folder/Events;1")
        split_tree("https://host:443/data.root:Events?token=x")     # ("https://host:443/data.root?token=x", "Events")
    """
    if ":" not in name or os.path.isfile(name):
        return name, ""
    if is_url(name):
        return _split_url(name)
    colons = [match.start() for match in re.finditer(":", name)]
    on_disk = next((colon for colon in reversed(colons) if os.path.isfile(name[:colon])), None)
    if on_disk is not None:
        return name[:on_disk], _tree_path(name[on_disk + 1 :])
    match = _WITH_TREE.fullmatch(name)
    return (match[1], _tree_path(match[2])) if match else (name, "")


def with_tree(name: str, tree: str) -> str:
    """Return the name of a file, without a tree, together with a tree; see `split_tree`."""
    path, mark, query = name.partition("?") if is_url(name) else (name, "", "")
    return f"{path}:{tree}{mark}{query}"


def _split_url(url: str) -> tuple[str, str]:
    """Split a URL, or several that are chained as in fsspec (`zip://data.root:Events::https://host/data.zip`)."""
    links = url.split("::")
    for index in reversed(range(len(links))):
        path, mark, query = links[index].partition("?")
        port = _HOST_AND_PORT.match(path)
        start = port.end() if port else 0
        match = _WITH_TREE.fullmatch(path, start)
        if match:
            links[index] = f"{path[:start]}{match[1]}{mark}{query}"
            return "::".join(links), _tree_path(match[2])
    return url, ""


def _tree_path(text: str) -> str:
    return text.strip().strip("/")


def stem_of(name: str) -> str:
    """Return the name of a file, given its path or URL, without its folder, its suffix, the query string and a tree."""
    return Path(redacted(split_tree(name)[0]).rpartition("://")[2]).stem


def output_stems(names: Sequence[str]) -> list[str]:
    """Return stems for the names of output files, one per input file.

    A stem is that of the file, followed by the tree if several files have the same stem.
    """
    stems = list(map(stem_of, names))
    count = Counter(stems)
    trees = [re.sub(r"[^\w.-]+", "_", split_tree(name)[1]) for name in names]
    return [f"{stem}_{tree}" if tree and count[stem] > 1 else stem for stem, tree in zip(stems, trees, strict=True)]


def folder_of(name: str) -> str:
    """Return the folder of a file, given its path or URL; "." for a file in the working folder."""
    if not is_url(name):
        return os.path.dirname(name) or "."
    return name.partition("?")[0].rpartition("/")[0]


def candidates(name: str, redirectors: Sequence[str] = ()) -> list[str]:
    """Return the locations to try for a file, in order.

    Args:
        name: path, URL or LFN, without a tree.
        redirectors: `root://host[:port]`, to try for an LFN that is not on disk, and for the LFN in a URL
            (`root://host//store/...`) after its own host.

    Raises:
        FileUnreadable: a local path does not exist, or is not a file.
    """
    if os.path.isfile(name):
        return [name]
    if is_url(name):
        lfn = name[name.find("/store/") :] if name.startswith("root://") and "//store/" in name else ""
        return list(dict.fromkeys([name, *(_url_at(redirector, lfn) for redirector in redirectors if lfn)]))
    if name.startswith("/store/"):
        if redirectors:
            return [_url_at(redirector, name) for redirector in redirectors]
        raise FileUnreadable(
            f"{name} is not on this disk", hint="set a redirector, for example --redirector=" + CMS_REDIRECTORS[0]
        )
    if os.path.isdir(name):
        raise FileUnreadable(
            f"{name} is a folder, not a file", hint=f"give its files, for example '{name.rstrip('/')}/*.root'"
        )
    check_is_file(name)
    raise FileUnreadable(f"file not found: {name}", nearest=_similar_names(name))


def tree_setting(tree: str) -> str:
    """Return the option of reader.py and the key of params.json that select a tree."""
    return f'--branch={quoted(tree)}, or "branch": {json.dumps(tree)} in params.json'


def list_all(location: str, tree: str = "") -> str:
    """Return a hint that says how to list all columns of a file."""
    option = f" --branch={quoted(tree)}" if tree else ""
    return f"list all: reader.py --fin={quoted(location)}{option} --info"


def _url_at(redirector: str, lfn: str) -> str:
    return f"{redirector.rstrip('/')}/{lfn}"


def expand(names: Iterable[str], base: Path | None = None) -> list[str]:
    """Return the files that names, globs and URLs refer to, in the given order. Files that match a glob are sorted.

    The tree in a name stays in it; the tree behind a glob (`*.root:Events`) is that of each file.

    Args:
        base: folder for relative names that do not exist in the working directory.

    Raises:
        FileUnreadable: a glob matches nothing.
    """
    files: list[str] = []
    for name in names:
        file, tree = split_tree(name)
        if is_url(name):
            files.append(name)
        elif glob.has_magic(file) and not os.path.exists(file):
            files.extend(f"{match}:{tree}" if tree else match for match in _matches(file, base))
        else:
            files.append(_find(name, base))
    return files


def read_file_list(text: str) -> list[str]:
    """Return the data files that `--files` refers to.

    Args:
        text: a text file with one name per line, a comma-separated list, a glob, or a single data file.

    Raises:
        FileUnreadable: the list of files does not exist, or is empty.
    """
    if "," not in text and _is_list(text):
        files = expand(read_lines(text), Path(text).parent)
        if not files:
            raise FileUnreadable(f"{text} contains no file names", hint="write one file per line")
        return files
    return expand(part.strip() for part in text.split(",") if part.strip())


def _is_list(name: str) -> bool:
    """Return whether a name refers to a list of files, by its content, and for text formats by its suffix."""
    if is_url(name) or split_tree(name)[1] or glob.has_magic(name) or name.lower().endswith(TEXT_DATA):
        return False
    if not os.path.isfile(name):
        return name.endswith((".txt", ".list"))
    with open(name, "rb") as file:
        return not format_of(file.read(HEAD))


def _matches(pattern: str, base: Path | None) -> list[str]:
    files = sorted(glob.glob(pattern, recursive=True))
    if not files and base is not None:
        files = sorted(glob.glob(str(base / pattern), recursive=True))
    if not files:
        raise FileUnreadable(f"no file matches {pattern}")
    return files


def _find(name: str, base: Path | None) -> str:
    """Return a name, with the folder `base` if the file exists only there."""
    if base is None or os.path.exists(split_tree(name)[0]):
        return name
    within = str(base / name)
    return within if os.path.exists(split_tree(within)[0]) else name


def _similar_names(name: str) -> list[str]:
    folder = Path(name).parent
    if not folder.is_dir():
        return []
    close = nearest(Path(name).name, sorted(entry.name for entry in folder.iterdir()))
    return [str(folder / match) for match in close]
