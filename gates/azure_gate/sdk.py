"""Azure's own clients, and the one place where each call to them is made.

All packages of Azure are imported here and nowhere else, inside functions: importing them takes a
second and 100 MiB, and a gate that lists flavors needs no network client. The clients retry nothing
by themselves and register no providers: what they do there knows no deadline, and loses the code of
the error. `call` and `complete` do it instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import random
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from gate_kit import Refusal
from gates.azure_gate import errors
from gates.azure_gate.config import Config
from gates.azure_gate.errors import Kind, Problem

if TYPE_CHECKING:
    import aiohttp
    from azure.core.polling import AsyncLROPoller
    from azure.identity.aio import CertificateCredential
    from azure.mgmt.compute.aio import ComputeManagementClient
    from azure.mgmt.network.aio import NetworkManagementClient
    from azure.mgmt.resource.resources.aio import ResourceManagementClient

log = logging.getLogger(__name__)

T = TypeVar("T")

CALL_S = 60.0
"""How long a call may take with all its retries, where nobody says otherwise."""
OPERATION_S = 1_800.0
"""How long an operation may take that Azure works on."""

_CONNECT_S = 10.0
_READ_S = 60.0
_RETRY_S = (0.5, 20.0)
"""Between two tries where Azure does not say: at first, and at most."""
_POLL_S = (0.2, 10.0)
"""Between two looks at an operation: at first, and at most."""
_POLL_GROWTH = 1.5


class AzureProblem(Exception):
    """A call that Azure refused, or did not answer; `problem` says how."""

    def __init__(self, problem: Problem, doing: str) -> None:
        super().__init__(f"{doing}: {problem.text}")
        self.problem = problem
        self.doing = doing

    @property
    def kind(self) -> Kind:
        """What it means."""
        return self.problem.kind

    @property
    def refusal(self) -> Refusal:
        """As a caller of the gate is told of it."""
        return errors.refusal(self.problem, self.doing)


@dataclasses.dataclass(frozen=True, slots=True)
class Operation(Generic[T]):
    """What Azure works on."""

    poller: AsyncLROPoller[T]
    deadline: float
    """By the clock of `time.monotonic`."""


class Sdk:
    """The clients of one subscription. Make it, and close it, in the event loop.

    Args:
        config: Who we are, and where Azure is.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._session: aiohttp.ClientSession | None = None
        self._credential: CertificateCredential | None = None
        self._compute: ComputeManagementClient | None = None
        self._network: NetworkManagementClient | None = None
        self._resources: ResourceManagementClient | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """The connections that all share: Azure's, and those to prices and addresses."""
        if self._session is None:
            import aiohttp

            ca_file = self._config.endpoints.ca_file
            trust = ssl.create_default_context(
                cafile=str(Path(ca_file).expanduser()) if ca_file else None
            )
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=trust, limit=64),
                cookie_jar=aiohttp.DummyCookieJar(),
                # The clients unpack what they get themselves.
                auto_decompress=False,
                trust_env=True,
            )
        return self._session

    @property
    def compute(self) -> ComputeManagementClient:
        """Machines, disks, sizes."""
        if self._compute is None:
            from azure.mgmt.compute.aio import ComputeManagementClient

            self._compute = self._client(ComputeManagementClient)
        return self._compute

    @property
    def network(self) -> NetworkManagementClient:
        """Networks, addresses, rules."""
        if self._network is None:
            from azure.mgmt.network.aio import NetworkManagementClient

            self._network = self._client(NetworkManagementClient)
        return self._network

    @property
    def resources(self) -> ResourceManagementClient:
        """Groups, providers, and whatever has no client of its own."""
        if self._resources is None:
            from azure.mgmt.resource.resources.aio import ResourceManagementClient

            self._resources = self._client(ResourceManagementClient)
        return self._resources

    async def log_in(self, *, within_s: float = CALL_S) -> None:
        """Have a token, as each call needs one. Where there is one already nobody is asked.

        Raises:
            AzureProblem: We are refused, or whoever gives tokens does not answer.
        """
        scope = f"{self._config.endpoints.resource_manager.rstrip('/')}/.default"
        login = self._login  # to import what it is takes its time, too
        await self.call("logging in", lambda: login.get_token(scope), within_s=within_s)

    async def warm(self) -> None:
        """Import now what the first partition would have to wait for."""
        await asyncio.to_thread(_import_all)

    async def call(
        self,
        doing: str,
        work: Callable[[], Awaitable[T]],
        *,
        within_s: float = CALL_S,
        stop: asyncio.Event | None = None,
    ) -> T:
        """The answer to one call, which is repeated where that may help and time is left.

        Args:
            doing: What it is for, for people, as "making the network".
            work: Makes the call. It may be made more than once: all of ours can be repeated.
            within_s: When to give up.
            stop: Set when nobody wants it repeated any more.

        Raises:
            AzureProblem: As Azure told it, or that it did not answer.
        """
        deadline = time.monotonic() + within_s
        pause_s = _RETRY_S[0]
        stop = stop or asyncio.Event()
        while True:
            problem: Problem
            left_s = deadline - time.monotonic()
            try:
                async with asyncio.timeout(max(left_s, 1.0)):
                    return await work()
            except TimeoutError:
                problem = errors.unanswered(f"no answer within {within_s:.0f} s")
            except Exception as error:
                told = self._problem(error)
                if told is None:
                    raise
                problem = told
            left_s = deadline - time.monotonic()
            wait_s = problem.retry_after_s or pause_s * random.uniform(0.7, 1.3)  # noqa: S311  # nosec B311
            # A group that is being deleted is so for minutes: who asked decides what that means.
            again = problem.kind is Kind.RETRY and problem.code != "ResourceGroupBeingDeleted"
            if not again or wait_s >= left_s:
                raise AzureProblem(problem, doing)
            log.info("%s: %s; again in %.1f s", doing, problem.text, wait_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await stop.wait()
            if stop.is_set():
                raise AzureProblem(problem, doing)
            pause_s = min(pause_s * 2, _RETRY_S[1])

    async def all(
        self, doing: str, pages: Callable[[], AsyncIterator[T]], *, within_s: float = CALL_S
    ) -> list[T]:
        """All that a listing has, as `call`."""

        async def collected() -> list[T]:
            return [item async for item in pages()]

        return await self.call(doing, collected, within_s=within_s)

    async def complete(
        self,
        doing: str,
        begin: Callable[..., Awaitable[AsyncLROPoller[T]]],
        *arguments: Any,
        **keywords: Any,
    ) -> T:
        """The result of an operation that Azure works on: `begin`, and `finish`."""
        return await self.finish(doing, await self.begin(doing, begin, *arguments, **keywords))

    async def begin(
        self,
        doing: str,
        begin: Callable[..., Awaitable[AsyncLROPoller[T]]],
        *arguments: Any,
        within_s: float = OPERATION_S,
        stop: asyncio.Event | None = None,
        hurry: asyncio.Event | None = None,
        **keywords: Any,
    ) -> Operation[T]:
        """Have Azure begin an operation.

        Args:
            doing: What it is for, for people.
            begin: One of the clients' `begin_…`.
            arguments: Of `begin`.
            within_s: When to give up; Azure goes on.
            stop: As for `call`.
            hurry: Set when there is reason to believe that it is done: it is looked at at once.
            keywords: Of `begin`.

        Raises:
            AzureProblem: It could not be begun.
        """
        deadline = time.monotonic() + within_s

        async def start() -> AsyncLROPoller[T]:
            return await begin(
                *arguments, polling=_patient(deadline, hurry or asyncio.Event()), **keywords
            )

        poller = await self.call(doing, start, within_s=min(within_s, CALL_S), stop=stop)
        return Operation(poller, deadline)

    async def finish(self, doing: str, operation: Operation[T]) -> T:
        """The result of an operation that was begun, looked at ever less often.

        Raises:
            AzureProblem: It failed, or takes too long.
        """
        try:
            async with asyncio.timeout(max(operation.deadline - time.monotonic(), 1.0)):
                return await operation.poller.result()
        except TimeoutError:
            problem = errors.unanswered("Azure is not done with it within the time that it has")
            raise AzureProblem(problem, doing) from None
        except Exception as error:
            told = self._problem(error)
            if told is None:
                raise
            raise AzureProblem(told, doing) from error

    async def start(
        self,
        doing: str,
        begin: Callable[..., Awaitable[AsyncLROPoller[T]]],
        *arguments: Any,
        within_s: float = CALL_S,
        **keywords: Any,
    ) -> None:
        """Have Azure begin an operation, and not wait for it.

        Raises:
            AzureProblem: It could not be begun.
        """

        async def begun() -> None:
            await begin(*arguments, polling=False, **keywords)

        await self.call(doing, begun, within_s=within_s)

    async def close(self) -> None:
        """Close all connections."""
        for client in (self._compute, self._network, self._resources, self._credential):
            if client is not None:
                await client.close()
        if self._session is not None:
            await self._session.close()

    def _client(self, kind: Callable[..., T]) -> T:
        manager = self._config.endpoints.resource_manager.rstrip("/")
        return kind(
            self._login,
            self._config.subscription_id,
            base_url=manager,
            credential_scopes=[f"{manager}/.default"],
            policies=self._policies(f"{manager}/.default"),
            transport=self._transport(),
        )

    def _policies(self, scope: str) -> list[Any]:
        """What each request goes through: without retries, registrations, redirects and logs."""
        from azure.core.pipeline import policies
        from azure.mgmt.core.policies import AsyncARMChallengeAuthenticationPolicy

        return [
            policies.RequestIdPolicy(),
            policies.HeadersPolicy(),
            policies.UserAgentPolicy(base_user_agent="skyport"),
            policies.ContentDecodePolicy(),
            AsyncARMChallengeAuthenticationPolicy(self._login, scope),
        ]

    def _transport(self) -> Any:
        from azure.core.pipeline.transport import AioHttpTransport

        return AioHttpTransport(
            session=self.session,
            session_owner=False,
            connection_timeout=_CONNECT_S,
            read_timeout=_READ_S,
        )

    @property
    def _login(self) -> CertificateCredential:
        if self._credential is None:
            from azure.identity.aio import CertificateCredential

            config = self._config
            # It tells of each token, and of each try that failed, which we tell of ourselves.
            logging.getLogger("azure").setLevel(logging.ERROR)
            self._credential = CertificateCredential(
                config.tenant_id,
                config.app_id,
                certificate_data=Path(config.certificate_file).expanduser().read_bytes(),
                authority=config.endpoints.authority.rstrip("/"),
                # It would ask Microsoft's own cloud whether this one is known there.
                disable_instance_discovery=True,
                retry_total=0,
                transport=self._transport(),
            )
        return self._credential

    @staticmethod
    def _problem(error: Exception) -> Problem | None:
        """What Azure told by `error`; None if it is none of Azure's."""
        from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError

        if isinstance(error, HttpResponseError) and error.response is not None:
            response: Any = error.response
            try:
                body = response.text()
            except Exception:  # noqa: BLE001 - a body that is gone, or is no text, tells nothing
                body = ""
            return errors.parse(
                error.status_code or 0, body, retry_after=response.headers.get("Retry-After", "")
            )
        if isinstance(error, ClientAuthenticationError):
            return Problem(401, "AuthenticationFailed", str(error.message))
        if isinstance(error, AzureError):
            return errors.unanswered(str(error.message))
        return None


def _patient(deadline: float, hurry: asyncio.Event) -> Any:
    """Looks at an operation ever less often, and takes no single look too seriously."""
    return _patient_class()(deadline, hurry)


@functools.cache
def _patient_class() -> Callable[[float, asyncio.Event], Any]:
    from azure.core.exceptions import AzureError
    from azure.mgmt.core.polling.async_arm_polling import AsyncARMPolling

    class Patient(AsyncARMPolling):
        def __init__(self, deadline: float, hurry: asyncio.Event) -> None:
            super().__init__()
            self._deadline = deadline
            self._hurry = hurry
            self._was_hurried = False
            self._pause_s = _POLL_S[0]

        async def _delay(self) -> None:
            # What Azure would have us wait is 10 s and more; reads are not that dear.
            pause_s = self._pause_s * random.uniform(0.8, 1.2)  # noqa: S311  # nosec B311
            self._pause_s = min(self._pause_s * _POLL_GROWTH, _POLL_S[1])
            if self._was_hurried:
                await asyncio.sleep(pause_s)
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._hurry.wait()
            if self._hurry.is_set():
                self._was_hurried, self._pause_s = True, _POLL_S[0]

        async def request_status(self, status_link: str) -> Any:
            pause_s = _RETRY_S[0]
            while True:
                wait_s = 0.0
                try:
                    answer = await super().request_status(status_link)
                    response = answer.http_response
                    status = response.status_code
                    if status != 429 and status < 500:
                        return answer
                    wait_s = (
                        errors.parse(
                            status, "", retry_after=response.headers.get("Retry-After", "")
                        ).retry_after_s
                        or 0.0
                    )
                except AzureError:
                    if time.monotonic() + pause_s > self._deadline:
                        raise
                else:
                    if time.monotonic() + max(wait_s, pause_s) > self._deadline:
                        return answer
                await asyncio.sleep(max(wait_s, pause_s) * random.uniform(1.0, 1.2))  # noqa: S311  # nosec B311
                pause_s = min(pause_s * 2, _RETRY_S[1])

    return Patient


def _import_all() -> None:
    import azure.mgmt.compute.aio
    import azure.mgmt.network.aio
    import azure.mgmt.resource.resources.aio  # noqa: F401
