"""Attributes of a stored result: texts that are texts, numbers that are numbers, JSON that is of the right form."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

COUNTS = (
    "random_seed", "rows", "rows_seen", "draws", "replicates", "finished", "failed", "passed",
    "compiled_before", "engine_took_over",
)  # fmt: skip
FIGURES = (
    "seconds", "compile_seconds", "pareto_k", "efficiency", "log_evidence", "log_evidence_se", "prob", "false_alarms",
    "typical_outcome", "simultaneous_error",
)  # fmt: skip
TEXTS = (
    "model", "fit_model", "model_hash", "engine", "engine_reason", "created_at", "kind", "fallback",
    "sampler", "moments", "version", "world", "decide", "recommended", "recommendation", "loss_unit", "width_unit",
)  # fmt: skip
CHOICES: Mapping[str, tuple[object, ...]] = {
    "status": ("PASS", "REVIEW", "FAIL"),
    "maximize": (0, 1, ""),  # "": nobody said
}


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _mapping_of(kinds: tuple[type, ...]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(isinstance(v, kinds) for v in value.values())


JSON: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "notes": (_texts, "a list of texts"),
    "cautions": (_texts, "a list of texts"),
    "versions": (_mapping_of((str,)), "a mapping of names to texts"),
    "rows_missing": (_mapping_of((int,)), "a mapping of names to whole numbers"),
    "new_groups": (_mapping_of((int,)), "a mapping of names to whole numbers"),
    "parameterization": (_mapping_of((str, int, float, dict, list)), "a mapping"),
    "params": (_mapping_of((str, int, float, dict, list)), "a mapping"),
    "costs": (lambda value: value is None or isinstance(value, dict), "a mapping or null"),
    "target": (lambda value: value is None or isinstance(value, dict), "a mapping or null"),
    "design": (lambda value: isinstance(value, dict), "a mapping"),
}


def problems_of(attrs: Mapping[Any, Any]) -> list[str]:
    """What is wrong with a result's attributes, each named.

    An attribute that is in none of the tables above may be a text, a number or an array of either.
    """
    found = []
    for key, value in attrs.items():
        name = str(key)
        problem = _problem(name, value)
        if problem:
            found.append(f"the attribute {name[:80]!r} is {problem}")
    return found


def _problem(name: str, value: Any) -> str:
    if name in JSON:
        return _json_problem(value, *JSON[name])
    if name in CHOICES:
        fits = isinstance(value, str | int | np.integer) and value in CHOICES[name]
        return "" if fits else f"{_shown(value)}, not one of {', '.join(map(repr, CHOICES[name]))}"
    if name in TEXTS:
        return "" if isinstance(value, str) else f"{_shown(value)}, not a text"
    if name in COUNTS:
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        return "" if whole and value >= 0 else f"{_shown(value)}, not a whole number of at least 0"
    if name in FIGURES:
        number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
        return "" if number else f"{_shown(value)}, not a number"
    plain = isinstance(value, str | int | float | np.generic | list) or (
        isinstance(value, np.ndarray) and not value.dtype.hasobject
    )
    return "" if plain else f"a {type(value).__name__}, neither text nor number"


def _json_problem(value: Any, fits: Callable[[Any], bool], wanted: str) -> str:
    if not isinstance(value, str):
        return f"{_shown(value)}, not the JSON of {wanted}"
    try:
        record = json.loads(value)
    except (ValueError, RecursionError) as error:
        return f"no JSON ({type(error).__name__}: {str(error)[:80]})"
    return "" if fits(record) else f"{_shown(value)}, not the JSON of {wanted}"


def _shown(value: Any) -> str:
    return f"{str(value)[:40]!r} ({type(value).__name__})"
