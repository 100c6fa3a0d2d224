"""What a user tunes: a short TOML, checked before anything is run.

    [train]    one training: learning rate, epochs, batch, context, LoRA, backend, DPO's beta
    [clone_train], [pair_train]   what is otherwise for behaviour cloning, and where the data are pairs
    [explore]  the environment, the experts, and how the policy is simulated
    [loop]     Algorithm 1: the method, its iterations, what each of them starts from
    [scratch]  the tiny model that is made where no model is given

The papers' settings are presets: train/presets/*.toml.
"""

from __future__ import annotations

import json
import tomllib
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from trajkit.errors import UsageError, did_you_mean
from trajkit.rules import method, plan, plan_role, plans_of

PRESETS = Path(__file__).parent / "presets"


@dataclass(frozen=True)
class Train:
    """One training. The defaults are EEF's (section 4.1), on LoRA-free weights.

    `batch` counts examples per step of the optimiser, however they are packed. `steps`, if not 0, replaces `epochs`.
    `context`: tokens that one row may hold. `row_tokens`: tokens packed into one forward pass; None: `context`.
    `per_step`: one row per trained action, for chat templates that rewrite earlier turns.
    `on_refused`: what becomes of an example that the chat template cannot hold: an error, or left out and counted.
    `template_args`: what the chat template is given (enable_thinking, reasoning_effort; strftime_now is its date).
    `lora_rank` 0 trains all weights. `save_steps`: steps between checkpoints.
    For pairs: `beta` is DPO's; `sft_weight` times the mean SFT loss on the chosen sides of the pairs of `sft_level` is
    added to DPO's loss (IPR, eq. 9, has 1 and "trajectory").
    """

    lr: float = 5e-5
    epochs: float = 6.0
    steps: int = 0
    batch: int = 64
    context: int = 4096
    row_tokens: int | None = None
    on_long: Literal["error", "drop", "split"] = "error"
    per_step: bool = False
    on_refused: Literal["error", "drop"] = "error"
    template_args: Mapping[str, Any] = field(default_factory=dict)
    warmup: float = 0.03
    weight_decay: float = 0.0
    clip: float = 1.0
    lora_rank: int = 0
    lora_alpha: int = 16
    lora_dropout: float = 0.0
    beta: float = 0.1
    sft_weight: float = 0.0
    sft_level: Literal["trajectory", "step", "all"] = "all"
    backend: Literal["auto", "plain", "unsloth"] = "auto"
    save_steps: int = 200
    seed: int = 0


@dataclass(frozen=True)
class Explore:
    """The environment and how the policy is simulated in it.

    `experts`: scripted ones as "module:attr key=value ...", run once, or folders of runs that hold their trajectories.
    `later_experts` join after behaviour cloning, as GPT-3.5 does in the paper's "EEF GPT-3 & 4".
    `m`: simulations per expert trajectory (EEF). `temperatures`: one, or one for each of `samples`.
    `test_temperature`: 0 is greedy. `scorer_temperature` is the scorer's, for methods with step rewards (IPR).
    `workers`: processes that hold environments; 0: none beside this one.
    """

    env: str = "envs.webshop:TinyShop"
    env_args: Mapping[str, Any] = field(default_factory=dict)
    experts: tuple[str, ...] = ()
    later_experts: tuple[str, ...] = ()
    m: int = 5
    samples: int = 1
    temperatures: tuple[float, ...] = (1.0,)
    top_p: float = 1.0
    test_temperature: float = 0.0
    scorer_temperature: float = 1.0
    max_steps: int = 30
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    concurrency: int = 64
    workers: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Loop:
    """Algorithm 1 with any method of `select`.

    `iterations` is the paper's I, fine-tunings in all: behaviour cloning and I - 1 times explore, select, train.
    `clone` is the method of the first one. `then`: a second method, whose pairs each later one goes on with.
    `plans` None: initial, and what the method's header or a rule that it reads names; empty: no exploring.
    `start`: each training goes on from the last one's model (theta) or begins again from the base model.
    `select`: parameters of the rules, as `trajkit select --set`. `model`: the base model's folder; None: from scratch.
    `skills`: actions whose use in solved test tasks is reported (EEF, Table 4), name -> RE2 pattern.
    """

    method: str = "eef"
    clone: str = "sft_pos"
    then: str | None = None
    iterations: int = 4
    plans: tuple[str, ...] | None = None
    start: Literal["theta", "base"] = "theta"
    select: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    skills: Mapping[str, str] = field(default_factory=lambda: {"next": r"(?i)click\[next", "back": r"(?i)click\[back"})


