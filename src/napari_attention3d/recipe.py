"""A recipe: all that was done to a scan, as a YAML file that does it again to others.

Model, preprocessing choices, clean-up, measures, what to write. It is made from what a mask
says of itself (its provenance), so it needs no recording.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from .analysis.cleanup import AnyRule, card_with_rules, rules_of_card
from .errors import InputError
from .models.header import read_card, read_header
from .models.store import Model, find_model, list_models, load_model
from .volumes.atomic import atomic_path
from .volumes.formats.ome_zarr_group import ZarrVersion
from .volumes.yaml_text import parse_yaml

if TYPE_CHECKING:
    from .analysis.rules import Rule
    from .session import SegmentOptions

__all__ = [
    "Measures",
    "ModelReference",
    "Recipe",
    "make_recipe",
    "read_recipe",
    "recipe_of",
    "rules_of_model",
    "write_recipe",
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelReference(_Strict):
    """Which model.

    Parameters
    ----------
    name
        As in the list of models, or a file.
    sha256
        Of its weights; empty: any of that name.
    """

    name: str = Field(min_length=1)
    sha256: str = ""


class Measures(_Strict):
    """What is measured of the clean mask: see `analysis.measure`.

    Parameters
    ----------
    components
        A row per connected component instead of one per label.
    image
        Also intensities of the scan.
    attention
        Also the attention maps, if the recipe keeps any.
    connectivity
        Of components: 6 (faces), 18 (and edges) or 26 (and corners).
    table
        Suffix of the table's file.
    """

    components: bool = False
    image: bool = True
    attention: bool = False
    connectivity: Literal[6, 18, 26] = 26
    percentiles: tuple[float, ...] = (5.0, 50.0, 95.0)
    table: Literal[".csv", ".xlsx", ".json"] = ".csv"


class Recipe(_Strict):
    """Everything that makes a mask and its table from a scan, but for the scan.

    Parameters
    ----------
    channel, time
        Which of the scan's to use.
    attention, probabilities, uncertainty, overlap, precision, tile
        See `session.SegmentOptions`; they are written to files of their own.
    clean_up
        Rules, in their order.
    measure
        None: nothing is measured.
    suffix
        Of the masks (".nii.gz", ...); None: as the scan's.
    zarr_version
        Of OME-Zarr, for results that are written as such; None: 0.5, or that of the image
        which a mask is added to.
    """

    version: Literal[1] = 1
    model: ModelReference
    channel: int | None = Field(default=None, ge=0)
    time: int | None = Field(default=None, ge=0)
    overlap: float | None = Field(default=None, ge=0, lt=1)
    precision: Literal["auto", "exact", "fast"] = "auto"
    tile: tuple[int, int, int] | None = None
    attention: bool | tuple[str, ...] = False
    probabilities: bool = False
    uncertainty: bool = False
    clean_up: tuple[AnyRule, ...] = ()
    measure: Measures | None = None
    suffix: str | None = None
    zarr_version: ZarrVersion | None = None

    @field_validator("suffix")
    @classmethod
    def _writable(cls, suffix: str | None) -> str | None:
        from .volumes.formats import writable_suffixes

        if suffix is not None and suffix not in writable_suffixes():
            raise ValueError(f"masks are written as {', '.join(writable_suffixes())}")
        return suffix

    def options(
        self,
        *,
        device: str = "auto",
        memory: int | None = None,
        region: tuple[tuple[int, int], ...] | None = None,
    ) -> SegmentOptions:
        """Options of a run on a machine.

        Raises
        ------
        InputError
            If one of them is wrong.
        """
        from .session import make_options

        keys = ("channel", "overlap", "precision", "tile")
        wanted = ("attention", "probabilities", "uncertainty")
        chosen = {key: getattr(self, key) for key in (*keys, *wanted)}
        return make_options(**chosen, device=device, memory=memory, region=region)

    def load_model(self) -> Model:
        """Load the model, by the checksum of its weights if the recipe has one.

        Raises
        ------
        ModelFileError
            If there is no such model.
        InputError
            If the model of that name has other weights, or the rules name classes that it
            has not.
        """
        name, sha256 = self.model.name, self.model.sha256
        for info in list_models() if sha256 else ():
            if info.card is not None and info.card.sha256 == sha256:
                name = str(info.path)
        model = load_model(name)
        if sha256 and model.card.sha256 != sha256:
            raise InputError(
                f"the model {self.model.name} here has other weights than the one asked for "
                f"(sha256 {model.card.sha256[:12]}…, not {sha256[:12]}…); install that model, or "
                "remove sha256 from the recipe to use this one"
            )
        card_with_rules(model.card, self.clean_up)  # a wrong class is told before anything runs
        return model

    def words(self) -> str:
        """A line for a person."""
        parts = [self.model.name]
        for key, word in (("time", "time point"), ("channel", "channel")):
            if getattr(self, key) is not None:
                parts[0] += f", {word} {getattr(self, key)}"
        parts += [str(rule.rule).replace("_", " ") for rule in self.clean_up]  # type: ignore[attr-defined]
        if self.measure is not None:
            parts.append("measure parts" if self.measure.components else "measure labels")
        return " → ".join(parts)


def make_recipe(**fields: Any) -> Recipe:
    """Build a `Recipe`, with an InputError of one line if something is wrong."""
    return _checked(fields, "options")


def recipe_of(provenance: Mapping[str, Any], *, measure: Measures | None = None) -> Recipe:
    """The recipe of a result, by what it says of itself.

    Parameters
    ----------
    provenance
        Of a volume or a layer.
    measure
        What was measured, if that is known from elsewhere.

    Raises
    ------
    InputError
        If it does not say which model made it, or says it in a form that is not ours.
    """
    model, options = provenance.get("model"), provenance.get("options")
    if provenance.get("corrections"):
        raise InputError(
            "it was corrected by painting, which no recipe holds; correct a mask with the same "
            "strokes by napari-attention3d refine"
        )
    if provenance.get("asked"):
        raise InputError(
            "it answers a question about a run and is no mask; take the recipe of the mask"
        )
    if not isinstance(model, Mapping) or not isinstance(options, Mapping):
        raise InputError(
            "it does not say which model made it, so it can't be made again; only results of "
            "this program's models can"
        )
    plan = provenance.get("plan") or {}
    # An exact pass gives the same however it is cut; tiles must be those of then.
    tile = plan.get("tile") if plan.get("engine") == "tiles" else None
    precision = {"float32": "exact", None: "auto"}.get(provenance.get("precision"), "fast")
    known = str(model.get("name") or "")
    path = model.get("path")
    installed = any(
        info.card is not None and info.card.sha256 == model.get("sha256") for info in list_models()
    )
    content = {
        "model": {
            "name": str(path) if path and not installed else known,
            "sha256": str(model.get("sha256") or ""),
        },
        "time": (provenance.get("source") or {}).get("time"),
        "precision": precision,
        "tile": tile,
        "clean_up": [step["rule"] for step in provenance.get("clean_up") or []],
        "measure": measure or provenance.get("measured"),
    }
    source = provenance.get("source") or {}
    if source.get("channel") is not None:  # of a layer that showed one of the file's
        content["channel"] = source["channel"]
    for key in ("channel", "overlap", "attention", "probabilities", "uncertainty"):
        if options.get(key) is not None:
            content[key] = options[key]
    return _checked(content, "its provenance")


def rules_of_model(model: str) -> tuple[Rule, ...]:
    """The clean-up rules that are stored with a model, by its name or file.

    Raises
    ------
    InputError
        If there are none.
    """
    file, _ = find_model(model)
    found = rules_of_card(read_card(file, read_header(file)))
    if not found:
        raise InputError(
            f"no rules are stored with {model}; store some: "
            f"napari-attention3d models rules {model} FILE"
        )
    return found


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a YAML file.

    Raises
    ------
    InputError
        If the file can't be read, or holds something that a recipe has not.
    """
    import yaml

    path = Path(path)
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path.name} is not valid YAML: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path.name} holds no recipe; one begins with model: {{name: ...}}")
    return _checked(content, path.name)


def write_recipe(path: str | Path, recipe: Recipe) -> Path:
    """Write a recipe as YAML.

    Raises
    ------
    OutputError
        If the file can't be written.
    """
    import yaml

    path = Path(path)
    content = recipe.model_dump(mode="json", exclude_none=True)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    head = "# napari-attention3d segment SCANS... -o FOLDER --recipe THIS_FILE\n"
    with atomic_path(path) as temporary:
        temporary.write_text(head + text, encoding="utf-8")
    return path


def _checked(content: Mapping[str, Any], where: str) -> Recipe:
    try:
        return Recipe.model_validate(dict(content))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(p) for p in first["loc"])
        words = first["msg"] if len(first["msg"]) < 300 else f"{first['msg'][:300]} ..."
        raise InputError(f"{where}: {place or 'recipe'}: {words}") from error
