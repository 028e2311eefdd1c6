"""``betty schema``: the JSON Schema of a spec, for editors."""

from __future__ import annotations

import json


def schema_command() -> None:
    """Print the JSON Schema of a spec, so that editors complete and check spec files."""
    from betty.spec.schema import json_schema

    print(json.dumps(json_schema(), indent=2))
