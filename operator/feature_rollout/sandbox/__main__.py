"""`python -m feature_rollout.sandbox`: find or make everything that the sandbox runs, and say what it will use."""

import sys

from feature_rollout.sandbox import toolchain
from feature_rollout.sandbox.errors import SandboxError
from feature_rollout.sandbox.prometheus import prometheus_binaries


def main() -> int:
    try:
        binaries = toolchain.control_plane_binaries(controller_manager=True)
        newest = toolchain.newest_postgres()
        kubectl = toolchain.kubectl()
        prometheus = prometheus_binaries()
    except SandboxError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    others = [f"{found.major} in {found.bin_dir}" for found in toolchain.postgres_installations() if found != newest]
    also = f" (also {', '.join(others)})" if others else ""
    sys.stdout.write(f"control plane: {binaries.source}\n")
    sys.stdout.write(f"PostgreSQL:    {newest.major} in {newest.bin_dir}{also}\n")
    sys.stdout.write(f"kubectl:       {kubectl}\n")
    sys.stdout.write(f"Prometheus:    {prometheus.source}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
