"""The connection to a core: who we are, where it is, and calls whose failures are our errors."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self, TypeVar, cast

import grpc

from rpc_kit.bundle import Bundle, BundleError
from rpc_kit.channels import RenewableChannel
from rpc_kit.endpoint import Endpoint
from rpc_kit.tls import channel_credentials, channel_options
from terminals.client.errors import BundleInvalid, CallFailed
from terminals.client.patience import DEFAULT_S, Patience
from terminals.client.progress import Report, silent
from terminals.client.stream import Stream

if TYPE_CHECKING:
    from skyport.terminal.v1 import job_pb2
    from skyport.terminal.v1.account_pb2_grpc import AccountServiceStub
    from skyport.terminal.v1.admin_pb2_grpc import AdminServiceStub
    from skyport.terminal.v1.catalog_pb2_grpc import CatalogServiceStub
    from skyport.terminal.v1.file_pb2_grpc import FileServiceStub
    from skyport.terminal.v1.job_pb2_grpc import JobServiceStub
    from skyport.terminal.v1.server_pb2_grpc import ServerServiceStub
    from skyport.terminal.v1.tunnel_pb2_grpc import TunnelServiceStub
    from terminals.client.download import Fetched
    from terminals.client.output import Gap
    from terminals.client.tunnel import Forwarding

_PAUSES_S = (0.1, 0.2, 0.4)

CALL_TIMEOUT_S = 30.0
"""A core answers in milliseconds; one that takes this long is stuck."""


class _Paged(Protocol):
    """A request of a list."""

    page_token: str


class _Page(Protocol):
    """An answer of a list."""

    @property
    def next_page_token(self) -> str: ...


Request = TypeVar("Request")
Response = TypeVar("Response")
PagedRequest = TypeVar("PagedRequest", bound=_Paged)
Page = TypeVar("Page", bound=_Page)


def bundle_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the user's bundle is: $SWM_CLIENT, else client.toml in $SWM_HOME, else in ~/.swm."""
    if named := environ.get("SWM_CLIENT"):
        return Path(named).expanduser()
    if home := environ.get("SWM_HOME"):
        return Path(home).expanduser() / "client.toml"
    return Path.home() / ".swm" / "client.toml"


def _look(path: Path | None) -> tuple[int, int] | None:
    """What changes when a file is written anew."""
    try:
        found = path.stat() if path else None
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns) if found else None


def _open(bundle: Bundle) -> grpc.Channel:
    return grpc.secure_channel(
        Endpoint.parse(bundle.endpoint).target,
        channel_credentials(bundle.key_pair),
        # Retries are ours: with those of grpc 1.85, a streaming call that has received nothing
        # waits for ever once its server has been away for longer than they last.
        options=[*channel_options(bundle.server_name), ("grpc.enable_retries", 0)],
    )


