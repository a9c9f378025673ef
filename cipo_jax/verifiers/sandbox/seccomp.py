"""The system-call filter of the sandbox, built by libseccomp.

This file decides which system calls a candidate program may not make. The filter is compiled once
in a trusted process, to the form the kernel takes; `inside.py` installs it. It needs
`libseccomp.so.2` (Debian and Ubuntu: libseccomp2, Fedora: libseccomp) where it is compiled only.

The filter lists what is refused. A program can still compute, use threads, and use the files that
it can see. It cannot start a process or another program, change the limits or the scheduling of
another process, or ask not to be killed with the process that guards it.
"""

import ctypes
import functools
import os

_ALLOW = 0x7FFF0000
_EPERM = 0x00050000 | 1
_ENOSYS = 0x00050000 | 38
_NOT_EQUAL, _MASKED_EQUAL = 1, 7  # SCMP_CMP_NE, SCMP_CMP_MASKED_EQ
_CLONE_THREAD = 0x00010000
_PR_SET_PDEATHSIG = 1

_REFUSED = """
    execve execveat fork vfork
    socket bind connect listen accept accept4
    ptrace process_vm_readv process_vm_writev process_madvise kcmp pidfd_open pidfd_getfd
    kill tkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal
    mount umount umount2 pivot_root chroot unshare setns mount_setattr move_mount open_tree
    fsopen fsconfig fsmount fspick
    bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register
    add_key request_key keyctl
    init_module finit_module delete_module kexec_load kexec_file_load reboot
    swapon swapoff acct syslog quotactl quotactl_fd nfsservctl lookup_dcookie personality
    name_to_handle_at open_by_handle_at fanotify_init fanotify_mark
    inotify_init inotify_init1 inotify_add_watch inotify_rm_watch
    settimeofday clock_settime clock_adjtime adjtimex stime sethostname setdomainname
    iopl ioperm vhangup mknod mknodat setpgid setsid
    memfd_create memfd_secret shmget shmat shmctl semget semop semtimedop semctl
    msgget msgsnd msgrcv msgctl mq_open mq_unlink
    migrate_pages move_pages mbind set_mempolicy vmsplice
""".split()  # noqa: SIM905, a table reads better

# Refused but for the caller itself, whose number is 0 in the first argument.
_REFUSED_ON_OTHERS = """
    prlimit64 sched_setaffinity sched_setscheduler sched_setparam sched_setattr
""".split()  # noqa: SIM905, as above


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp"""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operation", ctypes.c_int),
        ("mask", ctypes.c_uint64),  # the value, if there is no mask
        ("value", ctypes.c_uint64),
    )


@functools.cache
def compile_filter() -> bytes | None:
    """The filter as an array of `struct sock_filter`; None without libseccomp.

    Raises:
      OSError: libseccomp is there and refuses; a filter with holes is not handed out.
    """
    try:
        library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    except OSError:
        return None
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_ALLOW)))
    if not context:
        raise OSError("seccomp_init failed")
    try:
        for name in _REFUSED:
            _refuse(library, context, name, _EPERM)
        # clone3 hides its flags in memory; without it the C library falls back to clone.
        _refuse(library, context, "clone3", _ENOSYS)
        threads_only = _Comparison(0, _MASKED_EQUAL, _CLONE_THREAD, 0)
        _refuse(library, context, "clone", _EPERM, threads_only)
        for name in _REFUSED_ON_OTHERS:
            _refuse(library, context, name, _EPERM, _Comparison(0, _NOT_EQUAL, 0, 0))
        # The kernel looks at 32 bits of the option.
        outlive = _Comparison(0, _MASKED_EQUAL, 0xFFFFFFFF, _PR_SET_PDEATHSIG)
        _refuse(library, context, "prctl", _EPERM, outlive)
        return _export(library, context)
    finally:
        library.seccomp_release(context)


def _refuse(
    library: ctypes.CDLL, context: ctypes.c_void_p, name: str, action: int, *where: _Comparison
) -> None:
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number < 0:  # not a system call of this architecture, or newer than the library
        return
    comparisons = (_Comparison * len(where))(*where)
    result = library.seccomp_rule_add_array(
        context, ctypes.c_uint32(action), number, len(where), comparisons
    )
    _check(result, f"seccomp rule for {name}")


def _export(library: ctypes.CDLL, context: ctypes.c_void_p) -> bytes:
    with open(os.memfd_create("filter"), "rb") as file:
        _check(library.seccomp_export_bpf(context, file.fileno()), "seccomp_export_bpf")
        file.seek(0)
        return file.read()


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")
