"""The tables' fields, each documented here once.

`docs/tables.md`, `trajkit sql "describe trajectories"` and the Parquet files' own column comments
are all made from these lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

ROLES = ("expert", "policy", "scorer")
ENDED = ("done", "max_steps", "max_tokens", "error", "drift")
MESSAGE_ROLES = ("system", "user", "assistant", "tool")
JSON_COLUMNS = ("tools", "tool_calls", "meta")  # a file may also hold these as lists or structs


@dataclass(frozen=True)
class Field:
    """One column: its DuckDB type, whether a file must have it, and what its values mean."""

    name: str
    type: str
    required: bool
    doc: str


TRAJECTORIES = (
    Field(
        "trajectory_id",
        "VARCHAR",
        True,
        "Unique. Derived from the content, so importing the same thing twice changes nothing.",
    ),
    Field("task_id", "VARCHAR", True, "The subtask: one initial state s_0 (environment, instruction, situation)."),
    Field("env", "VARCHAR", False, "The environment's name. Null: not said here; a task has one, over all files."),
    Field(
        "split",
        "VARCHAR",
        False,
        "train, test, ... Null reads as what tasks, or another trajectory of the task, says, else as train. A task has "
        "one split, over all files. Only train is ever trained on.",
    ),
    Field(
        "role",
        "VARCHAR",
        True,
        "Whose actions: expert, policy (the model being tuned) or scorer (Monte-Carlo rollouts, never trained on).",
    ),
    Field("actor", "VARCHAR", False, "The model or agent, e.g. gpt-4 or llama-3-8b-iter2. Null: not said."),
    Field("iteration", "INTEGER", False, "0 for experts and imports, then 1, 2, ... Null reads as 0."),
    Field("sample", "INTEGER", False, "Which repeat from the same state, counted from 0. Null reads as 0."),
    Field("parent_id", "VARCHAR", False, "The trajectory it branched from. Null: it starts at s_0."),
    Field("branch_step", "INTEGER", True, "It starts from the parent's state s_i with this i. 0: it starts at s_0."),
    Field("n_steps", "INTEGER", True, "Actions that it took itself, from branch_step on. 0: none."),
    Field("reward", "DOUBLE", False, "Final total reward on the environment's own scale. Null: there is none."),
    Field("success", "BOOLEAN", False, "The environment's own verdict. Null: it gives none."),
    Field("ended", "VARCHAR", False, "done, max_steps, max_tokens, error or drift. Null: not said."),
    Field("error", "VARCHAR", False, "Why, for error and drift. Null otherwise."),
    Field(
        "actions_digest",
        "VARCHAR",
        False,
        "Digest of its own actions, equal calls told alike (canonical_calls). Null: computed from the messages when a "
        "rule needs it.",
    ),
    Field("tools", "VARCHAR", False, "Tool definitions as JSON. Null: no tools."),
    Field(
        "import_id",
        "VARCHAR",
        False,
        "Where `import --replace` put a corrected record here: the id that the record has by itself. Null: it did not.",
    ),
    Field("seed", "BIGINT", False, "The seed it ran with. Null: not said."),
    Field("created_at", "TIMESTAMP", False, "When it was recorded, in UTC. Null: not said."),
    Field("meta", "VARCHAR", False, "Anything else its source said, as a JSON object. Null: nothing."),
)

MESSAGES = (
    Field(
        "trajectory_id",
        "VARCHAR",
        True,
        "The trajectory that it is an own message of (a branch does not repeat its parent's prefix).",
    ),
    Field("seq", "INTEGER", True, "Position in the full conversation, the parent's prefix counted, from 0."),
    Field(
        "step",
        "INTEGER",
        True,
        "Actions taken before it: o_t and a_t both carry t, a closing observation carries the trajectory's length.",
    ),
    Field("role", "VARCHAR", True, "system, user, assistant or tool."),
    Field("content", "VARCHAR", True, "The text. Null only beside tool_calls."),
    Field("reasoning", "VARCHAR", False, "The model's reasoning, where it is kept apart from content. Null: none."),
    Field("tool_calls", "VARCHAR", False, "Tool calls as JSON, in OpenAI's chat format. Null: none."),
    Field("tool_call_id", "VARCHAR", False, "The call that a tool message answers. Null: none."),
    Field("name", "VARCHAR", False, "The tool's or speaker's name. Null: none."),
    Field(
        "context",
        "BOOLEAN",
        False,
        "True on an assistant message that is no action (an example, a canned reply, copied context): no step, never "
        "trained on. Null reads as false.",
    ),
    Field(
        "weight",
        "FLOAT",
        False,
        "On an action: its source's own loss mark, from 0 to 1, by which every example multiplies its loss weight. 0: "
        "it is never trained on, but stays a step. Null: 1.",
    ),
    Field("token_ids", "INTEGER[]", False, "The token ids that the server sampled. Null: not kept."),
    Field("logprobs", "FLOAT[]", False, "Their log-probabilities. Null: not kept."),
)

TASKS = (
    Field("task_id", "VARCHAR", True, "The subtask, as in trajectories."),
    Field("env", "VARCHAR", False, "The environment's name. Null: not said."),
    Field(
        "split", "VARCHAR", False, "train, test, ... Null reads as what trajectories of the task say, else as train."
    ),
    Field(
        "meta",
        "VARCHAR",
        False,
        "What the environment needs to reset to it, as a JSON object. Null: the task_id is enough.",
    ),
)

TABLES: dict[str, tuple[Field, ...]] = {"trajectories": TRAJECTORIES, "messages": MESSAGES, "tasks": TASKS}

TABLE_DOCS = {
    "trajectories": "One row per trajectory, whole or a branch of another.",
    "messages": "One row per chat message, of each trajectory's own part only.",
    "tasks": "One row per task that an environment has.",
}


@cache
def arrow_schema(table: str) -> pa.Schema:
    """The Arrow schema that trajkit writes `table` with. Field metadata holds each column's doc."""
    import pyarrow as pa

    types = {
        "VARCHAR": pa.string(),
        "INTEGER": pa.int32(),
        "FLOAT": pa.float32(),
        "BIGINT": pa.int64(),
        "DOUBLE": pa.float64(),
        "BOOLEAN": pa.bool_(),
        "TIMESTAMP": pa.timestamp("us"),
        "INTEGER[]": pa.list_(pa.int32()),
        "FLOAT[]": pa.list_(pa.float32()),
    }
    return pa.schema([pa.field(f.name, types[f.type], metadata={"doc": f.doc}) for f in TABLES[table]])
