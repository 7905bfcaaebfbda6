"""etcd, kube-apiserver, kube-controller-manager and kube-scheduler: their certificates, kubeconfigs and command lines."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.pki import Authority, Pair
from lab.processes import Command

NICE: Final = 5
"""The data path (router, engines) gets the CPU first."""
SERVICE_CIDR: Final = "10.96.0.0/16"
_ADVERTISED: Final = "192.0.2.1"
"""RFC 5737: an API server must advertise an address that is not a loopback's. Nothing asks for it: pods are told the
real one, and no endpoints of Service `kubernetes` are written."""
_REQUESTS_PER_S: Final = 500
"""Requests a second to the API server for each part: with the default of 20 the controllers take four seconds to start."""
_STOP_S: Final = 5.0
_AUDIT: Final = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts"]}, {"level": "None"}],
}
"""Who asked for what and whether it was allowed, of service accounts alone."""


def audit_log(state: Path) -> Path:
    """Return the file with one JSON event a line."""
    return state / "logs" / "audit.log"


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the parts listen, at the cluster's control plane address."""

    api: int
    etcd: int
    etcd_peer: int
    controller_manager: int
    scheduler: int


class ControlPlane:
    """The files of one control plane, and how to start its parts."""

    def __init__(self, *, state: Path, address: str, ports: Ports, binaries: Mapping[str, Path]) -> None:
        self.url = f"https://{address}:{ports.api}"
        self.authority = Authority.create(state / "pki")
        self.admin = self.authority.client("admin", user="admin", group="system:masters")
        self.kubeconfig = self._kubeconfig(state / "kubeconfig", self.admin)
        self._state, self._address, self._ports, self._binaries = state, address, ports, binaries
        self._server = self.authority.server("server", address, "127.0.0.1", "10.96.0.1")
        self._service_accounts = self.authority.signing_key("service-accounts")

    def etcd(self) -> Command:
        """Return etcd, which keeps everything in the state folder and loses it with the machine's power."""
        client = f"https://{self._address}:{self._ports.etcd}"
        peer = f"https://{self._address}:{self._ports.etcd_peer}"
        tls = {
            "cert-file": self._server.certificate,
            "key-file": self._server.key,
            "trusted-ca-file": self.authority.file,
        }
        return self._command(
            "etcd",
            {
                "data-dir": self._state / "etcd",
                "unsafe-no-fsync": "true",
                "listen-client-urls": client,
                "advertise-client-urls": client,
                "listen-peer-urls": peer,
                "initial-advertise-peer-urls": peer,
                "initial-cluster": f"default={peer}",
                "client-cert-auth": "true",
                "peer-client-cert-auth": "true",
                "log-level": "warn",
            }
            | tls
            | {f"peer-{flag}": file for flag, file in tls.items()},
        )

    def apiserver(self, *, audit: bool) -> Command:
        """Return kube-apiserver; it waits for etcd by itself."""
        return self._command(
            "kube-apiserver",
            (self._audit() if audit else {})
            | {
                "bind-address": self._address,
                "secure-port": self._ports.api,
                "advertise-address": _ADVERTISED,
                "endpoint-reconciler-type": "none",
                "etcd-servers": f"https://{self._address}:{self._ports.etcd}",
                "etcd-cafile": self.authority.file,
                "etcd-certfile": self._server.certificate,
                "etcd-keyfile": self._server.key,
                "tls-cert-file": self._server.certificate,
                "tls-private-key-file": self._server.key,
                "client-ca-file": self.authority.file,
                "authorization-mode": "Node,RBAC",
                # As kubeadm has it: whether a pod may be privileged is for admission to say.
                "allow-privileged": "true",
                # As OpenShift has it: to become the owner of something takes rights too.
                "enable-admission-plugins": "OwnerReferencesPermissionEnforcement",
                "service-account-issuer": "https://kubernetes.default.svc",
                "service-account-key-file": self._service_accounts,
                "service-account-signing-key-file": self._service_accounts,
                "service-cluster-ip-range": SERVICE_CIDR,
                "profiling": "false",
            },
        )

    def controller_manager(self) -> Command:
        """Return kube-controller-manager without what cannot work here."""
        kubeconfig = self._user_kubeconfig("kube-controller-manager")
        return self._command(
            "kube-controller-manager",
            {
                "bind-address": self._address,
                "secure-port": self._ports.controller_manager,
                "kubeconfig": kubeconfig,
                "authentication-kubeconfig": kubeconfig,
                "authorization-kubeconfig": kubeconfig,
                "authentication-skip-lookup": "true",
                "leader-elect": "false",
                "kube-api-qps": _REQUESTS_PER_S,
                "kube-api-burst": _REQUESTS_PER_S,
                "use-service-account-credentials": "true",
                "service-account-private-key-file": self._service_accounts,
                "root-ca-file": self.authority.file,
                "tls-cert-file": self._server.certificate,
                "tls-private-key-file": self._server.key,
                "profiling": "false",
                # Endpoints and EndpointSlices refuse loopback addresses, and all pods have one.
                "controllers": "*,-endpoints-controller,-endpointslice-controller,-endpointslice-mirroring-controller",
            },
        )

    def scheduler(self) -> Command:
        """Return kube-scheduler."""
        kubeconfig = self._user_kubeconfig("kube-scheduler")
        return self._command(
            "kube-scheduler",
            {
                "bind-address": self._address,
                "secure-port": self._ports.scheduler,
                "kubeconfig": kubeconfig,
                "authentication-kubeconfig": kubeconfig,
                "authorization-kubeconfig": kubeconfig,
                "authentication-skip-lookup": "true",
                "leader-elect": "false",
                "kube-api-qps": _REQUESTS_PER_S,
                "kube-api-burst": _REQUESTS_PER_S,
                "tls-cert-file": self._server.certificate,
                "tls-private-key-file": self._server.key,
                "profiling": "false",
            },
        )

    def _audit(self) -> dict[str, object]:
        policy = self._state / "audit-policy.json"
        policy.write_text(json.dumps(_AUDIT))  # JSON is YAML
        return {"audit-policy-file": policy, "audit-log-path": audit_log(self._state)}

    def _command(self, name: str, flags: Mapping[str, object]) -> Command:
        argv = [str(self._binaries[name]), *(f"--{flag}={value}" for flag, value in flags.items())]
        return Command(name, argv, nice=NICE, stop_within_s=_STOP_S)

    def _user_kubeconfig(self, part: str) -> Path:
        return self._kubeconfig(
            self._state / "pki" / f"{part}.kubeconfig", self.authority.client(part, user=f"system:{part}")
        )

    def _kubeconfig(self, file: Path, user: Pair) -> Path:
        """Write a kubeconfig that needs no other file."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "local",
                    "cluster": {"server": self.url, "certificate-authority-data": _data(self.authority.file)},
                }
            ],
            "users": [
                {
                    "name": "local",
                    "user": {
                        "client-certificate-data": _data(user.certificate),
                        "client-key-data": _data(user.key),
                    },
                }
            ],
            "contexts": [{"name": "local", "context": {"cluster": "local", "user": "local"}}],
            "current-context": "local",
        }
        file.touch(mode=0o600)
        file.write_text(json.dumps(config, indent=1))  # JSON is YAML
        return file


def _data(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()
