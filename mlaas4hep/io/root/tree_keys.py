"""Find trees in a ROOT file by name.

    key = find_tree(uproot_file, "x:y/Events;1", "data.root")
    key.fClassName, read_object(ranges, key)

A name is a path of folders and tree, separated by slashes. It may contain any other characters; uproot's own look-up
treats a colon as the end of the name. The newest cycle is the default; the suffix `;1` selects another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mlaas4hep.errors import TreeNotFound, nearest
from mlaas4hep.io.root.compression import decompress
from mlaas4hep.io.storage.byte_ranges import ByteRanges
from mlaas4hep.io.storage.location import tree_setting

TREES = ("TTree", "TNtuple", "TNtupleD")
RNTUPLE = "ROOT::RNTuple"

_FOLDERS = ("TDirectory", "TDirectoryFile")


def find_tree(folder: Any, name: str, location: str) -> Any:
    """Return uproot's key of a TTree or an RNTuple, given its path in an uproot file or a directory in it.

    Raises:
        TreeNotFound: the tree does not exist; the message lists the trees of the file.
    """
    key = _find(folder, name)
    if key is not None:
        return key
    trees = list(dict.fromkeys(_names(folder)))
    if name.rpartition(";")[0] in trees:
        trees = list(_names(folder, with_cycles=True))
    has = f"has {', '.join(map(repr, trees))}" if trees else "has no trees"
    closest = next(iter(nearest(name, trees)), next(iter(trees), ""))
    hint = f"choose one: {tree_setting(closest)}" if trees else ""
    raise TreeNotFound(f"tree '{name}' not found in {location}, which {has}", hint=hint)


def identity_of(key: Any, name: str) -> str:
    """Return an identifier of the content of a tree, which does not change when the file is moved or renamed.

    `name` is the path of the tree; the newest cycle has the same identity with and without its cycle.
    """
    plain, cycle = name.removesuffix(f";{key.fCycle}"), ""
    if any(other.fName == key.fName and other.fCycle > key.fCycle for other in key.parent._keys):
        cycle = f";{key.fCycle}"
    return f"{key.file.uuid}:{plain}{cycle}"


def read_object(ranges: ByteRanges, key: Any) -> bytes:
    """Return the decompressed content of the object that a key points to.

    Raises:
        OSError: the file cannot be read.
        DamagedBlock: the object is damaged.
    """
    span = (int(key.fSeekKey), int(key.fNbytes))
    content = ranges.read([span])[span]
    return bytes(decompress(content[key.fKeylen :], int(key.fObjlen)))


def _find(folder: Any, name: str) -> Any:
    keys = sorted(folder._keys, key=lambda key: -abs(key.fCycle))  # the newest first
    for exact in (_plain, _with_cycle):
        for key in keys:
            if _is_tree(key) and exact(key) == name:
                return key
    for key in keys:
        if key.fClassName in _FOLDERS:
            for path in (_plain(key), _with_cycle(key)):
                tree = _find(key.get(), name[len(path) + 1 :]) if name.startswith(f"{path}/") else None
                if tree is not None:
                    return tree
    return None


def _names(folder: Any, with_cycles: bool = False) -> Iterator[str]:
    for key in folder._keys:  # uproot's public look-up splits names at slashes
        if _is_tree(key):
            yield _with_cycle(key) if with_cycles else _plain(key)
        elif key.fClassName in _FOLDERS:
            yield from (f"{_plain(key)}/{name}" for name in _names(key.get(), with_cycles))


def _is_tree(key: Any) -> bool:
    return key.fClassName in (*TREES, RNTUPLE)


def _plain(key: Any) -> str:
    return str(key.fName)


def _with_cycle(key: Any) -> str:
    return f"{key.fName};{key.fCycle}"
