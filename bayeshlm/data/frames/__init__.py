"""Any frame, file or table -> rows in one form, where they live: narwhals expressions, no values but where asked for.

Cut by the question that is asked of a store: can it be read, are the columns there, what is missing, which categories?

* `sources`: paths -> frames, read by DuckDB; `reading`: frames of any kind, into memory, one wording for what is broken
* `columns`: are they there, of types that the formula can use? `categories`: which occur, in which order
* `missing`: what counts as missing, in every store alike
* `rows`: complete rows, bound to a model; `new_rows`: rows for a model that was fitted, without a response
"""

__all__ = ["missing", "new_rows", "reading", "rows", "sources"]
