"""The facts that an exported file carries about itself.

A graph that was copied out of its bundle still says what it is: its GraphSpec, model family, precision
and whether it was trained, as JSON under one metadata key. What must not travel is stripped: stack
traces with the paths of the machine that exported it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from taemi_export.onnx_file import OnnxFile
from taemi_runtime.errors import BundleError, SpecError
from taemi_runtime.spec import GraphSpec
from taemi_runtime.strict import from_plain, to_plain

if TYPE_CHECKING:
    import onnx

SCHEMA = 1
METADATA_KEY = "taemi"


@dataclass(frozen=True)
class GraphFacts:
    """What an exported graph says of itself.

    Args:
        family: The model family.
        graph: Its description.
        precision: ``fp32``, ``fp16`` or ``int8``, as built.
        trained: Whether the weights were trained at all.
        schema: The schema version.
    """

    family: str
    graph: GraphSpec
    precision: str
    trained: bool
    schema: int = SCHEMA


def finish_model(model: onnx.ModelProto, facts: GraphFacts) -> None:
    """Strip a graph of private notes and write its facts into it, in place."""
    graph = model.graph
    for item in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    # Recorded shapes of inner values go stale with every later conversion, and tools then refuse the
    # graph; each of them infers its own.
    for name in ("metadata_props", "doc_string", "value_info"):
        graph.ClearField(name)
    graph.name = facts.graph.name
    model.ClearField("metadata_props")
    model.ClearField("doc_string")
    entry = model.metadata_props.add()
    entry.key = METADATA_KEY
    entry.value = json.dumps(to_plain(facts), separators=(",", ":"))


def read_facts(file: OnnxFile, name: str) -> GraphFacts:
    """Read the facts out of a file.

    Args:
        file: The file.
        name: What to call it in messages.

    Raises:
        BundleError: It has none, or of another schema.
    """
    asked = f"cannot tell what {name} is"
    again = "Name a file that taemi-export wrote"
    if METADATA_KEY not in file.metadata:
        raise BundleError(asked, f"its metadata has no key {METADATA_KEY!r}", again)
    try:
        data = json.loads(file.metadata[METADATA_KEY])
        schema = data.get("schema") if isinstance(data, dict) else None
        if schema != SCHEMA:
            raise BundleError(asked, f"its schema is {schema!r}, this taemi reads {SCHEMA}", again)
        return from_plain(data, GraphFacts)
    except (ValueError, SpecError) as error:
        raise BundleError(asked, f"its metadata breaks schema {SCHEMA}: {error}", again) from error
