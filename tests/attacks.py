"""Hostile programs, as text, and the problem that they answer. They are run in sandboxes only."""

import time

from cipo_jax.types import Problem, Verdict
from cipo_jax.verifiers.code.tests import verify_code
from cipo_jax.verifiers.sandbox.layers import Sandbox

LIMITS = {"time_limit": 1.0, "total_time_limit": 3.0, "memory_limit_bytes": 256 << 20}

SECRET = "7f3a-expected"

ASSERTS = {
    "type": "assert",
    "asserts": ["assert double(21) == 42", f"assert double({SECRET!r}) == {SECRET * 2!r}"],
    **LIMITS,
}

CHECK = {
    "type": "check_fn",
    "code": "def check(candidate):\n    assert math.isclose(candidate(21), 42)\n"
    "    assert abs(candidate(0.5) - 1.0) < 1e-9\n",
    "call": "check(double)",
    **LIMITS,
}

CALLS = {
    "type": "call",
    "entry_point": "double",
    "cases": [{"input": [21], "output": 42}, {"input": [0.5], "output": 1.0}],
    **LIMITS,
}

STDIN = {
    "type": "stdin",
    "cases": [{"input": "21\n", "output": "42\n"}, {"input": "4\n", "output": "8\n"}],
    **LIMITS,
}

TESTS = {"assert": ASSERTS, "check_fn": CHECK, "call": CALLS, "stdin": STDIN}

QUESTION = "def double(n):\n"

HONEST = "def double(n):\n    return n + n\n"

HONEST_STDIN = "print(2 * int(input()))"

