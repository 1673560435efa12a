"""Files that hold tensors in nested dicts, as training scripts save them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from bit_backbone.checkpoints.files.base import GroupPath, TensorFile, TensorSpec
from bit_backbone.checkpoints.files.values import (
    LONGEST_NAME,
    InMemory,
    Leaf,
    PickledArray,
    Placeholder,
    StoredTensor,
)

# No checkpoint of a network nests deeper, has longer names or more of them. Without these limits
# a small file with many references to one dict unfolds into a tree that fills the memory.
MOST_LEVELS = 12
MOST_NAMES = 1_000_000
_SHOWN = 4
_MODULE_PARTS = ("_parameters", "_buffers", "_modules")

Groups = dict[GroupPath, dict[str, Leaf]]


class TreeFile(TensorFile):
    """Tensors in nested dicts, one group for each dict that has some.

    Args:
        content: The outermost dict, list or object: of a file as ``unpickle`` returns it, or a
            user's own.
        origin: Where it comes from, for messages.
        kind: What kind of file it is, in a word or two.
        close: Closes the file that is read when a tensor is asked for.
    """

    def __init__(
        self, content: Any, origin: str, kind: str, close: Callable[[], None] | None = None
    ) -> None:
        self.origin, self.kind, self._close = origin, kind, close
        self._groups, strangers = find_groups(content)
        self._described = _description(content, strangers)
        self.select(())

    @property
    def groups(self) -> Mapping[GroupPath, Mapping[str, TensorSpec]]:
        """Shapes and types of the tensors of each dict, by the keys that lead to it."""
        return {path: _specs(leaves) for path, leaves in self._groups.items()}

    @property
    def described(self) -> str:
        """What the outermost value is, and which objects are in it."""
        return self._described

    def select(self, group: GroupPath) -> None:
        """Chooses the group whose tensors are read."""
        self._chosen = self._groups.get(group, {})
        self.specs = _specs(self._chosen)

    def close(self) -> None:
        """Lets the tensors go."""
        self._groups, self._chosen = {}, {}
        if self._close is not None:
            self._close()

    def read(self, name: str) -> torch.Tensor:
        """Returns one tensor."""
        return self._chosen[name].read()


def _specs(leaves: Mapping[str, Leaf]) -> dict[str, TensorSpec]:
    return {name: leaf.spec for name, leaf in leaves.items()}


def find_groups(content: Any) -> tuple[Groups, list[str]]:
    """Returns the tensors of every dict and module in a tree, by the keys that lead to it.

    Beside them: what the first few objects of other classes are called after. A dict that the tree
    has in several places is entered once; where tensors lie in it directly, every place counts.
    """
    groups: Groups = {}
    strangers: dict[str, None] = {}
    left: list[tuple[GroupPath, Any]] = [((), content)] if is_container(content) else []
    entered: dict[int, dict[str, Leaf]] = {}
    names = 0
    while left and names < MOST_NAMES:
        path, node = left.pop()
        is_new = id(node) not in entered
        tensors = entered.setdefault(id(node), dict(_tensors_of(node)) if is_new else {})
        if tensors:
            groups.setdefault(path, tensors)
        names += 1 + len(tensors)
        if isinstance(node, Placeholder) and not tensors and len(strangers) < _SHOWN:
            strangers[node.name] = None
        if not is_new or len(path) >= MOST_LEVELS:
            continue
        inner = [((*path, key), value) for key, value in _children(node)]
        left += reversed([entry for entry in inner if is_container(entry[1])])
    return groups, list(strangers)


def is_container(value: Any) -> bool:
    """Whether there can be tensors in a value."""
    return isinstance(value, Mapping | list | tuple | Placeholder)


def _children(node: Any) -> Iterator[tuple[str, Any]]:
    """Yields what a node holds, under names that a path can have."""
    if isinstance(node, Placeholder):
        yield from _entries(node.items)
        if isinstance(node.state, Mapping):
            yield from (e for e in _entries(node.state) if e[0] not in _MODULE_PARTS)
        yield from _entries(_pairs(node))
    elif isinstance(node, Mapping):
        yield from _entries(node)
    else:
        yield from ((str(index), value) for index, value in enumerate(node))


def _entries(node: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if type(key) is int and abs(key) < 10**9:
            key = str(key)
        if isinstance(key, str) and len(key) <= LONGEST_NAME:
            yield key, value


def _pairs(node: Placeholder) -> dict[Any, Any]:
    """Returns the content of a dict that was pickled as a list of pairs, as Python 2 did."""
    content = node.arguments[0] if isinstance(node.arguments, tuple) and node.arguments else ()
    if not isinstance(content, list) or node.name != "collections.OrderedDict":
        return {}
    sound = (pair for pair in content if isinstance(pair, list | tuple) and len(pair) == 2)
    return {key: value for key, value in sound if isinstance(key, str)}


def _tensors_of(node: Any) -> Iterator[tuple[str, Leaf]]:
    if isinstance(node, Placeholder) and is_module(node):
        yield from _module_tensors(node)
    elif isinstance(node, Placeholder | Mapping):
        for key, value in _children(node):
            leaf = as_leaf(value)
            if leaf is not None:
                yield key, leaf


def as_leaf(value: Any) -> Leaf | None:
    """Returns a tensor or an array of numbers as a leaf, and None for anything else."""
    if isinstance(value, PickledArray):
        return None if value.dtype is None else value
    if isinstance(value, Leaf):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        value = torch.from_numpy(value if value.flags.writeable else value.copy())
    return InMemory(value) if isinstance(value, torch.Tensor) else None


def is_module(node: Any) -> bool:
    """Whether an object was a torch.nn.Module, which keeps its tensors in dicts of its own."""
    state = node.state if isinstance(node, Placeholder) else None
    return isinstance(state, dict) and all(isinstance(state.get(p), dict) for p in _MODULE_PARTS)


def _module_tensors(module: Placeholder) -> Iterator[tuple[str, Leaf]]:
    """Yields the tensors of a module under the names that its state_dict has."""
    left = [("", module, 0)]
    seen = 0
    while left and seen < MOST_NAMES:
        prefix, node, level = left.pop()
        for part in _MODULE_PARTS:
            # Counted before they are gone through: a module can stand in many places.
            seen += 1 + len(node.state[part])
            for key, value in _entries(node.state[part]):
                leaf, name = as_leaf(value), f"{prefix}{key}"
                if leaf is not None:
                    yield name, leaf
                elif is_module(value) and level < MOST_LEVELS and len(name) < LONGEST_NAME:
                    left.append((f"{name}.", value, level + 1))


def _description(content: Any, strangers: list[str]) -> str:
    if isinstance(content, Mapping):
        keys = [repr(key) for key in list(content)[:8] if isinstance(key, str | int)]
        what = f"a dict with the keys {', '.join(keys) or '(none)'}"
    else:
        known = {Placeholder: "an object", StoredTensor: "a tensor", PickledArray: "an array"}
        what = known.get(type(content), f"a {type(content).__name__}")
    made_by = f", and what only {', '.join(strangers)} could make, which nobody calls for a file"
    return what + (made_by if strangers else "")
