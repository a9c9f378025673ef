"""What `conftest.py` sets for all tests."""

import os


def test_flags_stand_once_so_that_each_process_finds_the_programs_of_the_others() -> None:
    flags = [flag.partition("=")[0] for flag in os.environ["XLA_FLAGS"].split()]
    assert "--xla_force_host_platform_device_count" in flags
    assert len(set(flags)) == len(flags)
