"""A generated runs/ folder of any size, shaped like EEF's: per task one expert and, in each of three
iterations, one rollout from s_0 and five from states along the expert's trajectory.

With `every_method` there is more, so that each method and plan has something to do: a second rollout from s_0 in each
iteration, and of every fiftieth task IPR's five scorer rollouts after each of the expert's actions and after the first
of each rollout of the last iteration.
"""

from __future__ import annotations

import sys
from pathlib import Path

import duckdb

ITERATIONS = 3
BRANCHES = 5
PER_TASK = 1 + ITERATIONS * (1 + BRANCHES)
SCORED = 50  # of so many tasks one has a scorer
PER_TASK_OF_EVERY_METHOD = PER_TASK + ITERATIONS + 5 * (16.5 + 2 + BRANCHES) / SCORED

TRAJECTORIES = f"""
WITH experts AS (
    SELECT
        task,
        md5('expert' || task) AS trajectory_id,
        12 + hash('n', task) % 12 AS n_steps,
        hash('solved', task) % 3 = 0 AS success
    FROM range($tasks) AS r(task)
),

states AS (
    SELECT task, trajectory_id AS expert_id, n_steps AS n, iteration, m,
           greatest(m, 0) * greatest(1, n_steps // {BRANCHES + 1}) AS step
    FROM experts
    CROSS JOIN range(1, {ITERATIONS} + 1) AS i(iteration) CROSS JOIN range($first_m, {BRANCHES} + 1) AS b(m)
),

rollouts AS (
    SELECT *, md5(concat('policy', task, '-', iteration, '-', m)) AS trajectory_id,
           hash('success', task, iteration, m) % 100 < 20 + 10 * iteration + 5 * m AS success,
           5 + hash('own', task, iteration, m) % 5 AS n_steps
    FROM states WHERE step < n
),

scored AS (
    SELECT task, trajectory_id AS parent_id, unnest(range(1, n_steps::BIGINT)) AS step
    FROM experts WHERE task % {SCORED} = 0 AND $first_m < 0
    UNION ALL
    SELECT task, trajectory_id AS parent_id, step + 1 AS step
    FROM rollouts WHERE task % {SCORED} = 0 AND iteration = {ITERATIONS} AND $first_m < 0
),

scorers AS (
    SELECT *, md5(concat_ws('-', 'scorer', parent_id, step, sample)) AS trajectory_id,
           hash('scorer', parent_id, step, sample) % 3 = 0 AS success
    FROM scored CROSS JOIN range(5) AS s(sample)
)

SELECT trajectory_id, 'task-' || task AS task_id, 'bench' AS env, 'train' AS split, 'expert' AS role, 'gpt-4' AS actor,
       0::INTEGER AS iteration, 0::INTEGER AS sample, NULL::VARCHAR AS parent_id, 0::INTEGER AS branch_step,
       n_steps::INTEGER AS n_steps, success::DOUBLE AS reward, success, 'done' AS ended, NULL::VARCHAR AS error,
       md5(trajectory_id) AS actions_digest, NULL::VARCHAR AS tools, NULL::BIGINT AS seed,
       NULL::TIMESTAMPTZ AS created_at, NULL::VARCHAR AS meta
FROM experts
UNION ALL BY NAME
SELECT trajectory_id, 'task-' || task AS task_id, 'bench' AS env, 'train' AS split, 'policy' AS role, 'llama' AS actor,
       iteration::INTEGER AS iteration, (m < 0)::INTEGER AS sample, CASE WHEN m > 0 THEN expert_id END AS parent_id,
       step::INTEGER AS branch_step, n_steps::INTEGER AS n_steps, success::DOUBLE AS reward, success, 'done' AS ended,
       md5(trajectory_id) AS actions_digest
FROM rollouts
UNION ALL BY NAME
SELECT trajectory_id, 'task-' || task AS task_id, 'bench' AS env, 'train' AS split, 'scorer' AS role, 'llama' AS actor,
       {ITERATIONS}::INTEGER AS iteration, sample::INTEGER AS sample, parent_id, step::INTEGER AS branch_step,
       3::INTEGER AS n_steps, success::DOUBLE AS reward, success, 'done' AS ended,
       md5(trajectory_id) AS actions_digest
FROM scorers
"""

# Pages to observe: 20,000 of so many words out of 4,000, as a shop shows the same pages over and over.
PAGES = """
SELECT page, string_agg(substr(md5((hash(page, i) % 4000)::VARCHAR), 1, 3 + (hash(i, page) % 8)::INTEGER), ' ') AS text
FROM range(20000) AS p(page) CROSS JOIN range($words) AS w(i) GROUP BY page
"""

# Two messages a step: with pages of 110 words an observation of about 840 characters and an action of about 95, 466 on
# average. (WebShop's transcripts have 465 a message, tau-bench's 560, MINT's ALFWorld 1,145, InterCode-SQL's 161.)
MESSAGES = """
WITH steps AS (
    SELECT trajectory_id, branch_step, n_steps, unnest(range(n_steps)) AS k FROM read_parquet($trajectories)
),
turns AS (SELECT *, unnest(['user', 'assistant']) AS role FROM steps)
SELECT trajectory_id, (2 * (branch_step + k) + (role = 'assistant')::INTEGER)::INTEGER AS seq,
       (branch_step + k)::INTEGER AS step,
       role,
       CASE role WHEN 'user' THEN 'Observation: ' || text
                 ELSE 'Thought: ' || substr(text, 1, 60) || ' Action: click[' || substr(md5(text), 1, 10) || ']'
            END AS content,
       NULL::VARCHAR AS reasoning, NULL::VARCHAR AS tool_calls, NULL::VARCHAR AS tool_call_id, NULL::VARCHAR AS name,
       NULL::BOOLEAN AS context, NULL::INTEGER[] AS token_ids, NULL::FLOAT[] AS logprobs
FROM turns JOIN read_parquet($pages) ON page = hash(trajectory_id, k) % 20000
ORDER BY trajectory_id, seq
"""


def generate(
    folder: Path, n_trajectories: int, n_parts: int = 20, *, words: int = 110, every_method: bool = False
) -> None:
    """Write about `n_trajectories` trajectories and 15 times as many messages below `folder`, unless they are there.

    `words`: of each observation.
    """
    if (folder / "complete").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    limits = {"memory_limit": "4GB", "temp_directory": str(folder / "spilled"), "preserve_insertion_order": False}
    with duckdb.connect(config=limits) as con:
        con.execute(f"COPY ({PAGES.replace('$words', str(words))}) TO '{folder}/pages.parquet'")
        n_tasks = n_trajectories / (PER_TASK_OF_EVERY_METHOD if every_method else PER_TASK)
        per_part = max(1, int(n_tasks / n_parts))
        for part in range(n_parts):
            run = folder / f"part-{part:03}"
            run.mkdir(exist_ok=True)
            shifted = TRAJECTORIES.replace("range($tasks)", f"range({part * per_part}, {(part + 1) * per_part})")
            shifted = shifted.replace("$first_m", "-1" if every_method else "0")
            con.execute(f"COPY ({shifted}) TO '{run}/trajectories.parquet' (COMPRESSION zstd)")
            messages = MESSAGES.replace("$trajectories", f"'{run}/trajectories.parquet'")
            messages = messages.replace("$pages", f"'{folder}/pages.parquet'")
            con.execute(f"COPY ({messages}) TO '{run}/messages.parquet' (COMPRESSION zstd)")
    (folder / "complete").touch()


if __name__ == "__main__":
    generate(Path(sys.argv[1]), int(sys.argv[2]))
