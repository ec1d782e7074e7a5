"""The student's two paths through its sections, on its own IRs and on the teacher's, no work done twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from litfast.methods._kd import Seen
from litfast.models.sectioned import SectionedModel, fed
from litfast.models.twin import (
    counted_twice,
    is_per_sample,
    is_repeatable,
    is_same,
    statistics_held,
    twin_pass,
)

# A twin batch saves launches and costs copies: on a CPU it is slower than two passes, on a GPU it is for
# tensors so small that a kernel takes less time than its launch.
TWIN_DEVICES = ("cuda",)
TWIN_ELEMENTS = 1 << 22


class Paths:
    """Runs the sections of a LIT student; options as in `lit`.

    What is left out is exact, checked on the first batch of the phase and otherwise done in full: the own
    path takes the teacher's stem output where the student's stem is the teacher's; a section that then gets
    one input on both paths runs once; a later one runs once on both batches side by side where that pays.

    Args:
        teacher, student: sectioned alike; the student's stem is the teacher's copy already.
        chosen: indices of the sections that train.
    """

    def __init__(
        self,
        teacher: SectionedModel,
        student: SectionedModel,
        *,
        chosen: Sequence[int],
        ir_input: str,
        noise: float,
        bn_stats: str,
    ) -> None:
        self.student = student
        self.has_teachers_stem = is_same(teacher.stem, student.stem)
        self.chosen = tuple(chosen)
        self.noise = noise
        self.own_moves = bn_stats != "ir" or ir_input == "student"
        self.ir_moves = bn_stats != "own"
        self._verdicts: dict[str, bool] = {}

    def own(self, seen: Seen) -> tuple[list[Tensor], Tensor]:
        """The student's own IRs and logits."""
        irs = [self._stem_output(seen)]
        for i in range(len(self.student.sections)):
            irs.append(self._own_output(i, irs[-1], seen))
        return irs, self.student.head(irs[-1], seen.images)

    def both(self, seen: Seen) -> tuple[list[Tensor], Tensor]:
        """The chosen sections' outputs on the teacher's IRs, and the logits of the student's own path."""
        ir = self._stem_output(seen)
        outputs: dict[int, Tensor] = {}
        for i in range(len(self.student.sections)):
            if self._serves_both(i, ir, seen):
                outputs[i] = ir = self._run_once(i, ir, seen)
            elif self._is_twin(i, ir, seen):
                moved = (self.own_moves, self.ir_moves)
                section, taught = self.student.sections[i], self._teacher_ir(i, seen)
                ir, outputs[i] = twin_pass(section, ir, taught, moved=moved)
            else:
                ir = self._own_output(i, ir, seen)
        logits = self.student.head(ir, seen.images)
        return [outputs[i] if i in outputs else self.on_teacher_ir(i, seen) for i in self.chosen], logits

    def on_teacher_ir(self, i: int, seen: Seen) -> Tensor:
        """Section i's output on the teacher's IR, with noise where that is asked for."""
        ir = self._teacher_ir(i, seen)
        ir = ir + self.noise * torch.randn_like(ir) if self.noise else ir
        return self._run(i, ir, seen, moves=self.ir_moves)

    def move_statistics(self, seen: Seen) -> None:
        """The own path as far as its batch norms train, for their statistics alone."""
        ir = self._stem_output(seen)
        for i in range(max(self.chosen) + 1):
            ir = self._own_output(i, ir, seen)

    def _teacher_ir(self, i: int, seen: Seen) -> Tensor:
        """The IR that section i reads, in its own dtype; autocast casts for itself."""
        ir = seen.irs[i]
        if torch.is_autocast_enabled(ir.device.type):
            return ir
        return ir.to(next(self.student.sections[i].parameters()).dtype)

    def _own_output(self, i: int, ir: Tensor, seen: Seen) -> Tensor:
        return self._run(i, ir, seen, moves=self.own_moves)

    def _section(self, i: int, seen: Seen) -> nn.Module:
        return fed(self.student.sections[i], seen.images)

    def _run(self, i: int, ir: Tensor, seen: Seen, *, moves: bool) -> Tensor:
        section = self._section(i, seen)
        with nullcontext() if moves else statistics_held([section]):
            output: Tensor = section(ir)
        return output

    def _run_once(self, i: int, ir: Tensor, seen: Seen) -> Tensor:
        section = self._section(i, seen)
        with counted_twice([section]) if self.own_moves and self.ir_moves else nullcontext():
            output: Tensor = section(ir)
        return output

    def _stem_output(self, seen: Seen) -> Tensor:
        stem = self.student.stem
        if _moves(stem) or not self._verdict("stem", lambda: self._is_stem_shared(seen)):
            return self.student.enter(seen.images)
        return seen.irs[0]

    def _serves_both(self, i: int, ir: Tensor, seen: Seen) -> bool:
        if ir is not seen.irs[i] or i not in self.chosen or self.noise:
            return False
        return self._verdict(f"once {i}", lambda: is_repeatable(self._section(i, seen), ir))

    def _is_twin(self, i: int, ir: Tensor, seen: Seen) -> bool:
        if i not in self.chosen or self.noise or self.student.sections[i].needs:
            return False  # a mask has rows for one batch alone
        if ir.device.type not in TWIN_DEVICES or ir.numel() > TWIN_ELEMENTS:
            return False
        section, taught = self.student.sections[i], self._teacher_ir(i, seen)
        return self._verdict(
            f"twin {i}", lambda: is_repeatable(section, ir) and is_per_sample(section, ir, taught)
        )

    @torch.no_grad()
    def _is_stem_shared(self, seen: Seen) -> bool:
        # a teacher in another precision gives IRs of another dtype
        return self.has_teachers_stem and seen.irs[0].dtype == self.student.enter(seen.images).dtype

    def _verdict(self, question: str, answer: Callable[[], bool]) -> bool:
        """Asked once, on the first batch: an answer runs forward passes; that on a twin reads the device."""
        if question not in self._verdicts:
            self._verdicts[question] = answer()
        return self._verdicts[question]


def _moves(part: nn.Module) -> bool:
    """Whether training changes what `part` computes: a leaf in train mode, or a trained parameter."""
    leaves = (module for module in part.modules() if module is not part and not module._modules)
    return any(leaf.training for leaf in leaves) or any(p.requires_grad for p in part.parameters())
