"""What is said of a --config that cannot be read, or whose body fails.

ml_collections would show a traceback, or nothing until the config is used. Not decided here: what
the values may be (resolve.py, checks.py).
"""

import re
import traceback
from pathlib import Path

from cipo_jax.config.keys import Config, flatten
from cipo_jax.types import CipoError

_WANTED = "wanted a Python file with a function get_config(), such as configs/demo.py"


def check_file(config: str) -> None:
    """Refuses what is no Python file.

    Args:
      config: "path/to/file.py", perhaps with ":variant" behind it; "" is let through.

    Raises:
      CipoError: nothing is there, or something else.
    """
    name = config.partition(":")[0]
    if name and not Path(name).exists():
        raise CipoError(f"--config={name}: there is no such file; configs/ has some to begin with")
    if name and (Path(name).suffix != ".py" or not Path(name).is_file()):
        raise CipoError(f"--config={name}: {_WANTED}")


def worded(error: Exception, config: str) -> str:
    """What went wrong while the flags were parsed and the file `config` was run: of its body, the
    line and the error; else the flags' own words."""
    name, _, variant = config.partition(":")
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, SyntaxError) and str(cause.filename).endswith(".py"):
            return f"--config={name}: {cause}"
        if isinstance(cause, CipoError) and cause.__context__ is None:
            return f"--config={config}: {cause}"
        if isinstance(cause, TypeError) and variant and "get_config() takes 0" in str(cause):
            return f"--config={config}: {name} has no variants; leave out ':{variant}'"
        if isinstance(cause, AttributeError) and "has no attribute 'get_config'" in str(cause):
            return f"--config={name}: {_WANTED}"
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(cause.__traceback__)
            if name and Path(frame.filename).resolve() == Path(name).resolve()
        ]
        if lines:
            text = cause.args[0] if isinstance(cause, KeyError) and cause.args else cause
            return f"--config={config}: line {lines[-1]}: {type(cause).__name__}: {text}"
        cause = cause.__context__
    override = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error))
    default = flatten(Config()).get(override[1]) if override else None
    if override and default is not None:
        return (
            f"config.{override[1]}: got {override[2]!r}, wanted {type(default).__name__}; the "
            f"default is {default!r}"
        )
    return f"command line: {error}"