class Client:
    """A connection to the core. May be used by several threads at once; close it in the end.

    Args:
        bundle: Who we are and where the core is.
        source: Its file. When that has got another certificate, the next call is made with it.
    """

    def __init__(self, bundle: Bundle, source: Path | None = None) -> None:
        self.bundle = bundle
        self._source = source
        self._seen = _look(source)
        self._renewing = threading.Lock()
        # A channel as far as stubs go; the types of grpc know none but their own.
        self._channel = cast("grpc.Channel", RenewableChannel(_open(bundle), self._renewed))
        self.has_answered = False
        """Whether the core has ever answered a call of ours."""

    @classmethod
    def connect(cls, source: Path | str | None = None) -> Self:
        """A client for the core of a bundle. No call is made yet.

        Args:
            source: A bundle, or a folder with a `client.toml`; None means as `bundle_path` says.

        Raises:
            BundleInvalid: There is none, or it can't be used.
        """
        path = bundle_path() if source is None else Path(source)
        if path.is_dir():
            path = path / "client.toml"
        try:
            return cls(Bundle.read(path), path)
        except BundleError as error:
            raise BundleInvalid(str(error)) from None

    def close(self) -> None:
        """End all calls and the connection."""
        self._channel.close()

    def _renewed(self) -> grpc.Channel | None:
        """A channel with the certificate that has come into the bundle's file, if one has."""
        with self._renewing:
            bundle = self._newer_bundle()
            if bundle is None:
                return None
            self._seen, self.bundle = _look(self._source), bundle
            return _open(bundle)

    def _newer_bundle(self) -> Bundle | None:
        """What is in the bundle's file, when that is another certificate for the same user."""
        if self._source is None or _look(self._source) == self._seen:
            return None
        try:
            found = Bundle.read(self._source)
        except BundleError:
            return None  # it is being replaced, or gone: the one that we have may still do
        same = (found.installation, found.user) == (self.bundle.installation, self.bundle.user)
        return found if same and found.cert_pem != self.bundle.cert_pem else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The stubs. A command pays for the service that it uses only.

    @functools.cached_property
    def accounts(self) -> AccountServiceStub:
        from skyport.terminal.v1.account_pb2_grpc import AccountServiceStub

        return AccountServiceStub(self._channel)

    @functools.cached_property
    def admin(self) -> AdminServiceStub:
        from skyport.terminal.v1.admin_pb2_grpc import AdminServiceStub

        return AdminServiceStub(self._channel)

    @functools.cached_property
    def catalog(self) -> CatalogServiceStub:
        from skyport.terminal.v1.catalog_pb2_grpc import CatalogServiceStub

        return CatalogServiceStub(self._channel)

    @functools.cached_property
    def files(self) -> FileServiceStub:
        from skyport.terminal.v1.file_pb2_grpc import FileServiceStub

        return FileServiceStub(self._channel)

    @functools.cached_property
    def jobs(self) -> JobServiceStub:
        from skyport.terminal.v1.job_pb2_grpc import JobServiceStub

        return JobServiceStub(self._channel)

    @functools.cached_property
    def server(self) -> ServerServiceStub:
        from skyport.terminal.v1.server_pb2_grpc import ServerServiceStub

        return ServerServiceStub(self._channel)

    @functools.cached_property
    def tunnels(self) -> TunnelServiceStub:
        from skyport.terminal.v1.tunnel_pb2_grpc import TunnelServiceStub

        return TunnelServiceStub(self._channel)

    # Calls.

    def call(
        self,
        method: grpc.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
        patience_s: float = 0.0,
    ) -> Response:
        """One call, as `client.call(client.jobs.GetJob, GetJobRequest(job_id=...))`.

        UNAVAILABLE is repeated three times within a second.

        Args:
            method: A method of one of the stubs.
            request: Its request.
            timeout_s: Seconds that the core has to answer.
            patience_s: Seconds to go on trying while a core that has answered before restarts, or
                does not answer in time. Only for calls that may be repeated.

        Raises:
            CallFailed: It did not succeed.
        """
        patience = Patience(self, patience_s)
        pauses = iter(_PAUSES_S)
        while True:  # ends by patience
            try:
                response = method(request, timeout=timeout_s)
            except grpc.RpcError as error:
                failed = self.failure(error)
                pause_s = next(pauses, None)
                if pause_s is None or not failed.transient:
                    patience.pause(failed)
                else:
                    time.sleep(pause_s)
            else:
                self.has_answered = True
                return response

    def pages(
        self,
        method: grpc.UnaryUnaryMultiCallable[PagedRequest, Page],
        request: PagedRequest,
    ) -> Iterator[Page]:
        """All pages of a list, from the one that `request` names; `request` is changed."""
        while True:  # ends with the list, or with a token that does not move
            page = self.call(method, request)
            yield page
            if page.next_page_token in ("", request.page_token):
                return
            request.page_token = page.next_page_token

    def stream(
        self,
        method: grpc.UnaryStreamMultiCallable[Request, Response],
        request: Request,
        *,
        silence_s: float | None = None,
    ) -> Stream[Response]:
        """Start a call whose answers come one by one; see `Stream`."""
        return Stream(self, method(request), silence_s)

    def failure(self, error: grpc.RpcError) -> CallFailed:
        """Our error for what a stub raised."""
        # Together they take as long to import as a call takes, and most commands need neither.
        from rpc_kit.errors import Problem
        from terminals.client.errors import CertificateRenewed, failure

        problem = Problem.from_error(error)
        if problem.reason == "CERTIFICATE_EXPIRED" and self._newer_bundle() is not None:
            return CertificateRenewed(problem)
        return failure(problem, self._explain)

    def _explain(self) -> str:
        from rpc_kit.diagnosis import explain_connection_failure

        return explain_connection_failure(self.bundle.endpoint, self.bundle)

    # What takes more than one call.

    def find_job(self, text: str) -> job_pb2.Job:
        """The one job whose id is `text`, or begins so.

        Raises:
            JobNotFound: There is none, or `text` can't begin an id.
            JobAmbiguous: There are several.
        """
        from terminals.client.lookup import find_job

        return find_job(self, text)

    def submit(
        self,
        script: bytes,
        *,
        overrides: job_pb2.JobOverrides | None = None,
        secret_env: Mapping[str, str] | None = None,
        base: Path | None = None,
        report: Report = silent,
    ) -> job_pb2.SubmitJobResponse:
        """Check a script, bring its input files, and submit it.

        Args:
            script: The script's bytes.
            overrides: What wins over the script, or is added to it.
            secret_env: Environment that is shown nowhere.
            base: Where relative input paths begin; None means the current folder.
            report: Told how far the upload is.

        Raises:
            RequestInvalid: The script has mistakes.
            InputsInvalid: Input files are missing, unreadable or in each other's way.
            InputChanged: One changed while it was read or sent.
            CallFailed: The core refused, or does not answer.
        """
        from terminals.client.submit import submit

        return submit(
            self, script, overrides=overrides, secret_env=secret_env, base=base, report=report
        )

    def wait_for(
        self, job_ids: Sequence[str], *, patience_s: float = DEFAULT_S
    ) -> Iterator[job_pb2.Job]:
        """Each of the jobs as it is now, then again whenever one has changed, until all have ended.

        It goes on when the core restarts.

        Args:
            job_ids: Whole ids.
            patience_s: Seconds without an answer of the core after which it gives up.

        Raises:
            CallFailed: A job does not exist (any more), or the core stayed away.
        """
        from terminals.client.watch import wait_for

        return wait_for(self, job_ids, patience_s=patience_s)

    def read_output(
        self,
        job_id: str,
        *,
        stderr: bool = False,
        attempt: int = 0,
        node: str = "",
        follow: bool = False,
    ) -> Iterator[bytes | Gap]:
        """What a job has written; see `output.OutputReader` for more ways to read it.

        Args:
            job_id: The whole id.
            stderr: Standard error instead of standard output.
            attempt: Which start of the job; 0 means the latest.
            node: Which node; empty means the first.
            follow: Go on until the job has ended, also when the core restarts.

        Yields:
            The bytes in order, and a `Gap` where the core has not kept them.
        """
        from terminals.client.output import OutputReader

        reader = OutputReader(
            self, job_id, stderr=stderr, attempt=attempt, node=node, follow=follow
        )
        yield from reader

    def fetch(
        self,
        job_id: str,
        folder: Path,
        patterns: Iterable[str] = (),
        *,
        report: Report = silent,
    ) -> Fetched:
        """Download outputs of a job into a folder; what is there already is not sent again.

        Args:
            job_id: The whole id.
            folder: Where to; it is made if missing.
            patterns: As in a script's output-files; none means all.
            report: Told how far it is.

        Raises:
            OutputRefused: A name would lead out of the folder, or can't be written.
            CallFailed: The core refused, or stayed away.
        """
        from terminals.client.download import fetch

        return fetch(self, job_id, folder, patterns, report=report)

    def forward(
        self, job_id: str, port: int | str, *, local_port: int = 0, node: str = ""
    ) -> Forwarding:
        """Listen on 127.0.0.1 and carry each connection to a port of a running job.

        Args:
            job_id: The whole id.
            port: The number, or the name that the script gave.
            local_port: Where to listen; 0 picks a free one.
            node: Which node of the job; empty means the first.

        Returns:
            What listens, until it is closed.

        Raises:
            LocalFileError: The port can't be listened on.
        """
        from terminals.client.tunnel import Forwarding

        return Forwarding(self, job_id, port, local_port=local_port, node=node)
