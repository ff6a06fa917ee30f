"""`swm-azure-gate check` finds what is wrong in a subscription, and the command that mends it."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gate_kit.command_line import CheckOptions
from gate_kit.verdicts import State, Verdict
from gates.azure_gate import certificate, check, skus
from gates.azure_gate import check_rules as rules
from gates.azure_gate.certificate import Certificate
from gates.azure_gate.check_rules import CHECKS, Who
from gates.azure_gate.skus import Sku
from tests.azure_gate.site import DEBIAN, site_file
from tests.azure_gate.test_skus import listed
from tests.cli.conftest import environment
from tests.cli.terminal import Swm
from tests.testbed.azure_arm import AzureArm, Fault, faults
from tests.testbed.azure_arm.faults import PRICES

SUBSCRIPTION = "00000000-0000-0000-0000-00000000000f"
WHO = Who(SUBSCRIPTION, "the-app", "/home/ann/azure.toml", "/home/ann/login.pem")
NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)


@dataclasses.dataclass(frozen=True)
class Told:
    """What a check told as JSON, and its exit code."""

    code: int
    objects: list[dict[str, str]]

    def of(self, name: str, subject: str | None = None) -> dict[str, str]:
        (found,) = (
            each
            for each in self.objects
            if each["check"] == name and subject in {None, each["subject"]}
        )
        return found

    def states(self, state: str) -> list[tuple[str, str]]:
        return [(e["check"], e["subject"]) for e in self.objects if e["state"] == state]


Look = Callable[..., Told]


@pytest.fixture(autouse=True)
def mended(azure_arm: AzureArm) -> Iterator[None]:
    """Whatever a test does to the subscription is undone."""
    yield
    azure_arm.set_subscription("Enabled")
    azure_arm.set_permissions(["*"])
    for name in ("Compute", "Network", "DevTestLab", "Storage"):
        azure_arm.set_provider(f"Microsoft.{name}", "Registered")
    azure_arm.say_egress(None)
    azure_arm.set(cores=400)


@pytest.fixture(scope="module")
def login(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """One that lasts: the stand-in's own ends soon."""
    folder = tmp_path_factory.mktemp("keys") / "keys"
    return certificate.make(folder, "test", datetime.datetime.now(datetime.UTC))


