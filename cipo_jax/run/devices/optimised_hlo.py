"""What a compiled program does on one device, read from its optimised HLO.

    work           kernels, FLOPs and bytes of a call, loop by loop
    collectives    counts and bytes by kind and by depth in loops
    hbm_traffic    bytes read from and written to a device's memory, by depth in loops

Depth 0 is once per call, depth 1 the outermost loop, and so on; a loop's body is counted once. What
the compiler keeps on the chip (a memory space, as in `S(1)`) is not traffic. If an operand is only
sliced or gathered from, the slices count. If a result is an operand changed in place, the change
counts. Custom calls (kernels) read what they choose, so they are counted separately, by the size of
their operands.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4}
_COLLECTIVES = re.compile(
    r"(all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(-start)?"
)
_CALLS = re.compile(r"(?:body|calls|to_apply|branch_computations)=\{?((?:%[\w.\-]+(?:, )?)+)\}?")
# Without a layout, or with one that may name a memory space.
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
# Instructions that move nothing themselves.
_FREE = {
    "parameter", "get-tuple-element", "tuple", "bitcast", "constant", "iota", "while",
    "conditional", "call", "after-all", "partition-id", "copy-done", "slice-done", "async-done",
}  # fmt: skip
_SLICES = {"dynamic-slice", "slice", "gather"}
_SCALAR = 4
_TURNS = re.compile(r'known_trip_count[^}]*?"n":"(\d+)"')
_CUDNN = re.compile(r'custom_call_target="__cudnn\$fmha\w*?(Backward)?"')
_TRITON = re.compile(r'custom_call_target="__gpu\$xla.gpu.triton".* name = "(\w+)"')
_IN_PLACE = {"scatter", "dynamic-update-slice"}


@dataclasses.dataclass(frozen=True)
class Work:
    """What one turn of a loop does, the loops inside it apart; a program is a loop of one turn.

    Attributes:
      turns: of the loop; None: decided while it runs, by live tokens for example.
      kernels: launched one after the other by the host, as on a GPU; copies count.
      flops: of matrix products and of attention by cuDNN or our own kernels, as if each row were
        one segment without a window; cuDNN's whole, unless it is told that it is causal.
      bytes: read and written, operands of custom calls included.
      inner: loops in this one. Of a branch, the largest is taken.
    """

    turns: int | None = 1
    kernels: int = 0
    flops: float = 0.0
    bytes: int = 0
    inner: tuple["Work", ...] = ()

    def total(self, what: str) -> float:
        """Of a turn, with the loops inside it; those that end when they end count as one turn."""
        own: float = getattr(self, what)
        return own + sum((i.turns or 1) * i.total(what) for i in self.inner)

    @property
    def open_loops(self) -> list["Work"]:
        """The loops inside this one, at any depth, whose turns are decided while they run."""
        found = [i for i in self.inner if i.turns is None]
        return found + [loop for i in self.inner for loop in i.open_loops]

    def lines(self, indent: str = "") -> list[str]:
        """A line for a turn, without the loops inside it, and then one for each of those."""
        of = "a call" if self.turns == 1 else f"each of {self.turns} turns"
        if self.turns is None:
            of = "each of as many turns as needed"
        counts = f"{self.kernels} kernels, {self.flops:.2e} FLOPs, {self.bytes:.2e} bytes"
        return [
            f"{indent}{of}: {counts}",
            *(more for i in self.inner for more in i.lines(indent + "  ")),
        ]


@dataclasses.dataclass(frozen=True)
class Array:
    """An array of a type; `in_hbm`: its type names no memory space."""

    bytes: int
    in_hbm: bool
    shape: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Instruction:
    """`%name = type opcode(%operands...), attributes`."""

    name: str
    arrays: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    line: str

    @property
    def is_root(self) -> bool:
        return self.line.lstrip().startswith("ROOT")

    @property
    def called(self) -> list[str]:
        return [c for group in _CALLS.findall(self.line) for c in re.findall(r"%[\w.\-]+", group)]

    @property
    def bytes(self) -> int:
        return sum(a.bytes for a in self.arrays)


Program = dict[str, list[Instruction]]  # the instructions of each computation, by its name


def parse(hlo: str) -> tuple[Program, str]:
    """The computations of a program, and the name of its entry."""
    program: Program = {}
    entry, current = "", ""
    for line in hlo.splitlines():
        if begins := re.match(r"(ENTRY )?(%[\w.\-]+) \(.*\{$", line):
            current = begins[2]
            program[current] = []
            entry = current if begins[1] else entry
        elif current and (found := re.match(r"\s*(?:ROOT )?(%[\w.\-]+) = (.*)$", line)):
            kind, opcode, rest = _split_type(found[2])
            operands = tuple(re.findall(r"%[\w.\-]+", _in_brackets(rest)))
            instruction = Instruction(found[1], tuple(_arrays(kind)), opcode, operands, line)
            program[current].append(instruction)
    return program, entry


def work(program: Program, name: str, turns: int | None = 1) -> Work:
    """The work of the computation `name`."""
    kernels, flops, moved, inner = 0, 0.0, 0, list[Work]()
    of = {i.name: i for i in program[name]}
    for i in program[name]:
        if i.opcode == "while":
            body, condition = _loop(i)
            known = _TURNS.search(i.line)
            loop = work(program, body, int(known[1]) if known else None)
            if not known:  # the condition is computed by a kernel too, and read by the host
                asked = work(program, condition)
                loop = dataclasses.replace(loop, kernels=loop.kernels + asked.kernels)
            inner.append(loop)
        elif i.opcode in ("conditional", "call"):
            done = max((work(program, c) for c in i.called), key=lambda w: w.total("flops"))
            kernels, flops, moved = kernels + done.kernels, flops + done.flops, moved + done.bytes
            inner += done.inner
        elif i.opcode not in _FREE:
            kernels += 1
            flops += _flops(program, i, of)
            moved += sum(_traffic(program, i, of).values())
    return Work(turns, kernels, flops, moved, tuple(inner))


def _loop(instruction: Instruction) -> tuple[str, str]:
    """(body, condition) of a while loop."""
    body, condition = (
        re.search(rf"{part}=(%[\w.\-]+)", instruction.line) for part in ("body", "condition")
    )
    assert body and condition, instruction.line
    return body[1], condition[1]


def _flops(program: Program, instruction: Instruction, of: dict[str, Instruction]) -> float:
    """Of the matrix products in an instruction; `of`: its computation, by name."""
    if instruction.opcode in ("fusion", "async-start"):
        bodies = [program[name] for name in instruction.called]
        return sum(_flops(program, i, {j.name: j for j in body}) for body in bodies for i in body)
    if instruction.opcode == "dot":
        shape = of[instruction.operands[0]].arrays[0].shape
        found = re.search(r"lhs_contracting_dims=\{([\d,]+)\}", instruction.line)
        summed = math.prod(shape[int(n)] for n in found[1].split(",")) if found else 1
        return 2.0 * summed * math.prod(instruction.arrays[0].shape)
    if instruction.opcode == "custom-call" and (found := _CUDNN.search(instruction.line)):
        B, T, N, H = of[instruction.operands[0]].arrays[0].shape
        S = of[instruction.operands[1]].arrays[0].shape[1]
        products = 5 if found[1] else 2  # backward: scores again, and four gradients
        pairs = T * (T + 1) / 2 if '"mask_type":"CAUSAL"' in instruction.line else T * S
        return products * 2.0 * B * N * pairs * H
    if instruction.opcode == "custom-call" and (found := _TRITON.search(instruction.line)):
        # Late, because only GPUs need this slow import.
        from cipo_jax.policy.triton_attention import PRODUCTS, most_flops

        if found[1] in PRODUCTS:
            [queries] = of[instruction.operands[0]].arrays
            return most_flops(found[1], queries.shape, queries.bytes // math.prod(queries.shape))
    return 0.0


def collectives(program: Program, entry: str) -> dict[str, list[dict[str, Any]]]:
    """{kind: [{"depth", "count", "bytes"}]}; bytes of the results once."""
    counts: collections.Counter[tuple[str, int]] = collections.Counter()
    sizes: collections.Counter[tuple[str, int]] = collections.Counter()
    for instruction, depth, _ in _walk(program, entry, into_fusions=True):
        if not (kind := _COLLECTIVES.fullmatch(instruction.opcode)):
            continue
        arrays = instruction.arrays
        if kind[2] and kind[1] != "all-reduce":  # (operands, results, scalars)
            arrays = tuple(a for a in arrays if a.bytes > _SCALAR)
            arrays = arrays[len(arrays) // 2 :]
        counts[kind[1], depth] += 1
        sizes[kind[1], depth] += sum(a.bytes for a in arrays)
    report: dict[str, list[dict[str, Any]]] = {}
    for (kind_, depth), count in sorted(counts.items()):
        row = {"depth": depth, "count": count, "bytes": sizes[kind_, depth]}
        report.setdefault(kind_, []).append(row)
    return report


def hbm_traffic(program: Program, entry: str) -> dict[int, dict[str, int]]:
    """{depth: {"read", "written", "given to kernels"}} in bytes."""
    totals: dict[int, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for instruction, depth, computation in _walk(program, entry):
        if instruction.opcode in _FREE:
            continue
        of = {i.name: i for i in program[computation]}
        totals[depth].update(_traffic(program, instruction, of))
    return {depth: dict(total) for depth, total in sorted(totals.items())}


def _traffic(
    program: Program, instruction: Instruction, of: dict[str, Instruction]
) -> dict[str, int]:
    """As `hbm_traffic`, of one instruction; `of`: its computation, by name."""
    operands = [of[name] for name in instruction.operands if name in of]
    if instruction.opcode == "custom-call":
        given = sum(o.bytes for o in operands if _in_hbm(o))
        return {"given to kernels": given, "written": _hbm_bytes(instruction)}
    total = changed = 0  # of operands that are changed in place
    for index, operand in enumerate(operands):
        if _in_hbm(operand):
            read, change = _use(program, instruction, index, operand)
            total, changed = total + read, changed + change
    return {"read": total, "written": changed or _hbm_bytes(instruction)}


def _use(
    program: Program, instruction: Instruction, index: int, operand: Instruction
) -> tuple[int, int]:
    """Bytes that an instruction reads of operand `index`, and that it changes of it in place."""
    if instruction.opcode == "fusion":
        body = program[instruction.called[0]]
        named = f"parameter({index})"
        parameter = next(i for i in body if i.opcode == "parameter" and named in i.line)
        read = changed = 0
        for named_so, user, place in _users(body, parameter):
            if user is None:  # the parameter is itself the result
                return operand.bytes, 0
            more, change = _use(program, user, place, named_so)
            read, changed = read + more, changed + change
        return min(read, operand.bytes), changed
    if instruction.opcode in _SLICES and index == 0:
        return instruction.bytes, 0
    if instruction.opcode.startswith(("slice-start", "async-start")):
        return min(a.bytes for a in instruction.arrays if a.bytes > _SCALAR), 0
    if instruction.opcode in _IN_PLACE and index == 0:
        # The operand that holds the update.
        change = 1 if instruction.opcode == "dynamic-update-slice" else 2
        return 0, _operand_bytes(program, instruction, change)
    return operand.bytes, 0


def _operand_bytes(program: Program, instruction: Instruction, index: int) -> int:
    for body in program.values():
        if instruction in body:
            return next(i.bytes for i in body if i.name == instruction.operands[index])
    raise ValueError(f"{instruction.name} is in no computation")


def _users(
    body: Sequence[Instruction], array: Instruction
) -> Iterator[tuple[Instruction, Instruction | None, int]]:
    """(array, instruction, which of its operands that is) of what uses an array, also by another
    name; None for the computation's caller."""
    if array.is_root:
        yield array, None, 0
    for user in body:
        for place, operand in enumerate(user.operands):
            if operand == array.name:
                if user.opcode in ("bitcast", "reshape"):
                    yield from _users(body, user)
                else:
                    yield array, user, place


