"""The stage prune: what it leaves, and what it refuses."""

import json

import mlx.core as mx
import pytest

from afm_mlx.compat import import_mlx_lm
from afm_mlx.decoder.checkpoint import open_checkpoint, read_facts
from afm_mlx.decoder.decoder import count_parameters
from afm_mlx.errors import ModelError

TEXTS = ("tokenizer", "data", "teacher")


def test_pruned_model_is_the_recipe_s_shape_and_starts_core(finished):
    student = open_checkpoint(finished.stage("prune") / "model")
    assert student.shape.intermediate_size == 24
    core = json.loads((finished.stage("core") / "manifest.json").read_text())
    prune = json.loads((finished.stage("prune") / "manifest.json").read_text())
    assert core["parents"]["prune"] == prune["fingerprint"]
    metrics = prune["metrics"]
    assert metrics["parameters"] == sum(count_parameters(student.shape).values())
    assert len(metrics["held_mass"]) == 2
    assert all(0 < share <= 1 for share in metrics["held_mass"])
    assert metrics["teacher_held_out_nats"] > 0
    assert metrics["held_out_nats"] == pytest.approx(
        finished.log("prune")[-1]["held_out_nats"], abs=1e-4
    )
    assert read_facts(finished.stage("prune") / "model")["stage"] == "prune"


def test_stock_mlx_lm_opens_the_pruned_model(finished):
    folder = finished.stage("prune") / "model"
    tokens = mx.array([[5, 9, 20, 31]])
    theirs, _ = import_mlx_lm("mlx_lm.utils").load_model(folder)
    assert mx.abs(theirs(tokens) - open_checkpoint(folder)(tokens)).max() < 1e-5


def test_learned_masks_train_the_weights_too(finished):
    wide, narrow = finished.weights("teacher"), finished.weights("prune")
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not mx.array_equal(wide[name], narrow[name])


def test_pruning_by_activation_trains_nothing(copied):
    runs = copied(*TEXTS)
    manifest = runs("prune.method=activation", last="prune")["prune"]
    wide, narrow = runs.weights("teacher"), runs.weights("prune")
    for name in wide:
        if "mlp" not in name:
            assert mx.array_equal(wide[name], narrow[name]), name
    up = "model.layers.1.mlp.up_proj.weight"
    rows = {tuple(row) for row in wide[up].tolist()}
    assert all(tuple(row) in rows for row in narrow[up].tolist())
    assert "held_mass" not in manifest["metrics"]
    assert not (runs.stage("prune") / "metrics.jsonl").exists()


def test_pruning_with_activation_checkpointing_gives_the_same_losses(copied, finished):
    runs = copied(*TEXTS)
    runs("training.activation_checkpointing=true", last="prune")
    pairs = zip(runs.log("prune"), finished.log("prune"), strict=True)
    for here, there in pairs:
        assert here["loss"] == pytest.approx(there["loss"], abs=1e-4)


def test_only_what_depends_on_a_changed_setting_runs_again(finished):
    every = ["teacher", "prune", "core"]
    assert finished.todo() == []
    assert finished.todo("prune.lr=0.001") == ["prune", "core"]
    assert finished.todo("distill.teacher_weight=0.5") == ["core"]
    assert finished.todo("teacher.tokens=1_024") == every
    assert finished.todo("shape.intermediate_size=16") == ["prune", "core"]
    assert finished.todo("core.mixture.poems=2.0") == every
    assert finished.todo("training.micro_rows=2") == []
    assert finished.todo("distill.labels=before") == ["labels", "core"]


def finished_teacher(finished, *more):
    return [f"teacher.model={finished.stage('teacher') / 'model'}", *more]


def test_finished_teacher_is_linked_with_its_tokenizer_and_pruned_without_core(runs, finished):
    text = runs.recipe.read_text()
    runs.recipe = runs.folder / "small.toml"
    runs.recipe.write_text(
        text.split("[core]")[0] + "[prune]" + text.split("[prune]")[1].split("[distill]")[0]
    )
    wanted = finished_teacher(finished, "teacher.intermediate_size=64", "prune.scoring_tokens=512")
    manifests = runs(*wanted)
    assert list(manifests) == ["teacher", "tokenizer", "data", "prune"]
    assert (runs.stage("teacher") / "model").is_symlink()
    assert runs.weights("prune").keys() == finished.weights("prune").keys()
    assert runs.todo(*wanted) == []


@pytest.mark.parametrize(
    ("assignments", "said"),
    [
        (["shape.num_layers=1"], "the teacher's num_layers is 2, and the student's 1"),
        (["shape.tied=false"], "the teacher's tied is True, and the student's False"),
        (
            ["teacher.intermediate_size=65"],
            "teacher.intermediate_size is 65, and the teacher's is 64",
        ),
        (["shape.intermediate_size=64"], "64 units are to be kept, and the teacher has 64"),
    ],
)
def test_teacher_that_cannot_be_pruned_is_refused_with_both_values(
    runs, finished, assignments, said
):
    teacher = finished_teacher(finished, "teacher.intermediate_size=64")
    with pytest.raises(ModelError, match=said):
        runs(*teacher, *assignments, last="prune")


def test_teacher_that_is_trained_again_under_the_same_name_is_noticed(runs, finished, tmp_path):
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    for path in (finished.stage("teacher") / "model").iterdir():
        (teacher / path.name).write_bytes(path.read_bytes())
    assigned = [f"teacher.model={teacher}", "teacher.intermediate_size=64"]
    runs(*assigned, last="data")
    assert "teacher" not in runs.todo(*assigned)
    weights = dict(mx.load(str(teacher / "model.safetensors")))
    weights["model.norm.weight"] = weights["model.norm.weight"] * 1.01
    mx.eval(weights)
    mx.save_safetensors(str(teacher / "model.safetensors"), weights)
    assert runs.todo(*assigned)[0] == "teacher"