@dataclass(frozen=True)
class Scratch:
    """A Llama and its tokenizer, made where `loop.model` is not given. `vocabulary` counts tokens, at most."""

    vocabulary: int = 400
    hidden: int = 64
    layers: int = 3
    heads: int = 4
    context: int = 512
    seed: int = 0


@dataclass(frozen=True)
class Settings:
    """All of them. `clone_train` overrides `train` for behaviour cloning, `pair_train` where the data are pairs."""

    train: Train = field(default_factory=Train)
    explore: Explore = field(default_factory=Explore)
    loop: Loop = field(default_factory=Loop)
    scratch: Scratch = field(default_factory=Scratch)
    clone_train: Mapping[str, Any] = field(default_factory=dict)
    pair_train: Mapping[str, Any] = field(default_factory=dict)

    @property
    def plans(self) -> tuple[str, ...]:
        """What is simulated in every iteration."""
        if self.loop.plans is not None:
            return self.loop.plans
        return ("initial", *self._wanted("policy"))

    @property
    def scorer_plans(self) -> tuple[str, ...]:
        """What the scorer plays on from in every iteration; empty: no method asks for step rewards."""
        return self._wanted("scorer")

    def _wanted(self, role: str) -> tuple[str, ...]:
        """The plans that the methods, or what they read, name in their headers."""
        methods = [method(name) for name in (self.loop.method, self.loop.then) if name]
        named = dict.fromkeys(name for rule in methods for name in plans_of(rule))
        return tuple(name for name in named if plan_role(plan(name)) == role)

    def training(self, k: int, kind: str = "examples") -> Train:
        """The settings of the k-th training, 0 being behaviour cloning, on data of a kind (examples, pairs, values)."""
        if kind == "pairs":
            return replace(self.train, **self.pair_train)
        return replace(self.train, **self.clone_train) if k == 0 else self.train

    def json(self) -> str:
        """As text, with all defaults: equal settings give equal text."""
        return json.dumps(asdict(self), indent=1, sort_keys=True)


def load(sources: Sequence[str | Path] = (), overrides: Sequence[str] = ()) -> Settings:
    """The settings of TOML files or presets by name, the later ones over the earlier ones, key by key; then
    `section.key=value` replaced. Raises UsageError, which names the file and the key, for whatever is wrong.
    """
    table: dict[str, Any] = {}
    for source in sources:
        _merge(table, _read(source))
    given: set[str] = set()
    for override in overrides:
        key, equals, text = override.partition("=")
        *sections, last = key.strip().split(".")  # explore.env_args.seed=3 has two
        if not (equals and sections and all((*sections, last))):
            raise UsageError(f"--set {override}: it is section.key=value, for instance train.lr=1e-4.")
        if key.strip() in given:
            raise UsageError(f"--set {key.strip()} is given twice: say it once, for it has one value.")
        given.add(key.strip())
        value: Any = {last: _value(text.strip())}
        for section in reversed(sections):
            value = {section: value}
        _merge(table, value)
    return _settings(table, ", ".join([*map(str, sources), *(["--set"] if overrides else [])]))


def _read(source: str | Path) -> dict[str, Any]:
    path = Path(source) if Path(source).suffix else PRESETS / f"{source}.toml"
    if not path.is_file():
        known = sorted(preset.stem for preset in PRESETS.glob("*.toml"))
        raise UsageError(
            f"--config {source}: there is no such file or preset{did_you_mean(str(source), known)} "
            f"Presets: {', '.join(known)}."
        )
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: no TOML ({error}).") from error


def _merge(table: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, Mapping) and isinstance(table.get(key), dict):
            _merge(table[key], value)
        else:
            table[key] = value


