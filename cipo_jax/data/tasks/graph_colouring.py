"""The embedded repair task: colour the nodes of a graph so that no edge joins two of one colour.

    question   Colour ac ae bc be cd: a=3 d=2 e=2.
    solution   b e2=3              wrong   b e2=1
               c a3b3d2=1                  c a3b1d2=1!
               \\boxed{33122}              \\boxed{31122}

Nodes are letters, colours 1, 2 and 3. Three nodes have a colour; difficulty is the number of the
others, the free ones. A solution goes through these in alphabetical order: the node, its neighbours
that have a colour by then with their colours, and the colour it gets. The answer is the colours of
all nodes in order.

There is exactly one colouring, so the answer can be compared with it. But a solution written from
left to right has to choose before it can know: with two free nodes or more, one of them at least
has two colours left when its turn comes. A wrong choice leads to a node whose neighbours have all
three colours; the line of a colour that a neighbour has ends with "!". So a wrong solution shows a
conflict that was not to be seen before, and the nodes whose change may repair it.

This file decides what a problem, its solution and a typical wrong solution look like; which are
drawn is decided in `generated.py`.
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from cipo_jax.data.tasks.generated import Task, lines_of
from cipo_jax.types import CipoError, Demonstration, Problem

COLOURS = "123"
GIVEN = 3  # nodes with a colour
MOST_OPERATIONS = 6
NODES = "abcdefghi"[: GIVEN + MOST_OPERATIONS]
_EDGE_SHARE = 0.7  # of the pairs that may be joined
_MOST_EDGES = 2  # for each node

Graph = dict[str, list[str]]  # node -> its neighbours; both in alphabetical order
Colouring = dict[str, str]  # node -> colour

_PROBLEM = re.compile(r"([a-i]{2}(?: [a-i]{2})*): ([a-i]=[1-3](?: [a-i]=[1-3])*)")

# The tokenizer's pieces for this task.
CHARACTERS = "!:"
PHRASES = ("Colour ",)


def make_problem(rng: np.random.Generator, min_operations: int, max_operations: int) -> Problem:
    """Draws a number of free nodes, a colouring, edges between nodes of different colours and which
    nodes are given, until no other colouring is left and a free node has to be chosen early.

    The id is edges and given colours, the answer the colours, `meta["operations"]` the number of
    free nodes.

    Raises:
      CipoError: more free nodes than there are letters.
    """
    if max_operations > MOST_OPERATIONS:
        raise CipoError(
            f"config.data.max_operations: got {max_operations}, wanted at most {MOST_OPERATIONS} "
            "with colouring problems"
        )
    free = int(rng.integers(min_operations, max_operations + 1))
    nodes = NODES[: GIVEN + free]
    pairs = list(itertools.combinations(range(len(nodes)), 2))
    while True:
        drawn = rng.integers(len(COLOURS), size=len(nodes)).tolist()
        chosen = (rng.random(len(pairs)) < _EDGE_SHARE).tolist()
        given = set(rng.permutation(len(nodes))[:GIVEN].tolist())
        edges = [
            pair
            for pair, yes in zip(pairs, chosen, strict=True)
            if yes and drawn[pair[0]] != drawn[pair[1]]
        ]
        # Most draws fail here, before anything is built.
        if len(edges) > _MOST_EDGES * len(nodes) or not _all_forced(edges, drawn, given):
            continue
        graph = _graph((nodes[a], nodes[b]) for a, b in edges)
        colours = {node: COLOURS[i] for node, i in zip(nodes, drawn, strict=True)}
        known = {node: colours[node] for i, node in enumerate(nodes) if i in given}
        if (
            len(graph) == len(nodes)
            and _colourings(graph, known, 2) == [colours]
            and (free == 1 or _has_choice(graph, known, colours))
        ):
            return _problem(graph, known, colours)


def _all_forced(edges: list[tuple[int, int]], colours: list[int], given: set[int]) -> bool:
    """Whether every node that is not given has neighbours of both other colours; it could have
    another colour if not."""
    # Of each node, a bit for its own colour and each that its neighbours have.
    met = [1 << colour for colour in colours]
    for a, b in edges:
        met[a] |= 1 << colours[b]
        met[b] |= 1 << colours[a]
    every = (1 << len(COLOURS)) - 1
    return all(bits == every for node, bits in enumerate(met) if node not in given)


def solution(problem: Problem) -> str:
    """The worked solution: a line for each free node, then the boxed colours."""
    graph, given, colours = _parse(problem)
    return _write(graph, given, colours)


def corrupt(problem: Problem, rng: np.random.Generator) -> str:
    """A wrong solution:

      (75%) each free node gets a colour that none of its neighbours has by then, as long as there
            is one: a wrong choice, and the conflict it leads to;
      (25%) one free node of the right solution has another colour.

    Where the first cannot go wrong, it is the second.
    """
    graph, given, colours = _parse(problem)
    if rng.random() < 0.75 and _has_choice(graph, given, colours):
        while (wrong := _left_to_right(graph, given, rng)) == colours:
            pass
    else:
        node = str(rng.choice([node for node in colours if node not in given]))
        other = str(rng.choice([c for c in COLOURS if c != colours[node]]))
        wrong = colours | {node: other}
    return _write(graph, given, wrong)


def practise(problem: Problem, rng: np.random.Generator) -> Demonstration:
    """A demonstration of what a solution is made of: one node, the others given (half), or a
    solution that chooses from left to right, so often a wrong one, and marks its conflicts."""
    graph, given, colours = _parse(problem)
    if rng.random() < 0.5:
        return Demonstration(problem, _write(graph, given, _left_to_right(graph, given, rng)))
    free = [node for node in colours if len(_taken(graph[node], colours)) == 2]
    node = free[int(rng.integers(len(free)))]  # there is one: see _parse
    rest = {n: colour for n, colour in colours.items() if n != node}
    return Demonstration(_problem(graph, rest, colours), _write(graph, rest, colours))


def true_lines(problem: Problem, text: str) -> list[bool]:
    """Whether each line has the neighbours of a node without a colour, as far as these have one by
    then, with the colours that they have been given; and the mark of a conflict where there is one.
    """
    graph, given, _ = _parse(problem)
    known, found = dict(given), []
    for line in lines_of(text):
        match = re.fullmatch(r"([a-i]) .*=([123])!?", line)
        node, colour = (match[1], match[2]) if match else ("", "")
        is_new = node in graph and node not in known
        found.append(is_new and line == _line(graph, known, node, colour))
        if is_new:
            known[node] = colour
    return found


def _graph(edges: Iterable[tuple[str, str]]) -> Graph:
    graph: Graph = {}
    for a, b in edges:
        graph.setdefault(a, []).append(b)
        graph.setdefault(b, []).append(a)
    return {node: sorted(graph[node]) for node in sorted(graph)}


def _problem(graph: Graph, given: Mapping[str, str], colours: Colouring) -> Problem:
    fixed = " ".join(f"{node}={colour}" for node, colour in given.items())
    edges = [a + b for a in graph for b in graph[a] if a < b]
    task = f"{' '.join(edges)}: {fixed}"
    meta = {"operations": len(colours) - len(given)}
    return Problem(task, f"Colour {task}.", answer="".join(colours.values()), meta=meta)


def _parse(problem: Problem) -> tuple[Graph, Colouring, Colouring]:
    """The graph, given colours and the colouring of a problem that this file has made. As there is
    no other colouring, each free node has neighbours of both other colours."""
    if match := _PROBLEM.fullmatch(problem.id):
        graph = _graph((edge[0], edge[1]) for edge in match[1].split(" "))
        given = {part[0]: part[2] for part in match[2].split(" ")}
        found = _colourings(graph, given, 2)
        if len(found) == 1:
            return graph, given, found[0]
    raise ValueError(f"{problem.id!r} is not a colouring problem")


def _taken(neighbours: Sequence[str], colours: Mapping[str, str]) -> set[str]:
    """The colours of neighbours, as far as they have one."""
    return {colours[n] for n in neighbours if n in colours}


def _colourings(graph: Graph, given: Mapping[str, str], most: int) -> list[Colouring]:
    """Up to `most` colourings in which given nodes have their colours, nodes in order."""
    found: list[Colouring] = []

    def extend(colours: Colouring) -> None:
        node = next((node for node in graph if node not in colours), None)
        if node is None:
            found.append({node: colours[node] for node in graph})
            return
        taken = _taken(graph[node], colours)
        for colour in COLOURS:
            if colour not in taken and len(found) < most:
                extend(colours | {node: colour})

    if given.keys() <= graph.keys() and not any(
        given[node] in _taken(graph[node], given) for node in given
    ):
        extend(dict(given))
    return found


def _has_choice(graph: Graph, given: Mapping[str, str], colours: Colouring) -> bool:
    """Whether going from left to right meets a node with two colours left, on the right way."""
    known = dict(given)
    for node in colours:
        if node not in given:
            if len(_taken(graph[node], known)) < 2:
                return True
            known[node] = colours[node]
    return False


def _left_to_right(graph: Graph, given: Mapping[str, str], rng: np.random.Generator) -> Colouring:
    """A colouring by random choices among the colours that are left, among all where none is."""
    colours = dict(given)
    for node in graph:
        if node not in given:
            taken = _taken(graph[node], colours)
            left = [colour for colour in COLOURS if colour not in taken] or list(COLOURS)
            colours[node] = left[int(rng.integers(len(left)))]
    return {node: colours[node] for node in graph}


def _write(graph: Graph, given: Mapping[str, str], colours: Colouring) -> str:
    known, lines = dict(given), []
    for node, colour in colours.items():
        if node in given:
            continue
        lines.append(_line(graph, known, node, colour))
        known[node] = colour
    return "\n".join([*lines, f"\\boxed{{{''.join(colours.values())}}}"])


def _line(graph: Graph, known: Mapping[str, str], node: str, colour: str) -> str:
    beside = [(n, known[n]) for n in graph[node] if n in known]
    mark = "!" if colour in (c for _, c in beside) else ""
    return f"{node} {''.join(n + c for n, c in beside)}={colour}{mark}"


TASK = Task(
    "colouring problems",
    make_problem,
    solution,
    corrupt,
    50,
    "char_graphs",
    CHARACTERS,
    PHRASES,
    practise=practise,
    true_lines=true_lines,
)
