"""A site in the stand-in, as its configuration says it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.testbed.azure_arm import AzureArm

DEBIAN = "Debian:debian-12:12-gen2:latest"


def site_file(arm: AzureArm, folder: Path, **settings: Any) -> Path:
    """The configuration of a gate of the stand-in's subscription.

    Args:
        arm: The stand-in.
        folder: Where it is written; the gate's state is below.
        settings: Of the file. `endpoints` changes some of them.
    """
    ready = arm.ready
    values: dict[str, Any] = {
        "subscription_id": ready.subscription,
        "tenant_id": ready.tenant,
        "app_id": ready.app,
        "certificate_file": ready.principal,
        "state_dir": str(folder / "state"),
        "locations": ["westeurope"],
        "image": DEBIAN,
    }
    endpoints = {
        "resource_manager": ready.resource_manager,
        "authority": ready.authority,
        "prices": ready.prices,
        "egress": ready.egress,
        "ca_file": ready.ca_file,
        **settings.pop("endpoints", {}),
    }
    tables = {"endpoints": endpoints}
    for name, storage in settings.pop("storage", {}).items():
        tables[f"storage.{name}"] = storage
    lines = [f"{name} = {json.dumps(value)}" for name, value in {**values, **settings}.items()]
    for title, table in tables.items():
        lines.append(f"[{title}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    path = folder / "azure.toml"
    path.write_text("\n".join(lines) + "\n")
    return path
