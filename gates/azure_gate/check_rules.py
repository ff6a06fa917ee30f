"""What is well and what is not, judged from what Azure said, and what mends it. Pure."""

from __future__ import annotations

import dataclasses
import datetime
import fnmatch
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gate_kit.verdicts import State, Verdict
from gates.azure_gate.skus import Sku

CHECKS = (
    *("certificate", "login", "subscription", "role", "provider"),
    *("sizes", "quota", "image", "prices", "egress"),
)
"""What is looked at, in this order."""

ACTIONS = (
    "Microsoft.Resources/subscriptions/resourceGroups/read",
    "Microsoft.Resources/subscriptions/resourceGroups/write",
    "Microsoft.Resources/subscriptions/resourceGroups/delete",
    "Microsoft.Compute/skus/read",
    "Microsoft.Compute/virtualMachines/read",
    "Microsoft.Compute/virtualMachines/write",
    "Microsoft.Compute/virtualMachines/delete",
    "Microsoft.Compute/virtualMachines/start/action",
    "Microsoft.Compute/disks/read",
    "Microsoft.Compute/disks/write",
    "Microsoft.Compute/disks/delete",
    "Microsoft.Network/networkSecurityGroups/read",
    "Microsoft.Network/networkSecurityGroups/write",
    "Microsoft.Network/networkSecurityGroups/delete",
    "Microsoft.Network/networkSecurityGroups/join/action",
    "Microsoft.Network/virtualNetworks/read",
    "Microsoft.Network/virtualNetworks/write",
    "Microsoft.Network/virtualNetworks/delete",
    "Microsoft.Network/virtualNetworks/subnets/join/action",
    "Microsoft.Network/networkInterfaces/read",
    "Microsoft.Network/networkInterfaces/write",
    "Microsoft.Network/networkInterfaces/delete",
    "Microsoft.Network/networkInterfaces/join/action",
    "Microsoft.Network/publicIPAddresses/read",
    "Microsoft.Network/publicIPAddresses/write",
    "Microsoft.Network/publicIPAddresses/delete",
    "Microsoft.Network/publicIPAddresses/join/action",
)
"""What the gate does in a subscription."""
EXPIRY_ACTIONS = (
    "Microsoft.DevTestLab/schedules/read",
    "Microsoft.DevTestLab/schedules/write",
    "Microsoft.DevTestLab/schedules/delete",
)
"""The same, where machines end by themselves."""

_SOON = datetime.timedelta(days=30)
_TOTAL = "cores"
"""The name of the quota of all cores in a location; the others have those of families."""
_SPOT = "lowPriorityCores"
_MACHINES = "virtualMachines"
# What Microsoft Entra says of a login: https://learn.microsoft.com/entra/identity-platform/reference-error-codes
_UNKNOWN_APP = ("AADSTS700016", "AADSTS7000112")
_ENDED = ("AADSTS1000502", "AADSTS7000222")
_UNKNOWN_TENANT = ("AADSTS90002", "AADSTS900021", "AADSTS900023")


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """A verdict, and what it is about."""

    subject: str
    """Such as a location or a provider; empty: the site."""
    verdict: Verdict


@dataclasses.dataclass(frozen=True, slots=True)
class Who:
    """Who asks, for the commands that mend something."""

    subscription_id: str
    app_id: str
    config: str
    """The configuration's file."""
    certificate_file: str
    """Its key and its certificate."""

    @property
    def scope(self) -> str:
        return f"/subscriptions/{self.subscription_id}"

    def az(self, *words: str) -> str:
        """A command of `az` on the subscription."""
        return shlex.join(["az", *words, "--subscription", self.subscription_id])

    def new_certificate(self) -> str:
        """The command that makes another certificate and tells what is to be done with it."""
        return shlex.join(["swm-azure-gate", "new-certificate", "--config", self.config])

    def known_certificate(self) -> str:
        """The command that has Azure know the certificate that we have."""
        words = ["az", "ad", "app", "credential", "reset", "--id", self.app_id]
        return f"{shlex.join(words)} --cert {public(self.certificate_file)} --append"


def certificate(ends: datetime.datetime, now: datetime.datetime, who: Who) -> Verdict:
    """Whether the login's certificate lasts."""
    value = f"until {ends:%Y-%m-%d}"
    if ends <= now:
        text = f"the certificate {who.certificate_file} ended at {ends:%Y-%m-%d}"
        return Verdict("certificate", State.FAILED, value, text, who.new_certificate())
    if ends - now < _SOON:
        days = (ends - now).days
        text = f"the certificate {who.certificate_file} ends in {days} days"
        return Verdict("certificate", State.WARNING, value, text, who.new_certificate())
    return Verdict("certificate", State.OK, value)


