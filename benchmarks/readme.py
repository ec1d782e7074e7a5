"""Write the tables of README.md from the records; `--check` only says whether they are up to date."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from litfast.bench import record

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
ROWS = {
    "scratch": "scratch, hard labels",
    "kd": "KD",
    "lit_joint": "LIT, joint loss, random start",
    "lit_independent": "LIT, independent sections, random start",
    "lit_teacher_blocks": "**LIT, independent sections, from the teacher's blocks**",
    "lit_teacher_blocks_fp32": "the same in fp32",
}
FAMILIES = {  # the student and its data: training -> record
    "VDCNN-9 from VDCNN-17, 4,000 Amazon polarity reviews of 256 characters": {
        "scratch": "amazon_polarity_4000_vdcnn9_scratch",
        "KD": "amazon_polarity_4000_vdcnn9_kd",
        "LIT": "amazon_polarity_4000_vdcnn9_lit",
    },
    "the same from all 21,000 reviews that the teacher saw": {
        "scratch": "amazon_polarity_21000_vdcnn9_scratch",
        "LIT": "amazon_polarity_21000_vdcnn9_lit",
    },
    "ResNeXt-20 from ResNeXt-32 (width 16), 4,000 CIFAR-10 images": {
        "scratch": "cifar10_4000_resnext20_scratch",
        "LIT": "cifar10_4000_resnext20_lit",
    },
    "ResNet-20 from ResNet-20, 4,000 CIFAR-10 images": {
        "BAN": "cifar10_4000_resnet20_ban",
        "LIT": "cifar10_4000_resnet20_lit",
    },
    "StarGAN of 1 block from 4, 10,000 images of CIFAR-10 JPEG-q75: FID": {
        "scratch": "cifar10_jpeg_stargan1_scratch",
        "LIT": "cifar10_jpeg_stargan1_lit",
    },
}
TRAININGS = ("scratch", "KD", "BAN", "LIT")
TEACHER, STUDENT = "teacher", "student"  # of a run
NEIGHBOURS = {  # the system and its task: what stands beside it, and itself; (record, model of the run)
    "FitNets: ResNet-32 of width 8 beside labels alone, 4,000 CIFAR-10 images": (
        ("cifar10_4000_resnet32_scratch", STUDENT),
        ("cifar10_4000_resnet32_fitnets", STUDENT),
    ),
    "network slimming: ResNet-56, 40 % of the inner channels removed, 4,000 CIFAR-10 images": (
        ("cifar10_4000_resnet56_slim", TEACHER),
        ("cifar10_4000_resnet56_slim", STUDENT),
    ),
    "deep compression: LeNet-300-100, MNIST": (
        ("mnist_lenet300_compressed", TEACHER),
        ("mnist_lenet300_compressed", STUDENT),
    ),
    "deep compression: LeNet-5, MNIST": (
        ("mnist_lenet5_compressed", TEACHER),
        ("mnist_lenet5_compressed", STUDENT),
    ),
    "MetaDistiller: ResNet-20 beside labels alone, 4,000 images of CIFAR-10 JPEG-q75": (
        ("cifar10_jpeg_4000_resnet20_scratch", STUDENT),
        ("cifar10_jpeg_4000_resnet20_metadistiller", STUDENT),
    ),
    "GroupReduce: LSTM over War and Peace, its ends at a tenth, perplexity; beside a plain SVD": (
        ("war_and_peace_lstm_svd", STUDENT),
        ("war_and_peace_lstm_groupreduce", STUDENT),
    ),
    "the same beside the dense model": (
        ("war_and_peace_lstm_groupreduce", TEACHER),
        ("war_and_peace_lstm_groupreduce", STUDENT),
    ),
    "the same, its factors in 8 bits": (
        ("war_and_peace_lstm_groupreduce", STUDENT),
        ("war_and_peace_lstm_groupreduce8", STUDENT),
    ),
}
FUZZ = {  # whose cases -> records
    "drawn by hypothesis": ("fuzz_recipes_cpu", "fuzz_data_cpu", "fuzz_weights_cpu", "fuzz_ops_cpu"),
    "sought by atheris": ("fuzz_data_guided_cpu", "fuzz_weights_guided_cpu"),
}
LOADERS = ("pil", "batched crop", "torch", "dali", "resident")
STEP = ("plain", "plain compile", "fused ops", "+ folded teacher", "+ work elimination")


def results() -> str:
    """One row a method, from its record; then how long the best one takes in bf16."""
    lines = ["| training of the ResNet-20 | test accuracy | seeds |", "|---|---|---|"]
    for name, label in ROWS.items():
        found = record.read(RESULTS / f"cifar10_4000_{name}.json")["results"]
        spread = "" if found["std"] is None else f" ± {found['std']:.2f}"
        lines.append(f"| {label} | {found['mean']:.2f} %{spread} | {len(found['test_accuracy'])} |")
    best = record.read(RESULTS / "cifar10_4000_lit_teacher_blocks.json")["results"]
    minutes = min(best["command_seconds"]) / 60
    took = (
        f"LIT from the teacher's blocks, in bf16, takes {minutes:.1f} minutes on {best['threads']} CPU cores."
    )
    return "\n".join([*lines, "", took])


def families() -> str:
    """One row a student, one column a training, from its record; the teacher's figure as LIT's run has it."""
    lines = [f"| student | teacher | {' | '.join(TRAININGS)} |", "|---" * (len(TRAININGS) + 2) + "|"]
    for student, names in FAMILIES.items():
        runs = {way: record.read(RESULTS / f"{name}.json")["results"] for way, name in names.items()}
        cells = [score(runs.get(way), "student") for way in TRAININGS]
        lines.append(f"| {student} | {score(runs['LIT'], 'teacher')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def neighbours() -> str:
    """One row a system: what stands beside it and what it makes, each with its bytes on disk."""
    lines = ["| system and task | beside it | with it |", "|---|---|---|"]
    for task, sides in NEIGHBOURS.items():
        cells = [told(record.read(RESULTS / f"{name}.json")["results"], model) for name, model in sides]
        lines.append(f"| {task} | {' | '.join(cells)} |")
    return "\n".join(lines)


def told(results: Mapping[str, Any], model: str) -> str:
    """Mean score over the seeds, before a fine-tuning where surgery came first, and bytes on disk."""
    metric, unit = ("perplexity", "") if "test_perplexity" in results else ("accuracy", " %")
    values = [run[f"test_{metric}"][model] for run in results["runs"]]
    said = f"{fmean(values):.2f}{unit}"
    if len(values) > 1:
        said += f" ± {stdev(values):.2f} ({len(values)} seeds)"
    run = results["runs"][0]
    if model == STUDENT and TEACHER in run[f"test_{metric}"] and "finetune" in run.get("test_by_phase", {}):
        before = run["test_by_phase"]["finetune"]["before"][metric]
        said += f" ({before:.2f}{unit} before its fine-tuning)"
    sizes = {one["name"]: one["weights_bytes"] for one in run.get("models", ())}
    return f"{said}, {sizes[model] / 1000:,.0f} kB" if sizes else said


def score(results: Mapping[str, Any] | None, model: str) -> str:
    """The test accuracy of a record's first run, or the FID of a generator."""
    if results is None:
        return "-"
    run = results["runs"][0]
    if "fid" in results:
        return f"{run['scores'][model]['fid']:.2f}"
    return f"{run['test_accuracy'][model]:.2f} %"


