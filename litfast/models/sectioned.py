"""Any torch model as stem, sections and head, split by submodule names, without hooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from litfast.models._split import Part, named, split
from litfast.models._trace import input_names
from litfast.models._whole import Whole


class SectionedModel(nn.Module):
    """A model and the parts of its forward pass: stem -> sections[0] -> ... -> sections[S-1] -> head.

    The stem is everything before the first named submodule; section i ends with the output of names[i-1] and
    begins where the one before it ended, so what lies between two named submodules belongs to the later one;
    the head is the rest. The parts read the submodules of `model`: they own nothing, `model` is the only
    child, and weights, moves and copies of this module are those of `model`, keys included.

    Attributes:
        model: the model as it came, with its own keys.
        names: the submodules that end the sections.
        inputs: the parameters of the model's forward pass that a batch gives, by name.
        stem, sections, head: the parts, callable modules over the very parameters and buffers of `model`.
        uncut: why there are no sections: the head is the whole model then, irs[0] what it reads; else "".
        spec: how `create` made it, or None; JSON-able, and `create(**spec)` makes it again.
    """

    stem: Part | Whole
    sections: tuple[Part, ...]
    head: Part | Whole

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        *,
        inputs: Sequence[str] | None = None,
        spec: dict[str, Any] | None = None,
        uncut: str = "",
    ) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(names)
        self.uncut = uncut
        self.inputs = input_names(model, inputs)
        self.spec = spec
        self.training = model.training
        self._cut()

    def forward(self, x: Any) -> Tensor:
        logits: Tensor = self.model(x) if len(self.inputs) == 1 else self.model(**named(x, self.inputs))
        return logits

    def observe(self, x: Any) -> tuple[list[Tensor], Tensor]:
        """The intermediate representations and the logits of one pass.

        Args:
            x: a batch of inputs, [B, ...]; of a model with several a mapping by name, or a tuple in the order
                of `inputs`.

        Returns:
            irs: S + 1 tensors; irs[0] is the stem's output, irs[i] = sections[i-1](irs[i-1]).
            logits: [B, K], head(irs[S]).
        """
        irs = [self.enter(x)]
        for section in self.sections:
            irs.append(section(irs[-1], x))
        return irs, self.head(irs[-1], x)

    def span(self, x: Any, start: int, last: int, ir: Tensor | None = None) -> list[Tensor]:
        """The intermediate representations irs[start] to irs[last + 1] of `observe`, and nothing behind them.

        Args:
            x: as in `observe`.
            start, last: sections, from 0.
            ir: irs[start]; None: it is computed from `x`.
        """
        irs = [self.enter(x) if ir is None else ir]
        for section in self.sections[0 if ir is None else start : last + 1]:
            irs.append(section(irs[-1], x))
        return irs[start:] if ir is None else irs

    def enter(self, x: Any) -> Tensor:
        """The stem's output for a batch as `observe` takes it: irs[0]."""
        first = x if isinstance(x, Tensor) else named(x, self.inputs)[self.inputs[0]]
        out: Tensor = self.stem(first, x)
        return out

    def become(self, other: SectionedModel) -> None:
        """Take over the model of `other`, its sections and its spec: surgery that keeps this object."""
        self.model, self.names, self.spec = other.model, other.names, other.spec
        self.inputs, self.uncut = other.inputs, other.uncut
        self._cut()

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        return self.model.state_dict(*args, **kwargs)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        result = self.model.load_state_dict(state_dict, strict=strict, assign=assign)
        if assign:  # new parameter objects: the parts must list them
            self._cut()
        return result

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # as a child of another module: torch would look for `model.` in the keys that state_dict leaves plain
        for key in [key for key in state_dict if key.startswith(prefix)]:
            state_dict[f"{prefix}model.{key.removeprefix(prefix)}"] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _cut(self) -> None:
        stem: Part | Whole
        head: Part | Whole
        sections: Sequence[Part]
        if self.uncut:
            stem, sections, head = Whole(None, self.inputs), (), Whole(self.model, self.inputs)
        else:
            stem, *sections, head = split(self.model, self.names, self.inputs)
        # past nn.Module's own __setattr__, which would register them and double every key
        self.__dict__.update(stem=stem, sections=tuple(sections), head=head)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("stem", "sections", "head")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._cut()


class Fed(nn.Module):
    """A part that reads more than one input, with a batch to read them from: a module of one tensor."""

    def __init__(self, part: Part, batch: Any) -> None:
        super().__init__()
        self.part = part
        self.batch = batch

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.part(x, self.batch)
        return out


def check_sections(who: str, **models: SectionedModel) -> None:
    """Refuse models without sections, for a method that needs them; by their role.

    Raises:
        ValueError: one of them has none.
    """
    for role, model in models.items():
        if not model.names:
            raise ValueError(f"{who}: {role} must have sections, got none: {model.uncut}")


def fed(part: Part, batch: Any) -> nn.Module:
    """`part` as a module of one tensor: itself, unless it needs other inputs from the batch."""
    return Fed(part, batch) if part.needs else part


def sectioned(
    model: nn.Module, names: Sequence[str], *, inputs: Sequence[str] | None = None
) -> SectionedModel:
    """Split any torch model at the named submodules: `sectioned(net, ["layer1", "layer2", "layer3"])`.

    Only the code outside the named submodules is traced (torch.fx), so anything may happen inside a section.

    Args:
        model: takes one tensor, or `inputs`; returns logits [B, K].
        names: submodules in the order of the forward pass; each ends one section. Part of a list of modules,
            such as the layers of a transformer, is a slice: `["encoder.layers[0:3]", "encoder.layers[3:6]"]`.
        inputs: the parameters of `model.forward` that a batch gives, where there are several; all others take
            their defaults. What follows from those behind the first alone, such as a mask, may be read in
            every section.

    Raises:
        ValueError: a name that is no submodule, or a forward pass that does not run through them in a line.
    """
    return SectionedModel(model, names, inputs=inputs)
