"""The chart's values as a model. From it come values.yaml, values.schema.json and the table of values.

Names and defaults of what the operator itself is told are those of `runtime.settings`.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Object = dict[str, Any]
# Names of namespaces, and of objects in them.
Namespace = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
# An empty one stands for the default.
NameOrDefault = Annotated[str, Field(pattern=r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?)?$")]
Label = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")]
Network = Annotated[str, Field(pattern=r"^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$")]
Render = Literal["Auto", "Always", "Never"]


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Named(BaseModel):
    """Of its other fields the API server knows more."""

    model_config = ConfigDict(extra="allow")
    name: str = Field(min_length=1)


class Mount(Named):
    mountPath: str = Field(min_length=1)


class Image(Model):
    repository: str = Field(
        "feature-rollout-operator",
        pattern=r"^[a-z0-9][-a-z0-9._]*(:[0-9]+)?(/[-a-z0-9._]+)*$",
        description="Where you have pushed the image, without tag and digest.",
    )
    tag: str = Field(
        "", pattern=r"^([A-Za-z0-9_][-A-Za-z0-9_.]{0,127})?$", description="Empty: the chart's appVersion."
    )
    digest: str = Field(
        "", pattern=r"^(sha256:[0-9a-f]{64})?$", description="sha256:…; where it is set, it counts and not the tag."
    )
    pullPolicy: Literal["Always", "IfNotPresent", "Never"] = Field("IfNotPresent", description="As in a Pod.")


class Grant(Model):
    namespace: Namespace = Field(description="where they are")
    secrets: list[Name] = Field([], description="with connection strings or certificates")
    configMaps: list[Name] = Field([], description="with certificates, or with manifests of Jobs")
    jobs: bool = Field(
        False, description="whether Jobs may be created as checks, which lets editors of rollouts run Pods"
    )


class Log(Model):
    format: Literal["text", "json"] = Field("json", description="Lines for people, or JSON lines.")
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="The least to log.")


class SecretKey(Model):
    name: Name
    key: str = Field(pattern=r"^[-._a-zA-Z0-9]{1,253}$")


class Secret(Model):
    secretKeyRef: SecretKey


class Webhook(Model):
    url: Secret = Field(description="where to")
    secret: Secret = Field(description="the key of its signatures")


class Slack(Model):
    token: Secret = Field(description="a bot's")
    channel: str = Field(
        pattern=r"^(#[^\s#@<>&,]{1,80}|[CG][A-Z0-9]{8,20})$", description="for rollouts that name none, by #name or id"
    )


class PagerDuty(Model):
    routingKey: Secret = Field(description="a service's integration key")
    address: str | None = Field(None, pattern=r"^https://[^/]+", description="another than the one of the US")


class Apprise(Model):
    urls: Secret = Field(description="at most 8, with spaces or line ends between them")


class Notifications(Model):
    template: str = Field(
        "{{message}}",
        min_length=1,
        max_length=1000,
        description="What Slack, PagerDuty and Apprise are told of a transition.",
    )
    webhook: Webhook | None = Field(
        None, description="Where transitions are POSTed to; what is secret is a secretKeyRef with name and key."
    )
    slack: Slack | None = Field(None, description="Who writes to Slack.")
    pagerDuty: PagerDuty | None = Field(None, description="Who opens incidents.")
    apprise: Apprise | None = Field(None, description="Other services, by Apprise.")


class ServiceAccount(Model):
    create: bool = Field(True, description="Whether the chart makes it.")
    name: NameOrDefault = Field("", description="Empty: the release's full name.")
    annotations: dict[str, str] = Field({}, description="Its annotations.")


class Rbac(Model):
    create: bool = Field(True, description="Whether the chart makes the operator's roles and bindings.")
    aggregate: bool = Field(True, description="Whether rollouts are added to the cluster's roles view and edit.")


class Crds(Model):
    enabled: bool = Field(True, description="Whether the chart installs and upgrades the CRDs.")
    keep: bool = Field(True, description="Whether they, and all rollouts with them, outlive helm uninstall.")


class AdmissionPolicies(Model):
    enabled: bool = Field(True, description="Whether the policies on who may ask for a RolloutAction are installed.")
    stampRequester: Render = Field(
        "Auto",
        description="The MutatingAdmissionPolicy that writes requestedBy; Auto: from Kubernetes 1.37 on.",
    )


class PodDisruptionBudget(Model):
    enabled: bool = Field(True, description="One Pod at a time may be evicted.")


class NetworkPolicy(Model):
    enabled: bool = Field(True, description="Lets nobody in but to the port of probes and metrics.")
    metricsFrom: list[Object] = Field([], description="NetworkPolicyPeers that may scrape. Empty: everybody.")
    egress: list[Object] = Field(
        [],
        description="NetworkPolicyEgressRules; name DNS, the API server, databases, Prometheus and who is notified. "
        "Empty: everything.",
    )


class Monitor(Model):
    kind: Literal["ServiceMonitor", "PodMonitor"] = Field("ServiceMonitor", description="Which of the two is made.")
    render: Render = Field(
        "Auto",
        description="Auto: where the API server says that it has the kind, which helm template and GitOps cannot ask.",
    )
    interval: str = Field("30s", pattern=r"^[1-9][0-9]*(s|m)$", description="How often the operator is scraped.")
    labels: dict[str, Label] = Field({}, description="What your Prometheus selects monitors by.")


class Rules(Model):
    render: Render = Field("Auto", description="The same, for the PrometheusRule with the alerts.")
    labels: dict[str, Label] = Field({}, description="What your Prometheus selects rules by.")
    runbooks: str = Field("docs/runbooks", description="Where the runbooks are: the beginning of each runbook_url.")


class Dashboards(Model):
    create: bool = Field(False, description="Whether there is a ConfigMap with each of the two Grafana dashboards.")
    labels: dict[str, str] = Field(
        {"grafana_dashboard": "1"}, description="What the sidecar of your Grafana selects ConfigMaps by."
    )
    annotations: dict[str, str] = Field({}, description="Annotations of these, such as the folder in Grafana.")


class Metrics(Model):
    monitor: Monitor = Monitor()
    rules: Rules = Rules()
    dashboards: Dashboards = Dashboards()


class Values(Model):
    """Values of the chart feature-rollout-operator."""

    nameOverride: Annotated[str, Field(pattern=r"^[-a-z0-9]*$")] = Field("", description="Instead of the chart's name.")
    fullnameOverride: NameOrDefault = Field("", description="Instead of release and name.")
    commonLabels: dict[str, Label] = Field({}, description="Labels of every object.")
    image: Image = Image()
    imagePullSecrets: list[Named] = Field([], description="As in a Pod.")
    replicas: int = Field(
        2, ge=1, description="They share a Lease; one of them leads, the others follow it when it is lost."
    )
    shards: int = Field(
        1,
        ge=1,
        le=32,
        description="How many parts the rollouts are divided into, each with a Lease of its own: more than one, "
        "and so many replicas work at a time.",
    )
    clusterName: str = Field(
        "",
        max_length=253,
        description="The first part of every ledger key; set it, and a rebuilt cluster goes on where this one was. "
        "Empty: the UID of kube-system.",
    )
    watchNamespaces: list[Namespace] = Field(
        [],
        description="Where rollouts are served. Empty: in all namespaces.",
        json_schema_extra={"uniqueItems": True},
    )
    grants: list[Grant] = Field(
        [], description="What the operator may read, by name: a Role for each namespace. It may never list Secrets."
    )
    log: Log = Log()
    workers: int = Field(8, ge=1, le=256, description="How many rollouts are reconciled at a time.")
    driftPollSeconds: float = Field(
        5, ge=0.1, le=3600, description="How often flag rows are read to see changes by others."
    )
    deniedAddresses: list[Network] | None = Field(
        None, description="Networks in which no database may be. null: the operator's default."
    )
    notifications: Notifications = Notifications()
    extraEnv: list[Named] = Field(
        [], description="More environment variables, as in a container; where traces go (OTEL_…), for example."
    )
    extraVolumes: list[Named] = Field([], description="More volumes, as in a Pod.")
    extraVolumeMounts: list[Mount] = Field([], description="Where they are mounted, as in a container.")
    podAnnotations: dict[str, str] = Field({}, description="Annotations of the Pod.")
    podLabels: dict[str, Label] = Field({}, description="More labels of the Pod.")
    nodeSelector: dict[str, str] = Field({}, description="As in a Pod.")
    tolerations: list[Object] = Field([], description="As in a Pod.")
    affinity: Object = Field({}, description="As in a Pod.")
    topologySpreadConstraints: list[Object] | None = Field(
        None, description="As in a Pod. null: over nodes and zones, where that can be."
    )
    priorityClassName: NameOrDefault = Field("", description="As in a Pod.")
    resources: Object = Field(
        {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        description="As in a container. No CPU limit: it would slow reverts down.",
    )
    podSecurityContext: Object = Field(
        {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        description="As in a Pod; it fits Pod Security restricted.",
    )
    securityContext: Object = Field(
        {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
        description="As in a container; it fits Pod Security restricted.",
    )
    serviceAccount: ServiceAccount = ServiceAccount()
    rbac: Rbac = Rbac()
    crds: Crds = Crds()
    admissionPolicies: AdmissionPolicies = AdmissionPolicies()
    podDisruptionBudget: PodDisruptionBudget = PodDisruptionBudget()
    networkPolicy: NetworkPolicy = NetworkPolicy()
    metrics: Metrics = Metrics()
    # Helm gives it to every chart that another one depends on.
    global_: Object = Field({}, alias="global", description="Not used; Helm passes it on to charts within charts.")
