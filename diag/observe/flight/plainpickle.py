"""Reads pickles of plain values and nothing else.

Flight-recorder dumps are pickles, and `pickle.load` runs whatever a file asks for. This reader is a machine of its own: it
knows the opcodes that build dictionaries, lists, tuples, numbers and texts, and refuses every other one, so that no
name is ever looked up and nothing is ever called. Memory is bounded by the length of the file. Of a file that breaks off it
keeps what was complete.

A whole file is first read through for its opcodes alone, at the speed of a regular expression. If each of them is one of the
plain ones, the interpreter's own unpickler may build the values: nothing is left in the file that could make it do more.
"""

from __future__ import annotations

import io
import pickle
import re
import struct
from typing import Any

from diag.system.lazy import lazily

MAX_DEPTH = 200
"""Open marks at a time; a dump has six."""

_REFUSED = {
    "c": "GLOBAL", "\x93": "STACK_GLOBAL", "R": "REDUCE", "b": "BUILD", "i": "INST", "o": "OBJ", "\x81": "NEWOBJ",
    "\x92": "NEWOBJ_EX", "P": "PERSID", "Q": "BINPERSID", "\x82": "EXT1", "\x83": "EXT2", "\x84": "EXT4",
    "\x97": "NEXT_BUFFER", "\x98": "READONLY_BUFFER",
}  # fmt: skip

_INT = struct.Struct("<i").unpack_from
_UINT = struct.Struct("<I").unpack_from
_ULONG = struct.Struct("<Q").unpack_from
_DOUBLE = struct.Struct(">d").unpack_from


_PLAIN_RUN = lazily(
    rb"(?:[N\x88\x89)\]}(aeustdl\x85-\x87\x94]|[Kqh].|M..|J....|G.{8}|[rj]..[\x00-\x0f]\x00"
    rb"|\x8a(?:\x00|\x01.|\x02..|\x03...|\x04....|\x05.{5}|\x06.{6}|\x07.{7}|\x08.{8}|\x09.{9})){1,3000}",
    re.DOTALL,
)
"""Opcodes of fixed length that only build plain values. Places in the memo stay below a million: C makes room for all below."""
_HEAD = lazily(rb"\x80[\x02-\x05](?:\x95.{8})?", re.DOTALL)


class PickleRefused(Exception):
    """The file is no pickle of plain values; the text says why."""


class _CutError(Exception):
    """The bytes end before the pickle does."""


def load_plain(data: bytes) -> tuple[Any, bool]:
    """The value of a pickle, and whether the file broke off. Raises PickleRefused."""
    if _is_plain(data):
        try:
            return _Unpickler(io.BytesIO(data)).load(), False
        except Exception as error:  # noqa: BLE001 - plain opcodes in a senseless order
            raise PickleRefused(f"is damaged: {type(error).__name__}") from None
    machine = _Machine(data)
    try:
        return machine.run(), False
    except (_CutError, IndexError, struct.error):
        return machine.salvage(), True
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise PickleRefused(f"is damaged at byte {machine.at}: {type(error).__name__}") from None


class _Unpickler(pickle.Unpickler):
    """A second net below the first: no name is ever looked up."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse."""
        raise PickleRefused(f"asks to load {module}.{name}; it was not read")

    def persistent_load(self, pid: Any) -> Any:
        """Refuse."""
        raise PickleRefused("asks for an object outside the file; it was not read")


def _is_plain(data: bytes) -> bool:
    """True if every opcode up to the end is one that only builds plain values, and the pickle is whole."""
    head = _HEAD.match(data)
    at = head.end() if head else 0
    size = len(data)
    while head and at < size:
        run = _PLAIN_RUN.match(data, at)
        if run:
            at = run.end()
            continue
        code = data[at]
        if code == 0x2E:  # STOP
            return True
        if code == 0x58 and at + 5 <= size:  # BINUNICODE
            at += 5 + _UINT(data, at + 1)[0]
        elif code == 0x8C and at + 2 <= size:  # SHORT_BINUNICODE
            at += 2 + data[at + 1]
        else:
            return False
    return False