# Statements that must fail. {port}, {abstract}: of servers on the machine; {secret}: of a file.
FORBIDDEN = {
    "network out": "import socket; socket.create_connection(('1.1.1.1', 53), 0.5)",
    "network to loopback": "import socket; socket.create_connection(('127.0.0.1', {port}), 0.5)",
    "network datagram": "import socket; "
    "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
    "names": "import socket; socket.getaddrinfo('localhost', 80)[0]; socket.socket().bind(('',0))",
    "abstract unix socket": "import socket; socket.socket(socket.AF_UNIX).connect('\\0{abstract}')",
    "environment": "import os; os.environ['HOME']",
    "environment of the parent": "open('/proc/1/environ').read()",
    "home": "import os; os.listdir(os.path.expanduser('~root')) + os.listdir('/home')",
    "memory of the parent": "open('/proc/%d/mem' % __import__('os').getppid(), 'rb')",
    "password file": "open('/etc/passwd').read()",
    "secret file": "open({secret!r}).read()",
    "harness file": "open({harness!r}).read()",
    "project directory": "__import__('os').listdir({project!r})",
    "packages": "import numpy",
    "write next to the library": "open(__import__('os').__file__ + '.new', 'w')",
    "change the library": "open(__import__('os').__file__, 'a')",
    "write at the root": "open('/written', 'w')",
    "make a directory at the root": "__import__('os').mkdir('/directory')",
    "write in /dev": "open('/dev/written', 'w')",
    "symlink out of scratch": "import os; os.symlink({secret!r}, '/tmp/l'); open('/tmp/l').read()",
    "hard link out of scratch": "import os; os.link('/usr/lib/os-release', '/tmp/l')",
    "dot dot": "open('/tmp/../../../../../' + {secret!r}).read()",
    "raw disk": "import os; os.mknod('/tmp/disk', 0o60600, os.makedev(8, 0)); open('/tmp/disk')",
    "ptrace": "import ctypes; assert ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0",
    "ptrace by the parent": "import ctypes; assert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0",
    "reboot": "import ctypes; assert ctypes.CDLL(None).reboot(0) == 0",
    "mount": "import ctypes; "
    "assert ctypes.CDLL(None).mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None) == 0",
    "chroot": "import os; os.mkdir('/tmp/r'); os.chroot('/tmp/r')",
    "become root": "import os; os.setuid(0)",
    "raise the limits": "import resource as r; r.setrlimit(r.RLIMIT_AS, (1 << 40, 1 << 40))",
    "fill the disk": "f = open('/tmp/f', 'wb')\nfor _ in range(64): f.write(bytes(1 << 20))",
    "fill the disk with files": "for i in range(200):\n"
    "    with open(f'/tmp/{{i}}', 'wb') as f: f.write(bytes(1 << 20))",
    "many open files": "files = [open('/dev/null') for _ in range(5_000)]",
    "memory bomb": "x = bytearray(1 << 30)",
    "memory bomb in pieces": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "watch files": "import ctypes; assert ctypes.CDLL(None).inotify_init1(0) >= 0",
    "limits of another process": "import os, resource as r; "
    "r.prlimit(os.getppid() or 1, r.RLIMIT_CORE)",
    "scheduling of another process": "import os; os.sched_setaffinity(os.getppid() or 1, {{0}})",
    "memory of another process": "import ctypes, os; here = ctypes.c_char_p(b'x' * 8); "
    "local = (ctypes.c_ulong * 2)(ctypes.cast(here, ctypes.c_void_p).value, 8); "
    "assert ctypes.CDLL(None).process_vm_writev(os.getppid() or 1, local, 1, local, 1, 0) >= 0",
    "memory of itself, as of another": "import ctypes, os; room = (ctypes.c_char * 8)(); "
    "local = (ctypes.c_ulong * 2)(ctypes.addressof(room), 8); "
    "assert ctypes.CDLL(None).process_vm_readv(os.getpid(), local, 1, local, 1, 0) == 8",
    "descriptor of a process": "import os; os.pidfd_open(os.getpid())",
    "memory without a file": "import os; os.memfd_create('x')",
    "own user namespace": "import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "own pid namespace": "import ctypes; "
    "assert ctypes.CDLL(None).unshare(0x10000000 | 0x20000000) == 0",
    "a process by clone": "import ctypes, os; pid = ctypes.CDLL(None).syscall(56, 17, 0, 0, 0, 0); "
    "pid or os._exit(0); assert pid > 0",
    "a process by clone3": "import ctypes, os; "
    "pid = ctypes.CDLL(None).syscall(435, (ctypes.c_ulong * 8)(0, 0, 0, 0, 17), 64); "
    "pid or os._exit(0); assert pid > 0",
    "io_uring": "import ctypes; "
    "assert ctypes.CDLL(None).syscall(425, 8, (ctypes.c_char * 120)()) >= 0",
    "keys of the kernel": "import ctypes; "
    "assert ctypes.CDLL(None).syscall(248, b'user', b'x', b'x', 1, -3) >= 0",
    "shared memory": "import ctypes; assert ctypes.CDLL(None).shmget(7, 4096, 0o1666) >= 0",
    "outlive the guard": "import ctypes; assert ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == 0",
    "outlive the guard, by a longer number": "import ctypes; "
    "assert ctypes.CDLL(None).syscall(157, ctypes.c_long((1 << 32) + 1), 0, 0, 0, 0) == 0",
    "host clock": "import time; time.clock_settime(time.CLOCK_REALTIME, 0)",
}

