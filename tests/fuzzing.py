"""How hard the fuzz tests search: `PFNKIT_FUZZ=500 pytest tests/estimators/test_fuzz_tables.py` looks for new examples."""

import os

from hypothesis import HealthCheck, Phase, settings

MANY = os.environ.get("PFNKIT_FUZZ")


def examples(n: int) -> settings:
    """So many examples in CI, each time the same; what fails is reported as it is, as making it smaller takes minutes."""
    return settings(max_examples=int(MANY or n), deadline=None, derandomize=MANY is None, database=None,
                    phases=[Phase.explicit, Phase.generate],
                    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
