"""A look at a site of Azure: can jobs run there, and if not, which command of `az` mends it.

It makes nothing and changes nothing. What does not depend on each other is asked for side by side,
each with a deadline.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from gate_kit import Refusal, verdicts
from gate_kit.command_line import CheckOptions
from gate_kit.verdicts import State, Verdict
from gates.azure_gate import check_rules as rules
from gates.azure_gate import config as configuration
from gates.azure_gate import prices, skus
from gates.azure_gate.check_rules import Seen, Who
from gates.azure_gate.config import Config
from gates.azure_gate.egress import Egress
from gates.azure_gate.errors import Kind
from gates.azure_gate.prices import Price
from gates.azure_gate.sdk import AzureProblem, Sdk
from gates.azure_gate.skus import Sku
from gates.azure_gate.sources import AzureSource

T = TypeVar("T")

_CALL_S = 10.0
"""What takes longer does not answer."""
_LIST_S = 30.0
"""The same for lists that are long."""
_INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

_SUBSCRIPTIONS = "2022-12-01"
_PERMISSIONS = "2022-04-01"
_PROVIDERS = "2021-04-01"
_COMPUTE = "2024-07-01"
_TERMS = "2021-01-01"
"""Versions of the APIs that are asked by their paths."""


def run(options: CheckOptions) -> int:
    """Look at the site, print what was found, and return the exit code: 1 if something failed.

    Raises:
        rpc_kit.config_file.ConfigError: The configuration can't be used.
    """
    config = configuration.load(options.config)
    # What its clients would log of a refusal is told as what was found.
    theirs = logging.getLogger("azure")
    theirs.addHandler(logging.NullHandler())
    theirs.propagate = False
    try:
        all_seen = asyncio.run(look(config, options.config))
    except KeyboardInterrupt:
        return _INTERRUPTED
    if options.as_json:
        for seen in all_seen:
            line = verdicts.json_line(seen.verdict, subject=seen.subject)
            sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    else:
        _show(all_seen)
    return 1 if any(seen.verdict.state is State.FAILED for seen in all_seen) else 0


async def look(config: Config, path: Path) -> list[Seen]:
    """All that was found, in the order of `CHECKS`.

    Args:
        config: The site.
        path: Its file, for what is told.
    """
    who = Who(
        config.subscription_id,
        config.app_id,
        str(path.absolute()),
        str(Path(config.certificate_file).expanduser()),
    )
    sdk = Sdk(config)
    try:
        found = await _Look(config, sdk, who).all()
    finally:
        await sdk.close()
    return sorted(found, key=lambda seen: rules.CHECKS.index(seen.verdict.check))


class _Look:
    """The parts of a look, each of which ends in verdicts."""

    def __init__(self, config: Config, sdk: Sdk, who: Who) -> None:
        self._config = config
        self._sdk = sdk
        self._who = who
        self._source = AzureSource(config, sdk)

    async def all(self) -> list[Seen]:
        certificate = Seen("", self._certificate())
        egress = asyncio.create_task(self._egress())
        own = await self._subscription()
        found = [certificate, *own]
        if any(each.verdict.state is State.FAILED for each in own):
            found += [Seen("", Verdict(check, State.UNKNOWN)) for check in self._rest(own)]
        else:
            parts: list[Awaitable[list[Seen]]] = [self._role(), self._providers()]
            parts += [self._location(location) for location in self._config.locations]
            for part in await asyncio.gather(*parts):
                found += part
        found.append(Seen("", await egress))
        return found

    @staticmethod
    def _rest(own: Sequence[Seen]) -> list[str]:
        looked_at = {"certificate", "egress", *(each.verdict.check for each in own)}
        return [check for check in rules.CHECKS if check not in looked_at]

    def _certificate(self) -> Verdict:
        # It takes a while to load, and a gate that serves needs it not.
        from cryptography import x509

        now = datetime.datetime.now(datetime.UTC)
        try:
            pem = Path(self._who.certificate_file).read_bytes()
            ends = x509.load_pem_x509_certificates(pem)[0].not_valid_after_utc
        except (OSError, ValueError) as error:
            text = f"{self._who.certificate_file} holds no certificate: {error}"
            mend = self._who.new_certificate()
            return Verdict("certificate", State.FAILED, "", text, mend)
        return rules.certificate(ends, now, self._who)

    async def _subscription(self) -> list[Seen]:
        """Of the login too: this is the first that is asked with it."""
        endpoints = self._config.endpoints
        try:
            await self._sdk.log_in(within_s=_CALL_S)
        except AzureProblem as problem:
            if problem.kind is Kind.RETRY:
                away = rules.away("login", endpoints.authority, problem.problem.said)
                return [Seen("", away)]
            return [Seen("", rules.login(problem.problem.said, self._who))]
        login = Seen("", Verdict("login", State.OK, f"application {self._config.app_id}"))
        try:
            told = await self._get("looking at the subscription", self._who.scope, _SUBSCRIPTIONS)
        except AzureProblem as problem:
            said = problem.problem.said
            if problem.kind is Kind.CREDENTIALS:
                return [Seen("", rules.login(said, self._who))]
            if problem.kind is Kind.RETRY:
                away = rules.away("subscription", endpoints.resource_manager, said)
                return [login, Seen("", away)]
            return [login, Seen("", rules.no_subscription(said, self._who))]
        return [login, Seen("", rules.subscription(told, self._who))]

    async def _role(self) -> list[Seen]:
        needed = rules.ACTIONS + (rules.EXPIRY_ACTIONS if self._config.expiry else ())
        path = f"{self._who.scope}/providers/Microsoft.Authorization/permissions"

        async def judge() -> Verdict:
            told = await self._get("looking at the role", path, _PERMISSIONS)
            return rules.role(told.get("value") or (), needed, self._who)

        return [Seen("", await self._judged("role", judge, rules.grant(self._who)))]

    async def _providers(self) -> list[Seen]:
        namespaces = ["Microsoft.Compute", "Microsoft.Network"]
        if self._config.expiry:
            namespaces.append("Microsoft.DevTestLab")
        if self._config.storage:
            namespaces.append("Microsoft.Storage")

        async def one(namespace: str) -> Seen:
            async def judge() -> Verdict:
                path = f"{self._who.scope}/providers/{namespace}"
                told = await self._get(f"looking at {namespace}", path, _PROVIDERS)
                return rules.provider(namespace, str(told.get("registrationState", "")), self._who)

            return Seen(namespace, await self._judged("provider", judge, rules.grant(self._who)))

        return list(await asyncio.gather(*(one(namespace) for namespace in namespaces)))

    async def _location(self, location: str) -> list[Seen]:
        try:
            known = await self._sdk.call(
                "listing sizes", lambda: self._source.read(location), within_s=_LIST_S
            )
        except AzureProblem as problem:
            text = f"the sizes of machines there can't be listed: {problem.problem.said}"
            mend = rules.grant(self._who)
            return [
                Seen(location, Verdict("sizes", State.FAILED, "", text, mend)),
                *(
                    Seen(location, Verdict(check, State.UNKNOWN))
                    for check in ("quota", "image", "prices")
                ),
            ]
        patterns = self._config.vm_sizes
        offered = [sku for sku in known if skus.is_offered(sku.name, patterns)]
        names = dict.fromkeys((self._config.image, *self._config.images))
        (quota, priced), images = await asyncio.gather(
            asyncio.gather(self._quota(location, offered), self._prices(location, offered)),
            asyncio.gather(*(self._image(name, location, offered) for name in names)),
        )
        sizes = rules.sizes(offered, location, patterns, self._who)
        return [Seen(location, sizes), Seen(location, quota), *images, Seen(location, priced)]

    async def _quota(self, location: str, offered: Sequence[Sku]) -> Verdict:
        path = f"{self._who.scope}/providers/Microsoft.Compute/locations/{location}/usages"

        async def judge() -> Verdict:
            told = await self._get("looking at the quota", path, _COMPUTE)
            return rules.quota(told.get("value") or (), offered, location, self._who)

        return await self._judged("quota", judge, rules.grant(self._who))

    async def _image(self, name: str, location: str, offered: Sequence[Sku]) -> Seen:
        subject = f"{location} {name}"
        try:
            if name.startswith("/"):
                return Seen(subject, await self._own_image(name, offered))
            version, told = await self._published(name, location)
            accepted = await self._accepted(told.get("plan"))
        except AzureProblem as problem:
            return Seen(subject, rules.no_image(name, location, problem.problem.said, self._who))
        if not version:
            why = "it has no version"
            return Seen(subject, rules.no_image(name, location, why, self._who))
        return Seen(subject, rules.image(name, version, told, accepted, offered, self._who))

    async def _own_image(self, name: str, offered: Sequence[Sku]) -> Verdict:
        if not name.casefold().startswith("/subscriptions/"):
            # Of a community: what can be asked of it depends on how it is shared.
            return Verdict("image", State.UNKNOWN)
        told = await self._get("looking at the image", name, _COMPUTE)
        return rules.image(name, "", told.get("properties") or {}, None, offered, self._who)

    async def _published(self, name: str, location: str) -> tuple[str, Mapping[str, Any]]:
        """The version of an image that would be booted, and what it is; none: empty."""
        publisher, offer, sku, version = name.split(":")
        images = self._sdk.compute.virtual_machine_images
        if version == "latest":
            newest = await self._sdk.call(
                "looking for the newest image",
                lambda: images.list(location, publisher, offer, sku, top=1, orderby="name desc"),
                within_s=_CALL_S,
            )
            if not newest:
                return "", {}
            version = str(newest[0].name)
        told = await self._sdk.call(
            "looking at the image",
            lambda: images.get(location, publisher, offer, sku, version),
            within_s=_CALL_S,
        )
        return version, _properties(told)

    async def _accepted(self, plan: Mapping[str, Any] | None) -> bool | None:
        """Whether the terms of an image have been accepted; None: it has none."""
        if not plan:
            return None
        path = (
            f"{self._who.scope}/providers/Microsoft.MarketplaceOrdering/offerTypes/virtualmachine/"
            f"publishers/{plan.get('publisher')}/offers/{plan.get('product')}/plans/"
            f"{plan.get('name')}/agreements/current"
        )
        told = await self._get("looking at the terms of the image", path, _TERMS)
        return bool((told.get("properties") or {}).get("accepted"))

    async def _prices(self, location: str, offered: Sequence[Sku]) -> Verdict:
        url, why = self._config.endpoints.prices, ""
        known: dict[str, Price] = {}
        try:
            known = await prices.fetch(
                url, location, ca_file=self._config.endpoints.ca_file, within_s=_LIST_S
            )
        except prices.PricesError as error:
            why = str(error)
        priced = [sku for sku in offered if sku.name.casefold() in known]
        return rules.prices(len(priced), len(offered), why, url)

    async def _egress(self) -> Verdict:
        try:
            sources = await Egress(self._config, self._sdk).sources()
        except Refusal as refusal:
            return rules.no_egress(refusal.message, self._who)
        return Verdict("egress", State.OK, ", ".join(sources))

    async def _judged(
        self, check: str, judge: Callable[[], Awaitable[Verdict]], mend: str
    ) -> Verdict:
        """A verdict, also where Azure does not tell what it is about."""
        try:
            return await judge()
        except AzureProblem as problem:
            said = problem.problem.said
            if problem.kind is Kind.PERMISSION:
                return Verdict(check, State.FAILED, "", said, mend)
            return Verdict(check, State.UNKNOWN, "", said)

    async def _get(self, doing: str, path: str, version: str) -> Mapping[str, Any]:
        """What Azure has at a path."""
        resources = self._sdk.resources.resources
        # Of this kind are answers of any shape: they are read by the names that JSON has.
        told: Mapping[str, Any] = await self._sdk.call(
            doing, lambda: resources.get_by_id(path, api_version=version), within_s=_CALL_S
        )
        return told


def _properties(told: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = told.get("properties") or {}
    return found


def _show(all_seen: Sequence[Seen]) -> None:
    """A line for each, then what mends what is not well."""
    from rich.table import Table
    from rich.text import Text

    console = verdicts.console()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("CHECK", "OF", "STATE", "FOUND"):
        table.add_column(title, no_wrap=title != "OF", overflow="fold")
    for seen in all_seen:
        verdict = seen.verdict
        word = "-" if verdict.state is State.UNKNOWN else verdict.state.value
        table.add_row(
            Text(verdict.check),
            Text(seen.subject or "-"),
            Text(word, verdicts.STYLES[verdict.state]),
            Text(verdicts.one_line(verdict.value)),
        )
    console.print(table)
    noted = [each for each in all_seen if each.verdict.state in {State.FAILED, State.WARNING}]
    unknown = [each for each in all_seen if each.verdict.state is State.UNKNOWN]
    told = sorted(noted, key=lambda each: each.verdict.state is not State.FAILED)
    told += [each for each in unknown if each.verdict.text]
    if told:
        console.print()
    for seen in told:
        of = f" of {seen.subject}" if seen.subject else ""
        verdicts.show_noted(console, seen.verdict, f"{seen.verdict.check}{of}")
    failed = sum(each.verdict.state is State.FAILED for each in noted)
    console.print()
    what = f"{len(all_seen)} things"
    console.print(Text(verdicts.summary(what, failed, len(noted) - failed)), soft_wrap=True)