# Programs that answer `double(n)` wrongly, and try to pass all the same.
CHEATS = {
    "os._exit(0) at once": "import os; os._exit(0)",
    "os._exit(0) when called": "import os\ndef double(n): os._exit(0)",
    "sys.exit(0)": "import sys; sys.exit(0)",
    "sys.exit(0) when called": "import sys\ndef double(n): sys.exit(0)",
    "atexit": "import atexit, os\natexit.register(os._exit, 0)\ndef double(n): return 0",
    "always-equal object": "class E:\n    def __eq__(self, o): return True\n"
    "    def __ne__(self, o): return False\n    __hash__ = None\n"
    "    def __sub__(self, o): return self\n    __rsub__ = __sub__\n"
    "    def __abs__(self): return self\n    def __lt__(self, o): return True\n"
    "def double(n): return E()",
    "always-equal int": "class E(int):\n    def __eq__(self, o): return True\n"
    "    def __ne__(self, o): return False\n    __hash__ = int.__hash__\n"
    "    def __lt__(self, o): return True\n"
    "def double(n): return E(0)",
    "always-equal str": "class E(str):\n    def __eq__(self, o): return True\n"
    "    __hash__ = str.__hash__\ndef double(n): return E('x')",
    "always-equal list": "class E(list):\n    def __eq__(self, o): return True\n"
    "def double(n): return E()",
    "always-close float": "class E(float):\n    def __sub__(self, o): return 0.0\n"
    "    __rsub__ = __sub__\n    def __eq__(self, o): return True\n"
    "def double(n): return E(7)",
    "lying class": "class E:\n    __class__ = int\n    def __eq__(self, o): return True\n"
    "def double(n): return E()",
    "patched builtins": "import builtins\nbuiltins.abs = lambda x: 0\n"
    "builtins.all = builtins.any = builtins.isinstance = lambda *a: True\n"
    "builtins.AssertionError = None\ndef double(n): return 0",
    "own module": "class math:\n    isclose = staticmethod(lambda *a, **k: True)\n"
    "def double(n): return 7",
    "tracing": "import sys\ndef trace(*a): return trace\nsys.settrace(trace)\n"
    "sys.setprofile(trace)\ndef double(n): return 7",
    "own rules for pickling and printing": "class E:\n"
    "    def __reduce_ex__(self, p): return (eval, ('42',))\n"
    "    def __repr__(self): return '42'\n    __str__ = __repr__\n"
    "    def __int__(self): return 42\n    __index__ = __int__\n"
    "    def __float__(self): return 42.0\n    def __hash__(self): return hash(42)\n"
    "    def __eq__(self, o): return True\ndef double(n): return E()",
    "patched values": "import sys\nv = sys.modules['cipo_jax.verifiers.sandbox.values']\n"
    "p = sys.modules['cipo_jax.verifiers.sandbox.peer']\n"
    "p._Remote.__eq__ = lambda s, o: True\np._Remote.__abs__ = lambda s: 0\n"
    "v.encode = p.encode = lambda x, keep=None: {'yours': 0}\ndef double(n): return 0",
    "an exception that ends the run well": "def double(n): raise SystemExit(0)\n"
    "raise SystemExit(0)",
    "iterator without an end": "class L(tuple):\n    def __len__(self): return 1\n"
    "    def __iter__(self):\n        while True: yield 42\ndef double(n): return L()",
    "decimal without an end": "import decimal\ndef double(n): return decimal.Decimal('1e999999')",
    "integer with many digits, written by hand": "import os, struct\n"
    "m = b'[\"value\",' + b'7' * 10_000_000 + b',{\"dict\":[]}]'\n"
    "m = struct.pack('!I', len(m)) + m\n"
    "for d in range(3, 64):\n    rest = m\n    try:\n"
    "        while rest: rest = rest[os.write(d, rest):]\n    except OSError: pass\n"
    "def double(n): return 0",
    "own abs": "def abs(x): return 0\ndef double(n): return 7",
    "own check": "def check(candidate): pass\ndef double(n): return 7",
    "patched AssertionError": "import builtins\n"
    "class Silent(BaseException):\n    def __init__(self, *a): import os; os._exit(0)\n"
    "builtins.AssertionError = Silent\ndef double(n): return 0",
    "patched unittest": "import sys, types\n"
    "sys.modules['unittest'] = types.ModuleType('unittest')\n"
    "def double(n): return 0",
    "patched json": 'import json\njson.dumps = lambda *a, **k: \'["value", 42, {"dict": []}]\'\n'
    "json.loads = lambda *a, **k: ['ask', 'call', []]\ndef double(n): return 0",
    "patched open": "import builtins\nbuiltins.open = lambda *a, **k: None\n"
    "def double(n): return 0",
    "patched exec and compile": "import builtins\nbuiltins.exec = lambda *a: None\n"
    "builtins.compile = lambda *a, **k: None\ndef double(n): return 0",
    "forged report on every channel": "import os, struct\n"
    'm = b\'{"secret": "", "test": 0, "passed": true, "load": null, "ready": true}\'\n'
    "for d in range(64):\n    for _ in range(4):\n"
    "        try: os.write(d, struct.pack('!I', len(m)) + m)\n        except OSError: pass\n"
    "def double(n): return 0",
    "forged marker": "print('PASSED'); print('OK'); print('{\"passed\": true}')\n"
    "def double(n): print('PASSED'); return 0",
    "signal handlers": "import signal\n"
    "for s in range(1, 65):\n    try: signal.signal(s, lambda *a: None)\n"
    "    except (OSError, ValueError): pass\ndef double(n): return 0",
    "patched module under test": "import sys\nsys.modules['tests'] = sys\ndef double(n): return 0",
    "own exception": "class AssertionError(Exception): pass\ndef double(n): raise StopIteration",
    "NUL and unicode": "def double(n): return 'a\\0b\\ud800\\u202e' * 3",
    "huge value": "def double(n): return 'x' * (1 << 26)",
    "huge line": "print('x' * (1 << 26))\ndef double(n): return 0",
    "infinite list": "def double(n):\n    l = []\n    l.append(l)\n    return l",
    "deep list": "def double(n):\n    l = []\n    for _ in range(100_000): l = [l]\n    return l",
    "huge integer": "def double(n): return 1 << 40_000_000",
    "many lists": "def double(n): return [[]] * 5_000_000",
    "many lists, written by hand": "import os, struct\n"
    "m = b'[\"value\",[' + b'[],' * 10_000_000 + b'[]],{\"dict\":[]}]'\n"
    "m = struct.pack('!I', len(m)) + m\n"
    "for d in range(64):\n    rest = m\n    try:\n"
    "        while rest: rest = rest[os.write(d, rest):]\n    except OSError: pass\n"
    "def double(n): return 0",
    "many texts": "def double(n): return [''] * 4_000_000",
    "a deep dict": "def double(n):\n    d = {}\n    for _ in range(450): d = {1: d}\n    return d",
    "integers with the same hash": "def double(n): return {k * (2**61 - 1) for k in range(2_000)}",
    "keys with the same hash": "def double(n): return {k * (2**61 - 1): 0 for k in range(2_000)}",
    "a fraction that takes long to reduce": "import fractions\n"
    "class F(fractions.Fraction):\n    numerator = (1 << 30_000_000) - 1\n"
    "    denominator = (1 << 29_999_999) - 1\ndef double(n): return F(1)",
    "deep recursion": "import sys\nsys.setrecursionlimit(10**9)\n"
    "def double(n): return double(n) + 1",
    "segmentation fault": "import ctypes\ndef double(n): return ctypes.string_at(0)",
    "closed descriptors": "import os\nos.closerange(0, 64)\ndef double(n): return 0",
    "output that is not text": "import sys\nsys.stdout.buffer.write(bytes(range(256)) * 99)\n"
    "def double(n): return 0",
    "thread that outlives main": "import threading, time\n"
    "threading.Thread(target=time.sleep, args=(99,)).start()\ndef double(n): return 0",
    "syntax error": "def double(n) return 2 * n",
    "NUL in the source": "def double(n): return 0 # \0",
    "too much nesting": "x = " + "(" * 50_000 + ")" * 50_000 + "\ndef double(n): return 0",
    "text that is no code": "The answer is 42.",
}

