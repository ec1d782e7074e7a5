"""The loss op in Triton, in two launches: `ir.first_pass` over all sections, then `kd.rows`, which finishes.

Two, not one: the gradient of the logits is divided by the number of valid rows, and the ticket that says
which program is the last must be 0 before the first one draws. The first launch does both on the side.
Without logits `finish_irs` is the second launch; the losses of single rows need no first one.
"""

from __future__ import annotations

import torch
import triton

from .._dispatch import Call
from .._library import Results, new_results
from ._reduce import Workspace, finish_irs
from .ir import OPTIONS, Sections
from .kd import Logits


def lit(call: Call) -> Results:
    """The op of _library.py."""
    results = total, parts, correct, gradients = new_results(call)
    with torch.cuda.device_of(total):
        sections = Sections(call, gradients)
        S, P = len(sections.sizes), max(sections.programs, default=0)
        if call.student is None or call.teacher is None:
            work = Workspace(total.device, sections=S, programs=P, rows=0)
            sections.run(work, None, 0)
            coefficients, width = (call.beta, call.scale, call.coefficients), triton.next_power_of_2(S)
            finish_irs[(1,)](
                work.memory, total, parts, correct, *coefficients, S, P, SECTIONS=width, **OPTIONS
            )
        else:
            logits = Logits(call, call.student, call.teacher)
            work = Workspace(total.device, sections=S, programs=P, rows=logits.programs)
            if call.reduction != "none":
                sections.run(work, logits.counted, logits.counters)
            logits.run(work, results)
    return results
