"""A model as PyMC source text: what a PyMC user would write, to be read, run and extended without bayeshlm."""

from __future__ import annotations

import keyword
import re
import unicodedata
from dataclasses import dataclass, field

from bayeshlm.data.default_priors import with_column_priors
from bayeshlm.data.layout import Block, Layout, Level, residual_column
from bayeshlm.data.prior_points import prior_points
from bayeshlm.data.statistics import Statistics
from bayeshlm.engines.pymc.parameterization import Plan, plan_levels
from bayeshlm.engines.pymc.source.text import (
    LOCATED,
    column_text,
    likelihood_text,
    positive_text,
    prior_text,
    quoted,
    row_numbers,
)  # fmt: skip
from bayeshlm.errors import PriorError, listed
from bayeshlm.spec.model import Model
from bayeshlm.spec.priors import LKJ, At, base_prior
from bayeshlm.spec.terms import variable_name

INDENT = "    "
TAKEN = (
    "data", "model", "coords", "np", "pd", "pm", "pt", "build", "eta", "beta", "x", "common", "overall", "shift",
    "offset", "trials", "se", "weight", "response", "status", "upper", "law", "at", "sigma", "nu", "alpha", "map",
    "str", "int", "float", "sorted", "len",
)  # fmt: skip


def pymc_source(statistics: Statistics, *, parameterization: str = "auto") -> str:
    """Source of a function ``build(data: pandas.DataFrame) -> pymc.Model``, one likelihood term a row.

    Variables, dims and labels are those of `bayeshlm.to_pymc` and of a posterior. Categories, their order and the
    constants of `center` and `scale` are those of the statistics; groups are the ones in `data`. The text is to be
    sampled: its free variables are not all a posterior's, which `bayeshlm.to_pymc(rows=True)` is for.

    Parameters
    ----------
    statistics : Statistics
        Of the data, or of any data of the same columns.
    parameterization : {"auto", "centered", "noncentered"}
        For levels that have intercepts only: "auto" chooses the centred form where `to_pymc` does. Levels with slopes
        are non-centred. The text keeps to the two forms that a reader knows, and to the intercept of a group without
        deviation; the posterior is the same.

    Raises
    ------
    PriorError
        Naming parameters without a prior.
    """
    statistics = with_column_priors(statistics)
    model = statistics.model
    if model.missing_priors:
        raise PriorError(
            f"No prior for {listed(model.missing_priors)}. Give them, or take bayeshlm.scaled_priors(model, data)."
        )
    return _Writer(model, statistics.layout, plan_levels(statistics, parameterization)).text()