# Writes `frame` on every descriptor, when it is loaded and when it is called.
_FORGE = """import os, struct, json
def forge(n=0):
    body = {frame}
    for d in range(256):
        for _ in range(3):
            try: os.write(d, struct.pack('!I', len(body)) + body)
            except OSError: pass
    return 0
forge()
double = forge
"""
# Acts on the processes around it: the one that runs it, and those that might.
_AROUND = """import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
def around(n=0):
    for pid in {{os.getppid(), *range(1, 8)}} - {{os.getpid(), 0}}:
        {act}
    return 0
around()
double = around
"""
# Programs at fault that try to look like a fault of the sandbox or the tests.
FAULTS = {
    "forged failure": _FORGE.format(frame="json.dumps({'failed': 'no namespaces'}).encode()"),
    "forged broken tests": _FORGE.format(frame="json.dumps({'broken': 'bad', 'load': 1}).encode()"),
    "forged start": _FORGE.format(frame="json.dumps({'started': True, 'ready': True}).encode()"),
    "forged case": _FORGE.format(frame="json.dumps({'status': 'x', 'output': 7}).encode()"),
    "forged reply of no text": _FORGE.format(
        frame="json.dumps(['raise', {'a': 1}, [], 7]).encode()"
    ),
    "forged reply of no kind": _FORGE.format(frame="json.dumps([['raise'], 'x', 'y']).encode()"),
    "forged class": _FORGE.format(
        frame="json.dumps(['raise', 'E', '', [[1, '', [[]]], {'a': 1}, 5, 5]]).encode()"
    ),
    "forged reply of no value": _FORGE.format(frame="json.dumps(['value', {'x': 1}, 5]).encode()"),
    "forged question": _FORGE.format(
        frame="json.dumps(['ask', 'call', [{'type': 'bytes'}, [1 << 40], {'dict': []}]]).encode()"
    ),
    "forged nesting": _FORGE.format(frame="b'[' * 5000 + b']' * 5000"),
    "forged many lists": _FORGE.format(
        frame="b'[\"value\", [' + b'[],' * 200_000 + b'[]], {\"dict\": []}]'"
    ),
    "forged huge decimal": _FORGE.format(
        frame="json.dumps(['value', {'decimal': ['1e999999999']}, {'dict': []}]).encode()"
    ),
    "forged length": "import os, struct\nfor d in range(256):\n"
    "    try: os.write(d, struct.pack('!I', 0xffffffff))\n    except OSError: pass\n"
    "def double(n): return 0",
    "half a frame": "import os, struct, time\nfor d in range(256):\n"
    "    try: os.write(d, struct.pack('!I', 99) + b'[')\n    except OSError: pass\n"
    "time.sleep(0.1)\nos._exit(0)",
    "prlimit on processor time": _AROUND.format(
        act="libc.prlimit64(pid, 0, (ctypes.c_ulong * 2)(0, 0), None)"
    ),
    "prlimit on open files": _AROUND.format(
        act="libc.prlimit64(pid, 7, (ctypes.c_ulong * 2)(0, 0), None)"
    ),
    "prlimit on memory": _AROUND.format(
        act="libc.prlimit64(pid, 9, (ctypes.c_ulong * 2)(0, 0), None)"
    ),
    "tgkill": _AROUND.format(act="libc.syscall(234, pid, pid, 9)"),
    "tgkill to stop": _AROUND.format(act="libc.syscall(234, pid, pid, 19)"),
    "signal by the readiness of a pipe": "import fcntl, os, time\ndef around(n=0):\n"
    "    for pid in {os.getppid(), *range(1, 8)} - {os.getpid(), 0}:\n"
    "        r, w = os.pipe()\n"
    "        try:\n"
    "            fcntl.fcntl(r, fcntl.F_SETOWN, pid)\n            fcntl.fcntl(r, 10, 9)\n"
    "            fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC)\n            os.write(w, b'x')\n"
    "        except OSError: pass\n    return 0\naround()\ndouble = around",
    "stopping itself": "import ctypes, os\ndef double(n=0):\n"
    "    ctypes.CDLL(None).syscall(234, os.getpid(), os.getpid(), 19)\n    return 0\ndouble()",
    "writing to all that is open": "import os\nfor d in range(64):\n    for act in (\n"
    "        lambda: os.lseek(d, 0, 0), lambda: os.write(d, b'21 42' * 99),\n"
    "        lambda: os.ftruncate(d, 0),\n    ):\n        try: act()\n"
    "        except OSError: pass\ndef double(n): return 0",
    "a file without content": "import os\ntry: os.ftruncate(1, 16 << 20)\n"
    "except OSError: pass\ndef double(n): return 0",
    "many lines": "import os\nfor _ in range(200):\n    try: os.write(1, b'1\\n' * 99999)\n"
    "    except OSError: break\ndef double(n): return 0",
    "an unreadable answer": "class M(type):\n"
    "    def __getattribute__(c, n): raise SystemExit\n"
    "class E(metaclass=M):\n    def __getattribute__(s, n): raise KeyboardInterrupt\n"
    "def double(n): return E()",
    "its own limits": "import resource as r\n"
    "for name in (r.RLIMIT_AS, r.RLIMIT_NOFILE, r.RLIMIT_FSIZE):\n"
    "    r.setrlimit(name, (0, 0))\ndef double(n): return 0",
    "memory at the end": "x = []\ndef double(n):\n"
    "    try:\n        while True: x.append(bytearray(1 << 20))\n"
    "    except MemoryError: pass\n    return 0",
    "exception without a text": "class E(Exception):\n"
    "    def __str__(self): raise E\n    __repr__ = __str__\n"
    "def double(n): raise E\nimport sys\nsys.excepthook = None\nraise E",
}

