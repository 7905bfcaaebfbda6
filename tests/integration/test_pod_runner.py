"""The pod runner on the real control plane: what our manifests count on from a kubelet."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import requests

from integration.runner_pods import IMAGE, Json, Namespace, of_test, pod
from integration.waiting import eventually
from lab import record
from lab.backend import LOCAL, kind_of_cluster
from lab.cluster import LocalCluster, LocalClusterOptions
from lab.errors import LabError
from lab.paths import node_dir
from lab.podrunner import orphans
from lab.podrunner.launcher import Isolation, ensure_launcher
from lab.processes import started_ticks

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(kind_of_cluster() != LOCAL, reason="about the local cluster, and another one was asked for"),
]

SLEEP: Final = "import time; print('here'); time.sleep(600)"
SERVER: Final = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    state = {"/ready": 200, "/live": 200}
    def do_GET(self):
        if self.path in self.state:
            self.send_response(self.state[self.path])
        else:  # /ready/503 sets what /ready answers from now on
            _, name, code = self.path.split("/")
            self.state["/" + name] = int(code)
            self.send_response(200)
        self.end_headers()
        self.wfile.write(os.environ["POD_IP"].encode())
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer((os.environ["POD_IP"], 8000), Handler).serve_forever()
"""
ON_TERM: Final = """
import signal, sys, time
def term(*_):
    print("term", time.time())
    sys.exit(7)
signal.signal(signal.SIGTERM, term)
print("here")
while True: time.sleep(600)
"""
POD_IP: Final = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}


@pytest.fixture
def namespace(cluster: LocalCluster, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    with of_test(cluster, request) as made:
        yield made


@pytest.fixture
def isolated(tmp_path: Path) -> None:
    """Skip what takes namespaces where this kernel gives this user none."""
    if ensure_launcher(tmp_path).isolation is Isolation.NONE:
        pytest.skip("this kernel gives this user no namespaces")


def config_map(name: str, **data: str) -> Json:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


# ------------------------------------------------------------------ what containers are made of
def test_environment_and_arguments(namespace: Namespace) -> None:
    code = "import json, os, sys; print(json.dumps({'env': dict(os.environ), 'argv': sys.argv[1:]}))"
    env: list[Json] = [
        POD_IP,
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
        {"name": "MODEL", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "model"}}},
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "api"}}},
        {"name": "NONE", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "no", "optional": True}}},
        {"name": "URL", "value": "http://$(POD_IP)/$(MODEL)?$$(KEY)"},
    ]
    container = {
        "args": ["--url", "$(URL)", "$(UNKNOWN)"],
        "env": env,
        "envFrom": [{"configMapRef": {"name": "settings"}, "prefix": "SET_"}],
        "resources": {"limits": {"cpu": "1500m"}},
    }
    # The pod comes first: it waits for what it names.
    namespace.apply(pod("env", code, container=container))
    waiting = eventually(lambda: namespace.state("env").get("state", {}).get("waiting", {}).get("message"))
    assert waiting == 'configmap "settings" not found'
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"api": "s3cret"}}
    namespace.apply(config_map("settings", model="llama"), secret)

    said = json.loads(eventually(lambda: namespace.log("env")))
    status = namespace.status("env")
    url = f"http://{status['podIP']}/llama?$(KEY)"
    assert said["argv"] == ["--url", url, "$(UNKNOWN)"]
    wanted = {"URL": url, "APP": "env", "CPU": "1500", "KEY": "s3cret", "SET_model": "llama", "HOSTNAME": "env"}
    assert wanted.items() <= said["env"].items()
    assert "NONE" not in said["env"]
    assert said["env"]["NODE"].startswith("gpu-node-")


