"""From chosen rows to whole conversations: the Arrow tables that `trajkit select` writes, one per row group.

The messages of all excerpts are read once, sorted by DuckDB (which spills beyond its memory limit) and cut into lists.
Where the texts are too large for its sort, they are read again and sorted without them (`selection.large_texts`).
An example and a row of values is one excerpt, a pair is two: its chosen side, then its rejected side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trajkit.engines.checks import refuse_chosen
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.errors import BadData, OutOfMemory
from trajkit.rules import rules
from trajkit.selection.large_texts import flat, in_order

if TYPE_CHECKING:
    import pyarrow as pa

    from trajkit.engines.base import Engine

# A row group ends with the row that reaches one of these: it depends on the data alone.
GROUP_EXCERPTS = 2048
GROUP_BYTES = 64 * 2**20
BATCH_ROWS = 2_048

# The columns that are written, but for the messages.
COLUMNS = {
    "examples": (
        "example_id", "task_id", "env", "method", "kind", "trajectory_id", "expert_id", "from_step", "n_steps",
        "n_trained_steps", "n_expert_steps", "reward", "iteration", "tools",
    ),
    "pairs": (
        "pair_id", "task_id", "env", "method", "level", "from_step", "end_step", "chosen_id", "rejected_id",
        "chosen_reward", "rejected_reward", "n_chosen_steps", "n_rejected_steps", "iteration", "tools",
    ),
    "values": (
        "example_id", "task_id", "env", "method", "trajectory_id", "from_step", "n_steps", "n_values", "reward",
        "iteration", "tools",
    ),
}  # fmt: skip
_MESSAGE = ("role", "content", "reasoning", "tool_calls", "tool_call_id", "name", "weight", "token_ids")
_NUMBERS = ("from_step", "end_step", "n_steps", "n_trained_steps", "n_expert_steps", "n_chosen_steps",
            "n_rejected_steps", "n_values", "iteration")  # fmt: skip
_REWARDS = ("reward", "chosen_reward", "rejected_reward")


def schema(kind: str) -> pa.Schema:
    """The columns of what is written: of `examples`, `pairs` or `values`."""
    import pyarrow as pa

    types: dict[str, Any] = dict.fromkeys(COLUMNS[kind], pa.large_string())
    types |= {name: pa.int32() for name in _NUMBERS if name in types}
    types |= {name: pa.float64() for name in _REWARDS if name in types}
    own = {"weight": pa.float32(), "token_ids": pa.list_(pa.int32()), "value": pa.float64()}
    message = pa.struct([pa.field(name, own.get(name, pa.large_string())) for name in _message(kind)])
    lists = ("prompt", "chosen", "rejected") if kind == "pairs" else ("messages",)
    types |= dict.fromkeys(lists, pa.large_list(message))
    return pa.schema(list(types.items()))


def tables(runs: Engine, method: str, kind: str, counts: Counter[str]) -> Iterator[pa.Table]:
    """The rows of `selected` in order with their messages, a table per row group.

    `counts` gets other_prompts: pairs whose sides were asked with different words (the chosen side's are written).
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    sides = 2 if kind == "pairs" else 1
    selected = (
        "SELECT s.*, d.tools FROM selected AS s "
        f"LEFT JOIN selected_tools AS t ON s.{'chosen_id' if kind == 'pairs' else 'trajectory_id'} = t.trajectory_id "
        "LEFT JOIN tool_definitions AS d ON t.tools_digest = d.tools_digest"
    )
    first = 0
    for messages in _groups(runs, sides):
        ends = pc.run_end_encode(messages["excerpt_number"].combine_chunks()).run_ends
        last = first + len(ends) // sides
        heads = _between(runs, selected, "row_number", first, last)
        excerpts = _between(runs, "SELECT * FROM excerpts", "excerpt_number", first * sides, last * sides)
        if excerpts.num_rows != len(ends) or not _sound(messages, ends, excerpts):
            break
        pairs = kind == "pairs"
        lists = _pair(messages, heads, counts) if pairs else [_lists(messages, ends, _message(kind))]
        columns = [
            pa.array([method] * heads.num_rows) if name == "method" else heads[name].combine_chunks()
            for name in COLUMNS[kind]
        ]
        yield pa.table([*columns, *lists], names=schema(kind).names).cast(schema(kind))
        first = last
    if first < runs.rows("SELECT count(*) AS n FROM selected")[0]["n"]:
        refuse_chosen(runs)  # names the trajectory and the mistake
        raise BadData(f"{runs.path}: a chosen trajectory's messages are not in order; `trajkit validate` says which.")


def _message(kind: str) -> tuple[str, ...]:
    return (*_MESSAGE, "value") if kind == "values" else _MESSAGE


def _between(runs: Engine, query: str, number: str, first: int, last: int) -> pa.Table:
    return runs.table(f"{query} WHERE {number} >= {first} AND {number} < {last} ORDER BY {number}")


def _lists(messages: pa.Table, ends: pa.Array, names: tuple[str, ...]) -> pa.LargeListArray:
    """The messages as one list per row; `ends` are where the lists end."""
    import pyarrow as pa

    columns = [messages[name].combine_chunks() for name in names]
    offsets = pa.concat_arrays([pa.array([0], pa.int64()), ends.cast(pa.int64())])
    return pa.LargeListArray.from_arrays(offsets, pa.StructArray.from_arrays(columns, names))


def _pair(messages: pa.Table, heads: pa.Table, counts: Counter[str]) -> list[pa.LargeListArray]:
    """prompt, chosen and rejected of the pairs in `heads`. The prompt is the chosen side's."""
    import pyarrow as pa
    import pyarrow.compute as pc

    rejected = pc.equal(pc.bit_wise_and(messages["excerpt_number"], pa.scalar(1, pa.int64())), 1)
    asked, answered = messages["in_prompt"], pc.invert(messages["in_prompt"])
    prompt = messages.filter(pc.and_(asked, pc.invert(rejected)))
    counts["other_prompts"] += _n_different(prompt, messages.filter(pc.and_(asked, rejected)))
    chosen = messages.filter(pc.and_(answered, pc.invert(rejected)))
    found = []
    for part in (prompt, chosen, messages.filter(pc.and_(answered, rejected))):
        encoded = pc.run_end_encode(part["excerpt_number"].combine_chunks())
        if len(encoded.values) < heads.num_rows:
            asked_pairs = pc.divide(encoded.values, 2)
            bare = heads.filter(pc.invert(pc.is_in(heads["row_number"], asked_pairs)))["chosen_id"][0].as_py()
            raise BadData(
                f"trajectory {bare}: it begins with an action, so nothing could be the prompt of its pair. "
                "Import it with its instruction, or move its file out of the runs."
            )
        found.append(_lists(part, encoded.run_ends, _MESSAGE))
    return found


def _n_different(ours: pa.Table, theirs: pa.Table) -> int:
    """How many pairs have other words in their two prompts."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def said(prompts: pa.Table) -> pa.Table:
        text = pc.binary_join_element_wise(prompts["role"], pc.fill_null(prompts["content"], ""), "\x1f")
        pair = pc.shift_right(prompts["excerpt_number"], pa.scalar(1, pa.int64()))
        return pa.table({"pair": pair, "text": text}).group_by("pair", use_threads=False).aggregate([("text", "list")])

    one, other = said(ours), said(theirs)
    if one.equals(other):
        return 0
    texts = [dict(zip(part["pair"].to_pylist(), part["text_list"].to_pylist(), strict=True)) for part in (one, other)]
    return sum(texts[0].get(pair) != texts[1].get(pair) for pair in texts[0].keys() | texts[1].keys())


def _sound(messages: pa.Table, ends: pa.Array, excerpts: pa.Table) -> bool:
    """Whether each excerpt's messages are sound and numbered from 0 without gap, each step is the number of actions
    before it, and there are as many actions as the trajectories say. `ends` are the rows where the excerpts end."""
    import pyarrow as pa
    import pyarrow.compute as pc

    last = pc.subtract(ends, 1)
    if not messages["excerpt_number"].take(last).combine_chunks().equals(excerpts["excerpt_number"].combine_chunks()):
        return False
    starts = pa.concat_arrays([pa.array([0], ends.type), ends[:-1]])
    start = pc.run_end_decode(pa.RunEndEncodedArray.from_arrays(ends, starts))  # of each message's excerpt
    row = pc.subtract(pc.cumulative_sum(pa.repeat(pa.scalar(1, ends.type), messages.num_rows)), 1)
    actions = pc.cast(messages["is_action"].combine_chunks(), ends.type)
    before = pc.subtract(pc.cumulative_sum(actions), actions)
    n_actions = pc.add(pc.subtract(before.take(last), before.take(starts)), actions.take(last))
    return bool(
        pc.all(pc.equal(messages["seq"], pc.subtract(row, start))).as_py()
        and pc.all(pc.equal(messages["step"], pc.subtract(before, before.take(start)))).as_py()
        and pc.all(pc.equal(n_actions, excerpts["n_steps"])).as_py()
        and pc.all(messages["is_sound"]).as_py()
    )


def _batches(runs: Engine) -> Iterator[pa.RecordBatch]:
    """The messages of all excerpts in order."""
    query, keys, n_rows = rules()["selected_messages"].sql, "excerpt_number, seq", 0
    try:
        for batch in runs.batches(f"{query}\nORDER BY {keys}", BATCH_ROWS):
            yield batch
            n_rows += batch.num_rows
        return
    except OutOfMemory:  # few runs hold that much text, and to find out beforehand takes as long as to try
        if not isinstance(runs, DuckDBEngine):
            raise
    for batch in in_order(runs, query, keys, BATCH_ROWS):
        if n_rows < batch.num_rows:
            yield batch.slice(n_rows)
        n_rows -= min(n_rows, batch.num_rows)


def _groups(runs: Engine, sides: int) -> Iterator[pa.Table]:
    """The messages of all excerpts in order, cut between rows (of `sides` excerpts each) into row groups."""
    import pyarrow as pa
    import pyarrow.compute as pc

    waiting: list[pa.RecordBatch] = []
    current, n_excerpts, n_bytes = -1, 0, 0
    for batch in _batches(runs):
        encoded = pc.run_end_encode(batch["excerpt_number"])
        sizes = pc.cumulative_sum(pc.fill_null(pc.cast(pc.binary_length(batch["content"]), pa.int64()), 0)).to_pylist()
        start = begin = 0
        for excerpt, end in zip(encoded.values.to_pylist(), encoded.run_ends.to_pylist(), strict=True):
            number = excerpt // sides
            if number != current:
                if n_excerpts >= GROUP_EXCERPTS or n_bytes >= GROUP_BYTES:
                    waiting.append(batch.slice(start, begin - start))
                    yield flat(pa.Table.from_batches(waiting))
                    waiting, start, n_excerpts, n_bytes = [], begin, 0, 0
                current, n_excerpts = number, n_excerpts + sides
            n_bytes += sizes[end - 1] - (sizes[begin - 1] if begin else 0)
            begin = end
        waiting.append(batch.slice(start))
    if n_excerpts:
        yield flat(pa.Table.from_batches(waiting))