# Programs that do not end; {call} opens a block.
HANGS = {
    "loop that ignores signals": "import signal\n"
    "for s in (signal.SIGTERM, signal.SIGINT, signal.SIGXCPU, signal.SIGALRM):\n"
    "    signal.signal(s, signal.SIG_IGN)\n"
    "{call}    while True: pass",
    "sleep": "import time\n{call}    time.sleep(99)",
    "swallowed exceptions": "{call}    while True:\n"
    "        try:\n            while True: pass\n        except BaseException: pass",
    "infinite output": "{call}    while True:\n"
    "        try: print('x' * 9999)\n        except OSError: pass",
    "big power": "{call}    return 9 ** 9 ** 9",
    "bad regular expression": "import re\n{call}    re.match('(a*)*b', 'a' * 99)",
}

# Statements that try to leave something running, or to kill what is not theirs.
SURVIVORS = {
    "fork": "pid = os.fork()\n        if pid == 0: time.sleep(60)",
    "double fork and setsid": "if os.fork() == 0:\n            os.setsid()\n"
    "            if os.fork() == 0: time.sleep(60)\n            os._exit(0)",
    "fork bomb": "while True: os.fork()",
    "a program": "subprocess.Popen(['/bin/sleep', '60'])",
    "the interpreter": "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])",
    "kill(-1)": "os.kill(-1, 9)",
    "kill the parent": "os.kill(os.getppid(), 9)",
    "kill the group": "os.killpg(0, 9)",
    "threads": "[threading.Thread(target=time.sleep, args=(60,)).start() for _ in range(10_000)]",
}


def judge_and_go_on(
    sandbox: Sandbox, kind: str, program: str, time_limit: float = LIMITS["time_limit"]
) -> Verdict:
    """The verdict; the next honest program must be judged right, within its limits.

    Args:
      time_limit: of each of the program's tests, in seconds; all of them together have three times
        as long.
    """
    start = time.monotonic()
    limits = {"time_limit": time_limit, "total_time_limit": 3 * time_limit}
    problem = Problem("p", QUESTION, tests={**TESTS[kind], **limits})
    verdict = verify_code(problem, f"```python\n{program}\n```", sandbox=sandbox)
    assert time.monotonic() - start < 3.0 + 5.0  # the total limit, on a busy machine
    honest = HONEST_STDIN if kind == "stdin" else HONEST
    assert verify_code(
        Problem("q", QUESTION, tests=TESTS[kind]), honest, sandbox=sandbox
    ).correct, "the next verdict is right"
    return verdict
