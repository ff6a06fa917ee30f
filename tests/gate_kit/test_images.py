"""What is read out of what container programs print."""

from __future__ import annotations

import pytest

from gate_kit.ssh.images import Login, Progress, digest_of, refused, registry_of

ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("ubuntu", "docker.io"),
        ("library/ubuntu:24.04", "docker.io"),
        ("ghcr.io/org/tool:1", "ghcr.io"),
        ("localhost/tool", "localhost"),
        ("127.0.0.1:5000/tool", "127.0.0.1:5000"),
        ("host:5000/tool@" + ONE, "host:5000"),
    ],
)
def test_the_registry_of_an_image(image: str, registry: str) -> None:
    assert registry_of(image) == registry


@pytest.mark.parametrize(
    ("image", "names", "digest"),
    [
        ("host:5000/tool:1", [f"other/tool@{TWO}", f"host:5000/tool@{ONE}"], ONE),
        ("ubuntu:24.04", [f"ubuntu@{ONE}"], ONE),
        ("host:5000/tool", [f"host:5000/tool@{ONE}"], ONE),
        ("made-here:1", [], TWO),
        ("renamed:1", [f"host/tool@{ONE}"], ONE),
        ("tool@" + ONE, [f"tool@{ONE}"], ONE),
    ],
)
def test_the_digest_that_an_image_has_at_its_registry(
    image: str, names: list[str], digest: str
) -> None:
    assert digest_of(image, TWO, names) == digest


def test_a_file_has_no_digest() -> None:
    assert digest_of("tool:1", "/home/ann/images/1.sif", []) == ""


def test_progress_counts_layers() -> None:
    progress = Progress("tool:1")
    told = [
        progress.after(line)
        for line in (
            "1: Pulling from tool",
            "aaaaaaaaaaaa: Pulling fs layer",
            "bbbbbbbbbbbb: Already exists",
            "aaaaaaaaaaaa: Download complete",
            "aaaaaaaaaaaa: Pull complete",
        )
    ]
    assert told == [
        "pulling tool:1",
        "pulling tool:1: 0 of 1 layers",
        "pulling tool:1: 1 of 2 layers",
        "",
        "pulling tool:1: 2 of 2 layers",
    ]


def test_what_apptainer_prints_tells_how_far_it_is_and_in_the_end_why_it_gave_up() -> None:
    progress = Progress("tool:1")
    told = [
        progress.after(line)
        for line in (
            "DEBUG   [U=1000,P=7]       persistentPreRun()            Apptainer version: 1.3.4",
            "Copying blob sha256:aa done   |",
            "Copying blob sha256:bb done   |",
            "Copying blob sha256:aa done   |",
            "INFO    [U=1000,P=7]       Full()                        Creating SIF file...",
            "DEBUG   [U=1000,P=7]       cleanUp()                     Cleaning up",
        )
    ]
    assert told == [
        "pulling tool:1",
        "pulling tool:1: 1 layers",
        "pulling tool:1: 2 layers",
        "",
        "making a file of tool:1",
        "",
    ]
    why = "While making image from oci registry: manifest unknown"
    for said in (
        f"FATAL:   {why}",
        f"FATAL   [U=1000,P=7]       pullRun()                     {why}",
    ):
        found = refused("login", "registry.example/tool:1", "apptainer", said)
        assert found.reason == "IMAGE_NOT_FOUND"
        assert found.text == f"registry.example has no image registry.example/tool:1: {why}"


# As Docker 20.10 and 28.2 and podman 4.3 say it.
@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("manifest for host/x:1 not found: manifest unknown: manifest unknown", "IMAGE_NOT_FOUND"),
        (
            (
                "pull access denied for x, repository does not exist or may require "
                "'docker login': denied: requested access to the resource is denied"
            ),
            "IMAGE_NOT_FOUND",
        ),
        (
            "no matching manifest for linux/arm64/v8 in the manifest list entries",
            "IMAGE_NOT_FOUND",
        ),
        ('Get "http://host/v2/": no basic auth credentials', "IMAGE_AUTH"),
        ("unauthorized: authentication required", "IMAGE_AUTH"),
        ('Get "https://host/v2/": dial tcp: lookup host: no such host', "REGISTRY_UNREACHABLE"),
        ("dial tcp 10.0.0.1:443: connect: connection refused", "REGISTRY_UNREACHABLE"),
        ("net/http: TLS handshake timeout", "REGISTRY_UNREACHABLE"),
        ("toomanyrequests: You have reached your pull rate limit.", "REGISTRY_UNREACHABLE"),
        (
            "received unexpected HTTP status: 503 Service Unavailable",
            "REGISTRY_UNREACHABLE",
        ),
        (
            (
                "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. "
                "Is the docker daemon running?"
            ),
            "NODE_FAIL",
        ),
        (
            (
                "permission denied while trying to connect to the Docker daemon socket at "
                "unix:///var/run/docker.sock"
            ),
            "START_FAILED",
        ),
        ("write /var/lib/docker/tmp/x: no space left on device", "START_FAILED"),
        ("something nobody has heard of", "START_FAILED"),
    ],
)
def test_why_an_image_cannot_be_had(said: str, reason: str) -> None:
    told = refused("h1", "host/x:1", "docker", f"Error response from daemon: {said}")
    assert told.reason == reason
    assert "Error response" not in told.text


def test_a_login_shows_no_password() -> None:
    assert "psst" not in repr(Login("ann", "psst"))