@pytest.fixture
def look(
    azure_arm: AzureArm, login: Certificate, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Look:
    """Checks the stand-in's subscription."""
    azure_arm.register(login.public.read_text())

    def run(**settings: Any) -> Told:
        settings = {"certificate_file": str(login.login), **settings}
        path = site_file(azure_arm, tmp_path, **settings)
        capfd.readouterr()
        code = check.run(CheckOptions(path, as_json=True))
        told = capfd.readouterr()
        assert told.err == ""
        return Told(code, [json.loads(line) for line in told.out.splitlines()])

    return run


def words_of(mend: str) -> list[str]:
    """The words of a command, which is one."""
    return shlex.split(mend)


def test_a_subscription_where_jobs_can_run_passes_and_nothing_is_changed(
    look: Look, azure_arm: AzureArm
) -> None:
    told = look()
    assert told.code == 0
    assert {each["state"] for each in told.objects} == {"ok"}
    assert list(dict.fromkeys(each["check"] for each in told.objects)) == list(CHECKS)
    assert set(told.objects[0]) == {"subject", "check", "state", "value", "text", "mend"}
    assert told.of("egress")["value"] == azure_arm.egress()
    assert told.of("sizes", "westeurope")["value"] == "20"
    assert told.of("prices")["value"] == "20 of 20 sizes"
    assert re.fullmatch(r"0\.2024\d+\.\d+", told.of("image")["value"])
    others = {each.method for each in azure_arm.calls() if not each.kind.startswith("token")}
    assert others == {"GET"}


def test_what_is_wrong_in_a_subscription_is_told_one_by_one(
    look: Look, azure_arm: AzureArm
) -> None:
    azure_arm.set_permissions(["*/read"])
    azure_arm.set_provider("Microsoft.DevTestLab", "NotRegistered")
    azure_arm.say_egress("<html>")
    azure_arm.set(cores=1)
    azure_arm.faults.add(Fault("GET", PRICES, status=404, times=0))
    told = look(
        image="Debian:nope:x:latest",
        images=[DEBIAN, "Debian:debian-12:12-arm64:latest"],
        locations=["westeurope", "eastus"],
        vm_sizes=["Standard_D?s_v3", "Standard_HB*"],
    )
    assert told.code == 1
    assert set(told.states("failed")) == {
        ("role", ""),
        ("provider", "Microsoft.DevTestLab"),
        ("quota", "westeurope"),
        ("quota", "eastus"),
        ("image", "westeurope Debian:nope:x:latest"),
        ("image", "eastus Debian:nope:x:latest"),
        ("image", "westeurope Debian:debian-12:12-arm64:latest"),
        ("image", "eastus Debian:debian-12:12-arm64:latest"),
        ("egress", ""),
    }
    assert set(told.states("warning")) == {("prices", "westeurope"), ("prices", "eastus")}
    for each in told.objects:
        assert bool(each["text"]) == bool(each["mend"]) == (each["state"] != "ok"), each

    scope = f"/subscriptions/{azure_arm.ready.subscription}"
    assert (
        words_of(told.of("role")["mend"])
        == (
            f"az role assignment create --assignee {azure_arm.ready.app} --role Contributor "
            f"--scope {scope}"
        ).split()
    )
    assert "resourceGroups/write" in told.of("role")["text"]
    assert (
        words_of(told.of("provider", "Microsoft.DevTestLab")["mend"])
        == (
            "az provider register --namespace Microsoft.DevTestLab --wait "
            f"--subscription {azure_arm.ready.subscription}"
        ).split()
    )
    quota = told.of("quota", "eastus")
    assert "1 cores are left in eastus, and the smallest size needs 2" in quota["text"]
    assert f"{scope}/providers/Microsoft.Compute/locations/eastus" in words_of(quota["mend"])
    image = told.of("image", "eastus Debian:nope:x:latest")
    assert image["mend"].startswith("az vm image list --location eastus --publisher Debian")
    assert "aarch64" in told.of("image", "eastus Debian:debian-12:12-arm64:latest")["text"]
    assert "answers 404" in told.of("prices", "eastus")["text"]
    assert "<html>" in told.of("egress")["text"]


def test_a_login_that_is_refused_leaves_the_rest_unknown(
    look: Look, azure_arm: AzureArm, login: Certificate
) -> None:
    azure_arm.forget_certificates()
    try:
        told = look()
    finally:
        azure_arm.register(Path(azure_arm.ready.principal).read_text())
    assert told.code == 1
    assert told.states("failed") == [("login", "")]
    assert {each for each, _ in told.states("unknown")} == {
        *("subscription", "role", "provider", "sizes", "quota", "image", "prices")
    }
    assert told.of("login")["mend"] == (
        f"az ad app credential reset --id {azure_arm.ready.app} "
        f'--cert "$(openssl x509 -in {login.login})" --append'
    )


@pytest.mark.parametrize(
    ("settings", "failed", "says", "mend"),
    [
        (
            {"app_id": "00000000-0000-0000-0000-0000000000bb"},
            "login",
            "AADSTS700016",
            "az ad sp create-for-rbac --name swm --role Contributor",
        ),
        (
            {"tenant_id": "00000000-0000-0000-0000-0000000000bb"},
            "login",
            "AADSTS90002",
            "az account show --query tenantId",
        ),
        (
            {"endpoints": {"authority": "https://127.0.0.1:1"}},
            "login",
            "https://127.0.0.1:1 can't be asked",
            "curl --head https://127.0.0.1:1",
        ),
        (
            {"endpoints": {"resource_manager": "https://127.0.0.1:1"}},
            "subscription",
            "https://127.0.0.1:1 can't be asked",
            "curl --head https://127.0.0.1:1",
        ),
        (
            {"subscription_id": "00000000-0000-0000-0000-0000000000bb"},
            "subscription",
            "SubscriptionNotFound",
            "az role assignment create",
        ),
    ],
)
def test_who_can_not_even_ask_is_told_why(
    look: Look,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    failed: str,
    says: str,
    mend: str,
) -> None:
    monkeypatch.setattr(check, "_CALL_S", 3.0)
    told = look(**settings)
    assert (told.code, told.states("failed")) == (1, [(failed, "")])
    assert says in told.of(failed)["text"]
    assert mend in told.of(failed)["mend"]


def test_azure_that_hangs_is_given_up_soon_and_named(
    look: Look, azure_arm: AzureArm, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check._CALL_S <= 10.0
    monkeypatch.setattr(check, "_CALL_S", 3.0)
    kind = "Microsoft.Resources/subscriptions"
    azure_arm.faults.add(Fault("GET", kind, does="slow", delay_s=30.0, times=0))
    told = look()
    assert told.states("failed") == [("subscription", "")]
    assert told.of("login")["state"] == "ok"
    assert told.of("subscription")["text"] == (
        f"{azure_arm.ready.resource_manager} can't be asked: no answer within 3 s"
    )


def test_a_right_that_is_missing_is_told_with_one_command(look: Look, azure_arm: AzureArm) -> None:
    azure_arm.faults.add(
        faults.error("AuthorizationFailed", "GET", "Microsoft.Authorization/permissions", times=0)
    )
    role = look().of("role")
    assert role["state"] == "failed"
    assert role["text"].startswith("AuthorizationFailed: ")
    assert "az role" not in role["text"]
    assert role["mend"].startswith("az role assignment create")


def test_a_subscription_that_is_disabled_is_told(look: Look, azure_arm: AzureArm) -> None:
    azure_arm.set_subscription("Disabled")
    told = look()
    assert told.states("failed") == [("subscription", "")]
    assert told.of("subscription")["mend"] == (
        f"az account subscription enable --subscription-id {azure_arm.ready.subscription}"
    )


def test_only_what_is_used_is_looked_at(look: Look, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("c2VjcmV0\n")
    key.chmod(0o600)
    storage = {"data": {"account": "mydata", "container": "set", "key_file": str(key)}}
    told = look(expiry=False, storage=storage, inbound_from=["203.0.113.7"])
    assert [e["subject"] for e in told.objects if e["check"] == "provider"] == [
        *("Microsoft.Compute", "Microsoft.Network", "Microsoft.Storage")
    ]
    assert told.of("egress")["value"] == "203.0.113.7"


def test_swm_site_check_shows_it_to_people(azure_arm: AzureArm, tmp_path: Path) -> None:
    """The whole way: the command, the gate's own program, the stand-in."""
    azure_arm.set_provider("Microsoft.Network", "NotRegistered")
    file = site_file(azure_arm, tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    command = json.dumps(["swm-azure-gate", "--config", str(file)])
    (home / "swm.toml").write_text(
        f'listen = "127.0.0.1:7717"\n[sites.azure]\ncommand = {command}\n'
    )
    swm = Swm(environment(home), tmp_path)
    told = swm("site", "check", "azure")
    assert (told.code, told.err) == (1, "")
    lines = told.out.splitlines()
    assert lines[0].split() == ["CHECK", "OF", "STATE", "FOUND"]
    assert any(line.split()[:3] == ["sizes", "westeurope", "ok"] for line in lines)
    (failed,) = (line for line in lines if line.startswith("FAILED"))
    assert failed == (
        "FAILED  provider of Microsoft.Network: Microsoft.Network is NotRegistered in the "
        "subscription; mend: az provider register --namespace Microsoft.Network --wait "
        f"--subscription {azure_arm.ready.subscription}"
    )
    assert re.fullmatch(r"12 things looked at, 1 to be mended(, 1 warning)?", lines[-1])
    objects = swm("site", "check", "azure", "--json").out.splitlines()
    assert len(objects) == 12


# The rules themselves.


def sizes(*names: str, **told: Any) -> list[Sku]:
    return skus.read([listed(name, **told) for name in names], "eastus")


def usage(name: str, used: int, limit: int) -> dict[str, Any]:
    return {"name": {"value": name}, "currentValue": used, "limit": limit}


@pytest.mark.parametrize(
    ("days", "state"),
    [(-1, State.FAILED), (0, State.FAILED), (20, State.WARNING), (31, State.OK)],
)
def test_a_certificate_is_renewed_before_it_ends(days: int, state: State) -> None:
    verdict = rules.certificate(NOW + datetime.timedelta(days=days), NOW, WHO)
    assert verdict.state is state
    if state is not State.OK:
        assert verdict.mend == "swm-azure-gate new-certificate --config /home/ann/azure.toml"


@pytest.mark.parametrize(
    ("permissions", "state"),
    [
        ([{"actions": ["*"], "notActions": ["Microsoft.Authorization/*/Write"]}], State.OK),
        ([{"actions": ["microsoft.compute/*", "MICROSOFT.NETWORK/*"]}], State.FAILED),
        (
            [
                {"actions": ["Microsoft.Compute/*", "Microsoft.Network/*"]},
                {"actions": ["Microsoft.Resources/*", "Microsoft.DevTestLab/*"]},
            ],
            State.OK,
        ),
        # What one role takes out another may give.
        ([{"actions": ["*"], "notActions": ["*/delete"]}, {"actions": ["*/delete"]}], State.OK),
        ([{"actions": ["*"], "notActions": ["*/delete"]}], State.FAILED),
        ([], State.FAILED),
        ([{"actions": None, "notActions": None}], State.FAILED),
    ],
)
def test_roles_add_up(permissions: list[dict[str, Any]], state: State) -> None:
    needed = rules.ACTIONS + rules.EXPIRY_ACTIONS
    assert rules.role(permissions, needed, WHO).state is state


@pytest.mark.parametrize(
    ("usages", "state", "name"),
    [
        ([("cores", 0, 100), ("standardDSv5Family", 0, 10)], State.OK, ""),
        ([("cores", 98, 100), ("standardDSv5Family", 0, 10)], State.FAILED, "cores"),
        ([("cores", 0, 100), ("STANDARDDSv5Family", 8, 10)], State.FAILED, "standardDSv5Family"),
        # Spot machines have a quota of their own.
        (
            [("cores", 0, 100), ("standardDSv5Family", 8, 10), ("lowPriorityCores", 0, 4)],
            State.WARNING,
            "standardDSv5Family",
        ),
        (
            [("cores", 0, 100), ("virtualMachines", 5, 5)],
            State.FAILED,
            "virtualMachines",
        ),
        ([], State.UNKNOWN, ""),
    ],
)
def test_the_quota_has_to_take_one_machine(
    usages: list[tuple[str, int, int]], state: State, name: str
) -> None:
    offered = sizes("Standard_D4s_v5", "Standard_D8s_v5", vCPUs="4", vCPUsAvailable="4")
    verdict = rules.quota([usage(*each) for each in usages], offered, "eastus", WHO)
    assert verdict.state is state
    if name:
        assert f"--resource-name {name} " in verdict.mend


def test_a_login_with_a_certificate_that_has_ended_needs_another() -> None:
    why = "AADSTS1000502: The provided certificate is not within its specified validity window."
    assert rules.login(why, WHO).mend.startswith("swm-azure-gate new-certificate")


def test_terms_of_an_image_have_to_be_accepted() -> None:
    urn = "acme:box:standard:latest"
    verdict = rules.image(urn, "1.0", {"hyperVGeneration": "V2"}, False, sizes("Standard_D"), WHO)
    assert verdict == Verdict(
        "image",
        State.FAILED,
        "1.0",
        "its terms have not been accepted for the subscription",
        f"az vm image terms accept --urn {urn} --subscription {SUBSCRIPTION}",
    )
    for accepted in (True, None):
        assert rules.image(urn, "1.0", {}, accepted, sizes("Standard_D"), WHO).state is State.OK


def test_an_image_has_to_be_of_the_kind_of_the_machines() -> None:
    old = sizes("Standard_D2_v2", HyperVGenerations="V1")
    verdict = rules.image("a:b:c:d", "1", {"hyperVGeneration": "V2"}, None, old, WHO)
    assert "generation 2" in verdict.text
    told = {"hyperVGeneration": "V1", "architecture": "x64"}
    assert rules.image("a:b:c:d", "1", told, None, old, WHO).state is State.OK


def test_prices_of_nothing_are_no_prices() -> None:
    verdict = rules.prices(0, 0, "", "https://prices")
    assert verdict.state is State.UNKNOWN
    assert verdict.text.startswith("no size is offered")


def test_where_nothing_is_offered_the_list_of_sizes_is_named() -> None:
    verdict = rules.sizes([], "eastus", ("Standard_X*",), WHO)
    assert verdict.text == "none of Standard_X* is to be had in eastus with this subscription"
    assert verdict.mend.startswith("az vm list-skus --location eastus")
