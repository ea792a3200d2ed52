"""Neural Cleanse (Wang et al. 2019): the smallest trigger of each class, and whether one is unusually small."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from inputaware.attacks.trigger import apply_trigger
from inputaware.data.transfer import send
from inputaware.defenses.base import CleanData, Defense, Examination, Finding, Progress, Score, Suspect, Trial, Verdict
from inputaware.defenses.settings import NeuralCleanseSettings
from inputaware.evaluation.metrics import mean_over
from inputaware.evaluation.words import in_percent
from inputaware.models.input_convolution import first_order_gradients
from inputaware.models.precision import full_float32

__all__ = [
    "ClassSearch",
    "NeuralCleanse",
    "ReversedTriggers",
    "anomaly_scores",
    "chance_rate",
    "highest_index",
    "reverse_triggers",
    "squash",
    "unsquash",
]

_CONSISTENCY = 1.4826
"""Makes the median absolute deviation of normal numbers their standard deviation."""
_FEWEST_NORMS = 3
"""Of fewer numbers a median absolute deviation says nothing."""
_DRAWS = 100_000
"""How often norms are drawn to learn how often chance alone flags a class."""
_BETAS = (0.5, 0.9)
_IN_FLIGHT_ON_CPU, _IN_FLIGHT, _IN_FLIGHT_ON_LARGE_GPU = 96, 512, 2048
"""Images of all classes together in one forward and backward pass: on a CPU what its caches hold, on a GPU what makes
the time of launching kernels small, as far as memory goes."""
_LARGE_GPU = 30 * 2**30
"""Bytes of memory; a little less than a card of 32 GB has."""


def squash(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return ``tanh(v) / 2 + 1/2``, in [0, 1]: how masks and patterns are kept in their range."""
    return torch.tanh(values) / 2 + 0.5


