"""What a program's exceptions are in the tests, and what they cannot be."""

import pytest
from sandboxes import judge

from cipo_jax.types import Outcome
from cipo_jax.verifiers.sandbox import peer

OWN = (
    "import json\nclass Base(ValueError): pass\nclass Mine(Base):\n"
    "    def __init__(self, code):\n        super().__init__(f'code {code}')\n"
    "        self.code = code\n    def worse(self): return self.code + 1\n"
    "class Plain(Exception): pass\nclass Both(Plain, OSError): pass\n"
    "class Other(Exception):\n    def __init__(self, a, b): self.a = a\n"
    "    def __str__(self): return 'a text'\n"
)
CATCH = "try:\n    f()\nexcept {} as e:\n    assert {}\nelse:\n    assert False"


@pytest.mark.parametrize(
    ("raised", "caught", "holds"),
    [
        ("raise Mine(3)", "ValueError", "str(e) == 'code 3' and e.args == ('code 3',)"),
        ("raise Mine(3)", "Mine", "e.code == 3 and e.worse() == 4 and type(e) is Mine"),
        ("raise Mine(3)", "Base", "isinstance(e, Mine) and type(e).__name__ == 'Mine'"),
        ("raise Mine(3)", "(KeyError, Mine)", "issubclass(Mine, Base) and hasattr(e, 'code')"),
        ("raise Mine(3)", "Mine", "not hasattr(e, 'name') and Mine(5).code == 5"),
        ("raise Plain", "Plain", "not isinstance(e, ValueError) and str(e) == ''"),
        ("raise Plain('x')", "Exception", "str(e) == 'x' and e.args == ('x',)"),
        ("raise Both(2, 'none')", "OSError", "isinstance(e, Plain) and e.errno == 2"),
        ("raise Other(1, [object()])", "Other", "str(e) == 'a text' and e.a == 1"),
        ("json.loads('{')", "ValueError", "'Expecting' in str(e) and e.pos == 1"),
        ("raise KeyError('k is missing')", "KeyError", "e.args[0] == 'k is missing'"),
        ("raise KeyError(('a', 2))", "LookupError", "e.args == (('a', 2),)"),
        ("open('/none')", "FileNotFoundError", "e.errno == 2"),
        ("b'\\xff'.decode()", "UnicodeError", "'invalid start byte' in str(e)"),
        ("raise SystemExit(0)", "Exception", "type(e).__name__ == 'RemoteError'"),
        ("raise ExceptionGroup('g', [OSError()])", "Exception", "'g' in str(e)"),
    ],
)
def test_an_exception_is_of_its_classes(raised, caught, holds):
    tests = {"type": "assert", "asserts": [CATCH.format(caught, holds)]}
    program = f"{OWN}def f():\n    {raised}"
    assert judge(tests, program).outcome is Outcome.CORRECT
    assert judge(tests, f"{OWN}def f():\n    1 / 0").outcome is Outcome.WRONG
    assert judge(tests, f"{OWN}def f():\n    return Mine(3)").outcome is Outcome.WRONG


def test_the_tests_may_raise_and_pass_on_the_programs_exceptions():
    asserts = [
        "try:\n    raise Mine(4)\nexcept Base as e:\n    assert f(e) == 4 and f(e) == e.code",
        "assert f(Mine(6)) == 6 and g(Mine) == 'Mine'",
        "assert isinstance(h(), Exception) and not isinstance(h(), Mine)",
    ]
    program = OWN + "def f(e): return e.code\ndef g(c): return c.__name__\ndef h(): return Plain()"
    tests = {"type": "assert", "asserts": asserts}
    assert judge(tests, program).outcome is Outcome.CORRECT
    assert judge(tests, program.replace("e.code", "0")).outcome is Outcome.WRONG


