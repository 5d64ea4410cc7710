{{- define "stoq.labels" -}}
app: {{ .Release.Name }}
{{- end }}

{{- /* The variable by which the device plugin names the function. */}}
{{- define "stoq.device" -}}
env:PCIDEVICE_{{ .Values.nic.resource | upper | replace "." "_" | replace "/" "_" | replace "-" "_" }}
{{- end }}

{{- define "stoq.check" -}}
{{- if gt (int .Values.replicas) (len .Values.gateways) }}
{{- fail (printf "replicas is %d, and gateways has %d entries; give one for each" (int .Values.replicas) (len .Values.gateways)) }}
{{- end }}
{{- if not .Values.trust.nodeIds }}
{{- fail "trust.nodeIds is empty; name the peers that may connect" }}
{{- end }}
{{- if and .Values.zone.name (not .Values.zone.value) }}
{{- fail "zone.name says where the pods are; give zone.value, by which they are kept there" }}
{{- end }}
{{- $grace := add (div (int .Values.drainMs) 1000) 2 }}
{{- if lt (int .Values.terminationGracePeriodSeconds) (int $grace) }}
{{- fail (printf "terminationGracePeriodSeconds is %d, and drainMs needs %d; raise it" (int .Values.terminationGracePeriodSeconds) (int $grace)) }}
{{- end }}
{{- $seen := dict }}
{{- range $at, $gateway := .Values.gateways }}
{{- if lt $at (int $.Values.replicas) }}
{{- if $.Values.fleet.enabled }}
{{- if or (not $gateway.nodeId) (not $gateway.serverId) }}
{{- fail (printf "gateways[%d]: a fleet needs nodeId and serverId" $at) }}
{{- end }}
{{- range (list $gateway.nodeId $gateway.serverId) }}
{{- if hasKey $seen . }}{{ fail (printf "gateways[%d]: %s is that of another gateway" $at .) }}{{ end }}
{{- $_ := set $seen . true }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
