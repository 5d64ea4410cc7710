"""Reads the manifests of configs/ and fails where one asks for less, or is allowed more, than the operations guide says."""

import sys

import yaml


def ensure(holds, what):
    if not holds:
        sys.exit(f"manifests: {what}")


def containers(document):
    spec = document.get("spec", {})
    spec = spec.get("template", {}).get("spec", spec)
    return spec, spec.get("containers", [])


def judge_pod(name, document):
    spec, found = containers(document)
    pod = spec["securityContext"]
    ensure(pod["runAsNonRoot"] and pod["runAsUser"] == 10001, f"{name}: runs as root")
    ensure(pod["seccompProfile"]["type"] == "RuntimeDefault", f"{name}: no filter of system calls")
    ensure(not spec.get("hostNetwork") and not spec.get("hostPID"), f"{name}: shares the host's namespaces")
    for container in found:
        at = f"{name}: {container['name']}"
        context = container["securityContext"]
        ensure(not context.get("privileged"), f"{at}: is privileged")
        ensure(context["readOnlyRootFilesystem"], f"{at}: may write its image")
        ensure(context["capabilities"]["drop"] == ["ALL"], f"{at}: keeps capabilities")
        added = set(context["capabilities"].get("add", []))
        ensure(added <= {"IPC_LOCK", "SYS_NICE"}, f"{at}: adds {added}")
        # The gateway gets IPC_LOCK by its file, which needs privilege escalation; without IPC_LOCK it needs none.
        ensure(
            context["allowPrivilegeEscalation"] == ("IPC_LOCK" in added),
            f"{at}: escalation without need, or not with it",
        )
        resources = container["resources"]
        ensure("hugepages-2Mi" in resources["requests"], f"{at}: asks for no huge pages")
        ensure(resources["requests"] == resources["limits"], f"{at}: is not guaranteed what it asks for")
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        claimed = {claim["metadata"]["name"] for claim in document["spec"].get("volumeClaimTemplates", [])}
        ensure(mounted <= {volume["name"] for volume in spec["volumes"]} | claimed, f"{at}: mounts what is no volume")
        if container["name"] == "gateway":
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                ensure(container[probe]["exec"]["command"][:2] == ["stoq-gateway", "health"], f"{at}: no {probe}")


def judge_service(name, service):
    ensure(service["read_only"] and not service.get("privileged"), f"{name}: may write its image, or is privileged")
    ensure(service["cap_drop"] == ["ALL"], f"{name}: keeps capabilities")
    ensure(set(service["cap_add"]) <= {"IPC_LOCK", "SYS_NICE"}, f"{name}: adds {service['cap_add']}")


def main():
    kinds = set()
    for file in sys.argv[1:]:
        with open(file, encoding="utf-8") as text:
            documents = list(yaml.safe_load_all(text))
        for document in documents:
            if "services" in document:
                kinds.add("Compose")
                for name, service in document["services"].items():
                    judge_service(f"{file}: {name}", service)
                continue
            kinds.add(document["kind"])
            name = f"{file}: {document['kind']} {document['metadata']['name']}"
            ensure("apiVersion" in document, f"{name}: no apiVersion")
            if document["kind"] in ("Pod", "StatefulSet"):
                judge_pod(name, document)
    wanted = {"Compose", "ConfigMap", "Namespace", "Pod", "PodDisruptionBudget", "StatefulSet"}
    ensure(kinds == wanted, f"there are {sorted(kinds)}, not {sorted(wanted)}")


main()
