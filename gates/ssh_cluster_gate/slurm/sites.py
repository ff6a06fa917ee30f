"""The accounts on the login node: what all that is shared with sites of hosts works on."""

from __future__ import annotations

from collections.abc import Callable

from gate_kit import errors
from gate_kit.ssh.host import Host
from gates.ssh_cluster_gate.hosts import Hosts
from gates.ssh_cluster_gate.plan import NodePlan, SitePlan
from gates.ssh_cluster_gate.slurm.commands import Account
from skyport.gate.v1 import types_pb2


class SlurmSites:
    """A `gate_kit.ssh.sites.Sites` whose files all lie where the login node sees them.

    Args:
        plan: The site.
        hosts: The ways to the login node.
    """

    def __init__(self, plan: SitePlan, hosts: Hosts) -> None:
        self._plan = plan
        self._hosts = hosts
        self._accounts: dict[Host, Account] = {}
        self.on_made: list[Callable[[Host], None]] = hosts.on_made
        """Called with each account on a host when it is first wanted."""

    @property
    def is_shared(self) -> bool:
        """Whether an account has one work root for all nodes."""
        return True

    @property
    def login_node(self) -> NodePlan:
        """Where users log in."""
        return next(iter(self._plan.nodes.values()))

    def hosts(self, ref: types_pb2.JobRef) -> list[Host]:
        """The owner's account on the login node.

        Raises:
            Refusal: USER_NOT_MAPPED.
        """
        login = self._hosts.login(ref.owner)
        place = self._plan.logins.index(login)
        return [self._hosts.accounts(self.login_node.name)[place]]

    def everywhere(self, partition_id: str = "") -> list[Host]:
        """All accounts on the login node."""
        return self._hosts.accounts(self.login_node.name)

    def addresses(self, partition_id: str) -> dict[str, str]:
        """Nothing is known of nodes before a job has them."""
        return {}

    def account(self, ref: types_pb2.JobRef) -> Account:
        """Slurm as the owner of an attempt has it.

        Raises:
            Refusal: USER_NOT_MAPPED.
        """
        return self.account_of(self.hosts(ref)[0])

    def account_of(self, host: Host) -> Account:
        """Slurm as an account has it."""
        found = self._accounts.get(host)
        if found is None:
            found = self._accounts[host] = Account(host)
        return found

    @property
    def accounts(self) -> list[Account]:
        """Slurm as each account of the site has it."""
        hosts = self.everywhere()
        if not hosts:
            raise errors.site_unreachable("the site has no accounts")
        return [self.account_of(host) for host in hosts]

    async def close(self) -> None:
        """Ask no more."""
        for account in self._accounts.values():
            await account.close()
