"""Which versions of the API are served: those of the SDK, of the recordings, and few others."""

from __future__ import annotations

from tests.testbed.azure_arm.errors import ArmError

__all__ = ["SERVED", "check"]

# By the beginning of what a call is about, the longest that fits.
SERVED = {
    "Microsoft.Resources": {"2020-06-01", "2021-04-01", "2022-09-01", "2022-12-01", "2025-04-01"},
    "Microsoft.Resources/providers": {"2016-02-01", "2020-06-01", "2021-04-01", "2025-04-01"},
    "Microsoft.Resources/subscriptions": {"2016-06-01", "2020-01-01", "2021-01-01", "2022-12-01"},
    "Microsoft.Authorization": {"2015-07-01", "2018-07-01", "2022-04-01", "2022-05-01-preview"},
    "Microsoft.Network": {"2020-04-01", "2020-06-01", "2026-03-01"},
    "Microsoft.Compute": {"2020-06-01", "2024-07-01", "2026-04-01"},
    "Microsoft.Compute/disks": {"2026-03-02"},
    "Microsoft.Compute/skus": {"2021-07-01"},
    "Microsoft.DevTestLab": {"2018-09-15"},
}


def check(kind: str, version: str | None) -> None:
    """Fail unless that version is served."""
    if not version:
        raise ArmError(
            400,
            "MissingApiVersionParameter",
            "The api-version query parameter (?api-version=) is required for all requests.",
        )
    if kind == "operations":
        return
    fits = [it for it in SERVED if kind.lower().startswith(it.lower())]
    served = sorted(SERVED[max(fits, key=len)])
    if version in served:
        return
    if kind.startswith("Microsoft.Resources"):
        raise ArmError(
            400,
            "InvalidApiVersionParameter",
            f"The api-version '{version}' is invalid. The supported versions are "
            f"'{','.join(served)}'.",
        )
    _, _, short = kind.partition("/")
    raise ArmError(
        400,
        "NoRegisteredProviderFound",
        f"No registered resource provider found for location 'westeurope' and API version "
        f"'{version}' for type '{short}'. The supported api-versions are '{', '.join(served)}'. "
        "The "
        "supported locations are 'westeurope'.",
    )