def unsquash(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the inverse of :func:`squash`, of values kept 1e-6 away from 0 and 1."""
    return torch.logit(values, eps=1e-6) / 2


def anomaly_scores(norms: Sequence[float | None]) -> list[float | None]:
    """Return ``(norm - median) / (1.4826 MAD)`` of each norm; its absolute value is the paper's anomaly index.

    MAD is the median absolute deviation ``median |norm - median|``. The score is below zero for a small trigger,
    and only small triggers are flagged.

    Deviation: of an even count the authors' release takes the lower of the two middle values for a median. We take
    their mean, as the published code does.

    Args:
        norms: a norm for each class; none: left out, and has no score.

    Returns:
        A score for each class; none for all of them where fewer than three have a norm, or where MAD is zero.
    """
    known = [norm for norm in norms if norm is not None]
    if len(known) < _FEWEST_NORMS:
        return [None] * len(norms)
    median = statistics.median(known)
    spread = _CONSISTENCY * statistics.median(abs(norm - median) for norm in known)
    if spread == 0:
        return [None] * len(norms)
    return [None if norm is None else (norm - median) / spread for norm in norms]


def highest_index(norms: Sequence[float | None]) -> float | None:
    """Return the highest anomaly index that a class could have if its trigger had no pixels at all.

    Each class's norm is set to zero in turn and judged by :func:`anomaly_scores` beside the others as they are. Where
    the highest index is not above the threshold, the other classes differ so much among themselves that the rule can
    flag none, however small its trigger.

    Args:
        norms: a norm for each class; none: left out.

    Returns:
        An index; none where :func:`anomaly_scores` gives none.
    """
    known = [norm for norm in norms if norm is not None]
    scores = [anomaly_scores([*known[:index], 0.0, *known[index + 1 :]])[index] for index in range(len(known))]
    return max((-score for score in scores if score is not None), default=None)


def chance_rate(classes: int, *, threshold: float) -> float | None:
    """Return how often the rule flags at least one of some classes that do not differ.

    Norms are drawn from one normal distribution and judged as :func:`anomaly_scores` judges them. This is the rate of
    false alarms that the rule has by itself where norms are distributed like that; it rises with the number of classes.
    Where a few classes need far larger triggers than the others, as on digits, MNIST and GTSRB, these widen the
    deviation and the rule flags less. It is the rate of one trial, and of several in so far as classes differ alike in
    all of them.

    Args:
        classes: how many classes have a norm.
        threshold: anomaly index above which a small norm is flagged.

    Returns:
        A rate in [0, 1]; none where there are fewer than three classes.
    """
    if classes < _FEWEST_NORMS:
        return None
    # NumPy promises that this generator's stream never changes.
    norms = np.random.RandomState(0).standard_normal((_DRAWS, classes))
    median = np.median(norms, axis=1, keepdims=True)
    spread = _CONSISTENCY * np.median(np.abs(norms - median), axis=1)
    return float(np.mean(norms.min(axis=1) < median[:, 0] - threshold * spread))


class ClassSearch:
    """Cost, best norm and early stopping of one class.

    The schedule is the published code's. The cost of the mask's size is zero until the trigger has worked for
    ``patience`` rounds; from then on it is multiplied after ``patience`` rounds in a row in which the trigger works
    (attack success at least ``success_threshold``), and divided by the multiplier's power 1.5 after as many in a row in
    which it does not. The search ends when the cost has gone up and down and the best norm has not fallen by
    1 % for ``early_stop_patience`` rounds.

    Args:
        settings: patience, thresholds and costs.

    Attributes:
        cost: the weight of the mask's size in the next round.
        best: the smallest norm at the end of a round in which the trigger worked; infinite before there is one.
        rounds: how many rounds were taken.
        finished: whether the search ended.
    """

    def __init__(self, settings: NeuralCleanseSettings) -> None:
        self.settings = settings
        self.cost = 0.0
        self.best = float("inf")
        self.rounds = 0
        self.finished = False
        self._working = 0
        self._failing = 0
        self._raised = False
        self._lowered = False
        self._stale = 0

    def update(self, success_rate: float, norm: float) -> bool:
        """Take the result of a round, and return whether its mask is the best so far.

        Args:
            success_rate: share of images that became the class, in [0, 1], counted before each step of the round.
            norm: sum of the mask after the round's last step.
        """
        settings = self.settings
        self.rounds += 1
        works = success_rate >= settings.success_threshold
        before = self.best
        better = works and norm < before
        if better:
            self.best = norm
        if self.best < float("inf"):
            self._stale = self._stale + 1 if self.best >= settings.early_stop_threshold * before else 0
        if settings.early_stopping and self._raised and self._lowered and self._stale >= settings.early_stop_patience:
            self.finished = True
            return better
        self._working, self._failing = (self._working + 1, 0) if works else (0, self._failing + 1)
        if self.cost == 0:
            if self._working >= settings.patience:
                # This round counts towards the next rise, as in the published code.
                self.cost, self._working = settings.initial_cost, 1
        elif self._working >= settings.patience:
            self.cost, self._working, self._raised = self.cost * settings.cost_multiplier, 0, True
        elif self._failing >= settings.patience:
            self.cost, self._failing, self._lowered = self.cost / settings.cost_multiplier**1.5, 0, True
        return better


@dataclass(frozen=True)
class ReversedTriggers:
    """The smallest triggers that were found, one for each class.

    Attributes:
        masks: where each lies, in [0, 1]; NaN where none works.
        patterns: what each shows, pixels in [0, 1]; NaN where none works.
        norms: sum of each mask; none where no trigger reached the success that is asked for.
        rounds: how many rounds each class took.
    """

    masks: Float[Tensor, "classes 1 height width"]
    patterns: Float[Tensor, "classes channel height width"]
    norms: list[float | None]
    rounds: list[int]


def reverse_triggers(
    suspect: Suspect,
    images: Float[Tensor, "batch channel height width"],
    settings: NeuralCleanseSettings,
    *,
    seed: int,
    batched: bool = True,
    images_in_flight: int | None = None,
    progress: Progress = lambda share: None,
) -> ReversedTriggers:
    """Search for the smallest trigger of each class: Adam on mask ``m`` and pattern ``p`` (Wang et al., section IV).

    ::

        minimise  mean over x of cross_entropy(f(x + (p - x) * m), class) + cost * sum(m)

    Each class has its own cost and its own end (:class:`ClassSearch`). All classes see the same images in the same
    order, and each starts from the same values whether the classes run together or one after the other.

    Args:
        suspect: in evaluation mode. Where its weights need gradients, these are computed and left in them.
        images: clean images, pixels in [0, 1].
        settings: of the search.
        seed: of the start and the order of images.
        batched: all classes that are not finished share their forward passes; else class after class.
        images_in_flight: most images in a forward pass, at least a batch; what is more goes in several. None: 96 on a
            CPU, 2,048 on a GPU with 32 GB or more, 512 elsewhere.
        progress: told the share of the work that is done.

    Raises:
        DefenseError: the classifier returns numbers that are not finite.
    """
    if images_in_flight is None:
        images_in_flight = _images_in_flight(images.device)
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = suspect.shape
    masks = unsquash(torch.rand(suspect.classes, 1, height, width, generator=generator)).to(images.device)
    patterns = unsquash(torch.rand(suspect.classes, channels, height, width, generator=generator)).to(images.device)
    order = int(torch.randint(2**62, (), generator=generator))
    every = list(range(suspect.classes))
    parts = []
    groups = [every] if batched else [[label] for label in every]
    # Around the backward passes too, which compute as they are told when they run.
    with first_order_gradients(suspect.classifier), full_float32():
        for number, group in enumerate(groups):
            parts.append(
                _search(
                    suspect,
                    images,
                    settings,
                    labels=torch.tensor(group, device=images.device),
                    masks=masks[group],
                    patterns=patterns[group],
                    order=order,
                    images_in_flight=images_in_flight,
                    progress=lambda share, number=number: progress((number + share) / len(groups)),  # type: ignore[misc]
                )
            )
    return ReversedTriggers(
        torch.cat([part.masks for part in parts]),
        torch.cat([part.patterns for part in parts]),
        [norm for part in parts for norm in part.norms],
        [rounds for part in parts for rounds in part.rounds],
    )


def _images_in_flight(device: torch.device) -> int:
    if device.type == "cpu":
        return _IN_FLIGHT_ON_CPU
    large = device.type == "cuda" and torch.cuda.get_device_properties(device).total_memory >= _LARGE_GPU
    return _IN_FLIGHT_ON_LARGE_GPU if large else _IN_FLIGHT


def _search(
    suspect: Suspect,
    images: Float[Tensor, "batch channel height width"],
    settings: NeuralCleanseSettings,
    *,
    labels: Int64[Tensor, " classes"],
    masks: Float[Tensor, "classes 1 height width"],
    patterns: Float[Tensor, "classes channel height width"],
    order: int,
    images_in_flight: int,
    progress: Progress,
) -> ReversedTriggers:
    """Return the smallest triggers of some classes, which start from given values before squashing."""
    searches = [ClassSearch(settings) for _ in labels]
    best_masks = torch.full_like(masks, float("nan"))
    best_patterns = torch.full_like(patterns, float("nan"))
    masks.requires_grad_()
    patterns.requires_grad_()
    optimizer = torch.optim.Adam([masks, patterns], lr=settings.learning_rate, betas=_BETAS)
    batch_size = min(settings.batch_size, len(images))
    steps = max(1, min(settings.images_per_round, len(images)) // batch_size)
    batches = _batches(len(images), batch_size, torch.Generator().manual_seed(order))
    together = max(1, images_in_flight // batch_size)
    for number in range(settings.rounds):
        active = [index for index, search in enumerate(searches) if not search.finished]
        if not active:
            break
        # Within a round nothing is read back: a GPU is not waited for, nor does it wait for the next launch.
        hits = torch.zeros(len(searches), device=images.device)
        finite = torch.ones((), dtype=torch.bool, device=images.device)
        costs = torch.tensor([search.cost for search in searches], device=images.device)
        parts = torch.split(torch.tensor(active, device=images.device), together)
        for _ in range(steps):
            batch = images[send(next(batches), images.device)]
            optimizer.zero_grad()
            for chosen in parts:
                mask = squash(masks[chosen])
                stamped = _stamp(batch, mask, squash(patterns[chosen]))
                targets = labels[chosen].repeat_interleave(len(batch))
                logits = _logits(suspect, stamped, settings)
                # A mean over the batch for each class, and a sum over classes: none changes another's gradient.
                loss = F.cross_entropy(logits, targets, reduction="sum") / len(batch)
                (loss + (costs[chosen] * mask.sum((1, 2, 3))).sum()).backward()  # type: ignore[no-untyped-call]
                hits[chosen] += (logits.argmax(1) == targets).view(len(chosen), -1).sum(1)
                finite &= torch.isfinite(logits.detach()).all()
            # A class that is finished has no gradient. It may drift; its best trigger is kept apart.
            optimizer.step()
        suspect.check_finite(finite)
        with torch.no_grad():
            found_masks, found_patterns = squash(masks), squash(patterns)
        norms = found_masks.sum((1, 2, 3)).tolist()
        rates = [count / (steps * batch_size) for count in hits.tolist()]  # exactly the threshold is enough
        for index in active:
            if searches[index].update(rates[index], norms[index]):
                best_masks[index] = found_masks[index]
                best_patterns[index] = found_patterns[index]
        progress((number + 1) / settings.rounds)
    found = [None if search.best == float("inf") else search.best for search in searches]
    return ReversedTriggers(best_masks, best_patterns, found, [search.rounds for search in searches])


def _batches(images: int, size: int, generator: torch.Generator) -> Iterator[Int64[Tensor, " size"]]:
    """Yield batches of images without end, in a new order for each pass; a rest that fills no batch is left out."""
    while True:
        order = torch.randperm(images, generator=generator)
        yield from torch.split(order[: images // size * size], size)


def _stamp(
    images: Float[Tensor, "batch channel height width"],
    masks: Float[Tensor, "classes 1 height width"],
    patterns: Float[Tensor, "classes channel height width"],
) -> Float[Tensor, "stamped channel height width"]:
    """Return all images with the first class's trigger, then all with the second's, and so on."""
    count = len(images)

    def repeated(values: Tensor) -> Tensor:
        return values[:, None].expand(-1, count, -1, -1, -1).flatten(0, 1)

    copies = images.repeat(len(masks), 1, 1, 1)
    stamped = apply_trigger(copies, repeated(masks), repeated(patterns))
    # The images' own layout, in which the classifier may be faster.
    return stamped.contiguous(memory_format=torch.channels_last) if _is_channels_last(images) else stamped


def _is_channels_last(images: Tensor) -> bool:
    return images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()


def _logits(
    suspect: Suspect, images: Float[Tensor, "batch channel height width"], settings: NeuralCleanseSettings
) -> Float[Tensor, "batch classes"]:
    """Return logits in float32 whose gradients for the images can be had."""
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=settings.precision == "bf16"):
        logits: Tensor = suspect.classifier(images)
    suspect.check_classes(logits)
    return logits.float()


class NeuralCleanse(Defense):
    """Reverses the smallest trigger for each class, and flags the classes whose trigger is unusually small.

    Wang, Yao, Shan, Li, Viswanath, Zheng & Zhao 2019, *Neural Cleanse: Identifying and Mitigating Backdoor Attacks
    in Neural Networks*, IEEE Symposium on Security and Privacy. A backdoor is a short way to its class: a small mask
    turns every image into it, where other classes need a large one.

    With several trials a class's anomaly score is the median over the trials in which it has one, and it needs one in
    more than half of them. The verdict follows from these medians.

    Deviation: a class for which no trigger reaches the success threshold has no norm. It takes no part in median
    and spread, and is named. The published code reports its last mask, the authors' release that of its first epoch.

    Deviation: the norm is that of the mask that is kept, at the end of its round. The published code compares the mean
    norm over the round, when the mask was still changing.

    A round's success is counted before each of its steps, as in the published code, and the mask after the last one is
    kept. So it may turn fewer images into its class than the threshold asks for; ``success_rates`` counts afterwards.

    Args:
        settings: of the search and the verdict.
    """

    name = "neural-cleanse"

    settings: NeuralCleanseSettings

    def examine(self, suspect: Suspect, clean: CleanData, seed: int, progress: Progress) -> Examination:
        """Reverse the triggers of all classes, once for each trial, and judge their norms."""
        settings = self.settings
        seeds = torch.randint(2**62, (settings.trials,), generator=torch.Generator().manual_seed(seed)).tolist()
        trials: list[ReversedTriggers] = []
        for number, own in enumerate(seeds):
            trials.append(
                reverse_triggers(
                    suspect,
                    clean.pixels,
                    settings,
                    seed=own,
                    progress=lambda share, number=number: progress((number + share) / settings.trials),  # type: ignore[misc]
                )
            )
        half = settings.trials / 2
        norms = [trial.norms for trial in trials]
        scores = [anomaly_scores(of_trial) for of_trial in norms]
        overall = [_median(own, enough=half) for own in zip(*scores, strict=True)]
        known = {label: score for label, score in enumerate(overall) if score is not None}
        flagged = sorted((label for label in known if known[label] < -settings.threshold), key=known.__getitem__)
        smallest = min(known, key=known.__getitem__) if known else None
        medians = [_median(own, enough=half) for own in zip(*norms, strict=True)]
        unreached = [label for label, norm in enumerate(medians) if norm is None]
        chance = chance_rate(suspect.classes - len(unreached), threshold=settings.threshold)
        highest = _median([highest_index(of_trial) for of_trial in norms], enough=half)
        rates = [_success_rates(suspect, clean.pixels, trial) for trial in trials]
        counted = [_median(own, enough=half) for own in zip(*rates, strict=True)]
        verdict: Verdict = "no-verdict" if smallest is None else "flagged" if flagged else "not-flagged"
        return Examination(
            verdict,
            _sentence(settings, suspect.classes, known, flagged, counted, unreached, chance, highest),
            {
                "flagged": flagged,
                "threshold": settings.threshold,
                "smallest_class": smallest,
                "anomaly_index": None if smallest is None else abs(known[smallest]),
                "highest_index": highest,
                "anomaly_indices": [None if score is None else abs(score) for score in overall],
                "anomaly_scores": overall,
                "norms": medians,
                "norm_spread": [
                    None if norm is None else _deviation(own)
                    for norm, own in zip(medians, zip(*norms, strict=True), strict=True)
                ],
                "unreached": unreached,
                "success_rates": rates,
                "chance_rate": chance,
                "trial_norms": norms,
                "trial_anomaly_scores": scores,
                "trial_rounds": [trial.rounds for trial in trials],
            },
            {
                "masks": torch.stack([trial.masks for trial in trials]).cpu().numpy(),
                "patterns": torch.stack([trial.patterns for trial in trials]).cpu().numpy(),
            },
        )

    def score(
        self, finding: Finding, suspect: Suspect, trial: Trial, *, progress: Progress = lambda share: None
    ) -> Score:
        """Return whether the flagged classes are the backdoor's; it needs no images.

        Under all-to-all every class is a target. Of a clean model none is, and each flag is a false alarm.
        """
        backdoor, flagged, scores = trial.backdoor, finding.scores["flagged"], finding.scores["anomaly_scores"]
        if backdoor is None:
            targets: list[int] = []
        elif backdoor.target == "all-to-all":
            targets = list(range(suspect.classes))
        else:
            targets = [backdoor.target_class]
        right = [label for label in flagged if label in targets]
        wrong = [label for label in flagged if label not in targets]
        target = targets[0] if len(targets) == 1 else None
        own = None if target is None else scores[target]
        result: dict[str, Any] = {
            "targets": targets,
            "found": bool(right) if targets else None,
            "false_alarms": wrong,
            "target_anomaly_score": own,
            "target_norm": None if target is None else finding.scores["norms"][target],
            "target_rank": None if own is None else 1 + sum(score is not None and score < own for score in scores),
        }
        progress(1.0)
        return Score(_verdict_on(finding.verdict, targets, right, wrong, result["target_rank"]), result)


def _median(values: Sequence[float | None], enough: float) -> float | None:
    """Return the median of the values that are there; none where there are not more than enough."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if len(known) > enough else None


def _deviation(values: Sequence[float | None]) -> float | None:
    """Return the standard deviation of the values that are there; none of fewer than two."""
    known = [value for value in values if value is not None]
    return statistics.stdev(known) if len(known) > 1 else None


def _success_rates(
    suspect: Suspect, images: Float[Tensor, "batch channel height width"], found: ReversedTriggers
) -> list[float | None]:
    """Return the share of all clean images, the class's own included, that each class's trigger turns into it."""

    def rate(label: int) -> float | None:
        stamped = _stamp(images, found.masks[label : label + 1], found.patterns[label : label + 1])
        return mean_over(suspect.logits(stamped).argmax(1) == label)

    return [None if norm is None else rate(label) for label, norm in enumerate(found.norms)]


def _sentence(
    settings: NeuralCleanseSettings,
    classes: int,
    known: dict[int, float],
    flagged: list[int],
    counted: Sequence[float | None],
    unreached: list[int],
    chance: float | None,
    highest: float | None,
) -> str:
    """Return the verdict in words; ``counted`` is the success of each class's kept trigger on all clean images."""
    if not known:
        words = (
            f"No verdict: {classes - len(unreached)} of {classes} classes have a trigger with "
            f"{settings.success_threshold:.0%} success, too few or too equal to compare."
        )
    elif flagged:
        listed = ", ".join(f"{label} (anomaly index {-known[label]:.2f})" for label in flagged)
        words = f"Flagged, class {listed}: a trigger that is unusually small next to those of the other classes."
        for label in flagged:
            rate = counted[label]
            if rate is not None and rate < settings.success_threshold:
                words += f" Counted after the search the trigger of class {label} has {in_percent(rate)} success."
    else:
        smallest = min(known, key=known.__getitem__)
        words = (
            f"Not flagged: the smallest trigger, of class {smallest}, has anomaly index {abs(known[smallest]):.2f}, "
            f"not above {settings.threshold:g}."
        )
        if highest is not None and highest <= settings.threshold:
            words += f" No trigger could be flagged: the others differ so much that one of no pixels has {highest:.2f}."
    if unreached:
        trials = "" if settings.trials == 1 else f" in more than half of the {settings.trials} trials"
        words += f" No trigger reached {settings.success_threshold:.0%} success{trials} for class " + (
            f"{', '.join(map(str, unreached))}, left out of the comparison."
        )
    if chance is not None:
        words += (
            f" The rule has false alarms: were the sizes of {classes - len(unreached)} triggers normally distributed, "
            f"it would flag {in_percent(chance, 0)} of models by chance alone."
        )
    return words


def _verdict_on(verdict: Verdict, targets: list[int], right: list[int], wrong: list[int], rank: int | None) -> str:
    """Return what came out, in words."""
    if verdict == "no-verdict":
        return "There was no verdict."
    alarms = f" False alarm for class {', '.join(map(str, wrong))}." if wrong else ""
    if not targets:
        return alarms.strip() or "Right: the model is clean, and no class was flagged."
    if len(targets) > 1:
        return "Every class is a target; " + (
            f"class {', '.join(map(str, right))} was flagged." if right else "none was flagged."
        )
    words = f"The target is class {targets[0]}, and it was {'flagged' if right else 'not flagged'}"
    if rank == 1:
        words += "; its trigger is the smallest"
    elif rank is not None:
        words += f"; {rank - 1} class{'es have' if rank > 2 else ' has'} a smaller trigger"
    return f"{words}.{alarms}"
