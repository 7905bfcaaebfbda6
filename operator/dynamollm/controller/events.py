"""Kubernetes Events of a service: on transitions only, and never a reason for a cycle to fail."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from dynamollm.adapters.kube import Kube, KubeError
from dynamollm.api import names

_LOG: Final = logging.getLogger(__name__)

_MESSAGE_LENGTH: Final = 1024
"""What the API server takes."""


async def emit(kube: Kube, body: Mapping[str, Any], *, reason: str, message: str, warning: bool) -> None:
    """Write an Event about an InferenceService."""
    metadata = body["metadata"]
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "namespace": metadata["namespace"],
            # Unique, and in order of time: two events of a service within a microsecond do not happen.
            "name": f"{metadata['name']}.{datetime.now(UTC).strftime('%Y%m%d%H%M%S%f')}",
        },
        "involvedObject": {
            "apiVersion": f"{names.GROUP}/{names.VERSION}",
            "kind": "InferenceService",
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
        },
        "type": "Warning" if warning else "Normal",
        "reason": reason,
        "message": message[:_MESSAGE_LENGTH],
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
        "source": {"component": names.FIELD_MANAGER},
    }
    try:
        await kube.create(event)
    except KubeError as error:
        _LOG.warning("event %s was not written: %s", reason, error)
