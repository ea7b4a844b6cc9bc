# SPDX-License-Identifier: Apache-2.0
"""A Pod's messages (protobuf.py says how they are written): `kubectl debug` sends Pods so from 1.32 on. Volumes of
kinds that no host has are not among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_CONTAINER: Final = (
    "1 name text, 2 image text, 3 command [text], 4 args [text], 5 workingDir text, 6 ports [ContainerPort], "
    "7 env [EnvVar], 8 resources ResourceRequirements, 9 volumeMounts [VolumeMount], 10 livenessProbe Probe, "
    "11 readinessProbe Probe, 12 lifecycle Lifecycle, 13 terminationMessagePath text, 14 imagePullPolicy "
    "text, 15 securityContext SecurityContext, 16 stdin mark, 17 stdinOnce mark, 18 tty mark, 19 envFrom "
    "[EnvFromSource], 20 terminationMessagePolicy text, 21 volumeDevices [VolumeDevice], 22 startupProbe "
    "Probe, 23 resizePolicy [ContainerResizePolicy], 24 restartPolicy text"
)

POD_MESSAGES: Final[Mapping[str, str]] = {
    "Pod": "1 metadata ObjectMeta, 2 spec PodSpec, 3 status PodStatus",
    "PodSpec": (
        "1 volumes [Volume], 2 containers [Container], 3 restartPolicy text, 4 terminationGracePeriodSeconds "
        "whole, 5 activeDeadlineSeconds whole, 6 dnsPolicy text, 7 nodeSelector {text}, 8 serviceAccountName "
        "text, 9 serviceAccount text, 10 nodeName text, 11 hostNetwork mark, 12 hostPID mark, 13 hostIPC mark, 14 "
        "securityContext PodSecurityContext, 15 imagePullSecrets [LocalObjectReference], 16 hostname text, 17 "
        "subdomain text, 18 affinity Affinity, 19 schedulerName text, 20 initContainers [Container], 21 "
        "automountServiceAccountToken flag, 22 tolerations [Toleration], 23 hostAliases [HostAlias], 24 "
        "priorityClassName text, 25 priority small, 26 dnsConfig PodDNSConfig, 27 shareProcessNamespace flag, 28 "
        "readinessGates [PodReadinessGate], 29 runtimeClassName text, 30 enableServiceLinks flag, 31 "
        "preemptionPolicy text, 32 overhead {quantity}, 33 topologySpreadConstraints [TopologySpreadConstraint], "
        "34 ephemeralContainers [EphemeralContainer], 35 setHostnameAsFQDN flag, 36 os PodOS, 37 hostUsers flag, "
        "38 schedulingGates [PodSchedulingGate], 39 resourceClaims [PodResourceClaim], 40 resources "
        "ResourceRequirements"
    ),
    "PodStatus": (
        "1 phase text, 2 conditions [PodCondition], 3 message text, 4 reason text, 5 hostIP text, 6 podIP text, 7 "
        "startTime time, 8 containerStatuses [ContainerStatus], 9 qosClass text, 10 initContainerStatuses "
        "[ContainerStatus], 11 nominatedNodeName text, 12 podIPs [PodIP], 13 ephemeralContainerStatuses "
        "[ContainerStatus], 14 resize text, 15 resourceClaimStatuses [PodResourceClaimStatus], 16 hostIPs "
        "[HostIP], 17 observedGeneration whole"
    ),
    "Volume": "1 name text, 2 volumeSource <VolumeSource>",
    "Container": _CONTAINER,
    "EphemeralContainer": "1 ephemeralContainerCommon <EphemeralContainerCommon>, 2 targetContainerName text",
    "PodSecurityContext": (
        "1 seLinuxOptions SELinuxOptions, 2 runAsUser whole, 3 runAsNonRoot flag, 4 supplementalGroups [whole], 5 "
        "fsGroup whole, 6 runAsGroup whole, 7 sysctls [Sysctl], 8 windowsOptions WindowsSecurityContextOptions, 9 "
        "fsGroupChangePolicy text, 10 seccompProfile SeccompProfile, 11 appArmorProfile AppArmorProfile, 12 "
        "supplementalGroupsPolicy text, 13 seLinuxChangePolicy text"
    ),
    "Affinity": "1 nodeAffinity NodeAffinity, 2 podAffinity PodAffinity, 3 podAntiAffinity PodAntiAffinity",
    "Toleration": "1 key text, 2 operator text, 3 value text, 4 effect text, 5 tolerationSeconds whole",
    "HostAlias": "1 ip text, 2 hostnames [text]",
    "PodDNSConfig": "1 nameservers [text], 2 searches [text], 3 options [PodDNSConfigOption]",
    "PodReadinessGate": "1 conditionType text",
    "TopologySpreadConstraint": (
        "1 maxSkew small, 2 topologyKey text, 3 whenUnsatisfiable text, 4 labelSelector LabelSelector, 5 "
        "minDomains small, 6 nodeAffinityPolicy text, 7 nodeTaintsPolicy text, 8 matchLabelKeys [text]"
    ),
    "PodOS": "1 name text",
    "PodSchedulingGate": "1 name text",
    "PodResourceClaim": "1 name text, 3 resourceClaimName text, 4 resourceClaimTemplateName text",
    "ResourceRequirements": "1 limits {quantity}, 2 requests {quantity}, 3 claims [ResourceClaim]",
    "PodCondition": (
        "1 type text, 2 status text, 3 lastProbeTime time, 4 lastTransitionTime time, 5 reason text, 6 message "
        "text, 7 observedGeneration whole"
    ),
    "HostIP": "1 ip text",
    "PodIP": "1 ip text",
    "ContainerStatus": (
        "1 name text, 2 state ContainerState, 3 lastState ContainerState, 4 ready flag, 5 restartCount small, 6 "
        "image text, 7 imageID text, 8 containerID text, 9 started flag, 10 allocatedResources {quantity}, 11 "
        "resources ResourceRequirements, 12 volumeMounts [VolumeMountStatus], 13 user ContainerUser, 14 "
        "allocatedResourcesStatus [ResourceStatus], 15 stopSignal text"
    ),
    "PodResourceClaimStatus": "1 name text, 2 resourceClaimName text",
    "VolumeSource": (
        "1 hostPath HostPathVolumeSource, 2 emptyDir EmptyDirVolumeSource, 6 secret SecretVolumeSource, 10 "
        "persistentVolumeClaim PersistentVolumeClaimVolumeSource, 16 downwardAPI DownwardAPIVolumeSource, 19 "
        "configMap ConfigMapVolumeSource, 26 projected ProjectedVolumeSource"
    ),
    "ContainerPort": "1 name text, 2 hostPort count, 3 containerPort count, 4 protocol text, 5 hostIP text",
    "EnvFromSource": "1 prefix text, 2 configMapRef ConfigMapEnvSource, 3 secretRef SecretEnvSource",
    "EnvVar": "1 name text, 2 value text, 3 valueFrom EnvVarSource",
    "ContainerResizePolicy": "1 resourceName text, 2 restartPolicy text",
    "VolumeMount": (
        "1 name text, 2 readOnly mark, 3 mountPath text, 4 subPath text, 5 mountPropagation text, 6 subPathExpr "
        "text, 7 recursiveReadOnly text"
    ),
    "VolumeDevice": "1 name text, 2 devicePath text",
    "Probe": (
        "1 handler <ProbeHandler>, 2 initialDelaySeconds count, 3 timeoutSeconds count, 4 periodSeconds count, 5 "
        "successThreshold count, 6 failureThreshold count, 7 terminationGracePeriodSeconds whole"
    ),
    "Lifecycle": "1 postStart LifecycleHandler, 2 preStop LifecycleHandler, 3 stopSignal text",
    "SecurityContext": (
        "1 capabilities Capabilities, 2 privileged flag, 3 seLinuxOptions SELinuxOptions, 4 runAsUser whole, 5 "
        "runAsNonRoot flag, 6 readOnlyRootFilesystem flag, 7 allowPrivilegeEscalation flag, 8 runAsGroup whole, 9 "
        "procMount text, 10 windowsOptions WindowsSecurityContextOptions, 11 seccompProfile SeccompProfile, 12 "
        "appArmorProfile AppArmorProfile"
    ),
    "EphemeralContainerCommon": _CONTAINER,
    "SELinuxOptions": "1 user text, 2 role text, 3 type text, 4 level text",
    "WindowsSecurityContextOptions": (
        "1 gmsaCredentialSpecName text, 2 gmsaCredentialSpec text, 3 runAsUserName text, 4 hostProcess flag"
    ),
    "Sysctl": "1 name text, 2 value text",
    "SeccompProfile": "1 type text, 2 localhostProfile text",
    "AppArmorProfile": "1 type text, 2 localhostProfile text",
    "NodeAffinity": (
        "1 requiredDuringSchedulingIgnoredDuringExecution NodeSelector, 2 "
        "preferredDuringSchedulingIgnoredDuringExecution [PreferredSchedulingTerm]"
    ),
    "PodAffinity": (
        "1 requiredDuringSchedulingIgnoredDuringExecution [PodAffinityTerm], 2 "
        "preferredDuringSchedulingIgnoredDuringExecution [WeightedPodAffinityTerm]"
    ),
    "PodAntiAffinity": (
        "1 requiredDuringSchedulingIgnoredDuringExecution [PodAffinityTerm], 2 "
        "preferredDuringSchedulingIgnoredDuringExecution [WeightedPodAffinityTerm]"
    ),
    "PodDNSConfigOption": "1 name text, 2 value text",
    "ResourceClaim": "1 name text, 2 request text",
    "ContainerState": (
        "1 waiting ContainerStateWaiting, 2 running ContainerStateRunning, 3 terminated ContainerStateTerminated"
    ),
    "VolumeMountStatus": "1 name text, 2 mountPath text, 3 readOnly flag, 4 recursiveReadOnly text",
    "ContainerUser": "1 linux LinuxContainerUser",
    "ResourceStatus": "1 name text, 2 resources [ResourceHealth]",
    "HostPathVolumeSource": "1 path text, 2 type text",
    "EmptyDirVolumeSource": "1 medium text, 2 sizeLimit quantity",
    "SecretVolumeSource": "1 secretName text, 2 items [KeyToPath], 3 defaultMode small, 4 optional flag",
    "PersistentVolumeClaimVolumeSource": "1 claimName text, 2 readOnly mark",
    "DownwardAPIVolumeSource": "1 items [DownwardAPIVolumeFile], 2 defaultMode small",
    "ConfigMapVolumeSource": (
        "1 localObjectReference <LocalObjectReference>, 2 items [KeyToPath], 3 defaultMode small, 4 optional flag"
    ),
    "ProjectedVolumeSource": "1 sources [VolumeProjection], 2 defaultMode small",
    "ConfigMapEnvSource": "1 localObjectReference <LocalObjectReference>, 2 optional flag",
    "SecretEnvSource": "1 localObjectReference <LocalObjectReference>, 2 optional flag",
    "EnvVarSource": (
        "1 fieldRef ObjectFieldSelector, 2 resourceFieldRef ResourceFieldSelector, 3 configMapKeyRef "
        "ConfigMapKeySelector, 4 secretKeyRef SecretKeySelector"
    ),
    "ProbeHandler": "1 exec ExecAction, 2 httpGet HTTPGetAction, 3 tcpSocket TCPSocketAction, 4 grpc GRPCAction",
    "LifecycleHandler": "1 exec ExecAction, 2 httpGet HTTPGetAction, 3 tcpSocket TCPSocketAction, 4 sleep SleepAction",
    "Capabilities": "1 add [text], 2 drop [text]",
    "NodeSelector": "1 nodeSelectorTerms [NodeSelectorTerm]",
    "PreferredSchedulingTerm": "1 weight small, 2 preference NodeSelectorTerm",
    "PodAffinityTerm": (
        "1 labelSelector LabelSelector, 2 namespaces [text], 3 topologyKey text, 4 namespaceSelector "
        "LabelSelector, 5 matchLabelKeys [text], 6 mismatchLabelKeys [text]"
    ),
    "WeightedPodAffinityTerm": "1 weight small, 2 podAffinityTerm PodAffinityTerm",
    "ContainerStateWaiting": "1 reason text, 2 message text",
    "ContainerStateRunning": "1 startedAt time",
    "ContainerStateTerminated": (
        "1 exitCode small, 2 signal small, 3 reason text, 4 message text, 5 startedAt time, 6 finishedAt time, 7 "
        "containerID text"
    ),
    "LinuxContainerUser": "1 uid whole, 2 gid whole, 3 supplementalGroups [whole]",
    "ResourceHealth": "1 resourceID text, 2 health text",
    "KeyToPath": "1 key text, 2 path text, 3 mode small",
    "DownwardAPIVolumeFile": (
        "1 path text, 2 fieldRef ObjectFieldSelector, 3 resourceFieldRef ResourceFieldSelector, 4 mode small"
    ),
    "VolumeProjection": (
        "1 secret SecretProjection, 2 downwardAPI DownwardAPIProjection, 3 configMap ConfigMapProjection, 4 "
        "serviceAccountToken ServiceAccountTokenProjection"
    ),
    "ObjectFieldSelector": "1 apiVersion text, 2 fieldPath text",
    "ResourceFieldSelector": "1 containerName text, 2 resource text, 3 divisor quantity",
    "ConfigMapKeySelector": "1 localObjectReference <LocalObjectReference>, 2 key text, 3 optional flag",
    "SecretKeySelector": "1 localObjectReference <LocalObjectReference>, 2 key text, 3 optional flag",
    "ExecAction": "1 command [text]",
    "HTTPGetAction": "1 path text, 2 port port, 3 host text, 4 scheme text, 5 httpHeaders [HTTPHeader]",
    "TCPSocketAction": "1 port port, 2 host text",
    "GRPCAction": "1 port small, 2 service text",
    "SleepAction": "1 seconds whole",
    "NodeSelectorTerm": "1 matchExpressions [NodeSelectorRequirement], 2 matchFields [NodeSelectorRequirement]",
    "SecretProjection": "1 localObjectReference <LocalObjectReference>, 2 items [KeyToPath], 4 optional flag",
    "DownwardAPIProjection": "1 items [DownwardAPIVolumeFile]",
    "ConfigMapProjection": "1 localObjectReference <LocalObjectReference>, 2 items [KeyToPath], 4 optional flag",
    "ServiceAccountTokenProjection": "1 audience text, 2 expirationSeconds whole, 3 path text",
    "HTTPHeader": "1 name text, 2 value text",
    "NodeSelectorRequirement": "1 key text, 2 operator text, 3 values [text]",
}
