"""Exporting: what `trajkit select` wrote, as a file that another trainer loads.

A format is one file in this folder, found by its name (`ms_swift.py` is the format `ms-swift`). It has

    TRAINER                    the trainer's name, for messages
    pair(pair, note) -> dict   a pair as a row of the format's file, or Unfit with the reason and the way out;
                               `note` is called with what the trainer will do otherwise, or what it does not get
    example(example, note)     the same for an example
    action(example, note)      the same for the examples of --per-step, of which the last message alone is trained on
    tokens(row) -> dict        a row of token ids (trajkit.tokens.masks.Row) of --tokenizer

of which it may leave out what it does not take, and, where they are needed,

    FILES                      what the file's name may end in, .jsonl or .json unless said; the first is for messages
    INFO                       a name that the file must not have
    schema() -> pa.Schema      the columns of a Parquet file of examples
    WEIGHTED                   the functions whose rows hold loss weights between 0 and 1; other rows' are on or off
    beside(out, made) -> str   writes what the trainer needs beside the file; what to tell the user, or None; `made` is
                               the function that made the rows (pair, example, action, tokens)

and its docstring's first line is its description. The driver below does the rest: reading, counting what is left
out, writing the file whole or not at all. The format `datasets` has instead

    folder(file, out, license, summary)   writes a folder
"""

from trajkit.exporters._driver import export
from trajkit.exporters._format import Format, Note, Options, Summary, formats, load

__all__ = ["Format", "Note", "Options", "Summary", "export", "formats", "load"]
