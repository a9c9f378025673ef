"""Where things are, for tests in any folder."""

from pathlib import Path

TESTS = Path(__file__).parent
FIXTURES = TESTS / "fixtures"
ROOT = TESTS.parent
REAL_MODEL = ROOT / "checkpoints" / "SmolLM2-135M-Instruct"  # where the Makefile fetches it
NO_REAL_MODEL = f"no model in {REAL_MODEL.relative_to(ROOT)}: `make test-all` fetches it"