def _value(text: str) -> Any:
    """A TOML value; anything else is text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return None if text == "none" else text


def _settings(table: Mapping[str, Any], name: str) -> Settings:
    sections = {part.name for part in fields(Settings)}
    for section, values in table.items():
        if section not in sections:
            raise UsageError(
                f"{name}: there is no section [{section}]{did_you_mean(section, sorted(sections))} "
                f"Sections: {', '.join(sorted(sections))}."
            )
        if not isinstance(values, Mapping):
            raise UsageError(f"{name}: {section} is a section: write [{section}] and its keys below.")
    settings = Settings(
        train=Train(**_section(Train, table.get("train", {}), name, "train")),
        explore=Explore(**_section(Explore, table.get("explore", {}), name, "explore")),
        loop=Loop(**_section(Loop, table.get("loop", {}), name, "loop")),
        scratch=Scratch(**_section(Scratch, table.get("scratch", {}), name, "scratch")),
        clone_train=_section(Train, table.get("clone_train", {}), name, "clone_train"),
        pair_train=_section(Train, table.get("pair_train", {}), name, "pair_train"),
    )
    _check(settings, name)
    return settings


def _section(kind: type, values: Mapping[str, Any], name: str, section: str) -> dict[str, Any]:
    hints = get_type_hints(kind)
    taken = {}
    for key, value in values.items():
        if key not in hints:
            raise UsageError(
                f"{name}: [{section}] has no key {key}{did_you_mean(key, sorted(hints))} Keys: {', '.join(hints)}."
            )
        right, taken[key] = _fit(hints[key], value)
        if not right:
            raise UsageError(f"{name}: [{section}] {key} = {value!r}: it must be {_say(hints[key])}.")
    return taken


def _fit(hint: Any, value: Any) -> tuple[bool, Any]:
    """Whether a value is of the type, and the value as that type has it."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, Union):
        return next(((True, fit) for part in inner for right, fit in [_fit(part, value)] if right), (False, value))
    if hint is type(None):
        return value is None, value
    if origin is Literal:
        return value in inner, value
    if origin is tuple:
        listed = [_fit(inner[0], one) for one in value] if isinstance(value, list | tuple) else [(False, None)]
        return all(right for right, _ in listed), tuple(fit for _, fit in listed)
    if origin is not None:
        return isinstance(value, Mapping), value
    if hint is float:
        right = isinstance(value, int | float) and not isinstance(value, bool)
        return right, float(value) if right else value
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool)), value


def _say(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, Union):
        return " or ".join(_say(part) for part in inner)
    if origin is Literal:
        return " or ".join(repr(part) for part in inner)
    if origin is tuple:
        return f"a list, each {_say(inner[0])}"
    if origin is not None:
        return "a table"
    names = {float: "a number", int: "a whole number", str: "text", bool: "true or false", type(None): "none"}
    return names[hint]


# The values that make sense: section, keys, what is wrong with others.
_RANGES: list[tuple[str, str, str, Any]] = [
    ("train", "lr", "over 0", lambda v: 0 < v < float("inf")),
    ("train", "epochs", "over 0", lambda v: 0 < v < float("inf")),
    ("train", "steps", "from 0 on", lambda v: v >= 0),
    ("train", "batch context save_steps lora_alpha", "from 1 on", lambda v: v >= 1),
    ("train", "row_tokens", "from 1 on", lambda v: v is None or v >= 1),
    ("train", "warmup lora_dropout", "from 0 to below 1", lambda v: 0 <= v < 1),
    ("train", "weight_decay lora_rank sft_weight", "from 0 on", lambda v: 0 <= v < float("inf")),
    ("train", "clip", "over 0", lambda v: v > 0),
    ("train", "beta", "over 0", lambda v: 0 < v < float("inf")),
    ("explore", "m samples max_steps max_tokens concurrency", "from 1 on", lambda v: v >= 1),
    ("explore", "workers", "from 0 on", lambda v: v >= 0),
    ("explore", "test_temperature scorer_temperature", "from 0 to 100", lambda v: 0 <= v <= 100),
    ("explore", "temperatures", "at least one, each from 0 to 100", lambda v: v and all(0 <= t <= 100 for t in v)),
    ("explore", "top_p", "over 0 and at most 1", lambda v: 0 < v <= 1),
    ("loop", "iterations", "from 1 on", lambda v: v >= 1),
    ("scratch", "hidden layers heads context", "from 1 on", lambda v: v >= 1),
    ("scratch", "vocabulary", "from 260 on (all bytes and the marks of turns)", lambda v: v >= 260),
]


def _check(settings: Settings, name: str) -> None:
    for section, keys, wanted, holds in _RANGES:
        for key in keys.split():
            values = {section: getattr(getattr(settings, section), key)}
            if section == "train":
                others = {"clone_train": settings.clone_train, "pair_train": settings.pair_train}
                values |= {other: given[key] for other, given in others.items() if key in given}
            for where, value in values.items():
                if not holds(value):
                    raise UsageError(f"{name}: [{where}] {key} = {value!r}: it must be {wanted}.")
    explore, scratch = settings.explore, settings.scratch
    if len(explore.temperatures) not in (1, explore.samples):
        raise UsageError(
            f"{name}: [explore] temperatures has {len(explore.temperatures)} values and samples is {explore.samples}: "
            "give one for all, or one for each."
        )
    if scratch.hidden % scratch.heads or (scratch.hidden // scratch.heads) % 2:
        raise UsageError(f"{name}: [scratch] hidden must be heads times an even number.")
