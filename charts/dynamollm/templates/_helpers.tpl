{{- /* Names of objects are fixed, not the release's: operator and agents find each other by them, and a cluster has one of each. */}}

{{- define "dynamollm.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- /* Labels of an object; the argument is (list . name). */}}
{{- define "dynamollm.labels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/part-of: dynamollm
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* The priority class of pods; the argument is (list . chosen own). Nothing where the chart makes none. */}}
{{- define "dynamollm.priorityClass" -}}
{{- $root := index . 0 -}}
{{- with index . 1 -}}
{{ . }}
{{- else -}}
{{- if $root.Values.priorityClasses.create }}{{ index . 2 }}{{ end -}}
{{- end -}}
{{- end }}

{{- /* Name and namespace of the Service that prometheus.url names, as {name: …, namespace: …}; empty for another address. */}}
{{- define "dynamollm.prometheusService" -}}
{{- $host := (urlParse .Values.prometheus.url).host | splitList ":" | first -}}
{{- $parts := splitList "." $host -}}
{{- if and (ge (len $parts) 3) (eq (index $parts 2) "svc") }}
name: {{ index $parts 0 }}
namespace: {{ index $parts 1 }}
{{- end }}
{{- end }}

{{- /* The port of prometheus.url. */}}
{{- define "dynamollm.prometheusPort" -}}
{{- $url := urlParse .Values.prometheus.url -}}
{{- $parts := splitList ":" $url.host -}}
{{- if gt (len $parts) 1 }}{{ last $parts }}{{ else }}{{ eq $url.scheme "https" | ternary 443 80 }}{{ end -}}
{{- end }}

{{- /* What every pod of ours that needs no rights on its node has. */}}
{{- define "dynamollm.restrictedPod" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "dynamollm.restrictedContainer" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
