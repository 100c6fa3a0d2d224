-- tool_definitions: the tool definitions of what is selected. They are long, and many trajectories have the same.
-- One row per distinct text of definitions.
-- Grain: tools_digest.
WITH first_ones AS (
    SELECT min(trajectory_id) AS trajectory_id FROM selected_tools
    GROUP BY tools_digest
)

SELECT
    md5(t.tools) AS tools_digest,
    t.tools
FROM trajectories AS t
SEMI JOIN first_ones AS f ON t.trajectory_id = f.trajectory_id
