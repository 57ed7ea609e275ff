"""A real Kubernetes control plane and a real PostgreSQL on this machine, for `featurerollout demo` and for the tests.

Everything here is started as a child process in a temporary folder on loopback ports, and is gone when it is stopped
or when the process that started it dies. No cluster and no database of the user's is ever looked for or touched.

| to get | import |
|---|---|
| a control plane | `from feature_rollout.sandbox.controlplane import ControlPlane` |
| a PostgreSQL server | `from feature_rollout.sandbox.postgres import PostgresServer` |
| the programs that they run | `from feature_rollout.sandbox import toolchain` |
| the one exception that all of them raise | `from feature_rollout.sandbox.errors import SandboxError` |
"""
