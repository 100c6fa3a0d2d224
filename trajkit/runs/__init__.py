"""The tables on disk: their columns, and how files of them are written, listed, checked and put together."""
