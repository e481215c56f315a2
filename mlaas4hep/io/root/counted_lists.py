"""Read lists whose lengths are the values of another branch, in files that do not store their offsets.

    branch = tree["Jet_pt"]
    if needs_counts(branch, branch.interpretation, is_packed=False):
        read_counted(branch, branch.interpretation, 0, 1000)

With the option kGenerateOffsetMap of TIOFeatures, ROOT does not store the offsets of lists like `Jet_pt[nJet]`: they
follow from the values of `nJet`. uproot 5.7 looks these up by the index of the basket, which is correct only if the
baskets of both branches contain the same entries.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from uproot.interpretation.jagged import AsJagged

from mlaas4hep.io.columns import Jagged, offsets_of

_GENERATE_OFFSETS = 1
"""Bit of kGenerateOffsetMap in fIOBits."""


def needs_counts(branch: Any, interpretation: Any, is_packed: bool) -> bool:
    """Return whether `read_counted` should read one of uproot's branches.

    Lists of plain numbers need it if `basket_reader` cannot read them. Packed numbers need it only if their offsets are
    not stored, because uproot is faster.
    """
    if type(interpretation) is not AsJagged or interpretation.header_bytes or branch.count_branch is None:
        return False
    return not is_packed or _generates_offsets(branch)


def _generates_offsets(branch: Any) -> bool:
    features = branch.member("fIOFeatures", none_if_missing=True)
    return features is not None and bool(features.member("fIOBits") & _GENERATE_OFFSETS)


def read_counted(branch: Any, interpretation: AsJagged, start: int, stop: int) -> Jagged | None:
    """Return the lists of the entries start <= i < stop, at least one, big-endian as in the file.

    Return None if all offsets are stored, so that uproot can read the lists.

    Raises:
        ValueError: the lists are damaged.
    """
    spans = [
        (index, begin, end)
        for index, (begin, end) in enumerate(pairwise(map(int, branch.entry_offsets)))
        if begin < stop and start < end
    ]
    baskets = [branch.basket(index) for index, *_ in spans]
    if all(basket.byte_offsets is not None for basket in baskets) and not _generates_offsets(branch):
        return None
    offsets, content = [np.zeros(1, np.int64)], []
    for basket, (_, begin, end) in zip(baskets, spans, strict=True):
        lists = _lists_of(branch, basket, interpretation.content.from_dtype, begin, end)
        cuts = lists.offsets[max(start - begin, 0) : min(stop, end) - begin + 1]
        offsets.append(cuts[1:] - cuts[0] + offsets[-1][-1])
        content.append(lists.content[cuts[0] : cuts[-1]])
    return Jagged(np.concatenate(offsets), np.concatenate(content))


def _lists_of(branch: Any, basket: Any, item: np.dtype[Any], begin: int, end: int) -> Jagged:
    starts, index = basket.byte_offsets, basket.basket_num
    if basket.num_entries != end - begin:
        raise ValueError(f"basket {index} has {basket.num_entries} entries instead of {end - begin}")
    if basket.is_embedded and _generates_offsets(branch):
        raise ValueError("uproot cannot read a basket without offsets that is stored in the record of the tree")
    if starts is None:
        starts = _counted_offsets(branch, begin, end) * item.itemsize
    offsets = starts.astype(np.int64) // item.itemsize
    is_valid = len(offsets) == end - begin + 1 and offsets[0] == 0 and (np.diff(offsets) >= 0).all()
    if not is_valid or (starts % item.itemsize).any() or starts[-1] != len(basket.data):
        raise ValueError(
            f"the lengths of its lists are damaged: they do not match the {len(basket.data)} bytes of basket {index}"
        )
    return Jagged(offsets, np.frombuffer(basket.data, item.base).reshape(-1, *item.shape))


def _counted_offsets(branch: Any, begin: int, end: int) -> np.ndarray:
    counts = branch.count_branch.array(entry_start=begin, entry_stop=end, library="np", array_cache=None)
    if counts.dtype.names:  # a leaf list
        counts = counts[branch.count_leaf.member("fName")]
    return offsets_of(counts)
