"""`ray start` on a machine that is busy: `python ray_start.py start --head …`.

Ray 2.60 does not tell a node the port of its dashboard agent, even where it is given, and ends the node if the agent
has not said it within 15 seconds.
"""

from __future__ import annotations

from typing import Any


def tell_ports() -> None:
    """Let nodes that this process starts know all their ports, so that they wait for none of them."""
    from ray._private import services

    plain = services.start_ray_process

    def start(command: list[str], *arguments: Any, **options: Any) -> Any:
        prefix = "--listen-port="
        found = [word.removeprefix(prefix) for part in command for word in part.split() if word.startswith(prefix)]
        told = [f"--dashboard_agent_listen_port={port}" for port in found if command[0] == services.RAYLET_EXECUTABLE]
        return plain([*command, *told], *arguments, **options)

    services.start_ray_process = start


if __name__ == "__main__":
    from ray.scripts.scripts import main

    tell_ports()
    main()
