{{/* Names. */}}
{{- define "authsvc.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{/* At most 52 characters, so that every suffix below fits into 63. */}}
{{- define "authsvc.fullname" -}}
{{- $name := include "authsvc.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "authsvc.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "authsvc.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "authsvc.secretName" -}}
{{- default (include "authsvc.fullname" .) .Values.secrets.existingSecret }}
{{- end }}

{{- define "authsvc.tlsSecretName" -}}
{{- default (printf "%s-tls" (include "authsvc.fullname" .)) .Values.tls.existingSecret }}
{{- end }}

{{- define "authsvc.selectorLabels" -}}
{{- if .Values.selectorLabels }}
{{- toYaml .Values.selectorLabels }}
{{- else -}}
app.kubernetes.io/name: {{ include "authsvc.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}
{{- end }}

{{/* Labels of every object, but for the name, which says whose pods are selected. */}}
{{- define "authsvc.commonLabels" -}}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: authsvc
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "authsvc.labels" -}}
app.kubernetes.io/name: {{ include "authsvc.name" . | quote }}
{{ include "authsvc.commonLabels" . }}
{{- end }}

{{/* Of the pods of hooks, which no Service, budget or policy of the service may select. */}}
{{- define "authsvc.hookLabels" -}}
app.kubernetes.io/name: {{ include "authsvc.name" .root }}-{{ .hook }}
{{ include "authsvc.commonLabels" .root }}
{{- end }}

{{- define "authsvc.image" -}}
{{- $name := .Values.image.repository }}
{{- with .Values.image.registry }}
{{- $name = printf "%s/%s" (trimSuffix "/" .) $name }}
{{- end }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" $name .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" $name (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* What the code says of its settings: see tests/support/chart_files.py. */}}
{{- define "authsvc.known" -}}
{{- .Files.Get "files/settings.json" }}
{{- end }}

{{- define "authsvc.grpcPort" -}}
{{- regexFind "[0-9]+$" .Values.config.grpc.address }}
{{- end }}

{{- define "authsvc.httpPort" -}}
{{- regexFind "[0-9]+$" .Values.config.http.address }}
{{- end }}

{{- define "authsvc.httpScheme" -}}
{{- ternary "HTTPS" "HTTP" (not (empty .Values.config.http.tls)) }}
{{- end }}

{{/* Numbers of values are floating-point numbers, which TOML would write as such. In place. */}}
{{- define "authsvc.wholeNumbers" -}}
{{- $value := . }}
{{- if kindIs "map" $value }}
{{- range $key, $inner := $value }}
{{- if kindIs "float64" $inner }}
{{- if eq $inner (floor $inner) }}
{{- $_ := set $value $key (int64 $inner) }}
{{- end }}
{{- else }}
{{- include "authsvc.wholeNumbers" $inner }}
{{- end }}
{{- end }}
{{- else if kindIs "slice" $value }}
{{- range $value }}
{{- include "authsvc.wholeNumbers" . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "authsvc.config" -}}
{{- $config := deepCopy .Values.config }}
{{- include "authsvc.wholeNumbers" $config }}
{{- toToml $config }}
{{- end }}

{{/* Removes a key from a table, and each table that is empty without it. In place. */}}
{{- define "authsvc.unset" -}}
{{- $inner := get .table (first .keys) }}
{{- if and (rest .keys) $inner }}
{{- include "authsvc.unset" (dict "table" $inner "keys" (rest .keys)) }}
{{- end }}
{{- if or (not (rest .keys)) (not $inner) }}
{{- $_ := unset .table (first .keys) }}
{{- end }}
{{- end }}

{{/* Of what is not reloaded: a change of it has to replace the pods. */}}
{{- define "authsvc.configChecksum" -}}
{{- $config := deepCopy .Values.config }}
{{- range (include "authsvc.known" . | fromJson).reloaded }}
{{- include "authsvc.unset" (dict "table" $config "keys" (splitList "." .)) }}
{{- end }}
{{- toJson $config | sha256sum }}
{{- end }}

{{/* The whole seconds, rounded up, of a duration such as 1m30s. */}}
{{- define "authsvc.seconds" -}}
{{- $units := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000 }}
{{- $sum := 0 }}
{{- range regexFindAll "[0-9]+(ms|s|m|h|d)" . -1 }}
{{- $unit := regexFind "[a-z]+" . }}
{{- $sum = add $sum (mul (trimSuffix $unit . | int64) (get $units $unit)) }}
{{- end }}
{{- div (add $sum 999) 1000 }}
{{- end }}

{{/* What a pod needs to stop: the pause, the drain, and 15 s to send what is being sent. */}}
{{- define "authsvc.stopSeconds" -}}
{{- $drain := default (include "authsvc.known" . | fromJson).drain_timeout .Values.config.grpc.drain_timeout }}
{{- add (int .Values.preStopSeconds) (include "authsvc.seconds" $drain) 15 }}
{{- end }}

{{- define "authsvc.env" -}}
- name: AUTHSVC_CONFIG
  value: /etc/authsvc/config/config.toml
- name: AUTHSVC_SECRETS_DIR
  value: /etc/authsvc/secrets
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "authsvc.settingsMounts" -}}
- name: config
  mountPath: /etc/authsvc/config
  readOnly: true
- name: secrets
  mountPath: /etc/authsvc/secrets
  readOnly: true
{{- end }}

{{/* What each pod of the chart has in common. */}}
{{- define "authsvc.podBase" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . | quote }}
{{- end }}
{{- end }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- end }}

{{/* The container that migrates the database. */}}
{{- define "authsvc.migrationContainer" -}}
- name: migrate
  image: {{ include "authsvc.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args: [migrate, --wait, {{ .Values.migration.wait }}]
  env:
    {{- include "authsvc.env" . | nindent 4 }}
  resources:
    {{- toYaml .Values.migration.resources | nindent 4 }}
  securityContext:
    {{- toYaml .Values.securityContext | nindent 4 }}
  volumeMounts:
    {{- include "authsvc.settingsMounts" . | nindent 4 }}
    {{- with .Values.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{/* Names of the server: of both Services, from the shortest to the whole, and further ones. */}}
{{- define "authsvc.dnsNames" -}}
{{- $namespace := .Release.Namespace }}
{{- range list (include "authsvc.fullname" .) (printf "%s-headless" (include "authsvc.fullname" .)) }}
- {{ . | quote }}
- {{ . }}.{{ $namespace }}
- {{ . }}.{{ $namespace }}.svc
- {{ . }}.{{ $namespace }}.svc.cluster.local
{{- end }}
{{- range .Values.certManager.dnsNames }}
- {{ . | quote }}
{{- end }}
{{- end }}

{{- define "authsvc.issuerRef" -}}
{{- if .Values.certManager.createIssuer -}}
name: {{ include "authsvc.fullname" . | quote }}
kind: Issuer
group: cert-manager.io
{{- else }}
{{- toYaml .Values.certManager.issuerRef }}
{{- end }}
{{- end }}

{{/* Whether a setting makes the service call somebody by HTTPS. */}}
{{- define "authsvc.callsHttps" -}}
{{- $config := .Values.config }}
{{- $audit := dig "audit" "forward" "target" "none" $config }}
{{- if not (kindIs "invalid" .Values.networkPolicy.https) }}
{{- ternary "yes" "" .Values.networkPolicy.https }}
{{- else if or (eq (dig "delivery" "channel" "none" $config) "webhook") (eq $audit "webhook") (dig "oauth" "providers" "" $config) (dig "passwords" "breached" "address" "" $config) }}
{{- "yes" }}
{{- end }}
{{- end }}

{{/* The rules by which pods reach DNS and the database, which the migration needs as well. */}}
{{- define "authsvc.baseEgress" -}}
{{- with .Values.networkPolicy.dns -}}
- ports:
    {{- range .ports }}
    - port: {{ . }}
      protocol: UDP
    - port: {{ . }}
      protocol: TCP
    {{- end }}
  {{- with .to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- with .Values.networkPolicy.database }}
- ports:
    {{- range .ports }}
    - port: {{ . }}
      protocol: TCP
    {{- end }}
  {{- with .to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}
