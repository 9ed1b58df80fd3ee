"""Dockerfile, Compose file and HAProxy's configuration: valid for their tools, and about the same names, ports and times."""

import re
import shutil
import subprocess
import sys
from typing import Any

import pytest
import yaml

from service.settings import PREFIX, Settings, unknown_variables
from tests.deploy.fleet import Fleet
from tests.deploy.json_schemas import faults_by_schema
from tests.deploy.tools import COMPOSE, DEPLOY, HAPROXY, ROOT, run, tool
from tests.processes import free_port

DOCKERFILE = ROOT / "Dockerfile"
PROFILES = {"cpu": 2, "gpu": 1, "gpu2": 2, "gpu4": 4, "gpu8": 8}


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load(COMPOSE.read_text())


def replicas(compose: Any, profile: str | None = None) -> list[dict[str, Any]]:
    return [
        service
        for service in compose["services"].values()
        if service.get("hostname") and (profile is None or profile in service["profiles"])
    ]


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    run("hadolint", DOCKERFILE)


def test_the_compose_file_follows_the_specification(compose: Any) -> None:
    assert faults_by_schema(compose, "compose-spec") == []


def test_a_misspelt_key_is_a_fault(compose: Any) -> None:
    compose = {**compose, "services": {"a": {"image": "a", "shm_sise": "2gb"}}}
    assert "shm_sise" in str(faults_by_schema(compose, "compose-spec"))


@pytest.mark.parametrize("profile", ["cpu", "gpu8", "fetch"])
def test_compose_reads_the_file(profile: str) -> None:
    run_compose("-f", str(COMPOSE), "--profile", profile, "config", "--quiet")


def run_compose(*arguments: str) -> None:
    """Docker's plugin where it is there, else the older program of that name."""
    if shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        run("docker", "compose", *arguments)
    else:
        run("docker-compose", *arguments)


@pytest.mark.parametrize(("profile", "count"), PROFILES.items())
def test_a_profile_starts_a_replica_for_each_gpu_under_the_names_that_the_others_look_for(
    compose: Any, profile: str, count: int
) -> None:
    names = [service["hostname"] for service in replicas(compose, profile)]
    assert names == [f"ziprerank-{number}" for number in range(count)]
    assert all(
        service["networks"]["replicas"]["aliases"] == [service["hostname"]] for service in replicas(compose, profile)
    )
    gpus = [device for service in replicas(compose, profile) for device in gpus_of(service)]
    assert gpus == ([] if profile == "cpu" else [str(number) for number in range(count)])


def gpus_of(service: dict[str, Any]) -> list[str]:
    if "deploy" not in service:
        return []
    [device] = service["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    ids: list[str] = device["device_ids"]
    return ids


def test_balancer_and_prometheus_know_every_name(compose: Any) -> None:
    names = {service["hostname"] for service in replicas(compose)}
    servers = re.findall(r"^ +server \S+ (\S+):8000$", HAPROXY.read_text(), re.MULTILINE)
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"][0][
        "dns_sd_configs"
    ]
    assert set(servers) == set(scraped[0]["names"]) == names
    assert scraped[0]["port"] == 8000


def test_every_container_is_locked_down(compose: Any) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "cap_add", "network_mode", "pid"} & set(service), name
    assert compose["networks"]["replicas"] == {"internal": True}
    assert all(list(service["networks"]) == ["replicas"] for service in replicas(compose))


def test_a_stop_leaves_time_for_the_drain(compose: Any) -> None:
    settings = Settings()
    needed = settings.drain_delay_seconds + settings.drain_grace_seconds + 10
    for service in [*replicas(compose), compose["services"]["haproxy"]]:
        assert int(service["stop_grace_period"].removesuffix("s")) > needed


def test_a_replica_is_healthy_when_it_is_ready(compose: Any, fleet: Fleet) -> None:
    for service in replicas(compose):
        kind, python, *arguments = service["healthcheck"]["test"]
        assert (kind, python) == ("CMD", "python")
        here = [argument.replace(":8000/", f":{fleet.ports[0]}/") for argument in arguments]
        assert here != arguments
    assert subprocess.run([sys.executable, *here]).returncode == 0
    nobody = [argument.replace(":8000/", f":{free_port()}/") for argument in arguments]
    assert subprocess.run([sys.executable, *nobody], stderr=subprocess.DEVNULL).returncode != 0


def test_the_settings_of_every_replica_are_settings(compose: Any) -> None:
    for service in replicas(compose):
        environment = {name: with_defaults(value) for name, value in service["environment"].items()}
        assert unknown_variables(environment) == []
        own = {
            name.removeprefix(PREFIX).lower(): value for name, value in environment.items() if name.startswith(PREFIX)
        }
        settings = Settings(**own)  # type: ignore[arg-type]
        assert settings.host == "0.0.0.0" and not settings.api_key
        assert any(settings.document_store.startswith(f"{folder}/") for folder in writable(service))
        assert settings.model == "demo" or settings.model.startswith("/models/")


def with_defaults(value: str) -> str:
    """`${NAME:-default}` as Compose fills it in when nothing is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


def writable(service: dict[str, Any]) -> list[str]:
    targets = [with_defaults(volume).split(":") for volume in service["volumes"]]
    return [target[1] for target in targets if target[-1] != "ro"]


def test_what_is_mounted_is_there(compose: Any) -> None:
    volumes = [
        with_defaults(volume) for service in compose["services"].values() for volume in service.get("volumes", [])
    ]
    assert volumes
    for source in (volume.split(":")[0] for volume in volumes):
        known = (COMPOSE.parent / source).exists() if source.startswith(".") else source in compose["volumes"]
        assert known, f"{source} is neither a file of the repository nor a volume"


def test_a_public_port_is_bound_to_this_machine_unless_one_says_otherwise(compose: Any) -> None:
    ports = [with_defaults(port) for service in compose["services"].values() for port in service.get("ports", [])]
    assert sorted(ports) == [f"127.0.0.1:{port}:{port}" for port in (3000, 8000, 8404, 9090)]
    binds = re.findall(r"bind :(\d+)", HAPROXY.read_text())
    assert binds == ["8000", "8404"]


def test_haproxy_reads_its_configuration_without_a_warning() -> None:
    said = subprocess.run([tool("haproxy"), "-c", "-f", str(HAPROXY)], capture_output=True, text=True)
    assert (said.returncode, said.stderr) == (0, ""), said.stderr


def test_the_balancer_waits_longer_than_the_service_and_hangs_up_sooner() -> None:
    seconds = {name: int(value) for name, value in re.findall(r"timeout (\S+) +(\d+)s", HAPROXY.read_text())}
    settings = Settings()
    assert min(seconds["client"], seconds["server"]) > settings.body_seconds
    assert seconds["http-keep-alive"] < settings.keep_alive_seconds
