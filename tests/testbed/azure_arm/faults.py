"""What goes wrong, told beforehand: by method, kind and how many went before.

arm.faults.add(catalogue.error("SkuNotAvailable", "PUT", VM))            the next PUT of a VM
arm.faults.add(catalogue.failed_operation("AllocationFailed", "PUT", VM))  accepted, then failed
arm.faults.add(Fault("DELETE", GROUP, does="lose"))                        done, but never told
arm.faults.add(Fault(does="error", status=429, code="TooManyRequests", times=0, retry_after=2))
"""

from __future__ import annotations

import fnmatch
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tests.testbed.azure_arm.errors import ArmError

__all__ = [
    "DISK",
    "EGRESS",
    "GROUP",
    "MESSAGES",
    "NIC",
    "NSG",
    "OPERATION",
    "PRICES",
    "PUBLIC_IP",
    "SCHEDULE",
    "TOKEN",
    "VM",
    "VNET",
    "Fault",
    "Faults",
    "GuestFault",
    "error",
    "failed_operation",
]

GROUP = "Microsoft.Resources/resourceGroups"
NSG = "Microsoft.Network/networkSecurityGroups"
VNET = "Microsoft.Network/virtualNetworks"
NIC = "Microsoft.Network/networkInterfaces"
PUBLIC_IP = "Microsoft.Network/publicIPAddresses"
VM = "Microsoft.Compute/virtualMachines"
DISK = "Microsoft.Compute/disks"
SCHEDULE = "Microsoft.DevTestLab/schedules"
OPERATION = "operations"
TOKEN = "token"
PRICES = "prices"
EGRESS = "egress"

_OF_NO_RESOURCE = {OPERATION, TOKEN, PRICES, EGRESS}

Does = Literal["error", "operation", "lose", "cut", "slow"]


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong with a call.

    Attributes:
        method: Of HTTP; "*" is any.
        kind: What the call is about: one of the names above, for a call below a VM with what is
            called, as "Microsoft.Compute/virtualMachines/start"; "*" is any of a resource, and
            within a pattern any text.
        name: A pattern of the resource's name.
        nth: Which of the calls that match is the first that it befalls.
        times: How many calls it befalls; 0 is all from there on.
        does: "error" refuses without effect; "operation" accepts the call and lets its operation
            fail; "lose" does the work and cuts the connection instead of answering; "cut" does so
            before any work; "slow" waits first. Mind that aiohttp sends a GET, PUT or DELETE once
            more by itself if a connection that it kept is cut: to be seen, that has to befall both.
        status: Of "error".
        code: Of "error" and "operation".
        message: Of "error" and "operation".
        details: Of "error" and "operation": what `error.details` holds.
        retry_after: Seconds that "error" says to wait.
        delay_s: Of "slow", in real seconds.
    """

    method: str = "*"
    kind: str = "*"
    name: str = "*"
    nth: int = 1
    times: int = 1
    does: Does = "error"
    status: int = 500
    code: str = "InternalServerError"
    message: str = "Encountered internal server error."
    details: tuple[dict[str, Any], ...] = ()
    retry_after: int | None = None
    delay_s: float = 0.0

    def matches(self, method: str, kind: str, name: str) -> bool:
        """Whether a call is one of those that it may befall."""
        if self.kind == "*" and kind in _OF_NO_RESOURCE:
            return False
        return (
            self.method in {"*", method}
            and fnmatch.fnmatchcase(kind.lower(), self.kind.lower())
            and fnmatch.fnmatchcase(name.lower(), self.name.lower())
        )

    def raised(self) -> ArmError:
        """The error that is answered."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return ArmError(self.status, self.code, self.message, details=self.details, headers=headers)


@dataclass(frozen=True)
class GuestFault:
    """Something that goes wrong within a VM.

    Attributes:
        does: "never boots"; "late", its sshd comes `seconds` after the guest has said that it is
            up; "cloud-init fails", the commands of user-data end before the first of them, with an
            error; "no docker", no engine is there, and none can be installed. The last two are of
            VMs that are containers alone.
        name: A pattern of the VM's name.
        times: How many VMs it befalls; 0 is all from now on.
        seconds: Of "late".
    """

    does: Literal["never boots", "late", "cloud-init fails", "no docker"]
    name: str = "*"
    times: int = 1
    seconds: float = 0.0


@dataclass
class _Armed:
    fault: Fault
    seen: int = 0
    hits: int = 0


@dataclass
class _ArmedGuest:
    fault: GuestFault
    hits: int = 0


