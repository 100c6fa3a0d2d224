"""`trajkit explore`: run a policy, the expert, or a scorer in an environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from trajkit.cli import (
    Command,
    allow_read_option,
    completing,
    json_option,
    plan_names,
    print_json,
    rule_params,
    set_option,
    template_arg_option,
)
from trajkit.errors import UsageError


@click.command("explore", cls=Command)
@click.option("--runs", required=True, type=click.Path(), help="Folder of runs to read and to add to.")
@click.option("--env", "env_name", required=True, metavar="MODULE:ATTR", help="Environment, e.g. envs.webshop:WebShop.")
@click.option("--env-arg", multiple=True, metavar="KEY=VALUE", help="An argument of the environment. Repeatable.")
@click.option(
    "--policy",
    required=True,
    metavar="MODULE:ATTR|URL[,URL...]|FOLDER|OWNER/NAME",
    help="Who acts: envs.webshop:Novice, a server's http://host:port/v1 (or several's), or a model's folder or name.",
)
@click.option("--policy-arg", multiple=True, metavar="KEY=VALUE", help="An argument of the policy. Repeatable.")
@click.option(
    "--plan",
    "plans",
    multiple=True,
    default=("initial",),
    show_default=True,
    metavar="NAME|FILE.sql",
    shell_complete=completing(plan_names),
    help="What to run: a plan, or a file of your own. Repeatable.",
)
@allow_read_option()
@click.option("--iteration", required=True, type=click.IntRange(0), help="0 for the expert, then 1, 2, ...")
@click.option("--m", default=5, show_default=True, type=click.IntRange(1), help="Simulations per expert (skip_length).")
@click.option("--samples", default=1, show_default=True, type=click.IntRange(1), help="Rollouts from each state.")
@set_option()
@click.option(
    "--role", default="policy", show_default=True, type=click.Choice(["expert", "policy", "scorer"]), help="As whom."
)
@click.option("--split", default="train", show_default=True, help="Whose tasks to run.")
@click.option("--max-steps", default=30, show_default=True, type=click.IntRange(1), help="Actions on a whole path.")
@click.option("--seed", default=0, show_default=True, type=int, help="Same seed, same trajectories.")
@click.option("--model", help="Server: the model's name there.  [default: the first one it lists]")
@click.option(
    "--tokenizer",
    help="Server: the model's folder, or its OWNER/NAME on the hub; prompts and answers are then token ids.",
)
@template_arg_option("With --tokenizer, or a model's folder: give it")
@click.option(
    "--temperature", default="1.0", show_default=True, metavar="T[,T...]", help="One, or one for each of --samples."
)
@click.option("--top-p", default=1.0, show_default=True, type=click.FloatRange(0, 1, min_open=True))
@click.option("--max-tokens", default=512, show_default=True, type=click.IntRange(1), help="Of one answer.")
@click.option("--stop", multiple=True, help="Text that ends an answer. Repeatable.")
@click.option("--prompt-suffix", metavar="TEXT", help="What the policy's prompt ends with: right_prompt after nat.")
@click.option(
    "--timeout",
    default=300.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="Server: seconds for one whole answer.",
)
@click.option(
    "--concurrency", default=8, show_default=True, type=click.IntRange(1), help="Rollouts in flight (server, folder)."
)
@click.option(
    "--env-workers",
    default=1,
    show_default=True,
    type=click.IntRange(0),
    help="Processes that hold environments. 0: this one does, for a debugger; then an environment that hangs cannot be "
    "ended, and one that ends its process ends all.",
)
@click.option(
    "--step-timeout",
    default=300.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Seconds for a reset, a step or the close of an environment. 0: no limit.",
)
@click.option("--tries", default=3, show_default=True, type=click.IntRange(1), help="Runs of a rollout that errs.")
@click.option("--shard", default="1/1", metavar="K/N", help="Only the K-th of N parts of the plan, one per machine.")
@click.option("--dry-run", is_flag=True, help="Print what it would cost and run nothing.")
@json_option()
def command(
    runs: str,
    env_name: str,
    env_arg: tuple[str, ...],
    policy: str,
    policy_arg: tuple[str, ...],
    plans: tuple[str, ...],
    allow_read: tuple[str, ...],
    iteration: int,
    m: int,
    samples: int,
    settings: tuple[str, ...],
    role: str,
    split: str,
    max_steps: int,
    seed: int,
    model: str | None,
    tokenizer: str | None,
    template_arg: tuple[str, ...],
    temperature: str,
    top_p: float,
    max_tokens: int,
    stop: tuple[str, ...],
    prompt_suffix: str | None,
    timeout: float,
    concurrency: int,
    env_workers: int,
    step_timeout: float,
    tries: int,
    shard: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run the plan's rollouts that are not in runs/ yet.

    It can be killed at any time: started again it runs only what is missing. Rollouts that start in the
    middle of a recorded trajectory replay it first and compare every observation; a difference ends them as
    drift, and no rule counts them.
    """
    from dataclasses import asdict
    from functools import partial

    from trajkit.console import prints_to_stderr
    from trajkit.engines.checks import told_conflicts
    from trajkit.exploration.env import key_values, load_env, load_policy
    from trajkit.exploration.explore import Settings, explore
    from trajkit.exploration.pending import cost
    from trajkit.exploration.policies import Sampling, Suffixed, temperatures
    from trajkit.quoting import without_userinfo
    from trajkit.tokens.tokenizer import is_hub_name

    params = rule_params(settings)
    how = Settings(
        role=role,
        iteration=iteration,
        split=split,
        max_steps=max_steps,
        seed=seed,
        concurrency=concurrency,
        env_workers=env_workers,
        tries=tries,
        shard=_shard(shard),
        step_timeout=step_timeout,
    )
    make_env = partial(load_env, env_name, key_values(env_arg))
    make_policy = partial(load_policy, policy, key_values(policy_arg))
    local = Path(policy).is_dir() or is_hub_name(policy)
    scripted = not policy.startswith(("http://", "https://")) and not local
    sampling = Sampling(temperatures(temperature, samples), top_p, max_tokens, stop)
    if dry_run:
        with prints_to_stderr(), closing(make_env(), step_timeout) as env:
            name = make_policy().actor if scripted else model or policy.rstrip("/").rpartition("/")[2]
            would = cost(
                runs, env, name, plans=plans, settings=how, m=m, samples=samples, params=params, allow_read=allow_read
            )
        if as_json:
            print_json(asdict(would))
            return
        click.echo(
            f"{would.rollouts} rollouts of {would.tasks} tasks: {would.from_s0} from s_0, "
            f"{would.rollouts - would.from_s0} from states of {would.parents} recorded trajectories "
            f"({would.replayed_steps} steps to replay); {would.already_done} are done already."
        )
        return
    actor: Any
    if template_arg and not local and not (tokenizer and not scripted):
        raise UsageError(
            "--template-arg is for prompts that trajkit renders: those of a model's folder, and of a server where "
            "--tokenizer is given."
        )
    if scripted:
        with prints_to_stderr():
            actor = make_policy()
    elif policy_arg:
        raise UsageError(f"--policy-arg is for policies named module:attr; --policy {policy} is none.")
    elif local:
        from trajkit.exploration.policies.local import Local

        actor = Local(policy, sampling, batch=concurrency, template_args=key_values(template_arg))
    else:
        actor = _served(policy, model, tokenizer, sampling, timeout, key_values(template_arg))
        if template_arg and not actor.uses_ids:
            raise UsageError(
                f"{without_userinfo(policy)} gives no token ids, so it renders prompts itself and --template-arg would "
                "not reach it. Give the server the argument where it is started."
            )
        if tokenizer and not actor.uses_ids:
            click.echo(
                f"{without_userinfo(policy)} gives no token ids: the conversation goes through its chat endpoint.",
                err=True,
            )
    if prompt_suffix and scripted:
        raise UsageError(f"--prompt-suffix is for policies that read a prompt; --policy {policy} is scripted.")
    if prompt_suffix:
        actor = Suffixed(actor, prompt_suffix)
    with prints_to_stderr(), closing(make_env(), step_timeout) as env:
        counts = explore(
            runs,
            env,
            actor,
            plans=plans,
            settings=how,
            m=m,
            samples=samples,
            params=params,
            make_env=make_env,
            make_policy=make_policy if scripted else None,
            allow_read=allow_read,
        )
    if as_json:
        names = ("rollouts", "solved", "failed", "no_verdict", "drift", "error", "already_done", "other_tasks")
        told = {name: counts[name] for name in names} | {"conflicts": len(counts.conflicts)}
        print_json(
            {"role": role, "actor": actor.actor, "iteration": iteration}
            | told
            | {"first_error": counts.first_error or None}
        )
        return
    said = {"no_verdict": "without verdict", "drift": "drift", "error": "error"}
    more = "".join(f", {counts[key]} {text}" for key, text in said.items() if counts[key])
    click.echo(
        f"{role} {actor.actor}, iteration {iteration}: {counts['rollouts']} rollouts, {counts['solved']} solved, "
        f"{counts['failed']} failed{more}; {counts['already_done']} skipped as done.",
        err=True,
    )
    if counts.first_error:
        click.echo(f"The first error: {counts.first_error}. Running this again tries those rollouts again.", err=True)
    if counts.conflicts:
        why = "the runs say two splits or envs of them, or others than this environment"
        click.echo(told_conflicts(counts.conflicts, why), err=True)
    if counts["other_tasks"]:
        click.echo(
            f"{counts['other_tasks']} planned rollouts are of tasks that this environment does not have; they were "
            "left out. Give it the --env-arg that their expert was recorded with to run them.",
            err=True,
        )


