"""Terminals that watch all jobs and lose nothing, in a process of their own.

    python -m bench.watchers BUNDLE COUNT

Each is a stream on a connection of its own, from now on; a line is printed once all of them have
caught up. A number on standard input is answered when all have seen the event with that sequence,
with `whole`, or with how many events the one that missed most has missed.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import grpc.aio

from rpc_kit.bundle import Bundle
from rpc_kit.tls import channel_credentials, channel_options
from skyport.terminal.v1 import job_pb2, job_pb2_grpc


class _Watcher:
    """One of them. It sees all jobs, so that sequences come without a gap."""

    def __init__(self, bundle: Bundle) -> None:
        # Otherwise all channels to one server would share one connection.
        options = [*channel_options(bundle.server_name), ("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.aio.secure_channel(
            bundle.endpoint, channel_credentials(bundle.key_pair), options
        )
        self.caught_up = asyncio.Event()
        self.last = 0
        """The sequence of the latest event."""
        self.missed = 0
        self._told = asyncio.Condition()

    async def run(self) -> None:
        jobs = job_pb2_grpc.JobServiceStub(self._channel)
        async for answer in jobs.WatchJobs(job_pb2.WatchJobsRequest()):
            async with self._told:
                for event in answer.events:
                    if self.last:
                        self.missed += event.sequence - self.last - 1
                    self.last = event.sequence
                self._told.notify_all()
            if answer.caught_up:
                self.caught_up.set()

    async def seen(self, sequence: int) -> None:
        async with self._told:
            await self._told.wait_for(lambda: self.last >= sequence)


async def _main(bundle: Bundle, count: int) -> None:
    watchers = [_Watcher(bundle) for _ in range(count)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(watcher.run()) for watcher in watchers]
        await asyncio.gather(*(watcher.caught_up.wait() for watcher in watchers))
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            await asyncio.gather(*(watcher.seen(int(line)) for watcher in watchers))
            missed = max(watcher.missed for watcher in watchers)
            print(f"{missed} missed" if missed else "whole", flush=True)
        for task in tasks:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(_main(Bundle.read(Path(sys.argv[1])), int(sys.argv[2])))
