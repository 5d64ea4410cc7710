"""Renders the chart, holds it against the schemas of Kubernetes, and the manifests of configs/ against it; fails where one asks for less, or is
allowed more, than the operations guide says."""

import itertools
import pathlib
import subprocess
import sys
import tempfile
import tomllib

import helm_python
import jsonschema
import kubernetes_validate
import yaml

CHART = "charts/stoq"
# The oldest that the chart takes, and the newest of which there are schemas.
VERSIONS = ("1.29.0", "1.37.0")
# The manifests that are renderings of the chart: the example with their values, and the release.
RENDERED = {
    "configs/kubernetes/gateway.yaml": ("sriov", "stoq-gateway"),
    "configs/kubernetes/memif-sidecar.yaml": ("memif", "stoq-memif"),
    "configs/kubernetes/fleet.yaml": ("fleet", "stoq-a"),
}
NAMESPACE = "stoq"
# The order in which Helm installs and prints what the chart has; its custom resources are the last.
ORDER = (
    "Namespace",
    "PodDisruptionBudget",
    "ServiceAccount",
    "ConfigMap",
    "Role",
    "RoleBinding",
    "Service",
    "StatefulSet",
)
GATEWAYS_MAX = 5
GROUP = "stoq-transport.example"


def ensure(holds, what):
    if not holds:
        sys.exit(f"manifests: {what}")


def judge_pod(name, document):
    spec = document["spec"]["template"]["spec"]
    pod = spec["securityContext"]
    names = {container["name"] for container in spec["containers"]}
    ensure(pod["runAsNonRoot"] and pod["runAsUser"] == 10001, f"{name}: runs as root")
    ensure(pod["seccompProfile"]["type"] == "RuntimeDefault", f"{name}: no filter of system calls")
    ensure(not spec.get("hostNetwork") and not spec.get("hostPID"), f"{name}: shares the host's namespaces")
    has_account = "serviceAccountName" in spec
    ensure(spec["automountServiceAccountToken"] == has_account, f"{name}: has a token without need, or none with it")
    for container in spec["containers"]:
        at = f"{name}: {container['name']}"
        context = container["securityContext"]
        ensure(not context.get("privileged"), f"{at}: is privileged")
        ensure(context["readOnlyRootFilesystem"], f"{at}: may write its image")
        ensure(context["capabilities"]["drop"] == ["ALL"], f"{at}: keeps capabilities")
        added = set(context["capabilities"].get("add", []))
        # The interface of anycast addresses is the gateway's, and BIRD only reads it.
        is_gateway = container["name"] == "gateway"
        allowed = {"IPC_LOCK", "SYS_NICE"} | ({"NET_ADMIN"} if is_gateway and "bird" in names else set())
        ensure(added <= (set() if container["name"] == "bird" else allowed), f"{at}: adds {added}")
        # The gateway gets these by its file, which needs privilege escalation; without them it needs none.
        ensure(
            context["allowPrivilegeEscalation"] == bool(added & {"IPC_LOCK", "NET_ADMIN"}),
            f"{at}: escalation without need, or not with it",
        )
        resources = container["resources"]
        ensure(container["name"] == "bird" or "hugepages-2Mi" in resources["requests"], f"{at}: asks for no huge pages")
        ensure(resources["requests"] == resources["limits"], f"{at}: is not guaranteed what it asks for")
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        claimed = {claim["metadata"]["name"] for claim in document["spec"].get("volumeClaimTemplates", [])}
        ensure(mounted <= {volume["name"] for volume in spec["volumes"]} | claimed, f"{at}: mounts what is no volume")
        ensure(is_gateway or "tun" not in mounted, f"{at}: may open /dev/net/tun")
        if is_gateway:
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                ensure(container[probe]["exec"]["command"][:2] == ["stoq-gateway", "health"], f"{at}: no {probe}")


def judge_service(name, service):
    ensure(service["read_only"] and not service.get("privileged"), f"{name}: may write its image, or is privileged")
    ensure(service["cap_drop"] == ["ALL"], f"{name}: keeps capabilities")
    ensure(set(service["cap_add"]) <= {"IPC_LOCK", "SYS_NICE"}, f"{name}: adds {service['cap_add']}")


