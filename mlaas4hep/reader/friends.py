"""Open a file together with its friend trees, and choose which of their columns may be features.

opened = open_with_friends("data.root", ReadOptions(friends={"scores": ":scores"}))
opened.source.columns["scores.ttH"]
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import NamedTuple

from mlaas4hep.comma_lists import list_setting
from mlaas4hep.config import IDENTIFIER
from mlaas4hep.io import Source, open_source
from mlaas4hep.io.friends import Friend, FriendedSource, open_friends
from mlaas4hep.io.nested_lists import with_nested
from mlaas4hep.io.source import DeclaredFriend
from mlaas4hep.io.storage.location import split_tree
from mlaas4hep.reader.read_options import ReadOptions
from mlaas4hep.score_columns import PART, PASSES


class OpenedFile(NamedTuple):
    """An open file.

    Attributes:
        source: its columns and those of its friends.
        identity: identifier of the content of the file alone.
        friends: its open friends, which `source` closes.
    """

    source: Source
    identity: str
    friends: Sequence[Friend]


def open_with_friends(name: str, options: ReadOptions) -> OpenedFile:
    """Open a file and the friends that the options name; see `open_source` and `open_friends` for the errors."""

    def open_tree(file: str, tree: str) -> Source:
        return open_source(file, tree, options.redirector, options.retry_policy)

    main = open_tree(name, options.branch)
    if not options.friends:
        return OpenedFile(with_nested(main, options.nested), main.identity, ())
    try:
        friends = open_friends(main, split_tree(name)[0], options.branch, options.friends, open_tree)
    except BaseException:
        main.close()
        raise
    return OpenedFile(with_nested(FriendedSource(main, friends), options.nested), main.identity, friends)


def keys_of_friends(options: ReadOptions, columns: Container[str]) -> set[str]:
    """Return the columns of friends that are features only if they are named.

    They identify an entry or, in a file of scores, say which part of the training it belonged to.

    Args:
        columns: the columns of the file and its friends.
    """
    identifiers = {*IDENTIFIER, *options.identifier}
    keys = {
        f"{alias}.{name}"
        for alias, friend in options.friends.items()
        for name in identifiers.union(friend.index.values())
    }
    return keys | {f"{alias}.{PART}" for alias in options.friends if f"{alias}.{PASSES}" in columns}


def features_by_friend(features: Iterable[str], aliases: Iterable[str]) -> Mapping[str, list[str]]:
    """Return the features that are columns of each friend, by alias."""
    found: dict[str, list[str]] = {alias: [] for alias in aliases}
    for name in features:
        alias, dot, _ = name.partition(".")
        if dot and alias in found:
            found[alias].append(name)
    return found


def unread_friends_notice(friends: Sequence[DeclaredFriend], tree: str) -> str:
    """Return a notice about friends that the tree of a file names, but the options do not; "" if there are none."""
    if not friends:
        return ""
    by_tree = {friend.tree: f"{friend.file}:{friend.tree}" for friend in reversed(friends)}
    listed, how = ", ".join(dict.fromkeys(map(str, friends))), list_setting("friends", "friends", [*by_tree.values()])
    return f"tree '{tree}' has friends, which are not read: {listed}; to read one, name it: {how}"
