"""What deploy/ holds is what the program is: every setting, path, metric and time in it is one that there is.

The tools that it is for (docker, kubectl, promtool, nginx, caddy) are asked where they are installed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from fastapi.routing import APIRoute

from manyeyes.service.access.callers import OpenToAll
from manyeyes.service.app import create_app
from manyeyes.service.operations.metrics import Metrics
from manyeyes.service.settings import ENV_PREFIX, ServiceSettings

KINDS = {
    "Namespace",
    "ServiceAccount",
    "ConfigMap",
    "Deployment",
    "Service",
    "HorizontalPodAutoscaler",
    "PodDisruptionBudget",
    "Secret",
}
DRAIN_S = ServiceSettings().drain_timeout_s


@pytest.fixture(scope="module")
def deploy() -> Path:
    return Path(__file__).resolve().parent.parent / "deploy"


@pytest.fixture(scope="module")
def compose(deploy: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((deploy / "compose.yaml").read_text()))


@pytest.fixture(scope="module")
def manifests(deploy: Path) -> dict[str, dict[str, Any]]:
    """Return every manifest by the name of its file."""
    found = {}
    for path in sorted((deploy / "kubernetes").glob("*.yaml")):
        if path.name != "kustomization.yaml":
            (found[path.name],) = yaml.safe_load_all(path.read_text())
    return found


@pytest.fixture(scope="module")
def pod(manifests: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return dict(manifests["deployment.yaml"]["spec"]["template"]["spec"])


@pytest.fixture(scope="module")
def metric_names() -> set[str]:
    """Return the name of every series that /metrics may hold."""
    found = {"up"}  # Prometheus' own.
    for family in Metrics().registry.collect():
        if family.type == "counter":
            found.add(f"{family.name}_total")
        elif family.type == "histogram":
            found |= {f"{family.name}{end}" for end in ("_bucket", "_sum", "_count")}
        else:
            found.add(family.name)
    return found


def run(*command: str | Path, **more: Any) -> str:
    """Run a tool, or skip the test where it is not installed; return what it said."""
    tool = shutil.which(str(command[0]))
    if tool is None:
        pytest.skip(f"{command[0]} is not installed here")
    done = subprocess.run([tool, *map(str, command[1:])], capture_output=True, text=True, timeout=60, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(s|m|h)", text).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "m": 60, "h": 3600}[unit]


def is_setting(variable: str) -> bool:
    name = variable.removesuffix("_FILE") if variable.endswith("_FILE") else variable
    return name.removeprefix(ENV_PREFIX).lower() in ServiceSettings.model_fields


def open_paths() -> set[str]:
    """Return the paths that probes may ask without a key."""
    from manyeyes.service.routes import health, operations

    service = create_app(ServiceSettings(store_url="none")).state.service
    return {
        route.path
        for group in (health, operations)
        for route in group.make_router(service).routes
        if isinstance(route, APIRoute)
        and any(isinstance(one.dependency, OpenToAll) for one in route.dependencies)
    }


# --- compose


def test_compose_names_settings_and_files_that_are_there(compose: dict[str, Any], deploy: Path) -> None:
    environment = compose["services"]["manyeyes"]["environment"]
    assert environment and all(is_setting(variable) for variable in environment)
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            source = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).partition(":")[0]
            if source.startswith("."):
                assert (deploy / source).exists(), source
            else:
                assert source in compose["volumes"], source
        assert set(service.get("secrets", ())) <= compose["secrets"].keys()
    assert (deploy / compose["services"]["manyeyes"]["build"] / "Dockerfile").is_file()


def test_compose_holds_no_secret(compose: dict[str, Any], deploy: Path) -> None:
    for service in compose["services"].values():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"KEY|PASSWORD|SECRET|URL|TOKEN", variable):
                assert variable.endswith("_FILE") and value.startswith("/run/secrets/"), variable
    for secret in compose["secrets"].values():
        assert secret["file"].startswith("./secrets/")
    ignored = subprocess.run(
        ["git", "check-ignore", "deploy/secrets/api_keys"], cwd=deploy.parent, capture_output=True
    )
    assert ignored.returncode in (0, 128), "deploy/secrets is not ignored by git"


def test_compose_gives_the_service_time_and_no_rights(compose: dict[str, Any]) -> None:
    service = compose["services"]["manyeyes"]
    assert seconds(service["stop_grace_period"]) >= DRAIN_S + 10
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert "/readyz" in str(service["healthcheck"]["test"]) and "/readyz" in open_paths()
    # Nothing but the proxy can be reached from other machines.
    for name, other in compose["services"].items():
        for port in other.get("ports", ()):
            assert port.startswith("127.0.0.1:") or name == "caddy", f"{name} listens to the world on {port}"
        assert name == "manyeyes" or ":" in other["image"], f"{other['image']} may be any version"


def test_docker_reads_compose(deploy: Path) -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        pytest.skip("docker compose is not installed here")
    run("docker", "compose", "--file", deploy / "compose.yaml", "config", "--quiet")


# --- Kubernetes


def test_every_manifest_fits_the_schema_of_its_kind(manifests: dict[str, dict[str, Any]]) -> None:
    assert {manifest["kind"] for manifest in manifests.values()} == KINDS
    for manifest in manifests.values():
        for version in ("1.30", "1.34"):
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", DeprecationWarning
                )  # jsonschema's, of how the schemas name theirs
                kubernetes_validate.validate(manifest, version, strict=True)


def test_kustomize_puts_them_together(deploy: Path, manifests: dict[str, dict[str, Any]]) -> None:
    kustomization = yaml.safe_load((deploy / "kubernetes" / "kustomization.yaml").read_text())
    assert set(kustomization["resources"]) == manifests.keys() - {
        "secret.example.yaml",
        "autoscaler-queue.yaml",
    }
    made = list(yaml.safe_load_all(run("kubectl", "kustomize", deploy / "kubernetes")))
    assert len(made) == len(kustomization["resources"])
    (deployment,) = [one for one in made if one["kind"] == "Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    for one in made:
        selector = one["spec"]["selector"] if one["kind"] in ("Service", "PodDisruptionBudget") else {}
        assert selector.get("matchLabels", selector).items() <= labels.items()


def test_the_pod_has_no_rights_and_writes_where_it_may(pod: dict[str, Any], root: Path) -> None:
    (container,) = pod["containers"]
    user = re.findall(r"^USER (\d+):(\d+)$", (root / "Dockerfile").read_text(), flags=re.M)[-1]
    assert (str(pod["securityContext"]["runAsUser"]), str(pod["securityContext"]["fsGroup"])) == user
    assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert {"/var/lib/manyeyes", "/tmp"} <= mounted.keys()
    assert set(mounted.values()) == {volume["name"] for volume in pod["volumes"]}
    command = json.loads(re.findall(r"^CMD (.*)$", (root / "Dockerfile").read_text(), flags=re.M)[0])
    assert container["args"] == command


def test_the_pod_is_asked_what_is_there_and_is_given_time(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    paths = {
        kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")
    }
    assert paths == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}
    assert set(paths.values()) <= open_paths()
    waits_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= waits_s + DRAIN_S + 10
    # A pod that takes no calls any more is noticed before it stops waiting for them.
    readiness = container["readinessProbe"]
    assert (
        readiness["timeoutSeconds"] <= 5 and readiness["failureThreshold"] * readiness["periodSeconds"] <= 10
    )


def test_the_pod_is_configured_by_settings(pod: dict[str, Any], manifests: dict[str, dict[str, Any]]) -> None:
    (container,) = pod["containers"]
    variables = [one["name"] for one in container["env"]] + list(manifests["configmap.yaml"]["data"])
    assert variables and all(is_setting(variable) for variable in variables)
    ServiceSettings.from_env(manifests["configmap.yaml"]["data"])
    keys = manifests["secret.example.yaml"]["stringData"].keys()
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    for one in container["env"]:
        assert one["value"].startswith(f"{mounts['secrets']}/") and Path(one["value"]).name in keys


def test_autoscalers_go_by_metrics_that_there_are(
    manifests: dict[str, dict[str, Any]], metric_names: set[str]
) -> None:
    (metric,) = manifests["autoscaler-queue.yaml"]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] in metric_names
    for name in ("autoscaler.yaml", "autoscaler-queue.yaml"):
        assert (
            manifests[name]["spec"]["scaleTargetRef"]["name"]
            == manifests["deployment.yaml"]["metadata"]["name"]
        )
        assert manifests[name]["spec"]["minReplicas"] >= 2


# --- Prometheus and Grafana


def test_every_metric_of_the_dashboard_is_one_that_there_is(deploy: Path, metric_names: set[str]) -> None:
    dashboard = json.loads((deploy / "grafana" / "manyeyes.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    queries += [one["definition"] for one in dashboard["templating"]["list"] if one["type"] == "query"]
    asked = {name for query in queries for name in names_in(query)}
    assert asked and asked <= metric_names, asked - metric_names
    ours = {name for name in metric_names if name.startswith("manyeyes_")}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in ours} <= shown, "a metric is shown nowhere"
    labels = {label for query in queries for label in re.findall(r"[{,]\s*(\w+)\s*(?:=|!)", query)}
    assert labels <= {*known_labels(), "job", "instance"}


def test_the_dashboard_is_laid_out(deploy: Path) -> None:
    dashboard = json.loads((deploy / "grafana" / "manyeyes.json").read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, f"{panel['title']} lies over another panel"
        assert at["x"] + at["w"] <= 24
        taken |= cells
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "${datasource}"


def rules(deploy: Path) -> Iterator[dict[str, Any]]:
    for group in yaml.safe_load((deploy / "prometheus" / "alerts.yaml").read_text())["groups"]:
        yield from group["rules"]


def test_alerts_are_about_metrics_that_there_are_and_the_page_says_what_to_do(
    deploy: Path, metric_names: set[str], root: Path
) -> None:
    page = (root / "docs" / "deploy.md").read_text("utf-8")
    for rule in rules(deploy):
        asked = names_in(rule["expr"])
        assert asked and asked <= metric_names, rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        assert f"`{rule['alert']}`" in page, f"docs/deploy.md does not say what to do about {rule['alert']}"
    assert {f"`{rule['alert']}`" for rule in rules(deploy)} == set(re.findall(r"`Manyeyes\w+`", page))


def test_promtool_reads_the_rules(deploy: Path) -> None:
    run("promtool", "check", "rules", deploy / "prometheus" / "alerts.yaml")


def test_prometheus_asks_with_a_key(deploy: Path, compose: dict[str, Any]) -> None:
    (job,) = yaml.safe_load((deploy / "prometheus" / "prometheus.yaml").read_text())["scrape_configs"]
    file = Path(job["authorization"]["credentials_file"])
    assert file.name in compose["services"]["prometheus"]["secrets"]
    assert {rule["expr"].count('job="manyeyes"') for rule in rules(deploy)} <= {0, 1, 2}
    assert job["job_name"] == "manyeyes"


# --- proxies


def test_proxies_let_through_what_the_service_takes(deploy: Path) -> None:
    settings = ServiceSettings()
    mebibytes = int(settings.max_body_bytes) // 2**20
    nginx, caddy = (deploy / "nginx.conf").read_text(), (deploy / "Caddyfile").read_text()
    assert f"client_max_body_size        {mebibytes}m;" in nginx
    assert f"max_size {mebibytes}MiB" in caddy
    for pattern, text in (
        (r"proxy_read_timeout (\d+)s", nginx),
        (r"proxy_send_timeout (\d+)s", nginx),
        (r"response_header_timeout (\d+)s", caddy),
    ):
        (waits_s,) = re.findall(pattern, text)
        assert int(waits_s) > settings.deadline_s, "the proxy gives up before the service does"
    for path in ("/metrics", "/readyz"):
        assert re.search(rf"location = {path}\s+{{ return 404; }}", nginx)
        assert re.search(rf"@inside path.* {path}\b", caddy)


def test_what_nginx_refuses_is_a_problem_of_ours(deploy: Path) -> None:
    from manyeyes.errors import by_code
    from manyeyes.service.errors import STATUS
    from manyeyes.service.schemas.base import Problem

    told = re.findall(r"return (\d+) '(\{.*\})';", (deploy / "nginx.conf").read_text())
    assert {status for status, _ in told} == {"413", "503"}
    for status, document in told:
        problem = Problem.model_validate_json(document)
        assert problem.status == int(status) == STATUS[problem.code]
        assert problem.title == (by_code()[problem.code].__doc__ or "").splitlines()[0].rstrip(".")
        assert problem.type == f"urn:manyeyes:error:{problem.code}"


def test_nginx_reads_its_file(deploy: Path, tmp_path: Path) -> None:
    if not shutil.which("openssl") or not shutil.which("nginx"):
        pytest.skip("nginx and openssl are not both installed here")
    key, certificate = tmp_path / "k.pem", tmp_path / "c.pem"
    run(
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        key,
        "-out",
        certificate,
        "-subj",
        "/CN=x",
    )
    site = (deploy / "nginx.conf").read_text()
    site = re.sub(r"/etc/ssl/\S+\.crt", str(certificate), re.sub(r"/etc/ssl/\S+\.key", str(key), site))
    paths = " ".join(
        f"{n}_temp_path {tmp_path}/{n};" for n in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "site.conf").write_text(site)
    (tmp_path / "nginx.conf").write_text(
        f"events {{}} pid {tmp_path}/pid; error_log {tmp_path}/errors;"
        f" http {{ access_log off; {paths} include {tmp_path}/site.conf; }}"
    )
    run("nginx", "-t", "-c", tmp_path / "nginx.conf", "-p", tmp_path)


def test_caddy_reads_its_file(deploy: Path, tmp_path: Path) -> None:
    environ = os.environ | {"XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    run("caddy", "validate", "--config", deploy / "Caddyfile", "--adapter", "caddyfile", env=environ)


def names_in(query: str) -> set[str]:
    """Return the names of metrics in a query of Prometheus."""
    bare = re.sub(r'"[^"]*"', '""', query)
    return set(re.findall(r"\b(?:manyeyes|process)_[a-z_]+\b|\bup\b", bare))


def known_labels() -> set[str]:
    """Return every label of our metrics."""
    told = vars(Metrics()).values()
    own = {label for metric in told for label in getattr(metric, "_labelnames", ())}
    return own | {"le", "version", "python"}


def test_alerts_fire_when_they_should_and_not_before(deploy: Path, tmp_path: Path) -> None:
    """Made series, minute by minute, as promtool replays them: one that is ill, and the same that is well."""
    shutil.copy(deploy / "prometheus" / "alerts.yaml", tmp_path)
    service = 'job="manyeyes", instance="a"'
    bucket = f'manyeyes_http_request_duration_seconds_bucket{{{service}, route="/v1/label", le="%s"}}'
    ill = {
        "ManyeyesDown": {f"up{{{service}}}": "0x60"},
        "ManyeyesNotReady": {f'manyeyes_ready_check{{{service}, check="store"}}': "0x60"},
        "ManyeyesErrors": {
            f'manyeyes_http_requests_total{{{service}, route="/v1/label", status="500"}}': "0+6x60",
            f'manyeyes_http_requests_total{{{service}, route="/v1/label", status="200"}}': "0+100x60",
        },
        "ManyeyesOverloaded": {
            f'manyeyes_http_problems_total{{{service}, code="overloaded"}}': "0+10x60",
            f'manyeyes_http_requests_total{{{service}, route="/v1/label", status="429"}}': "0+10x60",
            f'manyeyes_http_requests_total{{{service}, route="/v1/label", status="200"}}': "0+90x60",
        },
        "ManyeyesSlow": {
            bucket % "10.0": "0+90x60",
            bucket % "30.0": "0+100x60",
            bucket % "+Inf": "0+100x60",
        },
        "ManyeyesStageRestarts": {f'manyeyes_stage_restarts_total{{{service}, stage="clip"}}': "0+1x60"},
        "ManyeyesCanariesFail": {f'manyeyes_canary_failures_total{{{service}, line="clip"}}': "0+2x60"},
        "ManyeyesStoreErrors": {f'manyeyes_store_errors_total{{{service}, operation="select"}}': "0+30x60"},
    }
    well = {
        f"up{{{service}}}": "1x60",
        f'manyeyes_ready_check{{{service}, check="store"}}': "1x60",
        f'manyeyes_http_requests_total{{{service}, route="/v1/label", status="200"}}': "0+100x60",
        f'manyeyes_http_requests_total{{{service}, route="/v1/label", status="503"}}': "0+5x60",
        f'manyeyes_http_problems_total{{{service}, code="overloaded"}}': "0+1x60",
        bucket % "1.0": "0+100x60",
        bucket % "+Inf": "0+100x60",
        f'manyeyes_stage_restarts_total{{{service}, stage="clip"}}': "1x60",
        f'manyeyes_store_errors_total{{{service}, operation="select"}}': "2x60",
    }
    checks = (
        'count by (alertname) (ALERTS{alertstate="firing"})',
        lambda names: [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in names],
    )
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": series, "values": values} for series, values in given.items()],
            "promql_expr_test": [{"expr": checks[0], "eval_time": "40m", "exp_samples": checks[1](fire)}],
        }
        for given, fire in [*((series, [name]) for name, series in ill.items()), (well, [])]
    ]
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump({"rule_files": ["alerts.yaml"], "tests": tests}))
    run("promtool", "test", "rules", tmp_path / "tests.yaml")