class _Machine:
    """The pickle machine: a stack, marks in it, and a memo."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:  # noqa: PLR0912 - one branch an opcode, the commonest first
        """Execute to STOP: a dump of 2,000 calls has some 200,000 of them."""
        data, memo, at = self.data, self.memo, self.at
        stack = self.stack
        while True:
            code = data[at]
            at += 1
            if code == 0x68:  # BINGET
                stack.append(memo[data[at]])
                at += 1
            elif code == 0x4B:  # BININT1
                stack.append(data[at])
                at += 1
            elif code == 0x28:  # MARK
                if len(self.marks) >= MAX_DEPTH:
                    raise PickleRefused("is nested deeper than any dump")
                self.marks.append(stack)
                stack = self.stack = []
            elif code == 0x71:  # BINPUT
                memo[data[at]] = stack[-1]
                at += 1
            elif code == 0x94:  # MEMOIZE
                memo[len(memo)] = stack[-1]
            elif code == 0x5D:  # EMPTY_LIST
                stack.append([])
            elif code == 0x65:  # APPENDS
                items, stack = stack, self._unmark()
                stack[-1].extend(items)
            elif code == 0x75:  # SETITEMS
                items, stack = stack, self._unmark()
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
            elif code == 0x7D:  # EMPTY_DICT
                stack.append({})
            elif code in (0x58, 0x8C):  # BINUNICODE, SHORT_BINUNICODE
                begin, end = self._span(at, 4 if code == 0x58 else 1)
                stack.append(data[begin:end].decode("utf-8", "replace"))
                at = end
            elif code == 0x4A:  # BININT
                stack.append(_INT(data, at)[0])
                at += 4
            elif code == 0x8A:  # LONG1
                begin, end = self._span(at, 1)
                stack.append(int.from_bytes(data[begin:end], "little", signed=True))
                at = end
            elif code == 0x2E:  # STOP
                self.at = at
                return stack.pop()
            else:
                self.at, self.stack = at, stack
                self._rare(code)
                at, stack = self.at, self.stack
            self.at = at

    def _unmark(self) -> list[Any]:
        """Go back to the stack below the last mark."""
        if not self.marks:
            raise PickleRefused("is damaged: an end without a beginning")
        self.stack = self.marks.pop()
        return self.stack

    def _span(self, at: int, width: int) -> tuple[int, int]:
        """Where a text or number with its length before it begins and ends."""
        length = self.data[at] if width == 1 else (_UINT if width == 4 else _ULONG)(self.data, at)[0]
        begin = at + width
        if begin + length > len(self.data):
            raise _CutError
        return begin, begin + length

    def _rare(self, code: int) -> None:
        name = chr(code)
        if name in _REFUSED:
            raise PickleRefused(f"asks to load or call code ({_REFUSED[name]}); it was not read")
        if not (self._constant(name) or self._container(name) or self._memory(name) or self._number(name)):
            raise PickleRefused(f"is no pickle of plain values (opcode {code:#04x} at byte {self.at - 1})")

    def _constant(self, name: str) -> bool:
        values = {"N": None, "\x88": True, "\x89": False}
        if name in values:
            self.stack.append(values[name])
        elif name in (")", "\x8f"):
            self.stack.append(() if name == ")" else [])
        elif name in "TUBC\x8d\x8e":  # texts and bytes
            width = {"U": 1, "C": 1, "T": 4, "B": 4}.get(name, 8)
            begin, self.at = self._span(self.at, width)
            raw = self.data[begin : self.at]
            self.stack.append(raw if name in "BC\x8e" else raw.decode("utf-8", "replace"))
        elif name == "\x80":  # PROTO
            self.at += 1
        elif name == "\x95":  # FRAME
            self.at += 8
        else:
            return False
        return True

    def _number(self, name: str) -> bool:
        if name == "M":
            self.stack.append(self.data[self.at] | self.data[self.at + 1] << 8)
            self.at += 2
        elif name == "\x8b":  # LONG4
            begin, self.at = self._span(self.at, 4)
            self.stack.append(int.from_bytes(self.data[begin : self.at], "little", signed=True))
        elif name == "G":
            self.stack.append(_DOUBLE(self.data, self.at)[0])
            self.at += 8
        elif name in "ILF":
            text = self._line()
            if name == "F":
                self.stack.append(float(text))
            else:
                self.stack.append({"00": False, "01": True}.get(text, int(text[:24].rstrip("L"))))
        else:
            return False
        return True

    def _container(self, name: str) -> bool:
        stack = self.stack
        if name in "\x85\x86\x87":  # TUPLE1, TUPLE2, TUPLE3
            size = ord(name) - 0x84
            stack[-size:] = [tuple(stack[-size:])]
        elif name in "tld":
            items, below = stack, self._unmark()
            below.append(
                tuple(items)
                if name == "t"
                else items
                if name == "l"
                else dict(zip(items[::2], items[1::2], strict=True))
            )
        elif name == "a":
            item = stack.pop()
            stack[-1].append(item)
        elif name == "s":
            value, key = stack.pop(), stack.pop()
            stack[-1][key] = value
        elif name == "\x90":  # ADDITEMS
            items, below = stack, self._unmark()
            below[-1].extend(items)
        elif name == "0":
            stack.pop()
        elif name == "1":
            self._unmark()
        elif name == "2":
            stack.append(stack[-1])
        else:
            return False
        return True

    def _memory(self, name: str) -> bool:
        if name in "pg":
            place = int(self._line()[:12])
        elif name in "rj":
            place = _UINT(self.data, self.at)[0]
            self.at += 4
        else:
            return False
        if name in "pr":
            self.memo[place] = self.stack[-1]
        else:
            self.stack.append(self.memo[place])
        return True

    def _line(self) -> str:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise _CutError
        text = self.data[self.at : end].decode("ascii", "replace")
        self.at = end + 1
        return text

    def salvage(self) -> Any:
        """What a file that broke off held so far: open containers closed, half pairs dropped."""
        stacks = [*self.marks, self.stack]
        while len(stacks) > 1:
            items = stacks.pop()
            below = stacks[-1]
            target = below[-1] if below else None
            if isinstance(target, list):
                target.extend(items)
            elif isinstance(target, dict):
                pairs = zip(items[::2], items[1::2], strict=False)
                target.update({key: value for key, value in pairs if isinstance(key, (str, int))})
            else:
                below.append(tuple(items))
        return stacks[0][0] if stacks[0] else None