def login(why: str, who: Who) -> Verdict:
    """What is wrong with a login that was refused."""
    if any(code in why for code in _UNKNOWN_TENANT):
        mend = who.az("account", "show", "--query", "tenantId", "--output", "tsv")
        mend = f"tenant_id in {who.config}, to what this tells: {mend}"
    elif any(code in why for code in _UNKNOWN_APP):
        mend = create_principal(who.subscription_id, who.certificate_file)
    elif any(code in why for code in _ENDED):
        mend = who.new_certificate()
    else:
        mend = who.known_certificate()
    return Verdict("login", State.FAILED, "", why, mend)


def create_principal(subscription_id: str, certificate_file: str, name: str = "swm") -> str:
    """The command that makes the service principal with its role and our certificate."""
    words = [
        *("az", "ad", "sp", "create-for-rbac", "--name", name, "--role", "Contributor"),
        *("--scopes", f"/subscriptions/{subscription_id}"),
    ]
    return f"{shlex.join(words)} --cert {public(certificate_file)}"


def public(certificate_file: str) -> str:
    """The certificate alone, as a word of a command line: its key is nobody's business."""
    return f'"$(openssl x509 -in {shlex.quote(certificate_file)})"'


def away(check: str, url: str, why: str) -> Verdict:
    """Whoever would tell does not answer."""
    text = f"{url} can't be asked: {why}"
    return Verdict(check, State.FAILED, "", text, shlex.join(["curl", "--head", url]))


def subscription(told: Mapping[str, Any], who: Who) -> Verdict:
    """Whether machines can be made in it."""
    name, state = str(told.get("displayName", "")), str(told.get("state", ""))
    value = f"{name} ({state})"
    if state not in {"Enabled", "Warned", "PastDue"}:
        text = f"the subscription {name} is {state}: nothing can be made in it"
        return Verdict("subscription", State.FAILED, value, text, enable(who))
    if state != "Enabled":
        text = f"the subscription {name} is {state}; it will be disabled unless its bill is paid"
        return Verdict("subscription", State.WARNING, value, text, enable(who))
    return Verdict("subscription", State.OK, value)


def enable(who: Who) -> str:
    """The command that enables the subscription again."""
    return shlex.join(
        ["az", "account", "subscription", "enable", "--subscription-id", who.subscription_id]
    )


def no_subscription(why: str, who: Who) -> Verdict:
    """It is not there for us, or can't be seen."""
    return Verdict("subscription", State.FAILED, "", why, grant(who))


def grant(who: Who) -> str:
    """The command that gives us the role."""
    return shlex.join(
        [
            *("az", "role", "assignment", "create", "--assignee", who.app_id),
            *("--role", "Contributor", "--scope", who.scope),
        ]
    )


def role(permissions: Iterable[Mapping[str, Any]], needed: Sequence[str], who: Who) -> Verdict:
    """Whether all that the gate does is allowed.

    Args:
        permissions: As Microsoft.Authorization/permissions lists them: each with `actions` less
            `notActions`, which together count.
        needed: The actions that are needed.
        who: Who asks.
    """
    given = list(permissions)
    lacking = [action for action in needed if not any(_allows(each, action) for each in given)]
    if not lacking:
        return Verdict("role", State.OK)
    more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
    text = f"the service principal may not {', '.join(lacking[:3])}{more}"
    return Verdict("role", State.FAILED, "", text, grant(who))


def _allows(permission: Mapping[str, Any], action: str) -> bool:
    def matches(patterns: Any) -> bool:
        return any(
            fnmatch.fnmatchcase(action.casefold(), str(pattern).casefold())
            for pattern in patterns or ()
        )

    return matches(permission.get("actions")) and not matches(permission.get("notActions"))


def provider(namespace: str, state: str, who: Who) -> Verdict:
    """Whether the subscription may use a provider at all."""
    if state == "Registered":
        return Verdict("provider", State.OK)
    mend = who.az("provider", "register", "--namespace", namespace, "--wait")
    text = f"{namespace} is {state or 'not registered'} in the subscription"
    return Verdict("provider", State.FAILED, state, text, mend)


def sizes(offered: Sequence[Sku], location: str, patterns: Sequence[str], who: Who) -> Verdict:
    """Whether there is anything to choose from."""
    if offered:
        return Verdict("sizes", State.OK, str(len(offered)))
    what = f"none of {', '.join(patterns)}" if patterns else "no size of machines"
    text = f"{what} is to be had in {location} with this subscription"
    mend = who.az(
        *("vm", "list-skus", "--location", location, "--resource-type", "virtualMachines"),
        *("--all", "--output", "table"),
    )
    return Verdict("sizes", State.FAILED, "0", text, mend)


