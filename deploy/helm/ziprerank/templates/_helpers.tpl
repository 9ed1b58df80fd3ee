{{- /* The namespace of every object. */ -}}
{{- define "ziprerank.namespace" -}}
{{ .Values.namespace.name | default .Release.Namespace }}
{{- end }}

{{- /* Labels of the chart, on every object but not on pods: a new version of the chart alone must not restart them. */ -}}
{{- define "ziprerank.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "ziprerank.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default (printf "%s-cu130" .Chart.AppVersion) }}
{{- end -}}
{{- end }}

{{- /* The data of the ConfigMap with the settings. */ -}}
{{- define "ziprerank.settings" -}}
{{- $folder := .Values.model.folder | default (printf "%s-%s" (base .Values.model.repository) .Values.model.revision) -}}
{{- $own := dict "ZIPRERANK_MODEL" (printf "/models/%s" $folder) -}}
{{- if .Values.rootPath }}{{ $_ := set $own "ZIPRERANK_ROOT_PATH" .Values.rootPath }}{{ end -}}
{{- if .Values.apiKeysFile.secret -}}
{{ $_ := set $own "ZIPRERANK_API_KEYS_FILE" (printf "/keys/%s" .Values.apiKeysFile.key) }}
{{- end -}}
{{ merge $own .Values.settings | toYaml }}
{{- end }}

{{- define "ziprerank.weights" -}}
REPOSITORY: {{ .Values.model.repository | quote }}
REVISION: {{ .Values.model.revision | quote }}
{{- end }}

{{- /* Names that end in a hash of the content, so that a change rolls the pods, and a rollback finds the old ones. */ -}}
{{- define "ziprerank.settingsName" -}}
ziprerank-settings-{{ include "ziprerank.settings" . | sha256sum | trunc 10 }}
{{- end }}

{{- define "ziprerank.weightsName" -}}
ziprerank-weights-{{ include "ziprerank.weights" . | sha256sum | trunc 10 }}
{{- end }}

{{- /* Whether weights and documents lie on volumes of the chart's own. */ -}}
{{- define "ziprerank.modelsClaim" -}}
{{ .Values.storage.models.existingClaim | default "ziprerank-models" }}
{{- end }}

{{- define "ziprerank.documentsClaim" -}}
{{ .Values.storage.documents.existingClaim | default "ziprerank-documents" }}
{{- end }}

{{- /* The Job and what belongs to it are there when weights are fetched into a volume. */ -}}
{{- define "ziprerank.fetches" -}}
{{- if and .Values.model.fetch (not .Values.model.image.reference) -}}yes{{- end -}}
{{- end }}

{{- define "ziprerank.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 0
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "ziprerank.locked" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* Paths that routes and Ingress send to the service: not /metrics, which Prometheus scrapes from the pods. */ -}}
{{- define "ziprerank.paths" -}}
paths: [/rerank, /v1, /documents, /info, /readyz]
{{- end }}
