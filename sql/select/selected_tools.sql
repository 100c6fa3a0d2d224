-- selected_tools: which tool definitions what is selected has.
-- One row per trajectory of an excerpt that has some. tools_digest: the definitions are in `tool_definitions`.
-- materialized, so that no text of definitions goes through the join
-- Grain: trajectory_id.
WITH digests AS MATERIALIZED (
    SELECT
        trajectory_id,
        md5(tools) AS tools_digest
    FROM trajectories
    WHERE tools IS NOT NULL
)

SELECT
    d.trajectory_id,
    d.tools_digest
FROM digests AS d
SEMI JOIN excerpts AS e ON d.trajectory_id = e.trajectory_id