@pytest.mark.parametrize(
    "program",
    [
        "class E(ImportError): pass\ndef f(): raise E('x')",
        "def f(): return ImportError('x')",
        "E = type('', (Exception,), {})\ndef f(): raise E",
        "E = type('a b' * 99, (KeyError,), {})\ndef f(): raise E",
        "class E(StopIteration): pass\ndef f(): raise E",
        "class E(BaseException): pass\ndef f(): raise E",
        "def f():\n    for n in range(2_000):\n        yield type('E', (ValueError,), {})",
        "def f(): raise KeyError('x' * 1_000_000)",
        "class E(Exception):\n    args = property(lambda self: 1 / 0)\n"
        "    def __str__(self): raise SystemExit\ndef f(): raise E",
    ],
)
def test_an_exception_that_is_not_caught_is_the_programs_fault(program):
    """Whatever it is called: no pass, no fault of the tests, and no quiet end of a loop."""
    for source in (
        "assert all(map(lambda _: f() == 1, [2]))",
        "assert list(f()) == []",
        "raise f()",
    ):
        tests = {"type": "assert", "asserts": [source]}
        assert judge(tests, program).outcome is Outcome.WRONG


@pytest.mark.parametrize(
    "written",
    [
        ["nothing", None, "x", None],
        [[1, "E", ["UnicodeDecodeError"]], 2, "x", ["utf-8", {"bytes": ["00"]}, -9, -8, "r"]],
        ["UnicodeDecodeError", None, "x", ["utf-8", {"bytes": ["00"]}, -(10**15), 1, "r"]],
        [[1, "__class__", ["exec", "type", "SystemExit"]], 2, "x", ["print(1)"]],
        [[1, "E", ["KeyError", "OSError", "SyntaxError"]], 2, "x", [1, 2, 3]],
        [[1, "x" * 200, ["KeyError"]], 2, "x", [{"type": "int"}]],
    ],
)
def test_an_exception_is_made_of_known_classes_only(written):
    error = peer.Peer(-1, lambda *_: None)._raised("E", "x", written)
    assert isinstance(error, Exception)
    builtin = [kind for kind in type(error).__mro__ if kind.__module__ == "builtins"]
    assert set(builtin) <= {*peer._ERRORS.values(), BaseException, object}
    assert "x" in str(error)


@pytest.mark.parametrize(
    "written",
    [
        5,
        ["KeyError", None, 5, None],
        ["KeyError", None, "x", [{"theirs": 5}]],
        ["KeyError", None, "x", [{"set": [[1]]}]],
        [["1", "E", []], 2, "x", None],
        [[1, "E", ["KeyError"] * 11], 2, "x", None],
        [[1, "E", "KeyError"], 2, "x", None],
        [[1, 5, []], 2, "x", None],
        [[1, "E", []], "2", "x", None],
        [[0, "E", [[n, "E", []] for n in range(5)] + [[[]]]], 2, "x", None],
    ],
)
def test_what_is_no_exception_is_refused(written):
    with pytest.raises((ValueError, TypeError)):
        peer.Peer(-1, lambda *_: None)._raised("E", "x", written)


def test_classes_of_exceptions_are_limited_in_number():
    tests = peer.Peer(-1, lambda *_: None)
    for number in range(peer._MAX_CLASSES):
        tests._class([number, "E", []])
    with pytest.raises(ValueError, match="too many classes"):
        tests._class([-1, "E", []])


def test_the_end_of_a_with_cannot_hide_that_a_test_has_failed():
    program = (
        "seen = []\nclass C:\n    def __enter__(self): return self\n"
        "    def __exit__(self, kind, error, frames):\n"
        "        seen.append((kind and kind.__name__, str(error)))\n        return True\n"
    )
    hidden = ["with C() as c:\n    assert c.x == 'secret', 'secret'"]
    assert judge({"type": "assert", "asserts": hidden}, program).outcome is Outcome.WRONG
    told = "try:\n    with C():\n        raise ValueError('secret')\nexcept ValueError:\n    pass"
    asserts = [f"{told}\nassert g() == [('ValueError', '')]"]
    asserts += ["with C() as c:\n    pass\nassert g()[-1] == (None, 'None')"]
    program += "def g(): return seen"
    assert judge({"type": "assert", "asserts": asserts}, program).outcome is Outcome.CORRECT
