"""Where the catalog's sizes and prices come from: Azure itself, and its list of retail prices."""

from __future__ import annotations

from pathlib import Path

from gate_kit import errors
from gates.azure_gate import prices, skus
from gates.azure_gate.cache import Cache
from gates.azure_gate.catalog import Catalog
from gates.azure_gate.config import Config
from gates.azure_gate.prices import Price, PricesError
from gates.azure_gate.sdk import AzureProblem, Sdk
from gates.azure_gate.skus import Sku

_LIST_S = 120.0
"""Either list has some megabytes."""


class AzureSource:
    """A subscription's sizes, and what everybody pays for them."""

    def __init__(self, config: Config, sdk: Sdk) -> None:
        self._config = config
        self._sdk = sdk

    async def skus(self, location: str) -> list[Sku]:
        """The sizes that the subscription may use there."""
        try:
            return await self._sdk.call(
                f"listing the sizes of machines in {location}",
                lambda: self.read(location),
                within_s=_LIST_S,
            )
        except AzureProblem as problem:
            raise problem.refusal from None

    async def prices(self, location: str) -> dict[str, Price]:
        """What they cost."""
        endpoints = self._config.endpoints
        try:
            return await prices.fetch(
                endpoints.prices, location, ca_file=endpoints.ca_file, within_s=_LIST_S
            )
        except PricesError as error:
            raise errors.site_unreachable(str(error)) from None

    async def read(self, location: str) -> list[Sku]:
        """One try of `skus`, which ends as the call does."""
        listed = self._sdk.compute.resource_skus.list(filter=f"location eq '{location}'")
        # One by one: as Azure's own objects a region's are tens of megabytes.
        found = [skus.read_one(item, location) async for item in listed]
        return skus.ordered(found)


def catalog_of(config: Config, sdk: Sdk) -> Catalog:
    """What the site of a configuration has to give."""
    manager = config.endpoints.resource_manager
    scope = f"{config.subscription_id} {manager} {config.endpoints.prices}".lower()
    folder = Path(config.state_dir).expanduser() / "cache"
    source = AzureSource(config, sdk)
    return Catalog(source, Cache(folder, scope), config.locations, config.vm_sizes)
