"""Importing: from other projects' logs to runs.

A format is one file in this folder, found by its name (`tau_bench.py` is the format `tau-bench`). It has

    FILES                         what a folder is searched for, e.g. ("*.json",)
    FIELDS                        which fields flags can map, with their defaults; may be left out
    recognises(value) -> bool     whether a record looks like this format (for "did you mean")
    records(file) -> Iterator     the records of one file as they lie there (`_source.py` has the readers)
    convert(raw, file, options)   one record to a trajectory, or BadRecord with the reason

and its docstring's first line is its description. The driver below does the rest: progress, counting,
setting aside, writing each trajectory once.
"""

from trajkit.importers._driver import Counts, import_files, run_folder
from trajkit.importers._format import Format, Options, formats, load

__all__ = ["Counts", "Format", "Options", "formats", "import_files", "load", "run_folder"]