def _walk(
    program: Program, name: str, into_fusions: bool = False, depth: int = 0
) -> Iterator[tuple[Instruction, int, str]]:
    """Every instruction that is run, with its depth in loops and its computation."""
    for instruction in program[name]:
        yield instruction, depth, name
        if instruction.opcode in ("while", "conditional", "call") or into_fusions:
            inner = depth + (instruction.opcode == "while")
            for callee in instruction.called:
                yield from _walk(program, callee, into_fusions, inner)


def _split_type(text: str) -> tuple[str, str, str]:
    """The type, the opcode after it, and the rest from its bracket on; tuples have brackets."""
    if text.startswith("("):
        end = len(_in_brackets(text)) + 2
    else:
        end = text.index(" ")
    kind, rest = text[:end], text[end:].strip()
    bracket = rest.index("(")
    return kind, rest[:bracket], rest[bracket:]


def _in_brackets(text: str) -> str:
    """What is between the first bracket and the one that closes it."""
    depth = 0
    for at, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        if not depth:
            return text[1:at]
    raise ValueError(f"a bracket is not closed: {text[:80]}")


def _arrays(kind: str) -> Iterator[Array]:
    for dtype, sizes, layout in _ARRAY.findall(kind):
        shape = tuple(int(size) for size in sizes.split(",") if size)
        in_hbm = not re.search(r"S\([1-9]", layout)
        yield Array(math.prod(shape) * _BYTES.get(dtype, 4), in_hbm, shape)


def _in_hbm(instruction: Instruction) -> bool:
    return len(instruction.arrays) == 1 and instruction.arrays[0].in_hbm


def _hbm_bytes(instruction: Instruction) -> int:
    return sum(a.bytes for a in instruction.arrays if a.in_hbm)