def judge_roles(name, documents):
    """A gateway changes nothing but Leases."""
    for role in (document for document in documents if document["kind"] == "Role"):
        for rule in role["rules"]:
            is_reader = set(rule["verbs"]) <= {"get", "list", "watch"}
            is_operators = role["metadata"]["name"].endswith("-operator")
            ensure(is_reader or is_operators or rule["resources"] == ["leases"], f"{name}: a gateway may {rule}")
            ensure("*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"], f"{name}: a right to everything")


def read(path):
    return pathlib.Path(path).read_text(encoding="utf-8")


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document]


def custom_schemas():
    """The schemas of the custom resources, each by its kind. A field that is unknown would be dropped, so it is a fault."""
    found = {}
    for crd in documents(read(f"{CHART}/crds/stoq.yaml")):
        for version in VERSIONS:
            kubernetes_validate.validate(crd, version, strict=True)
        schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        schema["properties"]["spec"]["additionalProperties"] = False
        found[crd["spec"]["names"]["kind"]] = schema
    return found


def judge_custom(name, document, schemas):
    # Kubernetes' bounds are of this draft: `exclusiveMinimum` is a boolean.
    jsonschema.Draft4Validator(schemas[document["kind"]]).validate(document)
    if document["kind"] == "StoqGateway":
        ensure(document["metadata"]["name"].endswith("-" + document["spec"]["serverId"]), f"{name}: its name")


def render(chart, values, release):
    """What `helm template` prints."""
    parts = []
    for source, text in sorted(chart.render(values, name=release, namespace=NAMESPACE).items()):
        for part in (part.strip("\n") for part in f"\n{text}".split("\n---\n")):
            if found := documents(part):
                kind = found[0]["kind"]
                parts.append((ORDER.index(kind) if kind in ORDER else len(ORDER), source, part))
    parts.sort(key=lambda part: part[0])
    lines = "\n".join(f"---\n# Source: {source}\n{part}" for _, source, part in parts).splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def judge(name, text, schemas):
    found = documents(text)
    for document in found:
        at = f"{name}: {document['kind']} {document['metadata']['name']}"
        if document["apiVersion"].startswith(GROUP):
            judge_custom(at, document, schemas)
            continue
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                sys.exit(f"manifests: {at}: Kubernetes {version}: {error.message}")
        if document["kind"] == "StatefulSet":
            judge_pod(at, document)
        if document["kind"] == "ConfigMap":
            judge_files(at, document["data"])
    judge_roles(name, found)
    return found


def judge_files(name, files):
    for file, text in files.items():
        if file.endswith(".toml"):
            config = tomllib.loads(text)
            ensure("[admin]" in text and config["network"]["kind"] == "dpdk", f"{name}: {file}")
        if file.endswith(".bird.conf"):
            with tempfile.NamedTemporaryFile("w", suffix=".conf") as at:
                at.write(text)
                at.flush()
                parsed = subprocess.run(
                    ["/usr/sbin/bird", "-p", "-c", at.name], check=False, capture_output=True, text=True
                )
                ensure(parsed.returncode == 0, f"{name}: {file}: {parsed.stderr}")


def node(number):
    return "abcdefghijklmnop"[number] + "a" * 51


def combinations():
    """Each number of gateways on each kind of port, with and without BIRD and a fleet; with both, BIRD speaks through the port."""
    for replicas, kind, bird, fleet in itertools.product(
        (1, 3, GATEWAYS_MAX), ("sriov", "memif"), (False, True), (False, True)
    ):
        gateways = [
            {"addresses": [f"192.0.2.{number + 10}/24"], "nodeId": node(number), "serverId": f"{number + 1:06x}"}
            for number in range(GATEWAYS_MAX)
        ]
        values = {
            "replicas": replicas,
            "gateways": gateways,
            "nic": {"kind": kind},
            "trust": {"nodeIds": [node(0)]},
            "anycast": {"enabled": bird, "exceptionPath": bird and fleet},
            "fleet": {"enabled": fleet},
            "zone": {"name": "a", "value": "zone-a"} if fleet else {},
        }
        yield f"{replicas} × {kind}{' × BIRD' * bird}{' × fleet' * fleet}", values


