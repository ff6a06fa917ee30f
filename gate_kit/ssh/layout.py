"""Where things lie under the work root of an account, and by what an attempt is known there.

root_uid                                   who this place is
runner-HASH.sh                             what supervises attempts
events/PARTITION.NODE.*                    pipes on which runners tell of claims and ends
jobs/PARTITION/INSTALLATION/JOB.ATTEMPT/   an attempt; see `evidence`
tombstones/…                               the same path: an empty file says never again
cache/                                     contents by digest
images/                                    those of apptainer; see image.sh
trash/                                     what is being removed
"""

from __future__ import annotations

import dataclasses
from typing import Self

from skyport.gate.v1 import types_pb2


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class AttemptPath:
    """What an attempt is known by in one account."""

    installation: str
    job_id: str
    attempt: int
    partition_id: str

    @classmethod
    def of(cls, ref: types_pb2.JobRef) -> Self:
        """That of the attempt that `ref` names."""
        return cls(ref.installation, ref.job_id, ref.attempt, ref.partition_id)

    @classmethod
    def parse(cls, path: str) -> AttemptPath:
        """The one whose `path` this is."""
        partition, installation, name = path.split("/")
        job_id, _, attempt = name.rpartition(".")
        return AttemptPath(installation, job_id, int(attempt), partition)

    @property
    def path(self) -> str:
        """Where it lies below `jobs` and `tombstones`. Of letters that need no quotes."""
        return f"{self.partition_id}/{self.installation}/{self.job_id}.{self.attempt}"

    @property
    def name(self) -> str:
        """The path as one name, with no `/` in it."""
        return self.path.replace("/", ",")

    def mark(self, node: str) -> str:
        """The value of SWM_MARK in the environment of each of its processes on `node`.

        It ends with a letter that no name has, so no mark begins another.
        """
        return f"{self.path}/{node};"


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class AttemptKey(AttemptPath):
    """What an attempt is known by among all accounts of a site.

    The same path lies in every account, and what is there in one of them must never be taken for
    what another owner has.
    """

    owner: str

    @classmethod
    def of(cls, ref: types_pb2.JobRef) -> Self:
        """The key of the attempt that `ref` names."""
        return cls(ref.installation, ref.job_id, ref.attempt, ref.partition_id, ref.owner)
