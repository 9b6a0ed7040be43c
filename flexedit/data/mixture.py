"""Several data sets as one: which of them comes how often, and where they are.

A mixture is a YAML file:

    data:
      - {source: "refcoco:refs(unc).p,instances.json,train2014", group: segment}
      - {source: "magicbrush:magicbrush", group: edit}
      - {source: "instructpix2pix:ip2p", group: edit, weight: 2}
      - {source: "llava:llava_instruct_150k.json,train2017", group: ask}
      - {source: "strat", group: own}
    weights: {segment: 65, edit: 22, ask: 10, own: 3}

Groups share the whole by ``weights`` (these are the paper's, and the default); the data sets of a
group share it by their own weights, or else by their number of rows. Paths are from the file's
folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path

from pydantic.dataclasses import dataclass

from ..errors import FlexEditError
from ..files import read_yaml
from ..validation import STRICT, validated
from .edits import MAX_BAD, Edits
from .order import Pattern
from .readers import placed
from .readers.reader import Reader
from .sample import Sample

WEIGHTS = {"segment": 65.0, "edit": 22.0, "ask": 10.0, "own": 3.0}


@dataclass(frozen=True, config=STRICT)
class Part:
    """source: as ``--data`` has it · weight: within its group; 0: by its number of rows"""

    source: str
    group: str
    weight: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"the weight of {self.source} is {self.weight}; give one of 0 or more")


@dataclass(frozen=True, config=STRICT)
class MixtureConfig:
    data: tuple[Part, ...]
    weights: Mapping[str, float] = field(default_factory=lambda: WEIGHTS)
    max_bad: int = MAX_BAD  # rows of all data sets that may be of no use

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("data is empty; name a data set")
        for name, weight in self.weights.items():
            if not 0 < weight < float("inf"):
                raise ValueError(f"the weight of {name} is {weight}; give one above 0")
        if unknown := {part.group for part in self.data} - set(self.weights):
            raise ValueError(
                f"there are no weights for {', '.join(sorted(unknown))}; "
                f"groups are {', '.join(self.weights)}"
            )


class Mixture:
    """An endless sequence of samples: `mixture[index]`, the same for one seed."""

    def __init__(
        self,
        config: MixtureConfig,
        folder: Path,
        size: int,
        seed: int = 0,
        readers: Sequence[Reader] = (),
    ) -> None:
        """folder: where the paths in it start · readers: of its data sets, if they are there

        Raises FlexEditError for what is no data set.
        """
        self.config, self.max_bad = config, config.max_bad
        self.folder, self.size = folder, size
        sources: Sequence[str | Reader] = readers or [
            placed(part.source, folder) for part in config.data
        ]
        self.parts = [
            Edits(source, size, seed + number, config.max_bad)
            for number, source in enumerate(sources)
        ]
        names: Counter[str] = Counter()
        for part in self.parts:
            names[part.name] += 1
            if (again := names[part.name]) > 1:
                part.name += f" {again}"
        sizes = [len(part.rows) for part in self.parts]
        self.weights = parts_weights(config, sizes)
        self.pattern = Pattern(self.weights, sizes, seed)

    def __getitem__(self, index: int) -> Sample:
        draw = self.pattern[index]
        return self.parts[draw.source].draw(draw, index)

    def seeded(self, seed: int) -> Mixture:
        """The same rows in another order, with other scribbles."""
        readers = [part.reader for part in self.parts]
        return Mixture(self.config, self.folder, self.size, seed, readers)

    @property
    def origin(self) -> tuple[Sequence[Path], str]:
        """Files and words that tell this data from other data"""
        origins = [part.origin for part in self.parts]
        words = " ".join([*(words for _, words in origins), repr(self.config)])
        return [file for files, _ in origins for file in files], words


def parts_weights(config: MixtureConfig, sizes: Sequence[int]) -> list[float]:
    """How much each data set counts in all; groups that have none leave their share to the others.

    Raises FlexEditError where some of a group have a weight and others none.
    """
    weights = []
    for part, size in zip(config.data, sizes, strict=True):
        group = [
            (other, count)
            for other, count in zip(config.data, sizes, strict=True)
            if other.group == part.group
        ]
        weighed = [other.weight for other, _ in group if other.weight]
        if weighed and len(weighed) < len(group):
            raise FlexEditError(
                f"some data sets of the group {part.group} have a weight and others none; "
                "give all of them one, or none"
            )
        whole = sum(weighed) or sum(count for _, count in group)
        weights.append(config.weights[part.group] * (part.weight or size) / whole)
    return weights


def samples_from(data: str | Reader, size: int, seed: int = 0) -> Edits | Mixture:
    """What ``--data`` means: a mixture's YAML file, or a data set.

    Raises FlexEditError for neither.
    """
    if isinstance(data, Reader) or not data.endswith((".yaml", ".yml")):
        return Edits(data, size, seed)
    path = Path(data)
    config = validated(MixtureConfig, read_yaml(path), str(path))
    return Mixture(config, path.parent, size, seed)
