"""Programs that try to be there after their verdict, as text. They are run in sandboxes only."""

_CLEAR = "ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)"  # PR_SET_PDEATHSIG: none

# How a program that then sleeps tries to be there after its verdict.
OUTLIVERS = {
    "cleared signal": _CLEAR,
    "cleared signal, memory": _CLEAR + "\nballast = bytearray(96 << 20)",
    "cleared and blocked signals": _CLEAR + "\n"
    "for s in range(1, 65):\n"
    "    try: signal.signal(s, signal.SIG_IGN)\n    except Exception: pass\n"
    "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))",
    "another session": _CLEAR + "\ntry: os.setsid()\nexcept OSError: pass",
    "a child": "try:\n    if os.fork() == 0: " + _CLEAR + "; time.sleep(60)\nexcept OSError: pass",
    "a grandchild in another session": "try:\n    if os.fork() == 0:\n        os.setsid()\n"
    "        if os.fork() == 0: " + _CLEAR + "; time.sleep(60)\n        os._exit(0)\n"
    "except OSError: pass",
    "a grandchild, and the program ends": "try:\n    if os.fork() == 0:\n        os.setsid()\n"
    "        if os.fork() == 0: " + _CLEAR + "; time.sleep(60)\n        os._exit(0)\n"
    "except OSError: pass\nos._exit(0)",
    "a sibling": _CLEAR + "\n"  # clone(CLONE_PARENT)
    "if ctypes.CDLL(None).syscall(56, 0x8000 | 17, 0, 0, 0, 0) == 0: time.sleep(60)",
    "closed descriptors": _CLEAR + "\nos.closerange(0, 256)",
    "stopped": _CLEAR + "\nctypes.CDLL(None).syscall(234, os.getpid(), os.getpid(), 19)",
    "a stopped child and dead ones": _CLEAR + "\ntry:\n    for n in range(20):\n"
    "        if os.fork() == 0:\n            " + _CLEAR + "\n"
    "            if n: os._exit(0)\n            os.kill(os.getpid(), 19); time.sleep(60)\n"
    "except OSError: pass",
    "another pid namespace": _CLEAR + "\ntry:\n"
    "    ctypes.CDLL(None).unshare(0x10000000 | 0x20000000)\n"
    "    if os.fork() == 0:\n        " + _CLEAR + "; os.setsid()\n"
    "        if os.fork() == 0: time.sleep(60)\n        time.sleep(60)\n"
    "except OSError: pass",
    "a fork that forks": _CLEAR + "\ntry:\n    for n in range(5):\n"
    "        if os.fork() == 0: " + _CLEAR + "\nexcept OSError: pass",
    "a thread, and the first one ends": _CLEAR + "\n"
    "threading.Thread(target=time.sleep, args=(60,)).start()\n"
    "ctypes.CDLL(None).syscall(60, 0)",  # exit, of the calling thread
}


def outliver(name: str, kind: str) -> str:
    """The program for tests of this kind: it does the act, then sleeps when it is called."""
    program = "import ctypes, os, signal, threading, time\n" + OUTLIVERS[name]
    program += "\ndef double(n): time.sleep(60)\n"
    return program + ("double(0)\n" if kind == "stdin" else "")
