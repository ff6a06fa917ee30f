"""What happens to jobs in the matrix: short lives that reach every transition and every RPC.

Each scenario is played at one site, whatever is killed meanwhile. Which points it reaches is not
written down: that is seen when it is played without kills.
"""

from tests.crash import matrix_jobs, matrix_places
from tests.crash.matrix_scenario import SCENARIOS, Scenario

__all__ = ["SCENARIOS", "Scenario", "matrix_jobs", "matrix_places"]
