"""Where benches leave their figures: one JSON object in the file that ``BENCH_OUT`` names, to which each adds its own."""

import json
import os
from collections.abc import Mapping
from pathlib import Path


def record(figures: Mapping[str, object]) -> None:
    """Add figures to the file, in place of those of the same names; nothing where ``BENCH_OUT`` names none.

    Raises:
        SystemExit: the file is there and is no JSON object: it is somebody else's.
    """
    if not (out := os.environ.get("BENCH_OUT")):
        return
    path = Path(out)
    there: object = {}
    if path.exists() and (text := path.read_text(encoding="utf-8")).strip():
        try:
            there = json.loads(text)
        except ValueError:
            there = None
    if not isinstance(there, dict):
        raise SystemExit(f"BENCH_OUT={out} is no JSON object: name another file, or delete it")
    path.write_text(json.dumps(there | dict(figures), indent=2) + "\n", encoding="utf-8")
