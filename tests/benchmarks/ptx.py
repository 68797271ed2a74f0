"""Counts the instructions that a CUDA thread executes, by following its PTX.

Only what decides the control flow is computed: integers that come from parameters and thread
indices. Everything read from memory or other lanes is unknown (None), and so is what depends on it.
A branch on an unknown value is not taken, so that the instructions it guards count.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

# PTX instructions that are several, or none, in machine code; all others count as one.
_COST = {"mov": 0, "cvta": 0, "ld.param": 0, "cvt.u32.u64": 0, "cvt.u64.u32": 0, "div.": 18,
         "rem.": 20, "mul.lo.s64": 3, "mad.lo.s64": 3}  # fmt: skip
_TWO_WORDS = re.compile(r"(add|sub|neg|selp|and|or|xor|not|shl|shr|min|max|setp\.\w+)\.[subf]64$")
_LINE = re.compile(r"(?:@(!?)(%p\d+)\s+)?([a-z][\w.]*)\s*(.*);")
_LIMIT = 100_000


@dataclass(frozen=True)
class Instruction:
    guard: str  # predicate, or nothing
    negated: bool
    operation: str
    operands: list[str]

    @property
    def cost(self) -> int:
        if self.operation == "mov.b32" and self.operands[1].startswith("{"):
            return 1  # two halves become a word
        for prefix, cost in _COST.items():
            if self.operation.startswith(prefix):
                return cost
        return 2 if _TWO_WORDS.match(self.operation) else 1


class Program:
    """One kernel's PTX."""

    def __init__(self, body: str) -> None:
        self.instructions: list[Instruction] = []
        self._labels: dict[str, int] = {}
        for line in (text.split("//")[0].strip("{} \t") for text in body.splitlines()):
            if re.fullmatch(r"\$\w+:", line):
                self._labels[line[:-1]] = len(self.instructions)
            elif (match := _LINE.fullmatch(line)) is not None:
                negated, guard, operation, rest = match.groups()
                operands = [a.strip() for a in re.split(r",(?![^{]*\})", rest)] if rest else []
                self.instructions.append(
                    Instruction(guard or "", negated == "!", operation, operands)
                )

    @classmethod
    def all_of(cls, text: str) -> Iterator[tuple[str, "Program"]]:
        """Name and program of every kernel in PTX text."""
        for part in re.split(r"\.entry ", text)[1:]:
            yield re.match(r"\w+", part)[0], cls(part)

    @property
    def length(self) -> int:
        return sum(instruction.cost for instruction in self.instructions)

    def executed(self, parameters: bytes, special: dict[str, int]) -> tuple[int, int]:
        """Instructions issued and bytes of global memory moved by one thread.

        ``special`` gives %tid.x and the like; a predicated instruction issues either way.
        """
        values: dict[str, int | None] = dict(special)
        at = issued = moved = 0
        for _ in range(_LIMIT):
            if at == len(self.instructions):
                return issued, moved
            instruction = self.instructions[at]
            at += 1
            issued += instruction.cost
            if instruction.guard:
                condition = values.get(instruction.guard)
                if condition is None or bool(condition) == instruction.negated:
                    continue
            operation = instruction.operation
            if operation == "ret":
                return issued, moved
            if operation.startswith("bra"):
                at = self._labels[instruction.operands[0]]
            elif ".global" in operation and operation[:2] in ("ld", "st"):
                vector = re.search(r"\.v(\d)", operation)
                moved += (int(vector[1]) if vector else 1) * _bits(operation) // 8
            if operation[:2] not in ("st", "br"):
                _assign(instruction, values, parameters)
        raise RuntimeError(f"more than {_LIMIT} instructions")


def _bits(operation: str) -> int:
    return int(re.search(r"(\d+)$", operation)[1])


def _assign(instruction: Instruction, values: dict[str, int | None], parameters: bytes) -> None:
    operation, (target, *sources) = instruction.operation, instruction.operands or [""]
    if operation.startswith("ld.param"):
        symbol, offset = re.fullmatch(r"\[(.+?)(?:\+(\d+))?\]", sources[0]).groups()
        start, size = (values.get(symbol) or 0) + int(offset or 0), _bits(operation) // 8
        values[target] = int.from_bytes(parameters[start : start + size], "little")
        return
    signed = re.search(r"\.s\d+$", operation) is not None
    kind = operation.split(".")[-1]
    width = int(kind[1:]) if re.fullmatch(r"[subf]\d+", kind) else 0
    known = [_value(source, values, width, signed) for source in sources]
    result = _RULES[operation.split(".")[0]](operation, known) if _is_integer(operation) else None
    for name in re.split(r"[{}|,\s]+", target):
        values[name] = result


def _is_integer(operation: str) -> bool:
    known = operation.split(".")[0] in _RULES
    return known and re.search(r"\.(f\d+|[bf]16x2)$", operation) is None


def _value(source: str, values: dict[str, int | None], width: int, signed: bool) -> int | None:
    if re.fullmatch(r"-?\d+|0x[0-9A-Fa-f]+", source):
        value: int | None = int(source, 0)
    elif source.startswith("%"):
        value = values.get(source)
    else:  # a symbol: the start of the parameters; or a pack of words
        value = None if "{" in source or source.startswith("0") else 0
    if value is None or not width:
        return value
    value &= (1 << width) - 1
    return value - (1 << width) if signed and value >> (width - 1) else value


def _compare(operation: str, known: list[int | None]) -> int | None:
    name = operation.split(".")[1]
    a, b = known[:2]
    if a is None or b is None:
        return None
    return {"eq": a == b, "ne": a != b, "lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b,
            "lo": a < b, "ls": a <= b, "hi": a > b, "hs": a >= b}[name]  # fmt: skip


def _select(_: str, known: list[int | None]) -> int | None:
    a, b, condition = known
    if condition is None:
        return a if a == b else None
    return a if condition else b


def _logic(operation: str, known: list[int | None]) -> int | None:
    name = operation.split(".")[0]
    if None in known:  # one operand can decide
        decides = {"and": 0, "or": 1}.get(name) if operation.endswith("pred") else None
        return decides if decides is not None and decides in known else None
    a, b = (known * 2)[:2]
    if operation.endswith("pred"):
        return {"and": a and b, "or": a or b, "xor": a != b, "not": not a}[name]
    return {"and": a & b, "or": a | b, "xor": a ^ b, "not": ~a}[name]


def _arithmetic(operation: str, known: list[int | None]) -> int | None:
    if None in known:
        return None
    a, b, c = (*known, 0, 0)[:3]
    return {
        "add": lambda: a + b, "sub": lambda: a - b, "neg": lambda: -a, "mul": lambda: a * b,
        "mad": lambda: a * b + c, "div": lambda: a // b, "rem": lambda: a % b,
        "shl": lambda: a << min(b, 64), "shr": lambda: a >> min(b, 64),
        "min": lambda: min(a, b), "max": lambda: max(a, b), "mov": lambda: a, "cvt": lambda: a,
        "cvta": lambda: a,
    }[operation.split(".")[0]]()  # fmt: skip


_RULES = {"setp": _compare, "selp": _select}
_RULES |= dict.fromkeys(("and", "or", "xor", "not"), _logic)
_RULES |= dict.fromkeys(
    ("add", "sub", "neg", "mul", "mad", "div", "rem", "shl", "shr", "min", "max", "mov", "cvt",
     "cvta"), _arithmetic)  # fmt: skip
