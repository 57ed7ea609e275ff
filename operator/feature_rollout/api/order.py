"""Which rollouts of a set of manifests wait for which, and what is wrong with that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from feature_rollout.api.featurerollout import FeatureRollout
from feature_rollout.core.dependencies import cycle
from feature_rollout.core.plan import After, Stage


@dataclass(frozen=True, slots=True)
class Wrong:
    """`path` is that of the field. `elsewhere`: the rollout is not among these, and may be in the cluster."""

    path: str
    text: str
    elsewhere: bool = False


def problems(rollout: FeatureRollout, rollouts: Iterable[FeatureRollout]) -> Iterator[Wrong]:
    """What is wrong with the `after` of this rollout's stages, `rollouts` being all that there are."""
    namespace, name = rollout.key
    order = {one.metadata.name: _stages(one) for one in rollouts if one.metadata.namespace == namespace}
    for index, stage in enumerate(rollout.spec.stages):
        for i, one in enumerate(stage.after):
            yield from _unknown(f"spec.stages[{index}].after[{i}]", one.rollout, one.stage, order)
    way = cycle(name, order)
    if way:
        index = [stage.name for stage in rollout.spec.stages].index(way[0].stage)
        text = f"rollouts wait for each other: {' -> '.join(map(str, way))}: take one of these out of its stage's after"
        yield Wrong(f"spec.stages[{index}].after", text)


def _unknown(path: str, rollout: str, stage: str, order: Mapping[str, tuple[Stage, ...]]) -> Iterator[Wrong]:
    if rollout not in order:
        text = f"there is no FeatureRollout {rollout} in these files: is it in the cluster?"
        yield Wrong(f"{path}.rollout", text, elsewhere=True)
        return
    names = [one.name for one in order[rollout]]
    if stage not in names:
        yield Wrong(f"{path}.stage", f'"{stage}" is not a stage of {rollout}: name one of {", ".join(names)}')


def _stages(rollout: FeatureRollout) -> tuple[Stage, ...]:
    """As far as the order of rollouts goes."""
    return tuple(
        Stage(stage.name, after=tuple(After(one.rollout, one.stage) for one in stage.after))
        for stage in rollout.spec.stages
    )