@pytest.mark.usefixtures("isolated")
def test_volumes_are_at_their_mount_paths_and_follow_the_config_map(namespace: Namespace) -> None:
    code = """
import os, pathlib, time
read = lambda path: pathlib.Path(path).read_text()
print(read("/etc/dynamollm/settings/mode"), read("/srv/only/this"), os.listdir("/srv/only"))
pathlib.Path("/scratch/file").write_text("mine")
pathlib.Path("/var/lib/dynamollm/state").write_text("of the node")
try:
    pathlib.Path("/etc/dynamollm/settings/mode").write_text("no")
except OSError as error:
    print(error.strerror)
while read("/etc/dynamollm/settings/mode") != "new": time.sleep(0.05)
print("updated", sorted(os.listdir("/etc/dynamollm/settings")))
"""
    items = [{"key": "mode", "path": "this"}]
    volumes: list[Json] = [
        {"name": "settings", "configMap": {"name": "settings"}},
        {"name": "one", "configMap": {"name": "settings", "items": items}},
        {"name": "scratch", "emptyDir": {}},
        {"name": "state", "hostPath": {"path": "/var/lib/dynamollm", "type": "DirectoryOrCreate"}},
    ]
    paths = {"settings": "/etc/dynamollm/settings", "one": "/srv/only", "scratch": "/scratch"}
    mounts: list[Json] = [{"name": name, "mountPath": path} for name, path in paths.items()]
    mounts[0]["readOnly"] = True
    mounts.append({"name": "state", "mountPath": "/var/lib/dynamollm"})
    namespace.apply(
        config_map("settings", mode="old", gone="x"),
        pod("volumes", code, container={"volumeMounts": mounts}, volumes=volumes),
    )
    eventually(lambda: "Read-only" in namespace.log("volumes"), why=namespace.log("volumes"))
    namespace.kubectl("replace", "-f", "-", stdin=json.dumps(config_map("settings", mode="new")))
    eventually(lambda: namespace.phase("volumes") == "Succeeded", why="the update does not reach the file")
    assert namespace.log("volumes").splitlines() == ["old old ['this']", "Read-only file system", "updated ['mode']"]
    node = json.loads(namespace.kubectl("get", "pod", "volumes", "-o", "json"))["spec"]["nodeName"]
    root = node_dir(namespace.cluster.dir, node) / "root"
    assert (root / "var/lib/dynamollm/state").read_text() == "of the node"
    assert not Path("/etc/dynamollm/settings").exists()


def test_the_service_account_token_has_exactly_its_rights(namespace: Namespace) -> None:
    code = """
import os, requests
at = "/var/run/secrets/kubernetes.io/serviceaccount/"
token, own = open(at + "token").read(), open(at + "namespace").read()
api = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}/api/v1/namespaces/"
for path in (f"{own}/configmaps/mine", f"{own}/secrets", "kube-system/configmaps"):
    print(requests.get(api + path, headers={"Authorization": "Bearer " + token}, verify=at + "ca.crt").status_code)
"""
    rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"}
    api = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "reader"}}
    namespace.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader"}},
        {**api, "kind": "Role", "rules": [rule]},
        {**api, "kind": "RoleBinding", "roleRef": role, "subjects": [{"kind": "ServiceAccount", "name": "reader"}]},
        config_map("mine", a="b"),
    )
    namespace.apply(pod("token", code, serviceAccountName="reader"))
    eventually(lambda: namespace.ended("token"))
    assert namespace.log("token").split() == ["200", "403", "403"]


