"""bench/clients.py: a closed loop of threads, and contenders that take turns."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from litfast.bench import clients, compare, lane, latency, measure, report, sheet
from litfast.models import Input

QUICK: dict[str, Any] = {
    "input": Input((2,)),
    "batches": (3,),
    "modes": ("eager",),
    "precisions": ("fp32",),
    "seconds": 0.02,
    "threads": 1,
}


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "BLOCK_S", 1e-9)
    monkeypatch.setattr(latency, "MIN_ROUNDS", 1)
    monkeypatch.setattr(latency, "MAX_ROUNDS", 1)
    monkeypatch.setattr(clients, "SLICES", 2)


class Asleep(nn.Module):
    """Takes its time, but no core; knows how many callers it had at once."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))  # sizes are counted where there is one
        self.seconds = seconds
        self.lock = threading.Lock()
        self.callers = self.most = 0
        self.inference: set[bool] = set()  # whether that was on, in the clients' threads

    def __deepcopy__(self, memo: object) -> Asleep:
        return self

    def forward(self, samples: Tensor) -> Tensor:
        with self.lock:
            if threading.current_thread() is not threading.main_thread():
                self.inference.add(torch.is_inference_mode_enabled())
            self.callers += 1
            self.most = max(self.most, self.callers)
        time.sleep(self.seconds)
        with self.lock:
            self.callers -= 1
        return samples + 1


def test_so_many_clients_ask_at_once_and_wait_for_their_answer() -> None:
    model = Asleep(0.004)
    (row,) = measure({"a": model}, **QUICK, clients=(1, 3))
    one, three = row.loads
    assert model.most == 3 and model.inference == {True}
    assert (one.clients, three.clients) == (1, 3)
    for load in row.loads:
        assert load.reason is None and load.requests >= 2 * load.clients
        assert 4 <= load.p50_ms <= load.p90_ms <= load.p95_ms <= load.p99_ms
        assert load.samples_per_s == 3 * load.requests_per_s
        # a client's next request begins where its last one ended
        assert load.requests_per_s <= load.clients / 0.004
    assert three.requests_per_s > one.requests_per_s


def test_the_faster_one_serves_more_and_the_tables_say_so() -> None:
    document = compare({"slow": Asleep(0.008), "fast": Asleep(0.002)}, **QUICK, clients=(2,))
    (ratio,) = document["ratios"]
    (load,) = ratio["loads"]
    assert load["clients"] == 2 and load["speedup"] > 1.5 and load["tie"] is False
    assert document["checks"][load["check"]] is True
    assert "rates" not in document["rows"][0]["loads"][0]
    table = sheet.throughput(document)
    assert table is not None and [row[3:5] for row in table.rows] == [["slow", "2"], ["fast", "2"]]
    assert table.rows[1][-1].endswith(")") and "x (" in table.rows[1][-1]
    assert "### Throughput" in report.markdown(document)


def test_what_several_threads_cannot_run_has_a_reason_and_the_other_one_a_rate() -> None:
    class OneThread(Asleep):
        def forward(self, samples: Tensor) -> Tensor:
            if threading.current_thread() is not threading.main_thread():
                raise RuntimeError("not from here")
            return samples

    document = compare({"one": OneThread(0), "any": Asleep(0)}, **QUICK, clients=(2,))
    one, other = (row["loads"][0] for row in document["rows"])
    assert one["reason"] == "not from here" and one["requests_per_s"] is None
    assert other["reason"] is None and other["requests_per_s"] > 0
    assert document["ratios"][0]["loads"] == []
    assert "one eager fp32 batch 3, 2 clients: no throughput: not from here" in report.notes(document)


def test_the_client_that_failed_says_why_and_not_those_that_waited_for_it() -> None:
    class SecondAsks(Asleep):
        def forward(self, samples: Tensor) -> Tensor:
            if threading.current_thread() is not threading.main_thread():
                with self.lock:
                    self.callers += 1
                    first = self.callers == 1
                if not first:
                    time.sleep(0.05)  # the first one waits by now
                    raise RuntimeError("the second was refused")
            return samples

    (row,) = measure({"a": SecondAsks(0)}, **QUICK, clients=(2,))
    assert row.loads[0].reason == "the second was refused"


def test_a_graph_has_one_memory_for_all_requests() -> None:
    def run(samples: Tensor) -> Tensor:
        return samples

    ready = lane.Lane(contender="a", mode="graph", samples=torch.zeros(1), runner=run, tolerance=1.0)
    clients.loads([ready], [1, 2], 0.01)
    alone, two = ready.loads
    assert alone.requests > 0
    assert two.reason == "graph: clients must be 1 (its requests share one memory), got 2"


def test_without_clients_there_is_no_table() -> None:
    assert sheet.throughput(compare({"a": Asleep(0)}, **QUICK)) is None
