"""A runs folder in a notebook: its tables, win rates, where the policy succeeds, and what is trained on.

    marimo edit docs/notebook.py -- --runs runs/      to look and to change; cells are plain Python and SQL
    marimo run docs/notebook.py -- --runs runs/       as a page
    python docs/notebook.py --runs runs/              runs it, to see that it runs

It needs `pip install -e '.[notebook]'`. Every SQL cell sees the views of `trajkit sql`.
"""

# ruff: noqa: B018  (a cell shows its last expression)

import marimo

app = marimo.App(width="medium", app_title="trajkit")


@app.cell
def _():
    import altair as alt
    import duckdb
    import marimo as mo

    import trajkit

    folder = mo.ui.text(value=str(mo.cli_args().get("runs") or "demo/runs"), label="Folder of runs", full_width=True)
    folder
    return alt, duckdb, folder, mo, trajkit


@app.cell
def _(duckdb, folder, trajkit):
    runs = trajkit.open(folder.value)
    con = duckdb.connect()  # with a view for every table, rule, plan and method
    for statement in runs.statements():
        con.execute(statement)
    return con, runs


@app.cell
def _(mo):
    mo.md("## Tables")
    return


@app.cell
def _(con, mo):
    trajectories = mo.sql(
        """
        SELECT split, role, actor, iteration, count(*) AS n, count(*) FILTER (branch_step > 0) AS branches,
            round(avg(reward), 3) AS reward, count(*) FILTER (ended IN ('error', 'drift')) AS without_outcome
        FROM trajectories
        GROUP BY ALL
        ORDER BY ALL
        """,
        engine=con,
    )
    return (trajectories,)


@app.cell
def _(con, mo):
    views = mo.sql(
        """
        SELECT view_name AS name, comment AS meaning FROM duckdb_views() WHERE comment IS NOT NULL ORDER BY view_name
        """,
        engine=con,
    )
    return (views,)


@app.cell
def _(mo):
    mo.md("## How often is a task solved?")
    return


@app.cell
def _(con, mo):
    win_rates = mo.sql(
        """
        SELECT concat_ws(', ', split, actor, 'iteration ' || iteration) AS who, tasks,
            win_rate, win_rate_low, win_rate_high
        FROM win_rate
        ORDER BY ALL
        """,
        engine=con,
    )
    return (win_rates,)


@app.cell
def _(alt, win_rates):
    _chart = alt.Chart(win_rates).encode(y=alt.Y("who:N", title=None))
    (
        _chart.mark_bar().encode(x=alt.X("win_rate:Q", title="share of tasks, with its 95% interval"))
        + _chart.mark_rule(strokeWidth=2).encode(x="win_rate_low:Q", x2="win_rate_high:Q")
    )
    return


@app.cell
def _(mo):
    mo.md("## From which state of an expert does the policy solve the task?")
    return


@app.cell
def _(con, mo):
    states = mo.sql(
        """
        SELECT b.iteration, e.n_actions, b.step, CAST(sum(b.n_rollouts) AS INTEGER) AS rollouts,
            sum(b.n_solved) / sum(b.n_rollouts) AS solved
        FROM branch_points AS b JOIN experts AS e USING (expert_id)
        WHERE b.n_rollouts > 0
        GROUP BY ALL
        ORDER BY ALL
        """,
        engine=con,
    )
    return (states,)


@app.cell
def _(alt, states):
    (
        alt.Chart(states)
        .mark_rect()
        .encode(
            x=alt.X("step:O", title="state s_i"),
            y=alt.Y("n_actions:O", title="expert's actions"),
            color=alt.Color("solved:Q", scale=alt.Scale(scheme="viridis", domain=[0, 1])),
            tooltip=["iteration", "n_actions", "step", "rollouts", alt.Tooltip("solved", format=".2f")],
        )
    )
    return


@app.cell
def _(mo):
    from trajkit.rules import methods

    mo.md("## What is trained on")
    method = mo.ui.dropdown(methods(), value="eef", label="Method")
    method
    return (method,)


@app.cell
def _(method, mo, runs):
    chosen = runs.select(method.value)
    table = mo.ui.table(
        chosen.drop("messages", "prompt", "chosen", "rejected", "values", "tools", strict=False), selection="single"
    )
    table
    return chosen, table


@app.cell
def _(chosen, mo, table):
    import html

    def shown(message):
        """A message as HTML. Its text is only ever text: it may come from anywhere."""
        text = html.escape(message["content"] or message["tool_calls"] or "")
        says = "LOSS" if message["weight"] else "context"
        style = "border-left: 4px solid #d97706; font-weight: 600" if message["weight"] else "opacity: 0.7"
        return (
            f'<div style="{style}; padding: 0.2em 0.6em; margin: 0.4em 0; white-space: pre-wrap">'
            f"<small>{html.escape(message['role'])} · {says}</small><br>{text}</div>"
        )

    _key = chosen.columns[0]  # example_id, pair_id, ...
    _row = next(iter((table.value if len(table.value) else chosen).get_column(_key)), None)
    _lists = [name for name in ("messages", "prompt", "chosen", "rejected") if name in chosen.columns]
    example = "".join(
        f"<h4>{name}</h4>" + "".join(map(shown, row[name]))
        for row in chosen.filter(chosen.get_column(_key) == _row).to_dicts()
        for name in _lists
    )
    mo.Html(example or "<p>Nothing was chosen.</p>")
    return (example,)


if __name__ == "__main__":
    app.run()