def grouped(document: Mapping[str, Any]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """The rows of a record by group, then by contender, in its order."""
    groups: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in document["results"]:
        groups.setdefault(row["group"], {})[row["contender"]] = row
    return groups


def ops() -> str:
    """One row a sample of the loss ops, in the order of the record."""
    document = record.read(RESULTS / "ops_cpu.json")
    groups = grouped(document)
    cores = f"{document['machine']['threads']} cores"
    lines = [
        f"| loss and gradient, {cores} | ms | of the triad | than eager | than compile | memory |",
        "|---|---|---|---|---|---|",
    ]
    for group, contenders in groups.items():
        ours = contenders["cpp"]
        roof = 1 / contenders["triad"]["speedup"]
        gains = [gain(contenders.get(name)) for name in ("eager", "compile")]
        memory = [
            f"{contenders[name]['peak_bytes'] / ours['gradient_bytes']:.1f}" if name in contenders else "-"
            for name in ("cpp", "eager", "compile")
        ]
        cells = [group, f"{ours['median_ms']:.3g}", f"{roof:.2f}x", *gains, ", ".join(memory)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def steps() -> str:
    """One row a contender of the training step, one column a case, in the order of the record."""
    document = record.read(RESULTS / "step_cpu.json")
    groups = grouped(document)
    names = [name for name in STEP if any(name in contenders for contenders in groups.values())]
    cores = f"{document['machine']['threads']} cores"
    lines = [f"| a step, {cores} | {' | '.join(groups)} |", "|---" * (len(groups) + 1) + "|"]
    for name in names:
        cells = [step(contenders.get(name)) for contenders in groups.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def data() -> str:
    """One row a loader, one column a case, in the order of the record."""
    document = record.read(RESULTS / "data_cpu.json")
    groups = grouped(document)
    cores = f"{document['machine']['threads']} cores"
    lines = [f"| images/s, {cores} | {' | '.join(groups)} |", "|---" * (len(groups) + 1) + "|"]
    for name in LOADERS:
        found = [contenders.get(name) for contenders in groups.values()]
        lines.append(f"| {name} | {' | '.join(map(rate, found))} |")
    return "\n".join(lines)


def parts() -> str:
    """One row a way to train independent sections on two cores."""
    found = record.read(RESULTS / "parts_cpu.json")["results"]
    case = found["case"]
    lines = [
        f"| {case['teacher']} -> {case['student']}, B={case['batch']} | a step | predicted | speed-up |",
        "|---|---|---|---|",
    ]
    for row in found["contenders"]:
        predicted = "-" if row["predicted_s"] is None else f"{1000 * row['predicted_s']:.0f} ms"
        faster = "tie" if row["tie"] else f"{row['speedup']:.2f}x"
        lines.append(f"| {row['contender']} | {1000 * row['step_s']:.0f} ms | {predicted} | {faster} |")
    return "\n".join(lines)


def faults() -> str:
    """What was done to litfast, how often, and how often it held."""
    found = record.read(RESULTS / "endurance_cpu.json")["results"]
    kills, soak = found["kills"], found["soak"]
    before, after = soak["open_files"]
    lines = [
        "| what happened | how often | |",
        "|---|---|---|",
        f"| SIGKILL at a random moment of every phase | {kills['count']} | "
        f"{kills['bit_equal']} resumed to bit-equal weights |",
        f"| steps on end | {soak['steps']:,} | memory grew by {soak['rss_growth_mib']:.1f} of "
        f"{soak['rss_mib']:.0f} MiB, open files {before} -> {after}, checkpoints by "
        f"{soak['checkpoint_bytes_growth']} bytes |",
    ]
    for how, names in FUZZ.items():
        tried = [record.read(RESULTS / f"{name}.json")["results"] for name in names]
        targets = sum(len(one["targets"]) for one in tried)
        cases, accepted, refused = (
            sum(one[key] for one in tried) for key in ("cases", "accepted", "refused")
        )
        lines.append(
            f"| hostile input of {targets} targets, {how} | {cases:,} | "
            f"{accepted:,} taken whole, {refused:,} refused in one line |"
        )
    return "\n".join(lines)


def rate(row: Mapping[str, Any] | None) -> str:
    """Images a second, or the seconds of a start."""
    if row is None:
        return "-"
    return f"{row['images_per_s']:,.0f}" if "images_per_s" in row else f"{row['median_ms'] / 1000:.2g} s"


def step(row: Mapping[str, Any] | None) -> str:
    """Time and peak memory of a contender, and how many times faster the last rung is."""
    if row is None:
        return "-"
    than = f", {gain(row)}" if "of" in row else ""
    return f"{row['median_ms']:.0f} ms, {row['peak_bytes'] / 2**20:.0f} MB{than}"


def gain(row: Mapping[str, Any] | None) -> str:
    """How many times faster litfast is than the contender of this row."""
    if row is None:
        return "-"
    return "tie" if row["tie"] else f"{row['speedup']:.1f}x"


TABLES = {
    "results": results,
    "families": families,
    "neighbours": neighbours,
    "ops": ops,
    "step": steps,
    "data": data,
    "parts": parts,
    "faults": faults,
}


def main() -> None:
    path = ROOT / "README.md"
    text = fresh = path.read_text()
    for name, table in TABLES.items():
        begin, end = f"<!-- {name} -->\n", f"\n<!-- /{name} -->"
        head, rest = fresh.split(begin)
        _, tail = rest.split(end)
        fresh = f"{head}{begin}{table()}{end}{tail}"
    if "--check" in sys.argv[1:]:
        sys.exit(0 if fresh == text else "README.md: its tables must match the records, got others")
    path.write_text(fresh)


if __name__ == "__main__":
    main()