# ------------------------------------------------------------------ probes
def test_readiness_flips_ready_and_failed_liveness_restarts(namespace: Namespace) -> None:
    container: Json = {
        "env": [POD_IP],
        "ports": [{"name": "http", "containerPort": 8000}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 1, "failureThreshold": 1},
        "livenessProbe": {"httpGet": {"path": "/live", "port": "http"}, "periodSeconds": 1, "failureThreshold": 2},
    }
    container["livenessProbe"] |= {"initialDelaySeconds": 2, "timeoutSeconds": 5}
    namespace.apply(pod("web", SERVER, container=container, restartPolicy="Always"))

    status = eventually(lambda: namespace.ready("web"), why="it does not get ready")
    url = f"http://{status['podIP']}:8000"
    # The server is the pod's: on the pod's own address, not on the node's.
    # The bytes: where an answer names no encoding, `text` is a guess, and digits and dots were once taken for UTF-16.
    answer = requests.get(f"{url}/ready", timeout=30).content.decode()
    assert answer == status["podIP"] != status["hostIP"]
    requests.get(f"{url}/ready/503", timeout=30)
    assert eventually(lambda: namespace.ready("web", "False"))["containerStatuses"][0]["ready"] is False
    requests.get(f"{url}/ready/200", timeout=30)
    eventually(lambda: namespace.ready("web"), why="it does not get ready again")

    requests.get(f"{url}/live/500", timeout=30)
    eventually(lambda: namespace.state("web")["restartCount"] == 1, why="no restart")
    state = namespace.state("web")
    assert state["lastState"]["terminated"]["exitCode"] == 128 + signal.SIGTERM
    assert namespace.status("web")["podIP"] == status["podIP"]
    eventually(lambda: namespace.ready("web"), why="the new process does not get ready")


