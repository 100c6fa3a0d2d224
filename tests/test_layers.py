"""The house: packages along the data's way. No import runs upwards, and none runs in a circle."""

from __future__ import annotations

import graphlib

import grimp

# From the bottom up: a module imports from its own layer and from those before it.
LAYERS = (
    {"errors"},
    {"quoting"},
    {"console"},
    {"messages"},
    {"rules"},
    {"runs"},
    {"engines"},
    {"selection"},
    {"tokens"},
    {"exploration"},
    {"importers", "exporters"},
    {"display"},
    {"api"},
    {"cli"},
    {"__main__", "env"},
)


def graph(*packages: str) -> grimp.ImportGraph:
    return grimp.build_graph(*packages, exclude_type_checking_imports=True, cache_dir=None)


def test_every_module_has_a_layer_and_imports_from_no_higher_one() -> None:
    found = graph("trajkit")
    at = {name: number for number, names in enumerate(LAYERS) for name in names}
    assert {module.split(".")[1] for module in found.modules - {"trajkit"}} == at.keys()
    upwards = [
        f"{module} -> {imported}"
        for module in found.modules - {"trajkit"}
        for imported in found.find_modules_directly_imported_by(module) - {"trajkit"}
        if at[imported.split(".")[1]] > at[module.split(".")[1]]
    ]
    assert not upwards


def test_no_import_runs_in_a_circle_also_inside_functions() -> None:
    found = graph("trajkit", "train", "envs")
    imports = {module: found.find_modules_directly_imported_by(module) for module in found.modules}
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError, which names it


def test_the_library_imports_nothing_of_train_and_envs() -> None:
    found = graph("trajkit", "train", "envs")
    below = [module for module in found.modules if module.split(".")[0] == "trajkit"]
    others = {name for module in below for name in found.find_modules_directly_imported_by(module)}
    assert not [name for name in others if name.split(".")[0] in ("train", "envs")]
