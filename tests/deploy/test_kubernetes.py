"""deploy/kubernetes: kubectl renders the overlays, Kubernetes' schemas take them, the server takes their settings.

Custom resources are test_custom_resources.py's.
"""

import re
from typing import Any

import kubernetes_validate
import pytest

from server import config
from tests.deploy.files import DEPLOY, ROOT, documents, manifest, rendered

OVERLAYS = ("cpu", "cuda")
CUSTOM = {"HTTPRoute", "InferencePool", "ServiceMonitor"}
#: What a pod's fields and resources would give.
FIELDS = {"metadata.name": "lucid-llm-5d4f-x2x9z"}
GUNICORN_ADDS = 5  # seconds, server/gunicorn_settings.py
MOST_TO_LOAD = 15 * 60  # seconds, docs/DEPLOYMENT.md


def container(overlay: str) -> dict[str, Any]:
    (only,) = manifest(overlay, "Deployment")["spec"]["template"]["spec"]["containers"]
    found: dict[str, Any] = only
    return found


def environment(overlay: str) -> dict[str, str]:
    """What the server's process would find; optional secrets are not there."""
    values = {}
    for entry in container(overlay)["env"]:
        source = entry.get("valueFrom", {})
        if "secretKeyRef" in source:
            assert source["secretKeyRef"]["optional"] is True
        elif source:
            values[entry["name"]] = FIELDS[source["fieldRef"]["fieldPath"]]
        else:
            values[entry["name"]] = entry["value"]
    return values


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_schemas(overlay: str) -> None:
    kinds = set()
    for document in rendered(overlay):
        kinds.add(document["kind"])
        if document["kind"] not in CUSTOM:
            kubernetes_validate.validate(document, "1.37", strict=True)
    assert kinds - CUSTOM == {
        "ConfigMap",
        "Deployment",
        "HorizontalPodAutoscaler",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "PodDisruptionBudget",
        "Service",
        "ServiceAccount",
    }
    assert kinds >= CUSTOM


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_environment_is_a_valid_configuration(overlay: str) -> None:
    settings = config.read(environment(overlay))
    ports = {port["name"]: port["containerPort"] for port in container(overlay)["ports"]}
    assert ports == {"http": settings.http_address.port, "metrics": settings.prometheus_http_address.port}
    assert settings.instance_label == FIELDS["metadata.name"]
    assert settings.model_threads == 0, "the server reads the quota that the limit becomes"
    assert float(container(overlay)["resources"]["limits"]["cpu"]) >= 1
    assert bool(settings.model_gpu_layers) == (overlay == "cuda")
    mounts = {mount["mountPath"] for mount in container(overlay)["volumeMounts"]}
    assert {str(settings.model_path.parent), str(settings.embedding_model.parent), str(settings.data_path)} <= mounts


def test_names_of_secrets_are_variables() -> None:
    secret = {entry["name"] for entry in container("cpu")["env"] if "secretKeyRef" in entry.get("valueFrom", {})}
    assert secret <= set(config.variables())