# ------------------------------------------------------------------ ends
def test_ends_have_phases_exit_codes_and_back_off(namespace: Namespace) -> None:
    marks = {"emptyDir": {}, "name": "marks"}
    init = "import os, sys; open('/marks/{0}', 'w'); print(sorted(os.listdir('/marks')))"
    mounted = {"image": IMAGE, "volumeMounts": [{"name": "marks", "mountPath": "/marks"}]}
    inits = [{**mounted, "name": name, "command": ["python", "-c", init.format(name)]} for name in ("a", "b")]
    namespace.apply(
        pod(
            "good",
            "import os; print(sorted(os.listdir('/marks')))",
            container=mounted,
            volumes=[marks],
            initContainers=inits,
        ),
        pod("bad", "raise SystemExit(3)"),
        pod("killed", "import os; os.kill(os.getpid(), 9)"),
        pod("unstartable", "", container={"command": ["/does/not/exist"]}),
        pod("crashing", "raise SystemExit(4)", restartPolicy="Always"),
        pod(
            "bad-init", SLEEP, initContainers=[{**inits[0], "volumeMounts": [], "command": ["python", "-c", "exit(5)"]}]
        ),
    )
    ends = {"good": ("Succeeded", 0), "bad": ("Failed", 3), "killed": ("Failed", 137), "unstartable": ("Failed", 128)}
    for name, (phase, code) in ends.items():
        eventually(partial(namespace.ended, name), why=name)
        assert (namespace.phase(name), namespace.state(name)["state"]["terminated"]["exitCode"]) == (phase, code)
    assert namespace.state("good")["state"]["terminated"]["reason"] == "Completed"
    assert "/does/not/exist" in namespace.state("unstartable")["state"]["terminated"]["message"]
    assert namespace.log("good").splitlines() == ["['a']", "['a', 'b']", "['a', 'b']"]

    eventually(lambda: namespace.phase("bad-init") == "Failed")
    assert namespace.status("bad-init")["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 5
    assert namespace.state("bad-init")["state"]["waiting"]["reason"] == "PodInitializing"

    waits = "CrashLoopBackOff"
    eventually(lambda: namespace.state("crashing")["state"].get("waiting", {}).get("reason") == waits)
    crashing = namespace.state("crashing")
    assert (crashing["restartCount"], crashing["ready"]) == (2, False)
    assert crashing["lastState"]["terminated"]["exitCode"] == 4
    assert namespace.phase("crashing") == "Running"


def test_deletion_takes_hook_signal_and_grace(namespace: Namespace) -> None:
    hook = {
        "preStop": {
            "exec": {"command": ["python", "-c", "import time; print(time.time(), file=open('/out/hook', 'w'))"]}
        }
    }
    out: list[Json] = [{"name": "out", "hostPath": {"path": "/out", "type": "DirectoryOrCreate"}}]
    container = {"lifecycle": hook, "volumeMounts": [{"name": "out", "mountPath": "/out"}]}
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here'); time.sleep(600)"
    namespace.apply(
        pod("polite", ON_TERM, container=container, volumes=out, terminationGracePeriodSeconds=300),
        pod("stubborn", stubborn, terminationGracePeriodSeconds=1),
        pod("hurried", stubborn, terminationGracePeriodSeconds=300),
    )
    for name in ("polite", "stubborn", "hurried"):
        eventually(partial(namespace.log, name), why=name)
    node = json.loads(namespace.kubectl("get", "pod", "polite", "-o", "json"))["spec"]["nodeName"]
    logs = {
        name: next(namespace.cluster.dir.glob(f"nodes/*/root/var/log/pods/{namespace.name}_{name}_*/main/0.log"))
        for name in ("polite", "stubborn")
    }
    begun = time.monotonic()
    namespace.kubectl("delete", "pod", "hurried", "--wait=false")
    namespace.kubectl("delete", "pod", "polite", "stubborn")
    assert time.monotonic() - begun < 150  # not the grace of the polite one
    word, when = logs["polite"].read_text().splitlines()[-1].split()
    assert word == "term"
    assert float((node_dir(namespace.cluster.dir, node) / "root/out/hook").read_text()) < float(when)

    # Its grace was five minutes: a second deletion with less hastens it.
    assert namespace.phase("hurried") == "Running"
    namespace.kubectl("delete", "pod", "hurried", "--grace-period=1")
    eventually(lambda: not processes(namespace), why="processes outlive their pods")


def processes(namespace: Namespace) -> list[int]:
    """Return the processes of the pods of a namespace that have a log."""
    folders = namespace.cluster.dir.glob(f"nodes/*/root/var/log/pods/{namespace.name}_*")
    uids = {folder.name.rpartition("_")[2] for folder in folders}
    found = []
    for pid in orphans.find(namespace.cluster.dir):
        with contextlib.suppress(OSError):
            variables = Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
            found += [pid for uid in uids if f"{orphans.POD}={uid}" in variables]
    return found


# ------------------------------------------------------------------ the end of the runner
@pytest.mark.usefixtures("isolated")
def test_a_killed_runner_leaves_no_pod_and_the_next_one_starts_them_again() -> None:
    with LocalCluster.start(LocalClusterOptions(name=f"no-runner-{os.getpid()}", nodes=1)) as cluster:
        cluster.kubectl("create", "namespace", "here")
        namespace = Namespace(cluster, "here")
        # A process of a process, in a session of its own: no death signal reaches it.
        code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEP!r}], start_new_session=True)"
        namespace.apply(pod("parent", code))
        eventually(lambda: "here" in namespace.log("parent"))
        assert orphans.find(cluster.dir)
        found = record.Record.read(cluster.name)
        assert found is not None
        runner = Path(f"/proc/{found.processes['podrunner'].pid}")
        argv = (runner / "cmdline").read_text().split("\0")[:-1]
        env = dict(line.split("=", 1) for line in (runner / "environ").read_text().split("\0") if "=" in line)

        os.kill(found.supervisor.pid, signal.SIGSTOP)  # else it takes the cluster down at once
        try:
            os.kill(int(runner.name), signal.SIGKILL)
            eventually(lambda: not orphans.find(cluster.dir), why="the kernel does not end the container")
            with subprocess.Popen(argv, env=env, cwd=cluster.dir, stderr=subprocess.DEVNULL) as anew:
                eventually(lambda: namespace.log("parent").split() == ["here"] * 2, why="the pod is not started again")
                anew.kill()
        finally:
            os.kill(found.supervisor.pid, signal.SIGCONT)
        eventually(lambda: not orphans.find(cluster.dir), why="pods outlive their runner")
        eventually(lambda: started_ticks(found.supervisor.pid) != found.supervisor.started, why="the cluster stays up")
        with pytest.raises(LabError, match=r"podrunner was killed by signal SIGKILL"):
            cluster.kubectl("get", "nodes")