@dataclass
class _Writer:
    """Writes the parts in the order of the generative story.

    `taken` are the identifiers handed out; `columns` (design column -> identifier) and, by level, `stems` (the group of
    each row), `parents` (the parent of each group) and `groups` (the grouping) name what stands before the model.
    `totals` are the levels whose intercepts carry everything above them, until a level below takes them over;
    `row_parts` is the rest of the linear predictor.
    """

    model: Model
    layout: Layout
    plans: tuple[Plan, ...]
    taken: set[str] = field(default_factory=lambda: set(TAKEN))
    columns: dict[int, str] = field(default_factory=dict)
    stems: dict[int, str] = field(default_factory=dict)
    parents: dict[int, str] = field(default_factory=dict)
    groups: dict[int, str] = field(default_factory=dict)
    totals: dict[int, str] = field(default_factory=dict)
    overall: str = ""
    row_parts: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The whole file."""
        data, coords = self._data(), self._coords()
        story = [
            *self._common(),
            *(line for plan in self.plans for line in ["", *self._level(plan)]),
            "",
            *self._rows(),
        ]
        body = [*data, *coords, "with pm.Model(coords=coords) as model:", *_indented(story), "return model"]
        head = [
            f"# {self.model.formula}", f"# family: {self.model.family}", "", "import numpy as np",
            "import pandas as pd", "import pymc as pm", "import pytensor.tensor as pt", "", "",
            "def build(data: pd.DataFrame) -> pm.Model:",
        ]  # fmt: skip
        return "\n".join([*head, *_indented(body), ""])

    def identifier(self, text: str) -> str:
        """A Python name like the text, not handed out before."""
        plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
        name = re.sub(r"\W+", "_", plain).strip("_") or "value"
        name = f"v_{name}" if name[0].isdigit() or keyword.iskeyword(name) else name
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name

    def _data(self) -> list[str]:
        """Columns of the rows, and the group of each row on every level."""
        complete = [name for name in self.model.columns if name not in self.model.status_columns[1:]]
        lines = [
            f"data = data.dropna(subset=[{', '.join(map(quoted, complete))}])",
            "# The values of each row, and the number of its group on each level.",
        ]
        blocks = [*self.layout.common, *(block for level in self.layout.levels for block in level.blocks)]
        for k in dict.fromkeys(column for block in blocks for column in block.columns if column):
            self.columns[k] = self.identifier(self.layout.columns[k].label)
            lines.append(f"{self.columns[k]} = {column_text(self.layout.columns[k], self.layout)}")
        for plan in self.plans:
            level = self.layout.levels[plan.index]
            stem = self.stems[plan.index] = self.identifier(level.name)
            groups = self.groups[plan.index] = self.identifier(f"{stem} groups")
            keys = ", ".join(map(quoted, level.keys))
            lines.append(f"{groups} = data.groupby([{keys}], observed=True)")
            lines.append(f"{stem} = {groups}.ngroup().to_numpy()")
            if plan.parent is not None:
                parent = self.parents[plan.index] = self.identifier(f"parent of {stem}")
                lines.append(f"{parent} = {self.stems[plan.parent]}[np.unique({stem}, return_index=True)[1]]")
        return [*lines, *row_numbers(self.model, self.layout)]

    def _coords(self) -> list[str]:
        coords: dict[str, str] = {}
        for plan in self.plans:
            level = self.layout.levels[plan.index]
            index = f"{self.groups[plan.index]}.size().index"
            coords[level.name] = f"{index}.tolist()"
            if len(level.keys) > 1:
                coords[level.name] = f'[":".join(map(str, group)) for group in {index}]'
            for positions in level.correlated:
                effects = [level.effect_labels[p] for p in positions]
                coords |= dict.fromkeys((f"{level.name}_effect", f"{level.name}_effect_other"), repr(effects))
        blocks = [*self.layout.common, *(block for level in self.layout.levels for block in level.blocks)]
        blocks += [self.layout.residual] if self.layout.residual is not None else []
        coords |= {block.dim: repr(list(block.labels)) for block in blocks if block.labels}
        coords["row"] = "np.arange(len(data))"
        return ["coords = {", *(f"{INDENT}{quoted(name)}: {value}," for name, value in coords.items()), "}"]

    def _common(self) -> list[str]:
        """Common effects. `overall` is the linear predictor at the means of the columns, `common` what they add."""
        priors, lines, betas = self.model.complete_priors, [], []
        for block in self.layout.common:
            if 0 not in block.columns:
                name = self.identifier(block.name)
                lines.append(f"{name} = {prior_text(block.name, priors[block.name], dims=_dim(block))}")
                betas.append(name if block.labels else f"{name}[None]")
        columns = [self.columns[k] for k in self.layout.common_columns if k]
        if columns:
            lines.append(f"beta = pt.concatenate([{', '.join(betas)}])")
            lines.append(f"x = np.column_stack([{', '.join(columns)}])")
        if not self.model.terms.intercept:
            self.row_parts += ["x @ beta"] if columns else []
            return lines
        prior, self.overall = base_prior(priors["Intercept"]), "overall"
        if not columns:
            return [*lines, f"overall = {prior_text('Intercept', prior)}"]
        self.row_parts.append("(x - x.mean(axis=0)) @ beta")
        lines.append("shift = pt.dot(x.mean(axis=0), beta)")
        if isinstance(priors["Intercept"], At):
            told = prior_points(self.layout, priors)[self.layout.common_columns.index(0)]
            point = [float(v) for v, k in zip(told, self.layout.common_columns, strict=True) if k]
            return [
                *lines,
                "# Sampled at the means of the columns, where the data are. Its prior holds at this point of them.",
                f"point = np.array({point!r})",
                "told = pt.dot(x.mean(axis=0) - point, beta)",
                f"overall = {prior_text('Intercept_centred', prior, shift='told')}",
                'pm.Deterministic("Intercept", overall - shift)',
            ]
        if not isinstance(prior, LOCATED):
            return [*lines, f"overall = {prior_text('Intercept', prior)} + shift"]
        return [
            *lines,
            "# Sampled at the means of the columns, where the data are. Its prior is the one of the intercept at 0.",
            f"overall = {prior_text('Intercept_centred', prior, shift='shift')}",
            'pm.Deterministic("Intercept", overall - shift)',
        ]

    def _level(self, plan: Plan) -> list[str]:
        level = self.layout.levels[plan.index]
        return self._intercepts(plan, level) if level.columns == (0,) else self._slopes(plan, level)

    def _intercepts(self, plan: Plan, level: Level) -> list[str]:
        """One effect a group, and its total: everything from the overall level down to the group."""
        name, stem = level.blocks[0].name, self.stems[plan.index]
        sd, effect, total = (self.identifier(f"{stem} {what}") for what in ("sd", "effect", "total"))
        lines = [f"{sd} = {positive_text(f'{name}_sigma', self.model.complete_priors[f'{name}_sigma'])}"]
        above, self.overall = ("", self.overall) if plan.parent in self.totals else (self.overall, "")
        if plan.parent is not None and plan.parent in self.totals:
            above = self.identifier(f"{stem} above")
            lines.append(f"{above} = {self.totals.pop(plan.parent)}[{self.parents[plan.index]}]")
        self.totals[plan.index] = total
        if plan.centred:
            return [
                *lines,
                f"{total} = pm.Normal({quoted(f'{name}_total')}, {above or '0'}, {sd}, dims={quoted(level.name)})",
                f"pm.Deterministic({quoted(name)}, {total} - {above or '0'}, dims={quoted(level.name)})",
            ]
        return [
            *lines,
            f"{effect} = pm.Normal({quoted(f'{name}_offset')}, 0, 1, dims={quoted(level.name)}) * {sd}",
            f"pm.Deterministic({quoted(name)}, {effect}, dims={quoted(level.name)})",
            f"{total} = {above + ' + ' if above else ''}{effect}",
        ]

    def _slopes(self, plan: Plan, level: Level) -> list[str]:
        """Several effects a group: rows of standard normals times the root of the effects' covariance."""
        stem, priors = self.stems[plan.index], self.model.complete_priors
        lines, sds = [], []
        for block in level.blocks:
            sd = self.identifier(f"{block.name} sd")
            name = f"{block.name}_sigma"
            lines.append(f"{sd} = {positive_text(name, priors[name], dims=_dim(block))}")
            sds.append(sd if block.labels else f"{sd}[None]")
        root, effects = self.identifier(f"{stem} root"), self.identifier(f"{stem} effects")
        lines.append(f"{root} = pt.diag(pt.concatenate([{', '.join(sds)}]))")
        for positions in level.correlated:
            prior = priors[f"corr|{level.name}"]
            assert isinstance(prior, LKJ)  # Model has checked it
            factor, dims = self.identifier(f"{stem} corr"), (f"{level.name}_effect", f"{level.name}_effect_other")
            square = f"{min(positions)}:{max(positions) + 1}"
            part = f"{root}[{square}, {square}]"
            lines += [
                f"{factor} = pm.LKJCorr({quoted(f'corr|{level.name}_root')}, n={len(positions)}, eta={prior.eta!r})",
                f"pm.Deterministic({quoted(f'corr|{level.name}')}, {factor} @ {factor}.T, dims={dims!r})",
                f"{root} = pt.set_subtensor({part}, {part} @ {factor})",
            ]
        shape = f"(len(coords[{quoted(level.name)}]), {len(level.columns)})"
        lines.append(f"{effects} = pm.Normal({quoted(f'{level.name}_offset')}, 0, 1, shape={shape}) @ {root}.T")
        position = 0
        for block in level.blocks:
            end = position + len(block.columns)
            part = f"{effects}[:, {position}:{end}]" if block.labels else f"{effects}[:, {position}]"
            of_effect = (level.name, block.dim) if block.labels else (level.name,)
            lines.append(f"pm.Deterministic({quoted(block.name)}, {part}, dims={of_effect!r})")
            position = end
        for position, column in enumerate(level.columns):
            times = f" * {self.columns[column]}" if column else ""
            self.row_parts.append(f"{effects}[{stem}, {position}]{times}")
        return lines

    def _rows(self) -> list[str]:
        """The linear predictor and the response of each row."""
        priors = self.model.complete_priors
        spread, column = self.layout.residual, residual_column(self.model)
        lines = []
        for name, _ in self.model.extra:
            varies = name == "sigma" and spread is not None and column is not None
            lines.append(f"{name} = {positive_text(name, priors[name], dims=spread.dim if varies and spread else '')}")
            if varies and spread is not None and column is not None:
                categories = repr([str(label) for label in spread.labels])
                of_row = f"data[{quoted(column)}].astype(str).map({categories}.index).to_numpy()"
                lines.append(f"sigma = sigma[{of_row}]")
        parts = [self.overall] if self.overall else []
        parts += [f"{total}[{self.stems[k]}]" for k, total in self.totals.items()]
        parts += [*self.row_parts, *(["offset"] if self.model.terms.offsets else [])]
        if parts in ([], [self.overall]):  # the same for all rows, and yet one a row
            parts.append("np.zeros(len(data))")
        lines.append(f"eta = {' + '.join(parts)}")
        name, used = variable_name(self.model.terms.response.name), {*priors, *(e.name for e in self.layout.levels)}
        used |= {block.name for level in self.layout.levels for block in level.blocks}
        while name in used:
            name += "_"
        return [*lines, *likelihood_text(self.model, name)]


def _dim(block: Block) -> str:
    return block.dim if block.labels else ""


def _indented(lines: list[str]) -> list[str]:
    return [INDENT + line if line else "" for line in lines]