def test_manifests_of_the_rust_system_keep_working() -> None:
    """Its variables, and those that Kubernetes adds for a service that is called like one of ours."""
    config.read(
        {
            "DATA_PATH": "/data",
            "EMBEDDING_MODEL": "/model/embed.gguf",
            "HTTP_ADDRESS": "0.0.0.0:8080",
            "HTTP_WORKERS": "2",
            "INSTANCE_LABEL": "pod-1",
            "MAIN_GPU": "0",
            "MODEL_GPU_LAYERS": "33",
            "MODEL_MAX_TOKEN": "128",
            "MODEL_PATH": "/model/model.gguf",
            "MODEL_PROMPT_TEMPLATE": "{context} {query}",
            "MODEL_THREADS": "6",
            "PROMETHEUS_HTTP_ADDRESS": "0.0.0.0:8081",
            "MODEL_SERVICE_HOST": "10.0.0.1",
            "MODEL_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        }
    )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_stopping_takes_no_longer_than_allowed(overlay: str) -> None:
    pod = manifest(overlay, "Deployment")["spec"]["template"]["spec"]
    wait = int(container(overlay)["lifecycle"]["preStop"]["exec"]["command"][1])
    needed = wait + config.read(environment(overlay)).graceful_timeout + GUNICORN_ADDS
    assert pod["terminationGracePeriodSeconds"] > needed
    unready = container(overlay)["readinessProbe"]["periodSeconds"]
    assert wait >= unready


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_probes(overlay: str) -> None:
    """Only a server that answers nobody is restarted; one that loads its model, after a crash too, is not ready."""
    probes = {name: container(overlay)[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
    paths = {name: probe["httpGet"]["path"] for name, probe in probes.items()}
    assert paths == {"startup": "/ready", "liveness": "/health", "readiness": "/ready"}
    seconds = {name: probe["periodSeconds"] * probe["failureThreshold"] for name, probe in probes.items()}
    assert seconds["startup"] == MOST_TO_LOAD
    assert seconds["liveness"] >= 60  # a worker that is replaced answers long before that
    assert seconds["readiness"] < 10


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pod_is_confined(overlay: str) -> None:
    """What the Pod Security Standard `restricted` asks for, and a root file system that nothing writes to."""
    pod = manifest(overlay, "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container(overlay)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in container(overlay)["volumeMounts"]} == set(volumes)
    claims = {document["metadata"]["name"] for document in rendered(overlay) if document["kind"].endswith("Claim")}
    used = {v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v}
    assert used == claims


def test_selectors_mean_our_pods_only() -> None:
    labels = manifest("cpu", "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert labels
    assert manifest("cpu", "Deployment")["spec"]["selector"] == {"matchLabels": labels}
    assert manifest("cpu", "Service")["spec"]["selector"] == labels
    assert manifest("cpu", "Service")["metadata"]["labels"] == labels
    assert manifest("cpu", "PodDisruptionBudget")["spec"]["selector"] == {"matchLabels": labels}
    assert manifest("cpu", "NetworkPolicy")["spec"]["podSelector"] == {"matchLabels": labels}
    assert manifest("cpu", "ServiceMonitor")["spec"]["selector"] == {"matchLabels": labels}
    assert manifest("cpu", "InferencePool")["spec"]["selector"] == {"matchLabels": labels}


def test_servicemonitor() -> None:
    (endpoint,) = manifest("cpu", "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in manifest("cpu", "Service")["spec"]["ports"]}


def test_inference_pool_and_route() -> None:
    pool = manifest("cpu", "InferencePool")
    assert pool["spec"]["targetPorts"] == [{"number": config.read(environment("cpu")).http_address.port}]
    (backend,) = manifest("cpu", "HTTPRoute")["spec"]["rules"][0]["backendRefs"]
    assert backend == {
        "group": "inference.networking.k8s.io",
        "kind": "InferencePool",
        "name": pool["metadata"]["name"],
    }


def gauges() -> set[str]:
    """Our gauges, as docs/METRICS.md lists them (tests/server checks that table)."""
    return set(re.findall(r"^\| `(\w+)` \| gauge \|", (ROOT / "docs" / "METRICS.md").read_text(), flags=re.MULTILINE))


def test_endpoint_picker_reads_our_metrics() -> None:
    (text,) = manifest("cpu", "ConfigMap")["data"].values()
    (content,) = documents(text)
    assert (content["apiVersion"], content["kind"]) == ("llm-d.ai/v1", "EndpointPickerConfig")
    plugins = {plugin["type"]: plugin.get("parameters", {}) for plugin in content["plugins"]}
    assert plugins["metrics-data-source"]["interval"] == "1s"  # else 20 scrapes a second from each picker
    assert plugins["metrics-data-source"]["port"] == config.read(environment("cpu")).prometheus_http_address.port
    (engine,) = plugins["core-metrics-extractor"]["engineConfigs"]
    assert plugins["core-metrics-extractor"]["defaultEngine"] == engine.pop("name")
    assert len(engine) == 4
    assert set(engine.values()) <= gauges()
    used = {plugin["pluginRef"] for profile in content["schedulingProfiles"] for plugin in profile["plugins"]}
    assert used <= set(plugins)


def test_autoscaler_reads_what_the_adapter_offers() -> None:
    spec = manifest("cpu", "HorizontalPodAutoscaler")["spec"]
    (metric,) = spec["metrics"]
    name = metric["pods"]["metric"]["name"]
    values = DEPLOY / "kubernetes" / "components" / "autoscaling" / "prometheus-adapter.yaml"
    (rule,) = documents(values.read_text())[0]["rules"]["custom"]
    assert name in gauges()
    assert rule["name"]["as"] == name
    assert rule["seriesQuery"].startswith(name + "{")
    target = manifest("cpu", "Deployment")
    assert spec["scaleTargetRef"] == {
        "apiVersion": target["apiVersion"],
        "kind": target["kind"],
        "name": target["metadata"]["name"],
    }
    assert "replicas" not in target["spec"]
