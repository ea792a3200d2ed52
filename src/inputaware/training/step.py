"""One step of training: learning rates, the stage's loss in the precision asked for, gradients, optimisers."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from inputaware.attacks.base import Attack, Recipe, Stage, StepLoss
from inputaware.data.loader import Batch
from inputaware.training.averaging import WeightAverage, check_alike
from inputaware.training.capture import CapturedSteps
from inputaware.training.processes import Processes
from inputaware.training.schedules import learning_rate

__all__ = ["TrainedModule", "TrainingStep", "beneath", "place_modules"]


def place_modules(attack: Attack, device: torch.device) -> None:
    """Move an attack's networks to the device, in the memory layout that training computes in."""
    for module in attack.modules.values():
        module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


class TrainedModule:
    """A network in training: its optimiser and, where a stage asks for it, its moving average.

    Args:
        recipe: the network and its optimiser's settings.
        averaging: decay of the moving average; 0: none is kept.
    """

    def __init__(self, recipe: Recipe, averaging: float) -> None:
        self.module: nn.Module = recipe.module
        self.config = recipe.optimizer
        self.parameters = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        config = recipe.optimizer
        device = self.parameters[0].device
        on_gpu = device.type == "cuda"
        # On a GPU a number in its memory: what is recorded of a step reads it there, whatever it is by then.
        self.rate = torch.tensor(config.learning_rate, device=device) if on_gpu else None
        rate = config.learning_rate if self.rate is None else self.rate
        self.optimizer: torch.optim.Optimizer
        if config.name == "adam":
            self.optimizer = torch.optim.Adam(
                self.parameters,
                rate,
                betas=config.betas,
                weight_decay=config.weight_decay,
                fused=True,
                capturable=on_gpu,
            )
        else:
            self.optimizer = torch.optim.SGD(
                self.parameters,
                rate,
                momentum=config.momentum,
                weight_decay=config.weight_decay,
                nesterov=config.nesterov,
                fused=on_gpu,
            )
        self.average = WeightAverage(self.module, decay=averaging) if averaging > 0 else None

    def prepare(self, epoch: int, progress: float) -> None:
        """Set the step's learning rate and clear the gradients."""
        rate = learning_rate(self.config, epoch=epoch, progress=progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate if self.rate is None else self.rate.fill_(rate)
        if not self.config.accumulate_gradients:
            self.optimizer.zero_grad()

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps besides the weights."""
        tensors: dict[str, Tensor] = {}
        for index, entries in self.optimizer.state_dict()["state"].items():
            for key, value in entries.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer/{index}/{key}"] = value
        if self.config.accumulate_gradients:
            for index, parameter in enumerate(self.parameters):
                if parameter.grad is not None:
                    tensors[f"gradient/{index}"] = parameter.grad
        if self.average is not None:
            tensors |= {f"average/{name}": tensor for name, tensor in self.average.state().items()}
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what :meth:`state` returned.

        Raises:
            ValueError: a tensor is missing, has another shape or kind of numbers, or belongs to another optimiser.
            LookupError: a tensor belongs to a parameter that there is not.
        """
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in beneath("optimizer/", tensors).items():
            index, key = name.split("/")
            state.setdefault(int(index), {})[key] = tensor
        for number, entries in state.items():
            parameter = self._parameter(number)
            if entries.keys() != self._entries():
                raise ValueError(f"optimizer/{number}: expected {self._entries()}; found {set(entries)}")
            for key, tensor in entries.items():
                if key == "step":
                    check_alike(tensor, torch.zeros(()))
                else:
                    # The layout of the parameter, so that the optimiser keeps its fast path.
                    check_alike(tensor, parameter)
                    entries[key] = torch.empty_like(parameter).copy_(tensor)
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        for name, tensor in beneath("gradient/", tensors).items():
            parameter = self._parameter(int(name))
            check_alike(tensor, parameter)
            parameter.grad = torch.empty_like(parameter).copy_(tensor)
        if self.average is not None:
            self.average.restore(beneath("average/", tensors))

    def _parameter(self, number: int) -> nn.Parameter:
        """Return a parameter; a number below 0 is refused, for it would count from the end."""
        if number < 0:
            raise LookupError(number)
        return self.parameters[number]

    def _entries(self) -> set[str]:
        """Return the names of what the optimiser keeps of each parameter."""
        if self.config.name == "adam":
            return {"step", "exp_avg", "exp_avg_sq"}
        return {"momentum_buffer"} if self.config.momentum else set()


class TrainingStep:
    """The step of a stage: what it costs, which way is down, and a step that way.

    Args:
        stage: what is trained, and its loss.
        device: where the networks are.
        precision: 32, or bf16 for mixed precision.
        processes: those that do the step together; none: this one is alone.
        captured: whether a GPU records the steps of a stage that says their layout, and replays them; several
            processes never do.

    Attributes:
        trained: the networks in training, by name.
    """

    def __init__(
        self,
        stage: Stage,
        *,
        device: torch.device,
        precision: Literal["32", "bf16"],
        processes: Processes | None = None,
        captured: bool = True,
    ) -> None:
        self.processes = processes or Processes()
        stage.share = self.processes.share
        self.stage = stage
        self.device = device
        self.precision = precision
        self.trained = {name: TrainedModule(recipe, stage.averaging) for name, recipe in stage.recipes.items()}
        self.captured: CapturedSteps | None = None
        if captured and device.type == "cuda" and self.processes.count == 1:
            self.captured = CapturedSteps(device)

    def __call__(self, batch: Batch, *, epoch: int, progress: float) -> StepLoss:
        """Do a step and return what the batch cost before it.

        Args:
            batch: images, labels and, where they are drawn, partners.
            epoch: how many epochs of the stage are done.
            progress: the share of the stage that lies behind, in [0, 1).
        """
        layout = None if self.captured is None else self.stage.layout(batch, progress)
        if self.captured is None or layout is None:
            return self.unrecorded(batch, epoch=epoch, progress=progress)
        self.prepare(epoch=epoch, progress=progress)
        loss = self.captured(lambda batch: self._change(batch, progress), batch, layout)
        self.follow()
        return loss

    def unrecorded(self, batch: Batch, *, epoch: int, progress: float) -> StepLoss:
        """Do the same step operation by operation, also where steps are recorded; arguments as of a call."""
        self.prepare(epoch=epoch, progress=progress)
        loss = self._change(batch, progress)
        self.follow()
        return loss

    def prepare(self, *, epoch: int, progress: float) -> None:
        """Set the learning rates and clear the gradients."""
        for member in self.trained.values():
            member.prepare(epoch, progress)
            if not self.processes.writes:
                # Gradients that are never cleared are kept by the first process alone, since all are added.
                member.optimizer.zero_grad()

    def loss(self, batch: Batch, progress: float) -> StepLoss:
        """Return what the batch costs, computed in the precision asked for."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.stage.loss(batch, progress)

    def backward(self, loss: StepLoss) -> None:
        """Compute the gradients."""
        loss.total.backward()  # type: ignore[no-untyped-call]

    def _change(self, batch: Batch, progress: float) -> StepLoss:
        """Change the weights, and return what the batch cost before it."""
        loss = self.loss(batch, progress)
        self.backward(loss)
        if self.processes.count > 1:
            loss = self._add(loss)
        self.update()
        return StepLoss(loss.total.detach(), {name: part.detach() for name, part in loss.parts.items()})

    def _add(self, loss: StepLoss) -> StepLoss:
        """Add gradients and losses of all processes, and return the losses of the whole batch."""
        everything = {"": loss.total, **loss.parts}
        losses = {name: part.detach().to(torch.float32, copy=True) for name, part in everything.items()}
        parameters = (parameter for member in self.trained.values() for parameter in member.parameters)
        self.processes.add([*losses.values(), *(own.grad for own in parameters if own.grad is not None)])
        return StepLoss(losses.pop(""), losses)

    def update(self) -> None:
        """Change the weights."""
        for member in self.trained.values():
            member.optimizer.step()

    def follow(self) -> None:
        """Let the averages follow the weights."""
        for member in self.trained.values():
            if member.average is not None:
                member.average.update()

    def train_mode(self) -> None:
        """Switch the networks in training to training mode."""
        for member in self.trained.values():
            member.module.train()


def beneath(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names start with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