@dataclass
class Faults:
    """All that shall go wrong."""

    _armed: dict[int, _Armed] = field(default_factory=dict)
    _guests: dict[int, _ArmedGuest] = field(default_factory=dict)
    _last: int = 0

    def add(self, fault: Fault) -> int:
        """Have it happen; the number by which it can be removed."""
        self._last += 1
        self._armed[self._last] = _Armed(fault)
        return self._last

    def add_guest(self, fault: GuestFault) -> int:
        """Have it happen to VMs that are made from now on; its number."""
        self._last += 1
        self._guests[self._last] = _ArmedGuest(fault)
        return self._last

    def remove(self, number: int) -> None:
        """Have it happen no more."""
        self._armed.pop(number, None)
        self._guests.pop(number, None)

    def clear(self) -> None:
        """Have nothing happen any more."""
        self._armed.clear()
        self._guests.clear()

    def hits(self) -> dict[int, int]:
        """How many calls or VMs each has befallen."""
        calls = {number: it.hits for number, it in self._armed.items()}
        return calls | {number: it.hits for number, it in self._guests.items()}

    def of_call(self, method: str, kind: str, name: str) -> list[Fault]:
        """What befalls this call. It counts as one."""
        found = []
        for it in self._armed.values():
            fault = it.fault
            if not fault.matches(method, kind, name):
                continue
            it.seen += 1
            if it.seen >= fault.nth and (fault.times == 0 or it.hits < fault.times):
                it.hits += 1
                found.append(fault)
        return found

    def of_guest(self, name: str) -> list[GuestFault]:
        """What befalls a VM that is made now."""
        found = []
        for it in self._guests.values():
            fault = it.fault
            free = fault.times == 0 or it.hits < fault.times
            if free and fnmatch.fnmatchcase(name.lower(), fault.name.lower()):
                it.hits += 1
                found.append(fault)
        return found


def to_json(fault: Fault | GuestFault) -> dict[str, Any]:
    return asdict(fault)


_QUOTA = (
    "Operation could not be completed as it results in exceeding approved {what} quota. "
    "Additional details - Deployment Model: Resource Manager, Location: westeurope, Current Limit: "
    "10, Current Usage: 8, Additional Required: 4, (Minimum) New Limit Required: 12. Setup Alerts "
    "when Quota reaches threshold. Learn more at https://aka.ms/quotamonitoringalerting . Submit a "
    "request for Quota increase at https://aka.ms/ProdportalCRP/ by specifying parameters listed "
    "in "
    "the 'Details' section for deployment to succeed."
)
_ALLOCATION = (
    "Allocation failed. Please try reducing the VM size or number of VMs, retry later, or try "
    "deploying to a different Availability Set or different Azure location."
)
_ZONAL = (
    "Allocation failed. We do not have sufficient capacity for the requested VM size in this zone. "
    "Read more about improving likelihood of allocation success at http://aka.ms/allocation-guidance"
)
_OVERCONSTRAINED = (
    "Allocation failed. VM(s) with the following constraints cannot be allocated, because the "
    "condition is too restrictive. Please remove some constraints and try again."
)
_RESERVED = (
    "Nic(s) in request is reserved for another Virtual Machine for 180 seconds. Please provide "
    "another nic(s) or retry after 180 seconds. Reserved VM: /subscriptions/..."
)

