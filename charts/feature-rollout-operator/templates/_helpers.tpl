{{- define "fro.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "fro.fullname" -}}
{{- $name := include "fro.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "fro.selectorLabels" -}}
app.kubernetes.io/name: {{ include "fro.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "fro.labels" -}}
{{ include "fro.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "fro.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "fro.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "fro.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The subject of every binding. */}}
{{- define "fro.subjects" -}}
- kind: ServiceAccount
  name: {{ include "fro.serviceAccount" . }}
  namespace: {{ .Release.Namespace }}
{{- end -}}

{{/* "true" when a kind that not every cluster has shall be made: (list . mode apiVersion/kind) */}}
{{- define "fro.renders" -}}
{{- $root := index . 0 -}}{{- $mode := index . 1 -}}{{- $kind := index . 2 -}}
{{- if or (eq $mode "Always") (and (eq $mode "Auto") ($root.Capabilities.APIVersions.Has $kind)) -}}true{{- end -}}
{{- end -}}

{{/* Every namespace that the operator is known to work in. */}}
{{- define "fro.namespaces" -}}
{{- $found := .Values.watchNamespaces -}}
{{- range .Values.grants -}}{{- $found = append $found .namespace -}}{{- end -}}
{{- $found | default (list .Release.Namespace) | uniq | toJson -}}
{{- end -}}

{{/* The Leases that the replicas share, one a shard. */}}
{{- define "fro.leases" -}}
{{- $name := include "fro.fullname" . -}}
{{- $found := list $name -}}
{{- range $shard := untilStep 1 (int .Values.shards) 1 -}}{{- $found = append $found (printf "%s-%d" $name $shard) -}}{{- end -}}
{{- $found | toJson -}}
{{- end -}}

{{/* What it does with rollouts, wherever it serves them. */}}
{{- define "fro.rolloutRules" -}}
- apiGroups: [featurerollout.dev]
  resources: [featurerollouts, rollbackmatrices, metrictemplates, flagstores, rolloutactions]
  verbs: [get, list, watch]
- apiGroups: [featurerollout.dev]
  resources: [featurerollouts] # the finalizer
  verbs: [patch]
- apiGroups: [featurerollout.dev]
  resources: [rolloutactions] # 30 days after they are over
  verbs: [delete]
- apiGroups: [featurerollout.dev]
  resources: [featurerollouts/status, flagstores/status, rolloutactions/status]
  verbs: [patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
