"""`make dashboard`: where one looks at the service, and how to log in there."""

from __future__ import annotations

from cli.inventory import Service
from cli.units import DASHBOARD_USER

# In the folder of the inventory's secrets; role secrets makes it.
FILE = "dashboard_password"


def show(service: Service) -> int:
    """Print the address, the user and the file of the password; returns 1 when nobody watches the nodes."""
    if not service.dashboards:
        print(
            "Nobody watches these nodes. Put a host of the inventory into the group monitoring, and run"
            f" ansible-playbook -i {service.inventory} site.yml (docs/monitoring.md)."
        )
        return 1
    for address in service.dashboards:
        print(address)
    print(f"Its certificate is of {service.dashboard_authority}: let your browser trust it.")
    if service.dashboard_wants_certificate:
        print("It asks for a certificate of an authority of monitoring_client_ca.")
    else:
        print(f"User {DASHBOARD_USER}, password in {service.secrets_folder / FILE}")
    return 0