# By the name that a test gives it: the status, the code, and the message of Azure.
MESSAGES: dict[str, tuple[int, str, str]] = {
    "SkuNotAvailable": (
        409,
        "SkuNotAvailable",
        (
            "The requested VM size for resource 'Following SKUs have failed for Capacity "
            "Restrictions: "
            "Standard_F2' is currently not available in location 'westeurope'. Please try "
            "another size "
            "or deploy to a different location or different zone. See "
            "https://aka.ms/azureskunotavailable for details."
        ),
    ),
    "AllocationFailed": (409, "AllocationFailed", _ALLOCATION),
    "ZonalAllocationFailed": (409, "ZonalAllocationFailed", _ZONAL),
    "OverconstrainedAllocationRequest": (
        409,
        "OverconstrainedAllocationRequest",
        _OVERCONSTRAINED,
    ),
    "OverconstrainedZonalAllocationRequest": (
        409,
        "OverconstrainedZonalAllocationRequest",
        _OVERCONSTRAINED,
    ),
    "CapacityReservationCapacityExceeded": (
        409,
        "CapacityReservationCapacityExceeded",
        "The capacity of the capacity reservation is exceeded.",
    ),
    "QuotaExceeded": (
        409,
        "QuotaExceeded",
        _QUOTA.format(what="standardDSv3Family Cores"),
    ),
    "FamilyQuota": (
        409,
        "OperationNotAllowed",
        _QUOTA.format(what="standardDSv3Family Cores").replace(
            "standardDSv3Family", "standardDSv3 Family"
        ),
    ),
    "RegionalQuota": (409, "OperationNotAllowed", _QUOTA.format(what="Total Regional Cores")),
    "SpotQuota": (409, "OperationNotAllowed", _QUOTA.format(what="LowPriorityCores")),
    "OperationNotAllowed": (
        409,
        "OperationNotAllowed",
        "Operation is not allowed on this VM since the Subscription of this VM is not eligible.",
    ),
    "NicInUse": (
        400,
        "NicInUse",
        (
            "Network Interface is used by existing resource. In order to delete the network "
            "interface, "
            "it must be dissociated from the resource."
        ),
    ),
    "InUseSubnetCannotBeDeleted": (
        400,
        "InUseSubnetCannotBeDeleted",
        "Subnet nodes is in use and cannot be deleted.",
    ),
    "InUseNetworkSecurityGroupCannotBeDeleted": (
        400,
        "InUseNetworkSecurityGroupCannotBeDeleted",
        "Network security group cannot be deleted because it is in use.",
    ),
    "NicReservedForAnotherVm": (400, "NicReservedForAnotherVm", _RESERVED),
    "MissingSubscriptionRegistration": (
        409,
        "MissingSubscriptionRegistration",
        (
            "The subscription is not registered to use namespace 'Microsoft.Compute'. See "
            "https://aka.ms/rps-not-found for how to register subscriptions."
        ),
    ),
    "ReadOnlyDisabledSubscription": (
        409,
        "ReadOnlyDisabledSubscription",
        (
            "The subscription is disabled and therefore marked as read only. You cannot perform "
            "any "
            "write actions on this subscription until it is re-enabled."
        ),
    ),
    "SpotPriceGreaterThanProvidedMaxPrice": (
        409,
        "SpotPriceGreaterThanProvidedMaxPrice",
        (
            "Unable to perform operation since the provided max price is lower than the current "
            "spot "
            "price of the VM size."
        ),
    ),
    "TooManyRequests": (
        429,
        "TooManyRequests",
        (
            "The server rejected the request because too many requests have been received for this "
            "subscription."
        ),
    ),
    "InternalServerError": (500, "InternalServerError", "Encountered internal server error."),
    "ServiceUnavailable": (503, "ServiceUnavailable", "The service is unavailable, try again."),
    "RetryableError": (503, "RetryableError", "A retryable error occurred."),
    "ResourceGroupBeingDeleted": (
        409,
        "ResourceGroupBeingDeleted",
        "The resource group is in deprovisioning state and cannot perform this operation.",
    ),
    "ResourceGroupNotFound": (404, "ResourceGroupNotFound", "Resource group could not be found."),
    "ResourceNotFound": (404, "ResourceNotFound", "The Resource was not found."),
    "InvalidParameter": (400, "InvalidParameter", "The value of a parameter is invalid."),
    "AzureSpotIsNotSupportedForThisVMSize": (
        400,
        "AzureSpotIsNotSupportedForThisVMSize",
        "Azure Spot is not supported for this VM size. Please use a different VM size.",
    ),
    "MaxPriceValueInvalid": (
        400,
        "MaxPriceValueInvalid",
        "Max price value is invalid. It may only be -1 or greater than zero.",
    ),
    "AuthorizationFailed": (
        403,
        "AuthorizationFailed",
        (
            "The client '00000000-0000-0000-0000-0000000000aa' with object id "
            "'00000000-0000-0000-0000-0000000000aa' does not have authorization to perform action "
            "'Microsoft.Compute/virtualMachines/write' over scope '/subscriptions/...' or the "
            "scope is "
            "invalid. If access was recently granted, please refresh your credentials."
        ),
    ),
    "Conflict": (409, "Conflict", "The request conflicts with another one."),
    "ResourceDeploymentFailure": (
        409,
        "ResourceDeploymentFailure",
        "The resource operation completed with terminal provisioning state 'Failed'.",
    ),
    "DeploymentFailed": (
        409,
        "DeploymentFailed",
        (
            "At least one resource deployment operation failed. Please list deployment "
            "operations for "
            "details. Please see https://aka.ms/DeployOperations for usage details."
        ),
    ),
}
_CONTAINERS = {"Conflict", "ResourceDeploymentFailure", "DeploymentFailed"}


def error(
    which: str,
    method: str = "*",
    kind: str = "*",
    *,
    name: str = "*",
    nth: int = 1,
    times: int = 1,
    does: Does = "error",
    inner: str = "AllocationFailed",
    retry_after: int | None = None,
) -> Fault:
    """A fault with an error of Azure's own words.

    Args:
        which: A name in MESSAGES.
        method: As of Fault.
        kind: As of Fault.
        name: As of Fault.
        nth: As of Fault.
        times: As of Fault.
        does: "error" or "operation".
        inner: For errors that tell the true one in their details: which one. It stands there as
            Azure writes it, a JSON text within a JSON text.
        retry_after: As of Fault; some errors have it anyway.
    """
    status, code, message = MESSAGES[which]
    details: tuple[dict[str, Any], ...] = ()
    if which in _CONTAINERS:
        _, inner_code, inner_message = MESSAGES[inner]
        nested = json.dumps({"error": {"code": inner_code, "message": inner_message}})
        details = ({"code": "Conflict", "message": nested},)
    if retry_after is None and status in {429, 503}:
        retry_after = 1
    return Fault(
        method=method,
        kind=kind,
        name=name,
        nth=nth,
        times=times,
        does=does,
        status=status,
        code=code,
        message=message,
        details=details,
        retry_after=retry_after,
    )


def failed_operation(
    which: str,
    method: str = "PUT",
    kind: str = VM,
    *,
    name: str = "*",
    nth: int = 1,
    times: int = 1,
    inner: str = "AllocationFailed",
) -> Fault:
    """A call that is accepted, and whose operation fails with an error of Azure's own words."""
    return error(
        which, method, kind, name=name, nth=nth, times=times, does="operation", inner=inner
    )
