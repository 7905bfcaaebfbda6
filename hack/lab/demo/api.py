"""A reader of the local control plane for the demo's screen: plain GETs with the kubeconfig's credentials."""

import base64
import tempfile
from pathlib import Path
from typing import Any, Self

import requests
import yaml


class Api:
    """GETs against one cluster."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._files = tempfile.TemporaryDirectory(prefix="dynamollm-demo-")
        self._session = requests.Session()
        # Neither proxies nor certificate bundles of the environment apply to a loopback server.
        self._session.trust_env = False
        self._server = cluster["server"]
        self._session.verify = self._path(cluster, "certificate-authority")
        if "token" in user:
            self._session.headers["Authorization"] = f"Bearer {user['token']}"
        else:
            self._session.cert = (self._path(user, "client-certificate"), self._path(user, "client-key"))

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the session and remove the credentials' copies."""
        self._session.close()
        self._files.cleanup()

    def _path(self, section: dict[str, str], key: str) -> str:
        if key in section:
            return section[key]
        file = Path(self._files.name) / key
        file.write_bytes(base64.b64decode(section[f"{key}-data"]))
        return str(file)

    def get(self, path: str, **params: str) -> dict[str, Any]:
        """Return one object.

        Raises:
            requests.RequestException: no answer within five seconds, or one that is not 200.
        """
        response = self._session.get(f"{self._server}{path}", params=params, timeout=5)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    def items(self, path: str, selector: str = "") -> list[dict[str, Any]]:
        """Return the objects of a list."""
        items: list[dict[str, Any]] = self.get(path, labelSelector=selector)["items"]
        return items
