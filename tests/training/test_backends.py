"""Every engine trains, judges and saves like one process: same loss, same captions, and a checkpoint for all.

The files under test are those of configs/accelerate and configs/deepspeed, as they are. Two CPU processes suffice; for
FSDP2 `backend_run.py` keeps accelerate from falling back to DDP there.
"""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

import backend_run
import pytest

from hfcap.data.caption_dataset import CaptionDataset
from hfcap.generation.caption import caption_rows
from hfcap.generation.loading import load_captioner
from hfcap.models.model_types import MODEL_TYPES

ROOT = Path(__file__).parents[2]
# A model type of each family of the table; of the native ones two that are built differently.
FAMILIES = {
    "llava": "hfcap_llava",
    "encoder_decoder": "hfcap_encoder_decoder",
    "native_llava": "llava",
    "native_idefics3": "idefics3",
}
CELLS = tuple(
    f"{family}/{strategy}"
    for family, model_type in FAMILIES.items()
    for strategy in MODEL_TYPES[model_type].strategies
)
DEEPSPEED = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason='needs DeepSpeed: pip install -e ".[deepspeed]"'
)
ENGINES = {
    "ddp": ("ddp.yaml", {"distributed_type": "MULTI_CPU", "wrapped": "DistributedDataParallel", "stage": None}),
    **{
        f"zero{stage}": (
            f"deepspeed_zero{stage}.yaml",
            {"distributed_type": "DEEPSPEED", "wrapped": "DeepSpeedEngine", "stage": stage},
        )
        for stage in (1, 2, 3)
    },
    "fsdp2": ("fsdp2.yaml", {"distributed_type": "FSDP", "stage": None}),
}
ENGINES["two nodes"] = ("multi_node.yaml", ENGINES["ddp"][1])
NODES = {"two nodes": 2}
NO_QLORA = ("fsdp2",)
WITH_BATCH_NORM = "cnn_encoder_decoder"
# Positions in three dimensions, and prefixes read in both directions; two of them have processors for video.
PREFIXED = ["native_paligemma"]
if importlib.util.find_spec("torchvision"):
    PREFIXED += ["native_gemma3", "native_qwen3_vl"]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """Results of one process by cell and number of steps, run here when they are first asked for."""
    root = tmp_path_factory.mktemp("one")
    for family in (*FAMILIES, WITH_BATCH_NORM, *PREFIXED):
        backend_run.save_base(root / family, family)

    @cache
    def result(cell, steps):
        return backend_run.run_cell(root, root / f"{cell.replace('/', '-')}-{steps}", cell, steps)

    result.root = root
    return result