def _served(
    policy: str, model: str | None, tokenizer: str | None, sampling: Any, timeout: float, template_args: dict[str, Any]
) -> Any:
    """The policy of one server, or of several with commas between their URLs."""
    urls, key = [url.strip() for url in policy.split(",")], os.environ.get("OPENAI_API_KEY", "").strip()
    if len(urls) == 1:
        from trajkit.exploration.policies.server import Server

        return Server(policy, model, tokenizer, sampling, key, timeout, template_args=template_args)
    from trajkit.console import tell
    from trajkit.exploration.policies.fleet import Fleet

    if wrong := [url for url in urls if not url.startswith(("http://", "https://"))]:
        raise UsageError(f"--policy: {wrong[0]!r} is no URL. Write http://host:port/v1,http://host2:port/v1.")
    return Fleet(urls, model, tokenizer, sampling, key, timeout, tell=tell, template_args=template_args)


@contextmanager
def closing(env: Any, seconds: float) -> Iterator[Any]:
    """The environment, which is closed then. When that takes more than `seconds` (0: no limit), stderr says so."""
    from trajkit.console import tell
    from trajkit.exploration.watch import Watch, watchdog

    try:
        yield env
    finally:
        watch = Watch()
        with watchdog(watch, seconds, tell):
            watch.call("close", env.close)


def _shard(text: str) -> tuple[int, int]:
    k, slash, n = text.partition("/")
    if not (slash and k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
        raise UsageError(f"--shard {text}: it is k/n with k from 1 to n, for instance 2/4.")
    return int(k), int(n)