def quota(
    usages: Iterable[Mapping[str, Any]], offered: Sequence[Sku], location: str, who: Who
) -> Verdict:
    """Whether at least one machine of what is offered fits into what is left.

    Args:
        usages: As Microsoft.Compute/usages lists them.
        offered: The sizes.
        location: Where.
        who: Who asks.
    """
    left = {
        str((each.get("name") or {}).get("value", "")).casefold(): _left(each) for each in usages
    }
    total = left.get(_TOTAL)
    if not offered or total is None:
        return Verdict("quota", State.UNKNOWN)
    # The smallest of each family: what does not even fit once is of no use.
    least: dict[str, int] = {}
    for sku in offered:
        least[sku.family] = min(sku.cpus, least.get(sku.family, sku.cpus))
    smallest = min(least.values())
    value = f"{total} cores left"
    if left.get(_MACHINES.casefold(), 1) < 1:
        text = f"no further machine may be made in {location}"
        return Verdict("quota", State.FAILED, value, text, _more(_MACHINES, 100, location, who))
    if total < smallest:
        text = f"{total} cores are left in {location}, and the smallest size needs {smallest}"
        return Verdict("quota", State.FAILED, value, text, _more(_TOTAL, smallest, location, who))
    full = {
        family: cpus for family, cpus in least.items() if left.get(family.casefold(), total) < cpus
    }
    if len(full) < len(least):
        return Verdict("quota", State.OK, f"{value}, {len(least) - len(full)} families to be had")
    has_spot = left.get(_SPOT.casefold(), 0) >= smallest and any(sku.spot for sku in offered)
    state = State.WARNING if has_spot else State.FAILED
    family = min(full, key=lambda name: full[name])
    text = f"no size that is offered fits into what is left of its family's quota in {location}"
    if has_spot:
        text += "; only spot machines can be made"
    return Verdict("quota", state, value, text, _more(family, full[family], location, who))


def _left(usage: Mapping[str, Any]) -> int:
    limit, used = usage.get("limit"), usage.get("currentValue")
    return int(limit) - int(used) if limit is not None and used is not None else 0


def _more(name: str, least: int, location: str, who: Who) -> str:
    """The command that asks for a higher quota."""
    scope = f"{who.scope}/providers/Microsoft.Compute/locations/{location}"
    return shlex.join(
        [
            *("az", "quota", "update", "--resource-name", name, "--scope", scope),
            *("--limit-object", f"value={max(least, 10)}", "--resource-type", "dedicated"),
        ]
    )


def no_image(name: str, location: str, why: str, who: Who) -> Verdict:
    """It is not there."""
    if name.startswith("/"):
        mend = shlex.join(["az", "resource", "show", "--ids", name])
        return Verdict("image", State.FAILED, "", f"it is not there: {why}", mend)
    publisher, offer, _, _ = name.split(":")
    mend = who.az(
        *("vm", "image", "list", "--location", location, "--publisher", publisher),
        *("--offer", offer, "--all", "--output", "table"),
    )
    return Verdict("image", State.FAILED, "", f"it is not offered there: {why}", mend)


def image(
    name: str,
    version: str,
    told: Mapping[str, Any],
    accepted: bool | None,
    offered: Sequence[Sku],
    who: Who,
) -> Verdict:
    """Whether machines that are offered can boot it.

    Args:
        name: As configured.
        version: The one that would be booted.
        told: Its properties.
        accepted: Whether its terms are; None: it has none.
        offered: The sizes.
        who: Who asks.
    """
    if accepted is False:
        mend = who.az("vm", "image", "terms", "accept", "--urn", name)
        text = "its terms have not been accepted for the subscription"
        return Verdict("image", State.FAILED, version, text, mend)
    architecture = {"x64": "x86_64", "Arm64": "aarch64"}.get(str(told.get("architecture")), "")
    generation = 2 if told.get("hyperVGeneration") == "V2" else 1
    fitting = [
        sku
        for sku in offered
        if architecture in {"", sku.architecture} and generation in sku.generations
    ]
    if offered and not fitting:
        what = f"generation {generation}" + (f", {architecture}" if architecture else "")
        text = f"it is for machines of {what}, and no size that is offered is such a one"
        return Verdict("image", State.FAILED, version, text, f"image, or vm_sizes, in {who.config}")
    return Verdict("image", State.OK, version)


def prices(known: int, offered: int, why: str, url: str) -> Verdict:
    """Whether costs can be told. Jobs run without, unless they have a limit of what they cost."""
    value = f"{known} of {offered} sizes"
    if not offered:
        text = "no size is offered: there is none whose price could be looked up"
        return Verdict("prices", State.UNKNOWN, "", text)
    if why:
        text = f"prices are not known: {why}"
        return Verdict("prices", State.WARNING, "", text, shlex.join(["curl", "--fail", url]))
    if not known:
        text = "the list of prices has none of the sizes that are offered"
        return Verdict("prices", State.WARNING, value, text, shlex.join(["curl", "--fail", url]))
    return Verdict("prices", State.OK, value)


def no_egress(why: str, who: Who) -> Verdict:
    """It is not known where we come from: nobody else is let in."""
    mend = f'inbound_from = ["ADDRESS"] in {who.config}'
    return Verdict("egress", State.FAILED, "", why, mend)
