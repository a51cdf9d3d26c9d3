"""Relative Human: mPCKh 0.6, PCRD 0.2 and age and gender F1, per image and pooled.

| name | what |
|---|---|
| `precision`, `recall`, `f1` | published: rounded to 2 decimals, over the number of **predictions** in images that have any, not of people |
| `mPCKh_0.6` | published: mean PCKh of all matched people, those with fewer than two labelled joints as -1; misses do not enter |
| `PCRD_0.2`, `PCRD_0.2_<class>` | published: `depth_order.pcrd`, a missed person counts as 0.3 of a wrong pair |
| `age_f1`, `gender_f1` | macro F1 over all classes, matched people with a label (no public evaluator; our reading) |
| `people_precision`, `people_recall`, `people_f1` | over people, not rounded, after `greedy_matching.match_people` |
| `mPCKh_labelled` | PCKh of the people with two labelled joints or more, after `match_people` |
| `depth_order` | share of right pairs among matched people, no miss term |
| `age_f1_missed`, `gender_f1_missed` | macro F1 in which a miss is a false negative of its class |

Shares are in 0..1; the papers' tables multiply by 100. Depth: the camera z of the root. People without a labelled joint are
no people here (the evaluator keeps their index by mistake and then reads ages and layers of their neighbours).
"""  # noqa: E501 (table rows)

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from annyfit_jax.metrics import greedy_matching, word_scores
from annyfit_jax.metrics.depth_order import DepthPairs, depth_pairs, pcrd
from annyfit_jax.metrics.keypoint_scores import pckh
from annyfit_jax.metrics.people_of_image import PredictedPeople, TruthPeople
from annyfit_jax.metrics.skeletons import RH14, pick

Errors = dict[str, np.ndarray]


def image_errors(predicted: PredictedPeople, truth: TruthPeople) -> Errors:
    """What one image adds to the tables, to be pooled by `pool`. `truth` has the joints `RH14`; predictions have them too."""
    people = truth.select(np.any(truth.labelled, axis=1))
    n = len(people)
    unknown = np.full(n, -1)
    age, gender, layer = (
        unknown if x is None else np.asarray(x, np.int64) for x in (people.age, people.gender, people.layer)
    )
    target = pick(people.joints_2d, people.names, RH14)
    labelled = pick(people.labelled[..., None], people.names, RH14)[..., 0]
    ours = pick(predicted.joints_2d, predicted.names, RH14).astype(np.float64)
    published = greedy_matching.match_2d_greedy(ours, target, labelled, greedy_matching.IOU_THRESHOLD["relative_human"])
    plain = greedy_matching.match_people(ours, target, labelled, greedy_matching.IOU_THRESHOLD["relative_human"])
    p, g = published.pairs.T
    pairs = depth_pairs(predicted.depth[p], layer[g], age[g])
    p2, g2 = plain.pairs.T
    plain_pairs = depth_pairs(predicted.depth[p2], layer[g2], age[g2])
    # The evaluator reads from the coordinates, not from the flag, whether a joint is labelled.
    shares = pckh(ours[p], target[g], np.all(target[g] > -1, axis=-1))
    plain_shares = pckh(ours[p2], target[g2], labelled[g2])
    return {
        "people": np.array([n]),
        "predictions": np.array([len(predicted)]),
        "false_positives": np.array([len(published.false_positives)]),
        "misses": np.array([len(published.misses)]),
        "plain_false_positives": np.array([len(plain.false_positives)]),
        "plain_misses": np.array([len(plain.misses)]),
        "missed_age": age[published.misses],
        "pckh": shares,
        "pckh_labelled": plain_shares[plain_shares >= 0],
        "right": pairs.right,
        "relation": pairs.relation,
        "ages": pairs.ages,
        "plain_right": plain_pairs.right,
        **_classes("age", predicted.age, word_scores.relative_human_age, age, p, g, published.misses),
        **_classes("gender", predicted.gender, word_scores.relative_human_gender, gender, p, g, published.misses),
    }


def pool(images: Sequence[Errors]) -> dict[str, float]:
    """The metrics of the module's table over all images, with `scenes`, `people`, `matched`, `missed`, `pairs` counted."""
    if not images:
        raise ValueError("relative_human.pool: expected the errors of at least one image")
    all_ = {key: np.concatenate([image[key] for image in images]) for key in images[0]}
    total = {key: int(all_[key].sum()) for key in ("people", "predictions", "false_positives", "misses")}
    plain = int(all_["plain_misses"].sum()), int(all_["plain_false_positives"].sum())
    precision, recall, f1 = greedy_matching.precision_recall_f1(
        total["predictions"], total["misses"], total["false_positives"]
    )
    rates = greedy_matching.detection_rates(total["people"], *plain)
    pairs = DepthPairs(all_["right"], all_["relation"], all_["ages"].reshape(-1, 2))
    return {
        "scenes": len(images),
        "people": total["people"],
        "predictions": total["predictions"],
        "matched": len(all_["pckh"]),
        "missed": total["misses"],
        "pairs": len(all_["right"]),
        "mPCKh_0.6": _mean(all_["pckh"]),
        **pcrd(pairs, all_["missed_age"]),
        "age_f1": word_scores.f1_macro(all_["age"], all_["age_truth"], 4),
        "gender_f1": word_scores.f1_macro(all_["gender"], all_["gender_truth"], 2),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "mPCKh_labelled": _mean(all_["pckh_labelled"]),
        "depth_order": _mean(all_["plain_right"]),
        **{
            f"depth_{name}": _mean(pairs.right[pairs.relation == relation])
            for name, relation in (("equal", 0), ("nearer", -1), ("farther", 1))
        },
        "age_f1_missed": word_scores.f1_macro(*_with_misses(all_, "age"), 4),
        "gender_f1_missed": word_scores.f1_macro(*_with_misses(all_, "gender"), 2),
        "people_precision": rates[0],
        "people_recall": rates[1],
        "people_f1": rates[2],
    }


def _classes(name: str, value, code, truth: np.ndarray, p: np.ndarray, g: np.ndarray, misses: np.ndarray) -> Errors:
    # Without a predicted phenotype there is nothing to judge: no person carries a label.
    ours = np.full(len(p), word_scores.NO_PREDICTION) if value is None else code(np.asarray(value, np.float64)[p])
    hidden = value is None
    return {
        name: ours,
        f"{name}_truth": np.full(len(g), -1) if hidden else truth[g],
        f"{name}_missed": np.full(len(misses), -1) if hidden else truth[misses],
    }


def _with_misses(all_: Errors, name: str) -> tuple[np.ndarray, np.ndarray]:
    missed = all_[f"{name}_missed"]
    predicted = np.concatenate([all_[name], np.full(len(missed), word_scores.NO_PREDICTION)])
    return predicted, np.concatenate([all_[f"{name}_truth"], missed])


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values, dtype=np.float64)) if len(values) else float("nan")
