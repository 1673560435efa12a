"""A reader of pickles that runs nothing: every instruction is carried out here, on inert values.

A pickle is a program for a machine with a stack. The standard library's pickletools takes such a
program apart into its instructions; this module carries them out. No name in it is looked up,
imported or called, no object gets a state by a method of its own, and a call of anything unknown
makes a placeholder. So all that a pickle can do here is build trees of dicts, lists and stand-ins,
and of tensors that know where in the file their numbers are.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import IO, Any

from bit_backbone.checkpoints.files.known_globals import MAKERS, VALUES
from bit_backbone.checkpoints.files.values import (
    MOST_AXES,
    Leaf,
    Name,
    PickledArray,
    PickledDtype,
    PickleError,
    Placeholder,
    Storage,
    is_short,
)

# An instruction of a byte can make an object of 200. A checkpoint of BiT with its optimizer, two
# averages and its log has some 50,000 instructions.
MOST_INSTRUCTIONS = 5_000_000
# Keys that Python can compare by their value in no time, however they are nested: not at all.
_PLAIN_KEYS = (str, bytes, int, float, complex, bool, type(None))

PersistentLoad = Callable[[Any], Any]


def unpickle(file: IO[bytes], persistent_load: PersistentLoad | None = None) -> Any:
    """Reads one pickle from where a file stands, and leaves the file after it.

    Args:
        file: The file; it must not allocate more than it holds when it is asked for more.
        persistent_load: Returns what a persistent id stands for.

    Returns:
        None, numbers, text, bytes, lists, tuples, sets and dicts (OrderedDict and defaultdict as
        well), ``torch.Size``, ``torch.dtype`` and ``torch.device`` as they are; tensors and arrays
        as ``Leaf``; anything else as ``Placeholder`` or ``Name``.

    Raises:
        PickleError: Damaged, or of more than MOST_INSTRUCTIONS.
    """
    machine = _Machine(persistent_load)
    try:
        for count, (instruction, argument, _) in enumerate(pickletools.genops(file)):
            if count > MOST_INSTRUCTIONS:
                raise PickleError(f"it has more than {MOST_INSTRUCTIONS} instructions")
            _INSTRUCTIONS[instruction.name](machine, argument)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise PickleError(f"its pickle is damaged: {_first_line(error)}") from error
    if not machine.results:
        raise PickleError("its pickle ends without a value")
    return machine.results[-1]


class _Machine:
    """The stack, with those set aside at a mark, and the memo."""

    def __init__(self, persistent_load: PersistentLoad | None) -> None:
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.results: list[Any] = []
        self.persistent_load = persistent_load

    def since_mark(self) -> list[Any]:
        """Takes what was pushed since the last mark."""
        values, self.stack = self.stack, self.outer.pop()
        return values

    def take(self, count: int) -> list[Any]:
        """Takes the last values, the first pushed first."""
        if len(self.stack) < count:
            raise PickleError("its pickle is damaged: it takes values that it has not put there")
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    def stop(self, _: Any) -> None:
        self.results.append(self.stack.pop())

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def duplicate(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def mark(self, _: Any) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def pop_mark(self, _: Any) -> None:
        self.since_mark()

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def make_tuple(self, _: Any) -> None:
        values = tuple(self.since_mark())
        self.stack.append(values)

    def make_tuple_of(self, count: int) -> None:
        self.stack.append(tuple(self.take(count)))

    def make_list(self, _: Any) -> None:
        values = self.since_mark()
        self.stack.append(values)

    def make_dict(self, _: Any) -> None:
        values = self.since_mark()
        self.stack.append({})
        self.set_pairs(values)

    def make_frozenset(self, _: Any) -> None:
        values = self.since_mark()
        self.stack.append(set(map(_as_key, values)))

    def append(self, _: Any) -> None:
        self.extend(self.take(1))

    def appends(self, _: Any) -> None:
        self.extend(self.since_mark())

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Placeholder):
            target = target.elements
        if not isinstance(target, list):
            raise PickleError(f"it appends to a {type(target).__name__}")
        target += values

    def set_item(self, _: Any) -> None:
        self.set_pairs(self.take(2))

    def set_items(self, _: Any) -> None:
        self.set_pairs(self.since_mark())

    def set_pairs(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Placeholder):
            target = target.items
        if not isinstance(target, dict) or len(values) % 2:
            raise PickleError(f"it sets items of a {type(target).__name__}")
        target.update(zip(map(_as_key, values[::2]), values[1::2], strict=True))

    def add_items(self, _: Any) -> None:
        values, target = self.since_mark(), self.stack[-1]
        if isinstance(target, Placeholder):
            target.elements += values
        elif isinstance(target, set):
            target.update(map(_as_key, values))
        else:
            raise PickleError(f"it adds items to a {type(target).__name__}")

    def named(self, argument: str) -> None:
        self.stack.append(_named(*argument.split(" ", 1)))

    def stack_named(self, _: Any) -> None:
        module, name = self.take(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleError("its pickle is damaged: a name is no text")
        self.stack.append(_named(module, name))

    def extension(self, number: int) -> None:
        self.stack.append(Name("copyreg", f"extension {number}"))

    def reduce(self, _: Any) -> None:
        self.call(*self.take(2))

    def call_with_keywords(self, _: Any) -> None:
        called, arguments, keywords = self.take(3)
        self.stack.append(Placeholder(called, (arguments, keywords)))

    def call_since_mark(self, _: Any) -> None:
        called, *arguments = self.since_mark()
        self.call(called, tuple(arguments))

    def call_named(self, argument: str) -> None:
        self.call(_named(*argument.split(" ", 1)), tuple(self.since_mark()))

    def call(self, called: Any, arguments: Any) -> None:
        """Pushes what a known name makes of its arguments, and a placeholder of everything else."""
        if not isinstance(arguments, tuple):
            raise PickleError("its pickle is damaged: the arguments of a call are no tuple")
        maker = MAKERS.get((called.module, called.name)) if isinstance(called, Name) else None
        try:
            made = None if maker is None else maker(*arguments)
        except (TypeError, ValueError, OverflowError, RuntimeError):  # arguments that make no sense
            made = None
        self.stack.append(Placeholder(called, arguments) if made is None else made)

    def build(self, _: Any) -> None:
        """Keeps a state beside a placeholder; attributes of a dict or a tensor change nothing."""
        (state,), target = self.take(1), self.stack[-1]
        if isinstance(target, PickledArray | PickledDtype):
            target.take_state(state)
        elif isinstance(target, Placeholder):
            target.state = state
        elif not isinstance(target, dict | list | set) and not (
            isinstance(target, Leaf | Storage) and _is_attributes(state)
        ):
            raise PickleError(f"it gives a state to a {type(target).__name__}")

    def persistent_text(self, argument: str) -> None:
        self.stack.append(self.persistent(argument))

    def persistent_value(self, _: Any) -> None:
        self.stack.append(self.persistent(*self.take(1)))

    def persistent(self, key: Any) -> Any:
        if self.persistent_load is None:
            raise PickleError("it names tensors of another file by an id")
        return self.persistent_load(key)

    def nothing(self, _: Any) -> None:
        pass

    def buffer(self, _: Any) -> None:
        raise PickleError("it needs buffers that are in no file")


def _named(module: str, name: str) -> Any:
    known = VALUES.get((module, name))
    return Name(module, name) if known is None else known


def _is_attributes(state: Any) -> bool:
    """Whether a state is that of attributes, as subclasses of tensors have them."""
    parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    return all(part is None or isinstance(part, dict) for part in parts)


def _as_key(value: Any) -> Any:
    """Returns a value that is hashed by itself or by nothing but its identity.

    The hash of a tuple is that of all its parts, however deep and however often they are nested,
    and takes as long each time; that of a number takes as long as the number.
    """
    if _is_plain(value) or isinstance(value, Name | Placeholder | Leaf):
        return value
    if type(value) is tuple and len(value) <= MOST_AXES and all(map(_is_plain, value)):
        return value
    return Placeholder(f"a {type(value).__name__} as a key", (value,))


def _is_plain(value: Any) -> bool:
    return type(value) in _PLAIN_KEYS and (type(value) is not int or is_short(value))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


_PUSHED = (
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 STRING BINSTRING SHORT_BINSTRING BINBYTES "
    "SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 FLOAT "
    "BINFLOAT"
)


def _constant(make: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(make())


_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(_PUSHED.split(), _Machine.push),
    "NONE": _constant(lambda: None),
    "NEWTRUE": _constant(lambda: True),
    "NEWFALSE": _constant(lambda: False),
    "EMPTY_LIST": _constant(list),
    "EMPTY_TUPLE": _constant(tuple),
    "EMPTY_DICT": _constant(dict),
    "EMPTY_SET": _constant(set),
    "TUPLE": _Machine.make_tuple,
    "TUPLE1": lambda machine, _: machine.make_tuple_of(1),
    "TUPLE2": lambda machine, _: machine.make_tuple_of(2),
    "TUPLE3": lambda machine, _: machine.make_tuple_of(3),
    "LIST": _Machine.make_list,
    "DICT": _Machine.make_dict,
    "FROZENSET": _Machine.make_frozenset,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "ADDITEMS": _Machine.add_items,
    "POP": _Machine.pop,
    "DUP": _Machine.duplicate,
    "MARK": _Machine.mark,
    "POP_MARK": _Machine.pop_mark,
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    "MEMOIZE": _Machine.memoize,
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), _Machine.extension),
    "GLOBAL": _Machine.named,
    "STACK_GLOBAL": _Machine.stack_named,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _Machine.reduce),
    "NEWOBJ_EX": _Machine.call_with_keywords,
    "OBJ": _Machine.call_since_mark,
    "INST": _Machine.call_named,
    "BUILD": _Machine.build,
    "PERSID": _Machine.persistent_text,
    "BINPERSID": _Machine.persistent_value,
    **dict.fromkeys(("PROTO", "FRAME"), _Machine.nothing),
    **dict.fromkeys(("NEXT_BUFFER", "READONLY_BUFFER"), _Machine.buffer),
    "STOP": _Machine.stop,
}