@pytest.fixture(scope="module", autouse=True)
def extensions_of_this_run(tmp_path_factory):
    """DeepSpeed compiles an extension when it starts, and waits for ever for a lock that a killed compilation left."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path_factory.mktemp("torch_extensions")))
        yield


def launch(config, folder, steps, cells, nodes=1):
    """Run cells by `accelerate launch`, with as many launchers as there are nodes, all on this machine."""
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    options = [["--main_process_port", "0"]]
    if nodes > 1:
        meeting_point = ["--main_process_ip", "127.0.0.1", "--main_process_port", str(free_port())]
        options = [["--machine_rank", str(rank), *meeting_point] for rank in range(nodes)]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    launcher += [str(ROOT / "configs" / "accelerate" / config)]
    script = [backend_run.__file__, str(folder), str(steps), *cells]
    logs = [folder / f"node-{rank}.log" for rank in range(nodes)]
    processes = []
    try:
        for own, log in zip(options, logs, strict=True):
            with open(log, "w") as file:
                command = [*launcher, *own, *script]
                processes.append(subprocess.Popen(command, stdout=file, stderr=file, env=environment, cwd=ROOT))
        codes = [process.wait(timeout=backend_run.LONGEST + 60) for process in processes]
    finally:
        for process in processes:
            process.terminate()  # passed on to what it launched; nothing where it has ended
    assert codes == [0] * nodes, "\n".join(log.read_text()[-4000:] for log in logs)
    return {cell: backend_run.read_result(folder / cell.replace("/", "-")) for cell in cells}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def launch_from_the_same_base(engine, tmp_path, one_process, cells):
    for family in {cell.split("/")[0] for cell in cells}:
        shutil.copytree(one_process.root / family, tmp_path / family)
    return launch(ENGINES[engine][0], tmp_path, 2, cells, NODES.get(engine, 1))


def assert_engine_ran(engine, result):
    processes = {"processes": 2, "processes_a_node": 2 // NODES.get(engine, 1)}
    assert result["engine"].items() >= (ENGINES[engine][1] | processes).items()
    assert (result["engine"]["partitioned"] > 0) == (engine == "zero3")
    assert result["engine"]["sharded"] == (engine == "fsdp2")


def assert_same(result, expected):
    assert result["losses"] == pytest.approx(expected["losses"], rel=1e-5)
    assert result["grad_norms"] == pytest.approx(expected["grad_norms"], rel=1e-4)
    assert result["captions"] == expected["captions"]
    assert len({caption for _, caption in expected["captions"]}) > 1  # a wrong order would show
    assert result["first"] == [expected["captions"][0][1]]
    for key in ("eval_bleu_1", "eval_bleu_4", "eval_rouge_l", "eval_cider"):
        assert result["eval"][key] == expected["eval"][key], key
    assert result["eval"]["eval_loss"] == pytest.approx(expected["eval"]["eval_loss"], rel=1e-5)


def assert_loads_with_the_same_captions(folder, cell, expected):
    """`from_pretrained` in this process, which trained none of it."""
    model, processor = load_captioner(str(folder / "model"), load_in_4bit=cell.endswith("qlora"))
    rows = backend_run.rows_to_judge(model.config)
    captions = caption_rows(model, processor, CaptionDataset(rows), backend_run.prompt_of(model.config))
    assert captions == [caption for _, caption in expected["captions"]]


@pytest.mark.parametrize("engine", ["ddp", "fsdp2", pytest.param("zero3", marks=DEEPSPEED)])
def test_two_processes_equal_one(engine, tmp_path, one_process):
    cells = ("llava/full", "encoder_decoder/full")
    for cell, result in launch_from_the_same_base(engine, tmp_path, one_process, cells).items():
        assert_engine_ran(engine, result)
        assert_same(result, one_process(cell, 2))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp2", *(pytest.param(f"zero{s}", marks=DEEPSPEED) for s in (1, 2, 3))])
def test_every_cell(engine, tmp_path, one_process):
    cells = [cell for cell in CELLS if not (engine in NO_QLORA and cell.endswith("qlora"))]
    results = launch_from_the_same_base(engine, tmp_path, one_process, cells)
    for cell, result in results.items():
        assert_engine_ran(engine, result)
        assert_same(result, one_process(cell, 2))
        assert_loads_with_the_same_captions(tmp_path / cell.replace("/", "-"), cell, result)
    # From the checkpoint of step 2 to step 4, with the engine that wrote it.
    resumed = ("llava/full", "llava/lora" if engine in NO_QLORA else "llava/qlora")
    for cell, result in launch(ENGINES[engine][0], tmp_path, 4, resumed).items():
        assert_same(result, one_process(cell, 4))


@pytest.mark.slow
def test_packed_rows_of_other_prefixes(tmp_path, one_process):
    cells = [f"{family}/{strategy}" for family in PREFIXED for strategy in ("full", "qlora")]
    for cell, result in launch_from_the_same_base("ddp", tmp_path, one_process, cells).items():
        assert_engine_ran("ddp", result)
        expected = one_process(cell, 2)
        assert result["losses"] == pytest.approx(expected["losses"], rel=1e-5)
        assert result["grad_norms"] == pytest.approx(expected["grad_norms"], rel=1e-4)
        assert result["captions"] == expected["captions"]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp2", pytest.param("zero3", marks=DEEPSPEED)])
def test_activation_checkpointing_of_a_captioner_with_unused_layers(engine, tmp_path, one_process):
    """LLaVA leaves the last layer of its encoder out: DDP must look for parameters without a gradient."""
    cells = ("native_llava/full/checkpointing", "llava/full/checkpointing")
    for cell, result in launch_from_the_same_base(engine, tmp_path, one_process, cells).items():
        assert_engine_ran(engine, result)
        assert_same(result, one_process(cell, 2))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp2", pytest.param("zero3", marks=DEEPSPEED)])
def test_buffers_stay_whole_and_the_best_checkpoint_is_kept(engine, tmp_path, one_process):
    normed, best = f"{WITH_BATCH_NORM}/full", "llava/full/best"
    results = launch_from_the_same_base(engine, tmp_path, one_process, (normed, best))
    for result in results.values():
        assert_engine_ran(engine, result)
    assert_same(results[normed], one_process(normed, 2))
    assert_loads_with_the_same_captions(tmp_path / normed.replace("/", "-"), normed, results[normed])

    first, last = results[best]["eval_losses"]
    assert first < last
    assert first == pytest.approx(one_process(best, 2)["eval_losses"][0], rel=1e-5)
    assert results[best]["eval"]["eval_loss"] == pytest.approx(first, rel=1e-5)


@pytest.mark.slow
def test_fsdp2_in_bfloat16_equals_ddp(tmp_path, one_process):
    """One process rounds other sums, of batches twice as large."""
    cells = ("llava/full/bfloat16", "encoder_decoder/frozen_encoder/bfloat16")
    ddp = launch_from_the_same_base("ddp", tmp_path / "ddp", one_process, cells)
    fsdp2 = launch_from_the_same_base("fsdp2", tmp_path / "fsdp2", one_process, cells)
    for cell in cells:
        assert_engine_ran("fsdp2", fsdp2[cell])
        assert_same(fsdp2[cell], ddp[cell])
        assert_loads_with_the_same_captions(tmp_path / "fsdp2" / cell.replace("/", "-"), cell, fsdp2[cell])


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp2", *(pytest.param(f"zero{s}", marks=DEEPSPEED) for s in (1, 2, 3))])
def test_all_processes_stop_where_the_loss_of_one_is_not_finite(engine, tmp_path, one_process):
    cell = "llava/full/diverges"
    result = launch_from_the_same_base(engine, tmp_path, one_process, [cell])[cell]
    assert_engine_ran(engine, result)
    said = "the loss is nan in step 2, at a learning rate of 0.001"
    assert [reason[: len(said)] for reason in result["reasons"]] == [said] * 2
    assert result["saved"] == ["checkpoint-1"]


@pytest.mark.slow
def test_two_nodes_on_one_machine_equal_one_process(tmp_path, one_process):
    cells = ("llava/full", "encoder_decoder/full", "native_llava/qlora")
    for cell, result in launch_from_the_same_base("two nodes", tmp_path, one_process, cells).items():
        assert_engine_ran("two nodes", result)
        assert_same(result, one_process(cell, 2))
        assert_loads_with_the_same_captions(tmp_path / cell.replace("/", "-"), cell, result)
    result = launch(ENGINES["two nodes"][0], tmp_path, 4, ["llava/full"], nodes=2)["llava/full"]
    assert_same(result, one_process("llava/full", 4))


@pytest.mark.slow
def test_a_checkpoint_of_two_processes_goes_on_in_one(tmp_path, one_process):
    launch_from_the_same_base("ddp", tmp_path, one_process, ["llava/full", "llava/qlora"])
    for strategy in ("full", "qlora"):
        result = backend_run.run_cell(tmp_path, tmp_path / f"llava-{strategy}", f"llava/{strategy}", 4)
        assert result["engine"]["processes"] == 1
        assert_same(result, one_process(f"llava/{strategy}", 4))