def judge_combination(chart, name, values, schemas):
    report = helm_python.lint(CHART, values, strict=True, namespace=NAMESPACE, kube_version=f"v{VERSIONS[1]}")
    faults = [message for message in report["messages"] if message["severity"] > 1]
    ensure(not faults and not report["errors"], f"{name}: helm lint: {faults} {report['errors']}")
    found = judge(name, render(chart, values, "stoq"), schemas)
    [stateful] = [document for document in found if document["kind"] == "StatefulSet"]
    [config] = [document for document in found if document["kind"] == "ConfigMap"]
    ensure(stateful["spec"]["replicas"] == values["replicas"], f"{name}: replicas")
    pods = {f"stoq-{ordinal}" for ordinal in range(values["replicas"])}
    ensure({file.split(".")[0] for file in config["data"]} == pods, f"{name}: not one file for each pod")
    rows = [document for document in found if document["kind"] == "StoqGateway"]
    ensure(len(rows) == values["replicas"] * values["fleet"]["enabled"], f"{name}: rows of the fleet")


def judge_refusals(chart):
    """Values that cannot be are refused with the fix."""
    _, good = next(combinations())
    for change, says in [
        ({"replica": 3}, "replica"),
        ({"nic": {"kind": "af_xdp"}}, "nic"),
        ({"replicas": 9}, "gateways has 5 entries; give one for each"),
        ({"drainMs": 59000}, "terminationGracePeriodSeconds is 60, and drainMs needs 61; raise it"),
        ({"trust": {"nodeIds": []}}, "trust.nodeIds is empty"),
        ({"zone": {"name": "a"}}, "give zone.value"),
        (
            {"fleet": {"enabled": True}, "gateways": [{"addresses": ["192.0.2.1/24"]}]},
            "a fleet needs nodeId and serverId",
        ),
        (
            {"replicas": 2, "fleet": {"enabled": True}, "gateways": [good["gateways"][0]] * 2},
            "is that of another gateway",
        ),
    ]:
        try:
            chart.validate_schema({**good, **change})
            chart.render({**good, **change}, name="stoq", namespace=NAMESPACE)
        except helm_python.HelmError as error:
            ensure(says in str(error), f"{change}: refused without {says!r}: {error}")
        else:
            sys.exit(f"manifests: {change} is not refused")


def main():
    writes = sys.argv[1:] == ["--write"]
    schemas = custom_schemas()
    with helm_python.Chart.load(CHART) as chart:
        for file, (example, release) in RENDERED.items():
            values = yaml.safe_load(read(f"{CHART}/examples/{example}.yaml"))
            chart.validate_schema(values)
            head = read(f"{CHART}/examples/{example}.yaml").split("\n\n")[0].splitlines()
            said = [line for line in head if line.startswith("#")]
            made = f"# helm template {release} {CHART} --namespace {NAMESPACE} --values {CHART}/examples/{example}.yaml"
            text = "\n".join([*said, made]) + "\n" + render(chart, values, release)
            if writes:
                pathlib.Path(file).write_text(text, encoding="utf-8")
            ensure(read(file) == text, f"{file} is not what the chart makes: scripts/manifests.sh --write")
            judge(file, text, schemas)
        count = 0
        for count, (name, values) in enumerate(combinations(), 1):
            judge_combination(chart, name, values, schemas)
        judge_refusals(chart)
    for file in ("configs/kubernetes/sriov-device-plugin.yaml",):
        judge(file, read(file), schemas)
    for name, service in yaml.safe_load(read("configs/compose.yaml"))["services"].items():
        judge_service(f"configs/compose.yaml: {name}", service)
    print(
        f"{count} renderings of the chart are valid for Kubernetes {' and '.join(VERSIONS)}, and {len(RENDERED)} manifests are what it makes"
    )


main()
