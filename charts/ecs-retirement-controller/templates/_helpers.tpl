{{- define "ecs-retirement-controller.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Name of the namespaced objects of the release and of its Lease. */}}
{{- define "ecs-retirement-controller.fullname" -}}
{{- $name := include "ecs-retirement-controller.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/*
Name of the objects outside the release's namespace. It includes the namespace because releases
in different namespaces can have the same name.
*/}}
{{- define "ecs-retirement-controller.clusterName" -}}
{{- printf "%s:%s" .Release.Namespace (include "ecs-retirement-controller.fullname" .) }}
{{- end }}

{{- define "ecs-retirement-controller.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "ecs-retirement-controller.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/*
The image. The first part of a repository is a registry if it contains a dot or a port, or is
localhost.
*/}}
{{- define "ecs-retirement-controller.image" -}}
{{- $repository := .Values.image.repository }}
{{- with (.Values.global).imageRegistry }}
{{- $path := regexReplaceAll "^([^/]*[.:][^/]*|localhost)/" $repository "" }}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) $path }}
{{- end }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" $repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" $repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{/*
Image pull secrets of the chart and of a parent chart, given as names or as {name: ...}; empty if
there are none.
*/}}
{{- define "ecs-retirement-controller.pullSecrets" -}}
{{- $secrets := list }}
{{- range concat (.Values.image.pullSecrets | default list) ((.Values.global).imagePullSecrets | default list) }}
{{- $secrets = append $secrets (kindIs "string" . | ternary (dict "name" .) .) }}
{{- end }}
{{- with uniq $secrets }}
{{- toYaml . }}
{{- end }}
{{- end }}

{{- define "ecs-retirement-controller.selectorLabels" -}}
app.kubernetes.io/name: {{ include "ecs-retirement-controller.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/*
Labels of an object, including additional labels in `extra`:
(dict "root" $ "extra" .Values.x.labels).
*/}}
{{- define "ecs-retirement-controller.labels" -}}
{{- $root := .root }}
{{- $labels := include "ecs-retirement-controller.selectorLabels" $root | fromYaml }}
{{- $_ := set $labels "app.kubernetes.io/version" $root.Chart.AppVersion }}
{{- $_ := set $labels "app.kubernetes.io/managed-by" $root.Release.Service }}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_") }}
{{- toYaml (merge $labels (.extra | default dict) ($root.Values.commonLabels | default dict)) }}
{{- end }}

{{/* Rules of the controller's Roles or ClusterRole. */}}
{{- define "ecs-retirement-controller.rules" -}}
- apiGroups: [ecs-retirement.dev]
  resources: [taskdefinitionretirements]
  verbs: [get, list, watch]
- apiGroups: [ecs-retirement.dev]
  resources: [taskdefinitionretirements/status]
  verbs: [patch]
{{- if .Values.retentionPolicies.enabled }}
- apiGroups: [ecs-retirement.dev]
  resources: [taskdefinitionretentionpolicies]
  verbs: [get, list, watch]
- apiGroups: [ecs-retirement.dev]
  resources: [taskdefinitionretentionpolicies/status]
  verbs: [patch]
- apiGroups: [ecs-retirement.dev]
  resources: [taskdefinitionretirements]
  verbs: [create, patch, delete{{ if .Values.approval.enforce }}, approve{{ end }}]
{{- end }}
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}

{{- define "ecs-retirement-controller.subjects" -}}
- kind: ServiceAccount
  name: {{ include "ecs-retirement-controller.serviceAccountName" . | quote }}
  namespace: {{ .Release.Namespace | quote }}
{{- end }}

{{/* Endpoint of a ServiceMonitor or PodMonitor; its values are the argument. */}}
{{- define "ecs-retirement-controller.endpoint" -}}
port: metrics
{{- with .interval }}
interval: {{ . }}
{{- end }}
{{- with .scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
{{- with .relabelings }}
relabelings:
{{ toYaml . }}
{{- end }}
{{- with .metricRelabelings }}
metricRelabelings:
{{ toYaml . }}
{{- end }}
{{- end }}
