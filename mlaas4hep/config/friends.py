"""Friend trees in params.json: files whose columns are read together with those of the main file.

    "friends": {"scores": {"file": "scores/{stem}.scores.root", "tree": "scores", "index": ["run", "event"]}}
    "friends": {"scores": "scores/{stem}.scores.root:scores"}
    "friends": ["scores/{stem}.scores.root:scores", ":Extra"]

The key is the alias of the friend: its columns are named `alias.column`. In a list, the alias is the name of the tree.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from mlaas4hep.comma_lists import split_list
from mlaas4hep.config.checked import CheckedModel
from mlaas4hep.unique_names import first_repeated, unique_keys

PLACEHOLDERS = ("stem", "dir")
"""Names in braces that `FriendParams.file` may contain."""

_WITH_TREE = re.compile(r"(|.+\.root(?:\.[0-9]+)?):(.+)", re.IGNORECASE | re.DOTALL)
"""A name with a tree; as in uproot, but without a file it is a tree of the main file."""


def _as_index(index: Any) -> Any:
    """Convert a comma-separated list, or a list, of columns that have the same name in both trees to a dict."""
    if isinstance(index, str):
        index = split_list(index)
    if isinstance(index, Iterable) and all(isinstance(name, str) for name in index):
        return index if isinstance(index, Mapping) else {name: name for name in index}
    return index


class FriendParams(CheckedModel):
    """One friend tree, as in {"file": "scores/{stem}.root", "tree": "scores", "index": ["run", "event"]}."""

    file: str = Field(
        "",
        description="path, URL or LFN; `{stem}` stands for the name of the main file without folder and suffix, `{dir}`"
        " for its folder; empty: the main file itself",
    )
    tree: str = Field("", description="name of the tree; empty: the alias")
    index: Annotated[dict[str, str], BeforeValidator(_as_index)] = Field(
        {},
        description="integer columns that match the entries of the two trees: a list, or an object with the name in the"
        " friend by name in the main tree; empty: entries with the same number belong together",
    )

    @model_validator(mode="before")
    @classmethod
    def _expand_short_form(cls, content: Any) -> Any:
        if not isinstance(content, str):
            return content
        file, tree = _split_tree(content)
        return {"file": file, "tree": tree}

    @field_validator("file")
    @classmethod
    def _check_placeholders(cls, file: str) -> str:
        for name in re.findall(r"\{(\w*)\}", file):
            if name not in PLACEHOLDERS:
                raise ValueError(f"'{{{name}}}' is unknown; '{{stem}}' and '{{dir}}' stand for parts of the main file")
        return file


def _split_tree(name: str) -> tuple[str, str]:
    """Split `file.root:tree` into file and tree; the tree is "" if there is none, the file of `:tree` is ""."""
    path, mark, query = name.partition("?") if "://" in name else (name, "", "")
    match = _WITH_TREE.fullmatch(path)
    return (match[1] + mark + query, match[2]) if match else (name, "")


def _by_alias(friends: Any) -> Any:
    """Convert a list of short forms, also separated by commas, or the text of a JSON object or list to a dict."""
    if isinstance(friends, str):
        friends = _parse(friends)
    if friends is None:
        return {}
    if isinstance(friends, Mapping) or not isinstance(friends, Iterable):
        return friends
    by_alias = [(_alias_of(name), name) for name in friends]
    repeated = first_repeated(alias for alias, _ in by_alias)
    if repeated is not None:
        raise ValueError(
            f"two friends are called '{repeated}'; give them different names, as in"
            f' {{"a": "a.root:{repeated}", "b": "b.root:{repeated}"}}'
        )
    return dict(by_alias)


def _parse(text: str) -> Any:
    if not re.match(r'\s*(\{\s*["}]|\[)', text):
        return split_list(text)
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not valid JSON: {error}") from error


def _alias_of(name: Any) -> str:
    """Return the name of the tree in a short form, without folders and cycle."""
    tree = _split_tree(name)[1] if isinstance(name, str) else ""
    if not tree:
        raise ValueError(
            f"'{name}' does not say what the friend is called; write 'file.root:tree', or give it a name, as in"
            ' {"scores": "scores.parquet"}'
        )
    return tree.rpartition("/")[2].partition(";")[0]


def _check_aliases(friends: dict[str, FriendParams]) -> dict[str, FriendParams]:
    for alias in friends:
        if not alias or "." in alias:
            raise ValueError(
                f"'{alias}' cannot name a friend; use a name without dots, because its columns are called alias.column"
            )
    return friends


Friends = Annotated[dict[str, FriendParams], BeforeValidator(_by_alias), AfterValidator(_check_aliases)]
"""Friends by alias; also given in the short forms."""
