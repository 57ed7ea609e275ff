"""The Kubernetes API: our objects, their status and finalizer, Secrets, Events.

| to get | import |
|---|---|
| the connection and raw calls | `feature_rollout.kube.client` |
| what the reconciler asks of the API server (`ports.RolloutObjects`) | `feature_rollout.kube.rollouts` |
| Events | `feature_rollout.kube.events` |
| what can go wrong | `feature_rollout.kube.errors` |
"""
