"""`swm-azure-gate set-up` and `new-certificate`: what a site of Azure needs before its first start.

Nothing of Azure is asked here: the key is made, a configuration is written, and the commands of
`az` are told that do the rest. What is there already stays as it is.
"""

from __future__ import annotations

import datetime
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from gate_kit import command_line
from gates.azure_gate import certificate, check_rules
from gates.azure_gate import config as configuration
from gates.azure_gate.certificate import Certificate
from rpc_kit import private_files

_PROGRAM = "swm-azure-gate"
_TEMPLATE = Path(__file__).with_name("site.toml")
_UNKNOWN = "SUBSCRIPTION_ID"


def set_up(arguments: Sequence[str]) -> int:
    """Make certificate and configuration of a site, and tell what is to be done next.

    Args:
        arguments: Those after `set-up`.

    Returns:
        The exit code.
    """
    parser = command_line.Parser(
        prog=f"{_PROGRAM} set-up",
        description="Make the certificate and the configuration of a site of Azure, and tell the "
        "commands that make it known there. What is there already stays as it is.",
        allow_abbrev=False,
    )
    parser.add_argument("--name", required=True, help="the site's name")
    parser.add_argument("--folder", type=Path, required=True, help="for keys and caches")
    parser.add_argument("--config", type=Path, required=True, help="the file to write")
    parser.add_argument(
        "--location",
        action="append",
        metavar="REGION",
        help="where machines may be made, as westeurope; may be given several times",
    )
    parser.add_argument("--subscription", default="", metavar="ID", help="the subscription")
    parser.add_argument("--tenant", default="", metavar="ID", help="its tenant")
    parser.add_argument("--app-id", default="", metavar="ID", help="the service principal, if any")
    given = parser.parse_args(arguments)
    locations = given.location or ["westeurope"]
    ids = (given.subscription, given.tenant, given.app_id)
    if any(not configuration.is_id(text) for text in ids if text):
        parser.error("--subscription, --tenant and --app-id take ids, as `az account show` tells")
    if any(not configuration.is_location(name) for name in locations):
        parser.error('--location takes the name of a region, as "westeurope"')
    folder, path = given.folder.absolute(), given.config.absolute()
    try:
        files, is_new = _certificate(folder, given.name)
        if is_new:
            _say(f"made {files.login}: key and certificate, for this gate alone")
        text = _filled(files, folder, locations, *ids)
        if private_files.write_new(path, text.encode()):
            _say(f"made {path}: its configuration")
        else:
            _say(f"{path} is there already, and was left as it is")
    except OSError as error:
        return _failed(error)
    _tell_next(given.name, path, files, given.subscription)
    return 0


def new_certificate(arguments: Sequence[str]) -> int:
    """Make a further certificate for a site whose own ends soon, and tell what to do with it.

    Args:
        arguments: Those after `new-certificate`.

    Returns:
        The exit code.
    """
    parser = command_line.Parser(
        prog=f"{_PROGRAM} new-certificate",
        description="Make a new certificate for a site of Azure, beside the one that it has.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, required=True, help="the site's configuration")
    given = parser.parse_args(arguments)
    config = configuration.load(given.config)
    old = Path(config.certificate_file).expanduser()
    try:
        files = certificate.make(old.parent, given.config.stem, datetime.datetime.now(datetime.UTC))
    except OSError as error:
        return _failed(error)
    who = check_rules.Who(
        config.subscription_id, config.app_id, str(given.config), str(files.login)
    )
    _say(f"made {files.login}: key and certificate, for this gate alone")
    _say()
    _say("Have Azure know it beside the old one:")
    _say()
    _say(f"    {who.known_certificate()}")
    _say()
    _say(f"Then name it in {given.config.absolute()}, and start the gate anew:")
    _say()
    _say(f'    certificate_file = "{files.login}"')
    _say()
    _say("    swm gate restart NAME")
    return 0


def _certificate(folder: Path, name: str) -> tuple[Certificate, bool]:
    """The certificate of a site, and whether it is new."""
    private_files.make_folder(folder)
    found = certificate.newest(folder)
    if found is not None:
        if not found.public.exists():
            private_files.write_new(found.public, certificate.public_part(found.login))
        return found, False
    return certificate.make(folder, name, datetime.datetime.now(datetime.UTC)), True


def _filled(
    files: Certificate,
    folder: Path,
    locations: Sequence[str],
    subscription_id: str,
    tenant_id: str,
    app_id: str,
) -> str:
    """The text of a configuration."""
    values = {
        "@SUBSCRIPTION_ID@": _quoted(subscription_id),
        "@TENANT_ID@": _quoted(tenant_id),
        "@APP_ID@": _quoted(app_id),
        "@CERTIFICATE_FILE@": _quoted(str(files.login)),
        "@STATE_DIR@": _quoted(str(folder)),
        "@LOCATIONS@": f"[{', '.join(_quoted(name) for name in locations)}]",
    }
    text = _TEMPLATE.read_text(encoding="utf-8")
    for mark, value in values.items():
        text = text.replace(mark, value)
    return text


def _quoted(text: str) -> str:
    """As TOML has a text; its basic strings are those of JSON."""
    import json

    return json.dumps(text, ensure_ascii=False)


def _tell_next(name: str, path: Path, files: Certificate, subscription_id: str) -> None:
    subscription_id = subscription_id or _UNKNOWN
    create = check_rules.create_principal(subscription_id, str(files.login), f"swm-{name}")
    _say()
    _say("Next, where `az login` has been done by somebody who may give roles in the subscription:")
    _say()
    if subscription_id == _UNKNOWN:
        _say("    az account show --query '{subscription_id: id, tenant_id: tenantId}'")
    _say(f"    {create}")
    for namespace in ("Microsoft.Compute", "Microsoft.Network", "Microsoft.DevTestLab"):
        words = ["az", "provider", "register", "--namespace", namespace]
        _say(f"    {shlex.join([*words, '--subscription', subscription_id])}")
    _say()
    _say(f"Write subscription_id, tenant_id (`tenant`) and app_id (`appId`) into {path}. Then:")
    _say()
    _say(f"    swm site check {shlex.quote(name)}")
    _say("    swm down; swm up")


def _say(line: str = "") -> None:
    sys.stdout.write(f"{line}\n")


def _failed(error: OSError) -> int:
    where = f"{error.filename}: {error.strerror}" if error.errno else str(error)
    sys.stderr.write(f"{_PROGRAM}: {where}\n")
    return 1
